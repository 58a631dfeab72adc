"""Batch norm over parts of the batch.

He et al., "Momentum Contrast", CVPR 2020, section 3.3: keys are shuffled over GPUs, so that a query and its key are not
normalised together and cannot recognise each other by their batch's statistics. Parts of the batch do the same on one
device.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from sslcore.nn.batch_norms import replace_batch_norms, taken_over


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with statistics per part of the batch in train mode; plain batch norm in eval mode.

    Part j holds the samples j, j + splits, j + 2 splits, ... of the batch: neighbours are in different parts, and the
    parts are had by reshaping, without a copy. Running statistics move by the mean over the parts. Weights and buffers
    have batch norm's names.

    Args:
        num_features: channels, c.
        splits: number of parts; must divide the batch.
        kwargs: as in `torch.nn.BatchNorm2d`.
    """

    def __init__(self, num_features: int, splits: int, **kwargs: object) -> None:
        super().__init__(num_features, **kwargs)  # type: ignore[arg-type]
        if splits < 1:
            raise ValueError(f"splits must be at least 1, not {splits}")
        self.splits = splits

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """(n, c, h, w) to the same shape.

        Raises:
            ValueError: in train mode, n is not a multiple of `splits`.
        """
        s = self.splits
        if s == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        n, c, h, w = x.shape
        if n % s:
            raise ValueError(f"a batch of {n} cannot be split into {s} equal parts for batch norm")
        mean = var = None
        if self.running_mean is not None and self.running_var is not None:
            mean, var = self.running_mean.repeat(s), self.running_var.repeat(s)
        weight = None if self.weight is None else self.weight.repeat(s)
        bias = None if self.bias is None else self.bias.repeat(s)
        # (n, c) and (n / s, s c) are the same memory: channel j c + i of the latter is channel i of part j.
        parts = x.reshape(n // s, s * c, h, w)
        out = batch_norm(parts, mean, var, weight, bias, True, self._step_size(), self.eps)
        if mean is not None and var is not None:
            self._keep(mean, var)
        return out.reshape(n, c, h, w)

    def _step_size(self) -> float:
        """Weight of this batch in the running statistics; a cumulative mean if momentum is None."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    @torch.no_grad()
    def _keep(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.copy_(mean.view(self.splits, -1).mean(0))
        self.running_var.copy_(var.view(self.splits, -1).mean(0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, splits={self.splits}"


def split_batch_norms(module: nn.Module, splits: int) -> nn.Module:
    """Replace every `nn.BatchNorm2d` by a `SplitBatchNorm2d`, in place, keeping weights, statistics and their names.

    Returns:
        the module, or its replacement if it is a batch norm itself; see `replace_batch_norms`.
    """
    return replace_batch_norms(module, lambda norm: _split(norm, splits))


def _split(norm: nn.Module, splits: int) -> SplitBatchNorm2d | None:
    if not isinstance(norm, nn.BatchNorm2d):
        return None
    tracked, affine = norm.track_running_stats, norm.affine
    new = SplitBatchNorm2d(
        norm.num_features, splits, eps=norm.eps, momentum=norm.momentum, affine=affine, track_running_stats=tracked
    )
    return taken_over(norm, new)
