"""Processes that read and decode ahead of the training loop, with a limit on how long they may stay silent.

This is not torch's DataLoader, because that waits for ever for a process that was stopped while it hands over a
tensor, needs a large /dev/shm, and with a fork server notices late that a process died, or not at all that the training
process did. Here each job fills one slot of memory that all processes share, and only a few words travel through a pipe
of each process; a broken pipe tells either side at once that the other is gone.

The processes are started by a fork server: they inherit no thread's locks and no CUDA context, as forked ones would,
and torch is loaded once for all of them, not once in each as with `spawn` (used where there is no fork server). As with
`spawn`, a script that trains must do so under `if __name__ == "__main__":`.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.data.shared import Shape, SharedArray

PREFETCH = 2  # jobs that wait at each process

Note = Callable[[int], None]


class Reader(Protocol):
    """What a reading process does.

    Attributes:
        shapes: of the uint8 tensors that a job fills.
    """

    @property
    def shapes(self) -> Sequence[Shape]: ...

    def read(self, job: Any, out: list[Tensor], note: Note) -> Any:
        """Fill `out` for a job and say a few plain words about it. Calls `note(i)` before it opens image i, so that a
        process that never comes back can be blamed on a file."""

    def describe(self, image: int) -> str:
        """The path of image i."""


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


class ReaderPool:
    """Runs a `Reader` on a stream of jobs, with results in order, in `workers` processes (0: in this one).

    Args:
        reader: what to run; pickled to the processes.
        workers: how many.
        timeout: seconds without a result after which waiting is given up.
        pin: put results into page-locked memory, from which a GPU fetches them while the CPU goes on.
    """

    def __init__(self, reader: Reader, *, workers: int, timeout: float = 120, pin: bool = False) -> None:
        if workers < 0 or timeout <= 0:
            raise ValueError(f"workers ({workers}) must not be negative and timeout ({timeout}) must be positive")
        self.reader = reader
        self.workers = workers
        self.timeout = timeout
        self.pin = pin
        self._running: list[_Worker] = []
        if workers:
            self._slots = _Slots(reader.shapes, workers * PREFETCH)
            self._opened = SharedArray((workers,), torch.int64)

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any, list[Tensor]]]:
        """(job, the reader's words, tensors that the caller may keep) for each job. A new call ends an earlier one.

        Raises:
            DataError: a process died, or did not answer in time; it is named, with the file it was reading.
        """
        if not self.workers:
            yield from self._run_here(jobs)
            return
        self._start()
        running, todo = self._running, enumerate(jobs)
        sent: deque[tuple[int, Any]] = deque()

        def top_up() -> None:
            # As many jobs under way as there are slots. They go round the processes.
            for number, job in itertools.islice(todo, self.workers * PREFETCH - len(sent)):
                self._send(number, job)
                sent.append((number, job))

        top_up()
        while sent and self._running is running:
            number, job = sent.popleft()
            words = self._receive(number)
            result = job, words, [self._keep(shared) for shared in self._slots[number]]
            top_up()  # the slot is free again, and reading goes on while the caller works
            yield result
        if self._running is running:
            self.close()

    def _run_here(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any, list[Tensor]]]:
        for job in jobs:
            out = [torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin) for shape in self.reader.shapes]
            yield job, self.reader.read(job, out, lambda image: None), out

    def _keep(self, shared: Tensor) -> Tensor:
        return torch.empty(shared.shape, dtype=shared.dtype, pin_memory=self.pin).copy_(shared)

    def _start(self) -> None:
        self.close()
        self._opened.tensor.zero_()
        context = _context()
        _open.add(self)
        try:
            for index in range(self.workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, self.reader, self._slots, self._opened, index), daemon=True
                )
                process.start()
                self._running.append(_Worker(process, ours))
                theirs.close()
        except OSError as error:
            self.close()
            raise DataError(
                f"cannot start {self.workers} reading processes ({error.strerror or error}); lower data.workers"
            ) from error

    def _send(self, number: int, job: Any) -> None:
        # A process that is gone is found out when its result is awaited.
        with contextlib.suppress(OSError):
            self._running[number % self.workers].pipe.send((number, job))

    def _receive(self, number: int) -> Any:
        index = number % self.workers
        process, pipe = self._running[index]
        ready = wait([pipe, process.sentinel], timeout=self.timeout)
        if pipe in ready:
            with contextlib.suppress(EOFError, OSError):
                answered, words, error = pipe.recv()
                assert answered == number
                if error is not None:
                    self.close()
                    raise error
                return words
        who = self._name(index)
        if not ready:
            self.close()
            raise DataError(
                f"{who} has not answered for {self.timeout:g} seconds; look at that file and its disk, or raise "
                "data.worker_timeout if the disk is that slow; then resume the run"
            )
        process.join(5)
        code = process.exitcode
        self.close()
        if number < self.workers and code == 1:
            raise DataError(
                f"{who} ended as it began, for the reason printed above; a script that trains must do so under "
                '`if __name__ == "__main__":`, or else set data.workers to 0'
            )
        raise DataError(
            f"{who} died ({_cause(code)}); if the system killed it, free memory or lower data.workers, else look at "
            "that file; then resume the run"
        )

    def _name(self, index: int) -> str:
        image = int(self._opened.tensor[index]) - 1
        at = f", at {self.reader.describe(image)}," if image >= 0 else ""
        return f"reading process {index} (pid {self._running[index].process.pid}){at}"

    def close(self) -> None:
        """End the processes, at once; the next `run` starts new ones."""
        running, self._running = self._running, []
        _open.discard(self)
        for process, _ in running:
            process.kill()
        for process, pipe in running:
            process.join(5)
            pipe.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class _Slots:
    """Shared memory for `count` results of the same shapes; slot i is also slot i + count, i + 2 count, ..."""

    def __init__(self, shapes: Sequence[Shape], count: int) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._memory = SharedArray((count, self._starts[-1]), torch.uint8)

    def __getitem__(self, number: int) -> list[Tensor]:
        slot = self._memory.tensor[number % len(self._memory.tensor)]
        bounds = itertools.pairwise(self._starts)
        return [slot[start:stop].view(shape) for shape, (start, stop) in zip(self.shapes, bounds, strict=True)]


def _serve(pipe: Connection, reader: Reader, slots: _Slots, opened: SharedArray, index: int) -> None:
    """What a reading process does: jobs, until the pipe breaks."""
    # Ctrl-C and a job manager's SIGTERM reach a whole group of processes. The training process then still wants its
    # next batches, to stop at a good place; it ends the readers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    mine = opened.tensor[index : index + 1]

    def note(image: int) -> None:
        mine.fill_(image + 1)

    with contextlib.suppress(EOFError, OSError):
        while True:
            number, job = pipe.recv()
            words, failure = None, None
            try:
                words = reader.read(job, slots[number], note)
            except Exception as error:
                failure = RuntimeError(f"a reading process failed:\n{traceback.format_exc()}")
                failure.__cause__ = error
            mine.zero_()
            pipe.send((number, words, failure))


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sslcore.pretrain.data"])
    return context


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


_open: "weakref.WeakSet[ReaderPool]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Before multiprocessing's own exit, which would wait for ever for processes that ignore SIGTERM.
    for pool in list(_open):
        pool.close()
