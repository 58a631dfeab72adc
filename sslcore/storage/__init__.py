"""What survives: files, checkpoints, weights, run directories, images and stop signals.

Names are loaded when they are first used: a run directory, an image or a signal handler needs no torch, and the command
line must not wait for it.
"""

import importlib
from typing import Any

_HOME = {
    "files": ("append_line", "commit_folder", "sweep_temporaries", "write_bytes", "write_json", "write_text"),
    "checkpoint": (
        "Checkpoint", "checkpoint_step", "list_checkpoints", "load_checkpoint", "newest_checkpoint",
        "prune_checkpoints", "save_checkpoint", "step_folder", "verify_checkpoint",
    ),
    "tree": ("pack", "unpack"),
    "weights": ("read_metadata", "read_weights", "write_weights"),
    "run": ("RunDirectory", "read_metrics", "read_run"),
    "images": ("IMAGE_SUFFIXES", "image_size", "list_images", "read_image"),
    "signals": ("StopSignals",),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"sslcore.storage.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'sslcore.storage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
