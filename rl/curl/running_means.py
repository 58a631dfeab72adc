"""Means of losses that stay on the device until somebody wants to see them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Means since the last `take`. Adding waits for nothing; taking waits for the device once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count in {name: a tensor of one element}; a name that is missing does not count."""
        for name, value in values.items():
            value = value.detach().float().reshape(())
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """{name: mean}, and begin anew."""
        if not self._sums:
            return {}
        totals = torch.stack(list(self._sums.values())).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, totals, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on as if nothing had happened; tensors and plain values."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Replace what has been counted by what `state` gave, perhaps on another device than this one."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])
