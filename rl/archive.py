"""Agents in one file that can be read without trusting it.

A zip, as stable-baselines3's users expect of `model.save`, but without pickles:

    agent.json              the format, what the agent is (spaces, schedules, hyper-parameters), the state's skeleton
    tensors.safetensors     its tensors: weights, optimisers, random states; with their SHA-256

The zip's own sums guard the JSON. Entries are stored as they are, so that no file unfolds to more than its size.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage import files
from sslcore.storage.messages import explain, show_path
from sslcore.storage.tree import pack, unpack
from sslcore.storage.weights import load_safetensors, safetensors_chunks

Place: TypeAlias = str | os.PathLike[str] | io.IOBase
"""A path, or a file that is open for bytes."""

_FORMAT, _SCHEMA = "surnia agent", 1
_ABOUT, _TENSORS = "agent.json", "tensors.safetensors"
_LARGEST = 1 << 36
_DATE = (1980, 1, 1, 0, 0, 0)  # the same agent gives the same bytes
_REMEDY = "give an archive that save wrote"
_FOREIGN = (
    ConfigError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, AssertionError,
    MemoryError,
)  # fmt: skip
"""What building an agent from made-up settings raises; a space of 10^12 pixels the last of them."""


@dataclass(frozen=True)
class Archive:
    """What is in one.

    Attributes:
        about: {name: JSON value}.
        state: {name: what `sslcore.storage.tree.pack` takes}.
    """

    about: Mapping[str, Any]
    state: Mapping[str, Any]


def shown(place: Place) -> str:
    """A place as sentences name it."""
    if isinstance(place, io.IOBase):
        return show_path(str(getattr(place, "name", "the open file")))
    return show_path(place)


# --- writing -----------------------------------------------------------------------------------------------------


def write(place: Place, archive: Archive, *, suffix: str = ".zip") -> None:
    """Writes an archive: to a path at once or not at all.

    Args:
        place: where to. A path without a suffix gets one, and folders that are missing are made, as
            stable-baselines3 does.
        suffix: which one; "" for none.

    Raises:
        CheckpointError: the state cannot be stored, or the file cannot be written; an older one is untouched.
    """
    data = _zipped(archive)
    if isinstance(place, io.IOBase):
        try:
            place.write(data)  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot write {shown(place)}: {error}; give a file that is open for it") from error
        return
    path = Path(place)
    if not path.suffix:
        path = path.with_name(path.name + suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder of {shown(path)}: {explain(error)}") from error
    files.write_bytes(path, data)


def _zipped(archive: Archive) -> memoryview:
    skeleton, tensors = pack(dict(archive.state))
    about = {"format": _FORMAT, "schema": _SCHEMA, "about": archive.about, "state": skeleton}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(zipfile.ZipInfo(_ABOUT, _DATE), json.dumps(about, indent=1, allow_nan=False))
        with zipped.open(zipfile.ZipInfo(_TENSORS, _DATE), "w", force_zip64=True) as entry:
            for chunk in safetensors_chunks(tensors, {}, digest=True):
                entry.write(memoryview(chunk).cast("B"))
    return buffer.getbuffer()


# --- reading -----------------------------------------------------------------------------------------------------


def read(place: Place, *, device: Any = "cpu") -> Archive:
    """Reads an archive; nothing in it is executed.

    Args:
        place: a path, with or without its ".zip", or an open file.
        device: where tensors go that were not on the CPU when they were saved.

    Raises:
        CheckpointError: it is missing, damaged or foreign, or would have to be unpickled.
    """
    about, tensors = _entries(place)
    try:
        header = json.loads(about)
        if header["format"] != _FORMAT:
            raise ValueError("it has another format")
        if header["schema"] != _SCHEMA:
            raise CheckpointError(
                f"{shown(place)} was written by another version of Surnia (schema {header['schema']!r}); read it there"
            )
        described, skeleton = dict(header["about"]), header["state"]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{shown(place)} is not an archive of an agent ({error}); {_REMEDY}") from error
    state = unpack(skeleton, load_safetensors(tensors, Path(shown(place))), device=device)
    if not isinstance(state, dict):
        raise CheckpointError(f"{shown(place)} is not an archive of an agent; {_REMEDY}")
    return Archive(described, state)


def needs_unpickling(place: Place) -> bool:
    """Whether this is an archive of stable-baselines3, which can run code when it is read.

    Raises:
        CheckpointError: it is missing or no zip.
    """
    with _opened(place) as zipped:
        return "data" in zipped.namelist() and _ABOUT not in zipped.namelist()


def _entries(place: Place) -> tuple[bytes, bytes]:
    with _opened(place) as zipped:
        entries = {entry.filename: entry for entry in zipped.infolist()}
        if "data" in entries and _ABOUT not in entries:
            raise CheckpointError(
                f"{shown(place)} was written by stable-baselines3 itself and must be unpickled, which can run any code "
                "in it: if you know where it comes from, load it with trust=True"
            )
        if set(entries) != {_ABOUT, _TENSORS} or len(zipped.infolist()) != 2:
            raise CheckpointError(f"{shown(place)} is not an archive of an agent; {_REMEDY}")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
            raise CheckpointError(f"{shown(place)} has compressed or encrypted entries, as save never writes")
        return zipped.read(_ABOUT), zipped.read(_TENSORS)


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[zipfile.ZipFile]:
    data = _bytes(place)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            yield zipped
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises whatever the bytes make it raise
        reason = show_path(str(error)) or type(error).__name__
        raise CheckpointError(f"{shown(place)} is damaged or not an archive ({reason}); {_REMEDY}") from error


def _bytes(place: Place) -> bytes:
    if isinstance(place, io.IOBase):
        try:
            place.seek(0)
            return place.read()  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {shown(place)}: {error}; give a file that is open for it") from error
    path = Path(place)
    with_suffix = path.with_name(path.name + ".zip")
    if not path.is_file() and with_suffix.is_file():
        path = with_suffix
    return files.read_file(path, limit=_LARGEST, error=CheckpointError, remedy=_REMEDY)


# --- fitting -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(place: Place) -> Iterator[None]:
    """Makes one sentence of what goes wrong when an agent is built from an archive's content."""
    try:
        yield
    except CheckpointError:
        raise
    except _FOREIGN as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        reason = f"it lacks {said}" if isinstance(error, KeyError) else said
        raise CheckpointError(
            f"{shown(place)} does not hold an agent that can be made ({reason}); {_REMEDY}"
        ) from error


