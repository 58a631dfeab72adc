"""Checkpoints: folders of safetensors and JSON that are whole or not there, and are checked before they are believed.

    step-00000123/
        model.safetensors   the model's state dict
        train.safetensors   the tensors of everything else: optimiser, queues' pointers, random states, ...
        state.json          the skeleton those tensors hang in, and `info`
        manifest.json       SHA-256 and size of the three, schema, package versions; written last

The folder is filled under a temporary name and renamed. No part of it is a pickle, and reading it executes nothing.
Neither safetensors nor torch's own files notice flipped bits (more than half of all random mutations load silently),
hence the sums.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders
from sslcore.storage import manifest as manifests
from sslcore.storage.messages import show_path
from sslcore.storage.tree import pack, unpack
from sslcore.storage.weights import load_safetensors, safetensors_chunks

__all__ = [
    "Checkpoint", "checkpoint_step", "list_checkpoints", "load_checkpoint", "newest_checkpoint", "pack",
    "prune_checkpoints", "read_info", "read_model", "save_checkpoint", "step_folder", "unpack", "verify_checkpoint",
    "weights_hash",
]  # fmt: skip

SCHEMA = 1
_MODEL, _TRAIN, _STATE = "model.safetensors", "train.safetensors", "state.json"
_PARTS = (_MODEL, _TRAIN, _STATE)
_NAME = re.compile(r"step-(\d{8,18})")
_STATE_LIMIT = 1 << 30
_REMEDY = "use another checkpoint"
_KIND = manifests.Kind("checkpoint", SCHEMA, _REMEDY, marked=False)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified.

    Attributes:
        model: the model's state dict, on the device that was asked for.
        train: the tree `save_checkpoint` was given.
        info: the plain values it was given.
        path: the folder.
    """

    model: dict[str, Tensor]
    train: Any
    info: dict[str, Any]
    path: Path


def step_folder(parent: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `parent/step-00000123`."""
    if step < 0:
        raise ValueError(f"a step is at least 0, not {step}")
    return Path(parent) / f"step-{step:08d}"


def checkpoint_step(folder: str | Path) -> int | None:
    """The step in a checkpoint's name, None for other names."""
    match = _NAME.fullmatch(Path(folder).name)
    return int(match[1]) if match else None


# --- writing -----------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: str | Path, *, model: Mapping[str, Tensor], train: Any = None, info: Mapping[str, Any] | None = None
) -> Path:
    """Writes a checkpoint. Killed at any moment, it leaves either all of it or nothing under its name.

    Args:
        folder: its final name (see `step_folder`). An earlier checkpoint there is replaced.
        model: {name: tensor}; may share storage and lie on any device.
        train: all else that a run needs to continue: what `pack` takes.
        info: plain values that say what it is (step, epoch, backbone and its preprocessing, ...); no tensors.

    Returns:
        The folder.

    Raises:
        CheckpointError: something cannot be stored (the sentence says where it is), or not written.
    """
    folder = Path(folder)
    skeleton, tensors = pack(train, name="train")
    info_skeleton, info_tensors = pack(dict(info or {}), name="info")
    if info_tensors:
        raise CheckpointError(f"info holds a tensor or array at {next(iter(info_tensors))}; give plain values there")
    state = json.dumps({"schema": SCHEMA, "info": info_skeleton, "train": skeleton}, allow_nan=False).encode("utf-8")
    folders.make_folder(folder.parent)
    with folders.new_folder(folder) as temporary:
        written = {
            _MODEL: files.write_new(temporary / _MODEL, safetensors_chunks(model, {})),
            _TRAIN: files.write_new(temporary / _TRAIN, safetensors_chunks(tensors, {})),
            _STATE: files.write_new(temporary / _STATE, [state]),
        }
        packages = {name: metadata.version(name) for name in ("torch", "safetensors", "numpy")}
        manifests.write_manifest(temporary, _KIND, written, packages=packages)
    return folder


def prune_checkpoints(parent: str | Path, keep: int, *, protect: Collection[str] = ()) -> list[Path]:
    """Deletes old checkpoints, once the newest one has been read back and verified; if it does not verify, none goes.

    Age is the step in the name, not the clock's. Only folders are touched that have a checkpoint's name and nothing in
    them but a checkpoint's files.

    Args:
        parent: the folder of checkpoints.
        keep: how many of the newest stay, at least 1.
        protect: names that stay in any case (the best one so far).

    Returns:
        What was deleted.

    Raises:
        CheckpointError: the newest does not verify, or one cannot be deleted.
    """
    if keep < 1:
        raise ValueError(f"at least 1 checkpoint must be kept, not {keep}")
    found = list_checkpoints(parent)
    old = [path for path in found[:-keep] if path.name not in protect and _is_ours(path)]
    if old:
        verify_checkpoint(found[-1])
    for path in old:
        folders.remove_folder(path)
    return old


def set_aside_after(parent: str | Path, step: int) -> list[Path]:
    """Renames the checkpoints of steps after `step`: step-00000200 becomes step-00000200.damaged.

    For a run that is resumed at `step` because none of the later ones verifies: they would pass for its newest again.

    Returns:
        Where they are now.

    Raises:
        CheckpointError: one cannot be renamed.
    """
    moved = []
    for path in list_checkpoints(parent):
        if (checkpoint_step(path) or 0) > step:
            target = path.with_name(f"{path.name}.damaged")
            if target.exists():
                folders.remove_folder(target)
            folders.commit_folder(path, target)
            moved.append(target)
    return moved


