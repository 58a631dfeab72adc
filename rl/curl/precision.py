"""Whether this machine convolves faster in bfloat16."""

import functools
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

_CLEARLY = 1.25  # below, the choice would hang on chance, and with it the run's numbers


@functools.cache
def bf16_is_faster(device: torch.device) -> bool:
    """Times one convolution of CURL's size, forth and back, in float32 and in bfloat16; a fraction of a second, once.

    The work is always the same, so that the answer belongs to the machine and not to the agent. Processors with
    bfloat16 matrices are two to four times faster with them; others are no faster, or far slower.
    """
    conv = nn.Conv2d(32, 32, 3).to(device)
    x = torch.ones(8, 32, 41, 41, device=device).to(memory_format=torch.channels_last)
    return _seconds(conv, x, bf16=False) > _CLEARLY * _seconds(conv, x, bf16=True)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Where matrices are multiplied in bfloat16, if that is wanted."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def _seconds(conv: nn.Conv2d, x: torch.Tensor, *, bf16: bool, rounds: int = 7) -> float:
    """The least time of several: what else runs on the machine only adds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        with autocast(x.device, bf16):
            y = conv(x)
        torch.autograd.grad(y.float().sum(), conv.weight)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        best = min(best, time.perf_counter() - start)
    return best