def check_shapes(place: Place, name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Whether a module's state dict fits where it is to go.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; the sentence names the first.
    """
    ours, theirs = _flat(wanted), _flat(found)
    for key in [*ours, *(k for k in theirs if k not in ours)]:
        if ours.get(key) != theirs.get(key):
            raise CheckpointError(
                f"{shown(place)} does not fit this agent: {name} {key} is {_shape(theirs.get(key))} there and "
                f"{_shape(ours.get(key))} here; build the agent with the archive's settings"
            )


def check_optimizer(place: Place, name: str, optimizer: Optimizer, found: Mapping[str, Any]) -> None:
    """Whether an optimiser's state dict belongs to these weights, which torch looks at in part only.

    Raises:
        CheckpointError: it belongs to other weights.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in found["param_groups"] for number in group["params"]]
    fits = len(numbers) == len(weights) and [len(g["params"]) for g in found["param_groups"]] == [
        len(g["params"]) for g in optimizer.param_groups
    ]
    for number, weight in zip(numbers, weights, strict=False):
        moments = found["state"].get(number, {}).values()
        fits &= all(m.shape in ((), weight.shape) for m in moments if isinstance(m, Tensor))
    if not fits:
        raise CheckpointError(
            f"{shown(place)} does not fit this agent: {name} belongs to other weights there; build the agent with the "
            "archive's settings"
        )


def _flat(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"