def _is_ours(folder: Path) -> bool:
    return not folder.is_symlink() and {path.name for path in folder.iterdir()} <= {*_PARTS, manifests.NAME}


# --- finding -----------------------------------------------------------------------------------------------------


def list_checkpoints(parent: str | Path) -> list[Path]:
    """Folders with a checkpoint's name, oldest step first. Nothing is verified."""
    parent = Path(parent)
    found = {path for path in (parent.iterdir() if parent.is_dir() else ()) if path.is_dir()}
    steps = {path: step for path in found if (step := checkpoint_step(path)) is not None}
    return sorted(steps, key=lambda path: steps[path])


def newest_checkpoint(
    parent: str | Path,
    report: Callable[[str], None] = lambda sentence: None,
    *,
    verify: Callable[[Path], None] | None = None,
) -> Path | None:
    """The checkpoint of the highest step that verifies.

    Args:
        parent: the folder of checkpoints; it may be missing.
        report: called with one sentence for each that had to be skipped, and one for what follows from that.
        verify: raises a CheckpointError for one that is not whole; None: `verify_checkpoint`. For those that have
            more than their folder.

    Returns:
        The folder, or None when there is none. (If a writer died while it replaced a checkpoint, this can be the
        replaced one under its temporary name: `folders.sweep_temporaries` gives it its own back.)
    """
    places = {path.name: path for path in list_checkpoints(parent)}
    places |= {name: path for name, path in folders.retired(parent).items() if _NAME.fullmatch(name)}
    skipped = False
    for name in sorted(places, key=lambda n: checkpoint_step(n) or 0, reverse=True):
        try:
            (verify or verify_checkpoint)(places[name])
        except CheckpointError as error:
            report(f"skipped {name}: {error}")
            skipped = True
        else:
            if skipped:
                report(f"using {name}, the newest that verifies")
            return places[name]
    if places:
        report(f"none of the {len(places)} checkpoints in {show_path(parent)} verifies")
    return None


# --- reading -----------------------------------------------------------------------------------------------------


def verify_checkpoint(folder: str | Path) -> None:
    """Compares every file with the manifest.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, damaged, or of a newer schema.
    """
    _verified(Path(folder), ())


def load_checkpoint(folder: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint; every file is compared with the manifest before any of it is parsed.

    Args:
        folder: the checkpoint.
        device: where the model's tensors go, and those of `train` that were not on the CPU when they were saved.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, foreign, or of a newer schema.
    """
    folder = Path(folder)
    parts = _verified(folder, _PARTS)
    state = _state(parts.pop(_STATE), folder)
    model = {name: t.to(device) for name, t in load_safetensors(parts.pop(_MODEL), folder / _MODEL).items()}
    train = unpack(state["train"], load_safetensors(parts.pop(_TRAIN), folder / _TRAIN), device=device)
    return Checkpoint(model, train, _info(state, folder), folder)


def read_model(folder: str | Path) -> dict[str, Tensor]:
    """Only the model's tensors of a checkpoint, on the CPU; all of it is verified. Raises as `load_checkpoint`."""
    folder = Path(folder)
    return load_safetensors(_verified(folder, (_MODEL,))[_MODEL], folder / _MODEL)


def read_info(folder: str | Path) -> dict[str, Any]:
    """Only the `info` of a checkpoint; all of it is verified. Raises as `load_checkpoint`."""
    folder = Path(folder)
    return _info(_state(_verified(folder, (_STATE,))[_STATE], folder), folder)


def weights_hash(folder: str | Path) -> str:
    """SHA-256 (hexadecimal) of a checkpoint's weights, as its manifest says: the same wherever it is copied to.

    Raises:
        CheckpointError: it is missing, incomplete or foreign; whether the weights are damaged is not looked at.
    """
    return manifests.read_manifest(Path(folder), _KIND, names=_PARTS)[_MODEL].sha256


def _verified(folder: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Content of the wanted parts, after all parts have been found to match the manifest."""
    sums = manifests.read_manifest(folder, _KIND, names=_PARTS)
    contents = {}
    for name in _PARTS:
        if name in wanted:
            limit = _STATE_LIMIT if name == _STATE else None
            contents[name] = manifests.read_part(folder / name, sums[name], _KIND, limit=limit)
        else:
            manifests.check_part(folder / name, sums[name], _KIND)
    return contents


def _state(data: bytes, folder: Path) -> dict[str, Any]:
    state = manifests.parsed(data, folder / _STATE, _KIND)
    _KIND.check_schema(state, folder)
    if not {"info", "train"} <= set(state):
        raise CheckpointError(f"{show_path(folder / _STATE)} is not a checkpoint's state; {_REMEDY}")
    return state


def _info(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    info = unpack(state["info"], {})
    if type(info) is not dict:
        raise CheckpointError(f"{show_path(folder / _STATE)} is not a checkpoint's state; {_REMEDY}")
    return info
