"""Progress for a person."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """A progress bar where there is a terminal, a line every `seconds` where there is none.

    Args:
        total: steps of the whole run.
        done: steps that are behind it.
        what: is going on, in a word or two.
    """

    def __init__(self, total: int, *, done: int, what: str, seconds: float = 10.0) -> None:
        self.total, self.what = total, what
        self.seconds = seconds
        self._said = time.perf_counter()
        self._start, self._first = time.perf_counter(), done
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task(what, total=total, completed=done, text="")
            self._bar.start()

    def update(self, done: int, text: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.perf_counter()
        if now - self._said >= self.seconds or done == self.total:
            self._said = now
            left = (now - self._start) / max(1, done - self._first) * (self.total - done)
            print(f"step {done}/{self.total}  {text}  {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
