"""Folders that are made once and used again: where they lie, and how a damaged one is noticed.

A cached folder carries `manifest.json`: what was asked for, the SHA-256 of every file, one hash over all of them, and
perhaps statistics of what came out. A folder whose files do not match is made anew, never used.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sslcore.errors import CheckpointError, DataError
from sslcore.storage import files, folders

MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """Where Surnia keeps what it made or fetched: `$SURNIA_CACHE`, else `~/.cache/surnia`."""
    named = os.environ.get("SURNIA_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "surnia"


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def source_digest(*modules: ModuleType) -> str:
    """SHA-256 (hex) of the source of modules: part of a cache's key, so that changed code never meets an old cache."""
    return digest([inspect.getsource(module) for module in modules])


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_of(
    folder: Path,
    request: Mapping[str, Any],
    statistics: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of the files now in `folder`, made for `request`; `hash` is over the files alone."""
    files = _hashes(folder)
    manifest = {"request": dict(request), "files": files, "hash": digest(files)}
    more = {"statistics": statistics, "origin": origin}
    return manifest | {name: dict(values) for name, values in more.items() if values is not None}


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file in a folder but its manifest, by name."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: file_sha256(folder / name) for name in names if name != MANIFEST}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder whose every file matches it; None if anything is missing, added or changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest == manifest_of(folder, manifest["request"], manifest.get("statistics"), manifest.get("origin")):
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@dataclass(frozen=True)
class Differences:
    """How the files of a folder differ from its manifest.

    Attributes:
        manifest: what it holds; empty if it cannot be read.
        changed, missing, added: names of files, in order; the manifest's own if its parts do not fit each other.
    """

    manifest: Mapping[str, Any]
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """The names, under what happened to the files."""
        return {"changed": self.changed, "deleted": self.missing, "added": self.added}


def differences(folder: Path) -> Differences:
    """What `read_manifest` did not like about a folder."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        was, now = dict(manifest["files"]), _hashes(folder)
        fits = isinstance(manifest["request"], dict) and manifest["hash"] == digest(was)
    except (OSError, ValueError, KeyError, TypeError):
        return Differences({}, (MANIFEST,))
    changed = [name for name in was if name in now and was[name] != now[name]]
    return Differences(
        manifest if fits else {},
        tuple(changed if fits else [*changed, MANIFEST]),
        tuple(name for name in was if name not in now),
        tuple(name for name in now if name not in was),
    )


def build_folder(
    target: Path,
    request: Mapping[str, Any],
    build: Callable[[Path], Mapping[str, Any] | None],
    *,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Let `build` fill a temporary folder beside `target`, add the manifest, and move it into place in one step.

    What `build` returns goes into the manifest as `statistics` (plain values for JSON), and `origin` as it is: where
    things came from, which does not decide what the files are. A folder already at `target` is replaced. Returns the
    manifest. Raises DataError if the place cannot be written.
    """
    manifest: dict[str, Any] | None = None
    try:
        folders.make_folder(target.parent)
        with folders.new_folder(target) as temporary:
            statistics = build(temporary)
            manifest = manifest_of(temporary, request, statistics, origin)
            files.write_json(temporary / MANIFEST, manifest)
    except CheckpointError as error:
        if manifest is not None and read_manifest(target) == manifest:
            return manifest  # another process put the same folder there between our two renames
        raise DataError(str(error)) from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"could not write {target} ({reason}): free some space or choose another folder") from error
    return manifest
