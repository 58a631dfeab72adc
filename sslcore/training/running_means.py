"""Means of losses that stay on the device until somebody wants to see them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Over = Callable[[Tensor], Tensor]
"""What makes of this process's numbers, (n,) of them, those of all processes."""


def _here(values: Tensor) -> Tensor:
    return values


class RunningMeans:
    """Means since the last `take`. Adding waits for nothing; taking waits for the device once.

    Each name has a count of its own: a loss that begins after a warm-up is no mean over the steps before.

    Sums are in double precision, in which sums of so few single-precision numbers do not depend on their order, and
    means are rounded to single: what several processes have counted gives the same mean whether it is brought together
    at the end, or once before, where the run was stopped.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count in {name: a tensor of one element}; a name that is missing does not count."""
        for name, value in values.items():
            value = _wide(value.detach().float().reshape(()))
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, *, over: Over = _here) -> dict[str, float]:
        """{name: mean}, and begin anew.

        Args:
            over: where several processes count: what brings their means together. All of them must take.
        """
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        found = dict(zip(self._sums, over(means).float().tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return found

    def state(self, *, over: Over = _here) -> dict[str, Any]:
        """What `restore` needs to go on as if nothing had happened; tensors and plain values."""
        return {"sums": {name: over(total) for name, total in self._sums.items()}, "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Replace what has been counted by what `state` gave, perhaps on another device than this one."""
        self._sums = {name: _wide(total, device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])


def _wide(value: Tensor, device: torch.device | None = None) -> Tensor:
    """In double precision on a device that has it, by default on the value's own."""
    device = device or value.device
    return value.to(torch.float32 if device.type == "mps" else torch.float64).to(device)
