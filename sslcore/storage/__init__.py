"""What survives: files, checkpoints, weights, run directories, images and stop signals.

Names are loaded when they are first used: a run directory, an image or a signal handler needs no torch, and the command
line must not wait for it.
"""

from sslcore._lazy import attach

_HOME = {
    "files": ("append_line", "write_bytes", "write_json", "write_text"),
    "folders": ("commit_folder", "sweep_temporaries"),
    "checkpoint": (
        "Checkpoint", "checkpoint_step", "list_checkpoints", "load_checkpoint", "newest_checkpoint",
        "prune_checkpoints", "save_checkpoint", "set_aside_after", "step_folder", "verify_checkpoint",
    ),
    "tree": ("pack", "unpack"),
    "weights": ("read_metadata", "read_weights", "write_weights"),
    "run": ("RunDirectory", "read_metrics", "read_run", "surroundings"),
    "images": ("IMAGE_SUFFIXES", "image_size", "list_images", "read_image"),
    "signals": ("StopSignals",),
}  # fmt: skip

__all__, __getattr__, __dir__ = attach(__name__, _HOME)
