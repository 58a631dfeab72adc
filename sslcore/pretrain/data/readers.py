"""Processes that read and decode ahead of the training loop, with a limit on how long they may stay silent.

Each job fills one slot of memory that all processes share, so nothing but a few words travels between them: torch's
usual way, a file descriptor per tensor, needs a large /dev/shm, can use up the descriptors, and waits for ever for a
process that was stopped in the wrong moment. Slots are anonymous memory, not /dev/shm, which containers keep small.

The processes are started by a fork server: they inherit no thread's locks and no CUDA context, as forked ones would,
and torch is loaded once for all of them, not once in each as with `spawn` (used where there is no fork server). As with
`spawn`, a script that trains must do so under `if __name__ == "__main__":`.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sslcore.errors import DataError
from sslcore.pretrain.data.shared import Shape, SharedArray

POLL = 1.0  # seconds between looks at whether the processes are alive
PREFETCH = 2  # jobs that wait in each process's queue

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
        self._jobs: Iterator[Any] = iter(())
        self._sent: deque[Any] = deque()
        self._iterator: Any = None
        if workers:
            # One slot for each job that can be under way, and one for the result at hand.
            self._slots = _Slots(reader.shapes, workers * PREFETCH + 1)
            self._opened = SharedArray((workers,), torch.int64)

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any, list[Tensor]]]:
        """(job, the reader's words, tensors that the caller may keep) for each job. A new call ends an earlier one.

        Raises:
            DataError: a process died, or did not answer in time; it is named, with the file it was reading.
        """
        if not self.workers:
            yield from self._run_here(jobs)
            return
        self._start(jobs)
        mine = self._iterator
        while self._iterator is mine:
            try:
                number, words = self._next()
            except StopIteration:
                self.close()
                return
            out = [torch.empty(t.shape, dtype=t.dtype, pin_memory=self.pin).copy_(t) for t in self._slots[number]]
            yield self._sent.popleft(), words, out

    def _run_here(self, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any, list[Tensor]]]:
        for job in jobs:
            out = [torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin) for shape in self.reader.shapes]
            yield job, self.reader.read(job, out, lambda image: None), out

    def _start(self, jobs: Iterable[Any]) -> None:
        self.close()
        self._jobs, self._sent = iter(jobs), deque()
        loader = DataLoader(
            _Jobs(self.reader, self._slots, self._opened),
            batch_size=None,
            sampler=_Numbered(self),  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=PREFETCH,
            timeout=POLL,
            multiprocessing_context=_context(),
            worker_init_fn=_leave_signals_to_parent,
            # Its own generator: DataLoader draws a seed, which must not move the run's global random state.
            generator=torch.Generator(),
        )
        _running.add(self)
        self._iterator = iter(loader)

    def _next(self) -> tuple[int, Any]:
        start = time.monotonic()
        while True:
            try:
                return next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                self._explain(error, time.monotonic() - start)

    def _explain(self, error: Exception, waited: float) -> None:
        """Return if waiting can go on; otherwise end the processes and raise."""
        processes = self._iterator._workers
        dead = next((i for i, process in enumerate(processes) if not process.is_alive()), None)
        if dead is not None:
            who, cause = self._name(dead), _cause(processes[dead].exitcode)
            self.close()
            raise DataError(
                f"{who} died ({cause}); if the system killed it, free memory or lower data.workers, else look at that "
                "file; then resume the run"
            ) from error
        if "timed out" not in str(error):
            self.close()
            raise error
        if waited >= self.timeout:
            # Jobs go round the processes in turn; the one whose turn it is holds up the rest.
            who = self._name(self._iterator._rcvd_idx % self.workers)
            self.close()
            raise DataError(
                f"{who} has not answered for {self.timeout:g} seconds; look at that file and its disk, or raise "
                "data.worker_timeout if the disk is that slow; then resume the run"
            ) from error

    def _name(self, worker: int) -> str:
        image = int(self._opened.tensor[worker]) - 1
        at = f", at {self.reader.describe(image)}," if image >= 0 else ""
        return f"reading process {worker} (pid {self._iterator._workers[worker].pid}){at}"

    def close(self) -> None:
        """End the processes, at once; the next `run` starts new ones."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        _running.discard(self)
        # DataLoader's own shutdown asks politely, and waits for processes that may be stuck.
        iterator._shutdown = True
        for process in iterator._workers:
            process.kill()
        for process in iterator._workers:
            process.join(5)
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
            queue.close()

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


class _Jobs(Dataset[Any]):
    """What runs in the reading processes."""

    def __init__(self, reader: Reader, slots: _Slots, opened: SharedArray) -> None:
        self.reader, self.slots, self.opened = reader, slots, opened

    def __getitem__(self, numbered: tuple[int, Any]) -> tuple[int, Any]:
        number, job = numbered
        info = get_worker_info()
        mine = self.opened.tensor[info.id if info else 0]

        def note(image: int) -> None:
            mine.fill_(image + 1)

        words = self.reader.read(job, self.slots[number], note)
        mine.zero_()
        return number, words


class _Numbered:
    """The sampler: the pool's jobs, numbered; remembers which have been sent."""

    def __init__(self, pool: ReaderPool) -> None:
        self._pool = weakref.proxy(pool)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(self._pool._jobs):
            self._pool._sent.append(job)
            yield number, job


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sslcore.pretrain.data"])
    return context


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and a job manager's SIGTERM reach a whole group of processes. The training process then still wants its
    next batches, to stop at a good place; it ends the readers itself, and they notice when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


_running: "weakref.WeakSet[ReaderPool]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Before multiprocessing's own exit, which would wait for ever for processes that ignore SIGTERM.
    for pool in list(_running):
        pool.close()
