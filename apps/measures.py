"""What a command says of time and memory."""

import resource
import sys

import torch


def memory() -> str:
    """The most that was in use, on the GPU if there is one."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU at the peak"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**30:.2f} GiB at the peak"


def duration(seconds: float) -> str:
    """In seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def steps_to_go(steps: int, done: int) -> str:
    """How many a run would take, or those that are left of one that goes on."""
    return f"{max(0, steps - done):,} of {steps:,} are left" if done else f"{steps:,}"


def time_for(done: int) -> str:
    """What the time is called that these steps take."""
    return "time for the rest" if done else "time for the run"
