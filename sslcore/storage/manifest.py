"""Manifests: what says that a folder is whole, and by which damage to any of its files is noticed.

A folder's `manifest.json` holds the size and the SHA-256 of each of its other files and is written last: a folder
without one is not finished, and what is not as its manifest says is not believed. Readers parse nothing before that.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslcore.errors import CheckpointError
from sslcore.storage import files
from sslcore.storage.files import Written
from sslcore.storage.messages import show_path

NAME = "manifest.json"
_LIMIT = 1 << 24


@dataclass(frozen=True)
class Kind:
    """Folders of one kind.

    Attributes:
        name: what sentences call one, with "a" before it.
        schema: of what is written; higher ones cannot be read.
        remedy: the end of sentences about damage.
        marked: whether manifests say their kind.
    """

    name: str
    schema: int
    remedy: str
    marked: bool = True

    def refused(self, folder: Path, why: str = "") -> CheckpointError:
        """That a folder is not of this kind."""
        return CheckpointError(f"{show_path(folder)} is not a {self.name} of Surnia{why}; {self.remedy}")

    def check_schema(self, value: Any, folder: Path) -> None:
        """Whether a JSON value that bears the schema's number can be read.

        Raises:
            CheckpointError: it is of a newer Surnia, or not of this kind.
        """
        schema = value.get("schema") if type(value) is dict else None
        if type(schema) is int and schema > self.schema:
            raise CheckpointError(
                f"{show_path(folder)} was written by a newer Surnia (schema {schema}, this one reads "
                f"{self.schema}); update Surnia"
            )
        if type(schema) is not int or schema != self.schema:
            raise self.refused(folder)


# --- writing -----------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, kind: Kind, parts: Mapping[str, Written], **facts: Any) -> None:
    """Write the manifest of a folder that is not committed yet.

    Args:
        folder: temporary, of `folders.new_folder`.
        kind: its.
        parts: every other file in it.
        facts: more to note, plain values.

    Raises:
        CheckpointError: the operating system refuses.
    """
    marked = {"kind": kind.name} if kind.marked else {}
    sums = {name: {"sha256": part.sha256, "size": part.size} for name, part in parts.items()}
    content = {"schema": kind.schema, **marked, "files": sums, **facts}
    files.write_new(folder / NAME, [json.dumps(content, indent=2).encode("utf-8")])


# --- reading -----------------------------------------------------------------------------------------------------


def read_manifest(folder: Path, kind: Kind, *, names: Iterable[str] | None = None) -> dict[str, Written]:
    """Size and sum of each file, as the manifest says.

    Args:
        folder: of that kind.
        kind: which is expected.
        names: exactly these files belong to it; None: any.

    Raises:
        CheckpointError: the folder is missing, foreign, unfinished or of a newer schema; or the manifest is damaged.
    """
    shown, path = show_path(folder), folder / NAME
    if not folder.is_dir():
        raise CheckpointError(f"there is no {kind.name} {shown}; give the folder of one")
    if not path.exists():
        raise kind.refused(folder, f", or not a whole one: it has no {NAME}")
    data = files.read_file(path, limit=_LIMIT, error=CheckpointError, remedy=kind.remedy)
    content = parsed(data, path, kind)
    kind.check_schema(content, folder)
    if kind.marked and content.get("kind") != kind.name:
        raise kind.refused(folder)
    entries = content.get("files")
    if type(entries) is not dict or any(Path(name).name != name for name in entries):
        raise kind.refused(folder)
    if names is not None and set(entries) != set(names):
        raise CheckpointError(f"the manifest of {shown} does not name a {kind.name}'s files; {kind.remedy}")
    return {name: _entry(name, entry, shown, kind) for name, entry in entries.items()}


def _entry(name: str, entry: Any, shown: str, kind: Kind) -> Written:
    size, sha256 = (entry.get("size"), entry.get("sha256")) if type(entry) is dict else (None, None)
    if type(size) is not int or size < 0 or type(sha256) is not str:
        raise CheckpointError(f"the manifest of {shown} does not give size and hash of {name}; {kind.remedy}")
    return Written(sha256, size)


def parsed(data: bytes, path: Path, kind: Kind) -> Any:
    """JSON's value; CheckpointError if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{show_path(path)} is damaged ({error}); {kind.remedy}") from error


def read_part(path: Path, expected: Written, kind: Kind, *, limit: int | None = None) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        expected: what the manifest says of it.
        kind: of its folder.
        limit: of its bytes, whatever the manifest says.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    most = expected.size if limit is None else min(expected.size, limit)
    data = files.read_file(path, limit=most, error=CheckpointError, remedy=kind.remedy)
    _compare(path, files.sum_of(data), expected, kind)
    return data


def check_part(path: Path, expected: Written, kind: Kind) -> None:
    """Whether a file is as expected, however large; not read further than it should reach. Raises as `read_part`."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(files.open_regular(path), "rb", buffering=0) as file:
            while size <= expected.size and (block := file.read(1 << 20)):
                digest.update(block)
                size += len(block)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"cannot read {show_path(path)}: {reason}; {kind.remedy}") from error
    _compare(path, Written(digest.hexdigest(), size), expected, kind)


def verify_folder(folder: str | Path, kind: Kind) -> None:
    """Compare every file of a folder with its manifest.

    Raises:
        CheckpointError: the folder is missing, foreign, unfinished, of a newer schema or damaged.
    """
    for name, expected in read_manifest(Path(folder), kind).items():
        check_part(Path(folder) / name, expected, kind)


def _compare(path: Path, found: Written, expected: Written, kind: Kind) -> None:
    if found != expected:
        raise CheckpointError(f"{show_path(path)} is damaged: it is not what its manifest says; {kind.remedy}")
