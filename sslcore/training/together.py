"""Several processes of a run end together: where one fails, the others do not wait for it in an exchange."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from sslcore.errors import LostProcess

GRACE = 10.0  # seconds: to say what went wrong takes no longer


@contextmanager
def ends_together(
    children: Callable[[], list[subprocess.Popen[bytes]]] = list, *, grace: float = GRACE
) -> Iterator[None]:
    """An error in one process ends all of them, and is told once.

    A process that ends closes its connections, which over gloo is an error of every other's next exchange: it gets
    words here. Over NCCL the others may notice nothing for ten minutes, so whoever started processes ends them, as
    torchrun and SLURM do with theirs. Blocks may be nested: the outer one knows what the inner one has found.

    Args:
        children: the processes that this one started.
        grace: seconds that these are given to end by themselves where one of the others has failed first.

    Raises:
        LostProcess: in the place of the error that another process's end caused here.
    """
    try:
        yield
    except BaseException as error:
        lost = _is_of_an_exchange(error)
        _end(children(), grace if lost or isinstance(error, LostProcess) else 0.0)
        if lost:
            raise LostProcess(
                "another process of this run ended with an error, which it has said; mend that, and resume the run "
                f"(if none has said anything, this is the error: {_in_short(error)})"
            ) from error
        raise


def _is_of_an_exchange(error: BaseException) -> bool:
    """Whether processes that had found each other failed to exchange something. Gloo's errors have no class of their
    own; before a group is there, an error is one of addresses and ports."""
    if isinstance(error, dist.DistError):
        return dist.is_initialized()
    return isinstance(error, RuntimeError) and "/gloo/" in str(error)


def _in_short(error: BaseException) -> str:
    """The first sentence; gloo's go on with good advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0]


def _end(children: list[subprocess.Popen[bytes]], grace: float) -> None:
    ours, until = children.copy(), time.monotonic() + grace
    children.clear()  # Lightning watches this list, and kills its own process where one of them has failed
    for child in ours:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
