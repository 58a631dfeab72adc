"""Where a run goes on."""

from collections.abc import Callable
from pathlib import Path

from sslcore.errors import CheckpointError
from sslcore.storage import list_checkpoints, newest_checkpoint

Say = Callable[[str], None]


def resume_point(folder: Path, say: Say) -> Path | None:
    """The newest sound checkpoint; None, said in words, if the run was ended before its first."""
    start = newest_checkpoint(folder, report=say)
    if start is None and list_checkpoints(folder):
        raise CheckpointError(
            f"no checkpoint in {folder} is sound, so the run cannot be continued; restore one of them from a copy, or "
            "start a new run"
        )
    if start is None:
        say("the run was ended before its first checkpoint: it begins anew")
    return start
