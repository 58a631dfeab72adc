"""A replay buffer on disk: a folder that is whole or not there, and is checked before it is believed.

    replay-00001000/
        frames-00000.bin          the frames of one chunk of the pool, plain bytes
        frames-00001.bin          ...
        transitions.safetensors   what is not frames: places of the frames, actions, rewards, ends
        state.json                sizes, position, state of the generator
        manifest.json             SHA-256 and size of the others; written last

Every folder is complete by itself, yet a save costs what has changed: a chunk without new frames is a second name (hard
link) of the file that the last save wrote. Older folders can be deleted at will.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders
from sslcore.storage import manifest as manifests
from sslcore.storage.messages import show_path
from sslcore.storage.tree import pack, unpack
from sslcore.storage.weights import load_safetensors, safetensors_chunks

if TYPE_CHECKING:
    from rl.replay.buffer import FrameReplayBuffer

SCHEMA = 1
_TRANSITIONS, _STATE = "transitions.safetensors", "state.json"
_TABLES = ("places", "actions", "rewards", "dones", "timeouts", "ends")
_REMEDY = "restore another checkpoint's"
_KIND = manifests.Kind("replay buffer", SCHEMA, _REMEDY)


class SavedChunk(NamedTuple):
    """A chunk's file as the last save left it."""

    path: Path
    written: files.Written


# --- writing -----------------------------------------------------------------------------------------------------


def save(buffer: "FrameReplayBuffer", folder: Path) -> Path:
    """Writes a buffer, generator included. Killed at any moment, it leaves all of it under that name or nothing.

    Every file has been read again and compared when it gets its name, also those that older folders share: where one
    of these was damaged since, it is written anew.

    Args:
        buffer: it is not changed, but remembers where its chunks are.
        folder: its name; the parents are made, an earlier folder of that name is replaced.

    Returns:
        The folder.

    Raises:
        CheckpointError: the operating system refuses, or the disk does not give back what was written; what had the
            name still has it.
    """
    folders.make_folder(folder.parent)
    rows = buffer.size()
    tables = {name: torch.from_numpy(getattr(buffer, name)[:rows]) for name in _TABLES}
    state, _ = pack(
        {
            "pos": buffer.pos,
            "full": buffer.full,
            "used": buffer.pool.used,
            "generator": buffer.generator.bit_generator.state,
        }
    )
    with folders.new_folder(folder) as temporary:
        chunks = {i: _save_chunk(buffer, i, temporary) for i in range(len(buffer.pool.changed))}
        written = {_chunk_name(i): sums for i, sums in chunks.items()}
        written[_TRANSITIONS] = _write(temporary / _TRANSITIONS, safetensors_chunks(tables, {}))
        about = json.dumps({"layout": _layout(buffer), "state": state}, indent=2, allow_nan=False)
        written[_STATE] = _write(temporary / _STATE, [about.encode("utf-8")])
        manifests.write_manifest(temporary, _KIND, written)
    _remember(buffer, folder, chunks)
    return folder


def _save_chunk(buffer: "FrameReplayBuffer", number: int, folder: Path) -> files.Written:
    target, saved = folder / _chunk_name(number), buffer._saved.get(number)
    if saved is not None and not buffer.pool.changed[number] and _link(saved, target):
        return saved.written
    return _write(target, [np.ascontiguousarray(buffer.pool.chunk(number))])


def _link(saved: SavedChunk, target: Path) -> bool:
    """Whether the file that the last save wrote is still what it was, and here now."""
    try:
        manifests.check_part(saved.path, saved.written, _KIND)
    except CheckpointError:
        return False  # what is in memory is right, and is written again
    return files.link_new(saved.path, target, saved.written.size)


def _write(path: Path, chunks: Iterable[Any]) -> files.Written:
    """Write a file and read it again: the folder is whole before any older one is deleted."""
    written = files.write_new(path, chunks)
    try:
        manifests.check_part(path, written, _KIND)
    except CheckpointError as error:
        raise CheckpointError(
            f"the disk does not give back what was written as the replay buffer's {path.name}: check the disk; what "
            "was saved before is as it was"
        ) from error
    return written


def _remember(buffer: "FrameReplayBuffer", folder: Path, chunks: dict[int, files.Written]) -> None:
    folder = folder.absolute()  # the process may change its folder before the next save
    buffer._saved = {i: SavedChunk(folder / _chunk_name(i), written) for i, written in chunks.items()}
    buffer.pool.changed[:] = False


def _chunk_name(number: int) -> str:
    return f"frames-{number:05d}.bin"


def _layout(buffer: "FrameReplayBuffer") -> dict[str, Any]:
    """What two buffers must have in common for one to continue the other; the words are for people."""
    return {
        "transitions of each environment": buffer.buffer_size,
        "environments": buffer.n_envs,
        "frames in a stack": buffer.stack,
        "frame": list(buffer.frame_shape),
        "dimensions of an action": buffer.action_dim,
        "type of an action": str(buffer.actions.dtype),
        "frames in a file": buffer.pool.chunk_frames,
    }


