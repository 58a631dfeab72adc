"""An encoder that follows another one slowly.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, equation (2); Grill et al.,
"Bootstrap Your Own Latent", NeurIPS 2020, section 3.2 (the momentum rises to 1 along a cosine).
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn


def cosine_momentum(base: float, progress: float, final: float = 1.0) -> float:
    """Momentum that goes from `base` to `final` along half a cosine; equal to `base` at progress 0.

    Args:
        base: weight of the old value at the start.
        progress: share of the training that is done, in [0, 1].
        final: weight of the old value at the end.

    Raises:
        ValueError: progress is outside [0, 1]; a step number given instead of a share would freeze the encoder.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is the share of training that is done and must be in [0, 1], not {progress}")
    return final - (final - base) * (math.cos(math.pi * progress) + 1) / 2


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose weights are a moving average: `new = momentum * old + (1 - momentum) * encoder`.

    The copy takes no gradient and its outputs carry none. Call `update` after the optimiser step.

    It follows `.train()` and `.eval()` like any module. Keys and targets are normally made in train mode, where batch
    norm uses the statistics of the batch at hand: keys normalised in eval mode with averaged statistics were seen to
    train badly. Running statistics then matter only when the copy itself is evaluated.

    Weights in float16 or bfloat16 are averaged in float32 beside the copy (buffers `average_<i>`): at momentum 0.999 a
    step is smaller than half a bit of bfloat16, and an average kept in it would never move.

    Args:
        encoder: what to follow. It is copied, not kept.
        momentum: weight of the old value, in [0, 1].
        buffers: `"own"`: the copy's batch norms keep statistics of what the copy sees, as MoCo and BYOL do; `"copy"`:
            buffers are taken from the encoder at every update; `"ema"`: floating-point buffers are averaged like
            weights, while integers (batch norm's `num_batches_tracked`) cannot be averaged and are copied.

    Attributes:
        module: the copy.
        momentum: used where `update` is given none. A schedule is the caller's, see `cosine_momentum`.

    Example:
        >>> keys = MomentumEncoder(encoder, momentum=0.99)
        >>> with_keys = keys(images)                                        # no gradient
        >>> optimizer.step(); keys.update(encoder, cosine_momentum(0.99, progress))
    """

    def __init__(self, encoder: nn.Module, momentum: float, *, buffers: Literal["own", "copy", "ema"] = "own") -> None:
        super().__init__()
        if buffers not in ("own", "copy", "ema"):
            raise ValueError(f'buffers must be "own", "copy" or "ema", not {buffers!r}')
        self.momentum = _checked(momentum)
        self.buffer_rule = buffers
        self.module = copy.deepcopy(encoder).requires_grad_(False)
        self._average_low_precision_apart()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever the encoder returns, without gradient."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, encoder: nn.Module, momentum: float | None = None) -> None:
        """Move towards the encoder. A momentum of 0 copies it.

        Weights are matched by position and may lie on another device or have another precision than the encoder's.

        Raises:
            ValueError: the encoder does not have the weights, or the buffers, that were copied.
        """
        weight = 1 - (self.momentum if momentum is None else _checked(momentum))
        weights = list(self.module.parameters())
        old = [self._average(i, p) for i, p in enumerate(weights)]
        _lerp(old, _matching(old, encoder.parameters(), "weights"), weight)
        low = [(p, average) for p, average in zip(weights, old) if p is not average]
        _copy([p for p, _ in low], [average for _, average in low])
        if self.buffer_rule != "own":
            self._update_buffers(encoder, weight)

    def _update_buffers(self, encoder: nn.Module, weight: float) -> None:
        old = list(self.module.buffers())
        pairs = list(zip(old, _matching(old, encoder.buffers(), "buffers")))
        averaged = [(a, b) for a, b in pairs if self.buffer_rule == "ema" and a.is_floating_point()]
        copied = [(a, b) for a, b in pairs if self.buffer_rule == "copy" or not a.is_floating_point()]
        _lerp([a for a, _ in averaged], [b for _, b in averaged], weight)
        _copy([a for a, _ in copied], [b for _, b in copied])

    def _average(self, i: int, parameter: Tensor) -> Tensor:
        """Where the average of the i-th weight is kept: beside it if it is of low precision."""
        return getattr(self, f"average_{i}") if _is_low(parameter) else parameter

    def _average_low_precision_apart(self) -> None:
        for i, parameter in enumerate(self.module.parameters()):
            name = f"average_{i}"
            if not _is_low(parameter):
                self._buffers.pop(name, None)
            elif name in self._buffers:
                setattr(self, name, getattr(self, name).float())
            else:
                self.register_buffer(name, parameter.detach().float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MomentumEncoder":
        super()._apply(fn, recurse)
        self._average_low_precision_apart()  # .half() and the like change what is of low precision, and the averages
        return self

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, buffers={self.buffer_rule!r}"


def _checked(momentum: float) -> float:
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is the weight of the old value and must be in [0, 1], not {momentum}")
    return momentum


def _is_low(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _matching(old: list[Tensor], new: Iterable[Tensor], what: str) -> list[Tensor]:
    """The encoder's tensors, on the device and in the precision of ours."""
    found = list(new)
    if [t.shape for t in found] != [t.shape for t in old]:
        raise ValueError(
            f"the encoder's {what} are not those that were copied ({len(found)} against {len(old)}, or other shapes): "
            "update from the encoder that the MomentumEncoder was made of"
        )
    return [b.to(a.device, a.dtype) for a, b in zip(old, found)]


def _alike(old: list[Tensor], new: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pairs in groups of one device and type: the fused kernels take no mixture."""
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for a, b in zip(old, new):
        group = groups[a.device, a.dtype]
        group[0].append(a)
        group[1].append(b)
    return list(groups.values())


def _lerp(old: list[Tensor], new: list[Tensor], weight: float) -> None:
    for olds, news in _alike(old, new):
        torch._foreach_lerp_(olds, news, weight)


def _copy(old: list[Tensor], new: list[Tensor]) -> None:
    for olds, news in _alike(old, new):
        torch._foreach_copy_(olds, news)
