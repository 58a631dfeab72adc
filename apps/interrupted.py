"""A training command that Ctrl-C ends at once: what a person is told is left of it, and how to go on."""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


@contextmanager
def told_apart() -> Iterator[None]:
    """An error that Ctrl-C led to is one: libraries that are just being imported make others of KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: in the place of any other exception that came after it.
    """
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> Any:
        arrived.append(number)
        signal.default_int_handler(number, frame)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # as in background jobs
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if arrived:
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def what_is_left(run_dir: Path | None, command: str, *, dry_run: bool) -> str:
    """A sentence for standard error.

    Args:
        run_dir: where the run is, or was to be; None: that was not settled yet.
        command: the one that trains, as `surnia detect train`.
        dry_run: it only rehearsed.
    """
    if dry_run:
        return "Interrupted: a dry run writes nothing, so nothing was kept."
    if run_dir is None or not (run_dir / "recipe.yaml").is_file():
        return "Interrupted before the run began: nothing was kept."
    go_on = f"{command} --resume {shlex.quote(str(run_dir))}"
    if any(run_dir.rglob("checkpoints/step-*/manifest.json")):  # of a stage or a seed, or the run's own
        return f"Interrupted: {run_dir} keeps its last checkpoint; go on from there with: {go_on}"
    return f"Interrupted before the first checkpoint: {run_dir} keeps its recipe alone; begin it anew with: {go_on}"