# --- reading -----------------------------------------------------------------------------------------------------


def verify(folder: str | Path) -> None:
    """Compares every file with the manifest; needs no buffer.

    Raises:
        CheckpointError: the folder is missing, foreign, of a newer schema, incomplete or damaged.
    """
    manifests.verify_folder(folder, _KIND)


def restore(buffer: "FrameReplayBuffer", folder: Path) -> None:
    """Gives a buffer the transitions and the generator's state of a folder: it draws what the saved one would have.

    Args:
        buffer: of the same sizes as the saved one; what it holds is replaced. `n_steps`, `gamma` and where frames are
            kept are its own.
        folder: what `save` has written.

    Raises:
        CheckpointError: the folder is missing, foreign, damaged or of other sizes. The buffer is as it was, or empty
            if the damage is in the frames.
    """
    sums, shown = manifests.read_manifest(folder, _KIND), show_path(folder)
    try:
        stored = json.loads(manifests.read_part(folder / _STATE, sums[_STATE], _KIND))
        _check_layout(stored["layout"], _layout(buffer), shown)
        state = _State(buffer, unpack(stored["state"], {}))
        chunks = _expected_chunks(buffer, state.used, sums)
        transitions = manifests.read_part(folder / _TRANSITIONS, sums[_TRANSITIONS], _KIND)
        tables = _checked_tables(buffer, load_safetensors(transitions, folder / _TRANSITIONS), state)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{shown} is not a whole replay buffer ({error}); {_REMEDY}") from error

    buffer.reset()
    try:
        buffer.pool.reserve(state.used)
        for number, written in chunks.items():
            data = manifests.read_part(folder / _chunk_name(number), written, _KIND)
            buffer.pool.fill(number, np.frombuffer(bytearray(data), np.uint8).reshape(-1, *buffer.frame_shape))
    except BaseException:
        buffer.reset()
        raise
    for name, table in tables.items():
        getattr(buffer, name)[: len(table)] = table
    state.give(buffer)
    buffer.pool.recount(tables["places"], state.used)
    _remember(buffer, folder, chunks)


class _State:
    """Position and generator of a saved buffer, checked."""

    def __init__(self, buffer: "FrameReplayBuffer", state: dict[str, Any]) -> None:
        self.pos, self.full, self.used = state["pos"], state["full"], state["used"]
        self.generator = np.random.default_rng(0)
        self.generator.bit_generator.state = state["generator"]
        self.rows = buffer.buffer_size if self.full else self.pos
        most = (self.rows + 1) * buffer.n_envs * (buffer.stack + 1)
        if type(self.pos) is not int or not 0 <= self.pos < buffer.buffer_size or type(self.full) is not bool:
            raise ValueError(f"position {self.pos!r}")
        if type(self.used) is not int or not 0 <= self.used <= most:
            raise ValueError(f"{self.used!r} frames")

    def give(self, buffer: "FrameReplayBuffer") -> None:
        buffer.pos, buffer.full, buffer.generator = self.pos, self.full, self.generator
        newest = buffer.places[self.pos - 1, :, 1:]  # never read while there are no transitions
        buffer._newest[:] = buffer.pool.gather(newest, torch.device("cpu")).numpy().reshape(buffer._newest.shape)


def _expected_chunks(
    buffer: "FrameReplayBuffer", used: int, sums: dict[str, files.Written]
) -> dict[int, files.Written]:
    frame_bytes = int(np.prod(buffer.frame_shape))
    chunks = {i: sums[_chunk_name(i)] for i in range(-(-used // buffer.pool.chunk_frames))}
    for i, written in chunks.items():
        frames = min(buffer.pool.chunk_frames, used - i * buffer.pool.chunk_frames)
        if written.size != frames * frame_bytes:
            raise ValueError(f"{_chunk_name(i)} has {written.size} bytes, not {frames} frames")
    return chunks


def _checked_tables(
    buffer: "FrameReplayBuffer", tables: dict[str, torch.Tensor], state: _State
) -> dict[str, np.ndarray]:
    checked = {}
    for name in _TABLES:
        own, table = getattr(buffer, name), tables[name].numpy()
        if table.shape != (state.rows, *own.shape[1:]) or table.dtype != own.dtype:
            raise ValueError(f"{name} are {table.dtype} of {table.shape}")
        checked[name] = table
    places = checked["places"]
    if places.size and not (places.min() >= 0 and places.max() < state.used):
        raise ValueError("transitions name frames that are not there")
    return checked


def _check_layout(found: Any, expected: dict[str, Any], shown: str) -> None:
    if type(found) is not dict or set(found) != set(expected):
        raise CheckpointError(f"{shown} is not a replay buffer of Surnia; {_REMEDY}")
    differing = [f"{name}: {found[name]}, here {value}" for name, value in expected.items() if found[name] != value]
    if differing:
        raise CheckpointError(
            f"the replay buffer in {shown} is of other sizes ({'; '.join(differing)}); "
            "give the environment and buffer_size it was saved with, or another folder"
        )
