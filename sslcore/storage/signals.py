"""Signals that ask a run to stop: they set a flag, and the loop looks at it where it can stop cleanly.

Saving inside a handler (as training frameworks did) meets half-updated weights and, with several processes, collectives
that do not match. So the handler does nothing but remember. Poll `received` after every step, in validation and between
phases; with several processes agree on it (the largest of their flags) before acting.

A trainer that installs handlers of its own when it starts must not win (Lightning's makes it leave with an exception
after the batch): enter `StopSignals` after that, in Lightning's `on_train_start` (`on_fit_start` is too early), and
leave it in `on_train_end`.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """While the block runs, SIGINT, SIGTERM and SIGUSR1 only set a flag; a second SIGINT raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing. In forked children (loader workers)
    SIGINT is left to the parent, which the terminal interrupts too, and the other signals do what they did before.

    Args:
        signals: which ones.
        quiet: say nothing on standard error when a signal arrives.

    Attributes:
        received: the first signal that arrived, or None.

    Example:
        >>> with StopSignals() as stop:
        ...     for step in range(steps):
        ...         train(step)
        ...         if stop.received:
        ...             break
    """

    def __init__(self, signals: Iterable[signal.Signals] = _SIGNALS, *, quiet: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._signals, self._quiet = tuple(signals), quiet
        self._previous: dict[signal.Signals, Any] = {}
        self._active, self._owner = False, 0

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that the signal ended: 128 + its number; 0 without a signal."""
        return 128 + self.received if self.received else 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._owner, self._active = os.getpid(), True
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._active = False
        for number, previous in self._previous.items():
            # Somebody who wrapped our handler meanwhile keeps theirs; ours then passes on what it is called with.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, _or_default(previous))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if os.getpid() != self._owner:
            if received != signal.SIGINT:
                self._pass_on(received, frame)
            return
        if not self._active:
            self._pass_on(received, frame)
            return
        if received == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        if self.received is None or received == signal.SIGINT:
            # A Ctrl-C after SIGTERM counts as the first of two.
            self.received = received
            self._say(f"\n{received.name}: stopping after this step" + "; Ctrl-C again stops at once" * (number == 2))

    def _pass_on(self, received: signal.Signals, frame: FrameType | None) -> None:
        previous = self._previous.get(received)
        if callable(previous):
            previous(received, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(received, signal.SIG_DFL)
            signal.raise_signal(received)

    def _say(self, text: str) -> None:
        if not self._quiet:
            with contextlib.suppress(OSError):
                os.write(2, (text + "\n").encode())  # print is not safe here: the signal may interrupt another print


def _or_default(handler: Any) -> Any:
    return signal.SIG_DFL if handler is None else handler  # None: it was not installed from Python
