"""Where a run goes on."""

from collections.abc import Callable
from pathlib import Path

from sslcore.errors import CheckpointError
from sslcore.storage import checkpoint_step, list_checkpoints, newest_checkpoint
from sslcore.storage.messages import show_path

Say = Callable[[str], None]


def resume_point(
    folder: Path, say: Say, *, verify: Callable[[Path], None] | None = None, unit: str = "step"
) -> Path | None:
    """The newest sound checkpoint, from which a run goes on; None if the run was ended before its first.

    Args:
        folder: of the run's checkpoints.
        say: gets a sentence for each that is passed over, and one that says where the run goes on.
        verify: see `newest_checkpoint`.
        unit: of the steps in their names, as sentences call it.

    Raises:
        CheckpointError: there are checkpoints, but none is sound.
    """
    start = newest_checkpoint(folder, report=say, verify=verify)
    if start is not None:
        say(f"the run goes on after {unit} {checkpoint_step(start):,}")
        return start
    refuse_unless_empty(folder)
    say("the run was ended before its first checkpoint: it begins anew")
    return None


def refuse_unless_empty(folder: Path, *, what: str = "the run", otherwise: str = "start a new run") -> None:
    """For where no checkpoint is sound: a beginning only if there is none at all, lest what was trained be lost unsaid.

    A folder that is empty, or not there, is passed in silence.

    Args:
        folder: of the checkpoints.
        what: what they are of, as sentences call it.
        otherwise: what to do if none of them can be restored, as the end of a sentence.

    Raises:
        CheckpointError: there are checkpoints.
    """
    if list_checkpoints(folder):
        raise CheckpointError(
            f"no checkpoint in {show_path(folder)} is sound, so {what} cannot be continued; restore one of them from a "
            f"copy, or {otherwise}"
        )
