"""Batch norm over the batch of all processes, on any device.

Ioffe and Szegedy, "Batch Normalization", ICML 2015, with mean and variance of the global batch. PyTorch's SyncBatchNorm
does this on GPUs only; there it is the faster one.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from sslcore.distributed import all_reduce_sum, is_distributed
from sslcore.nn.batch_norms import replace_batch_norms, taken_over


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all processes' samples in train mode; plain batch norm in eval mode, or alone.

    In train mode every process must call it, with any number of samples, none included. Gradients are those of the sum
    of all processes' losses, so that their mean over processes (DDP's) is the gradient of the mean loss; they have none
    of their own. Weights and buffers have batch norm's names.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Batch norm's own check: samples and channels come first, whatever follows."""
        if x.dim() < 2:
            raise ValueError(f"batch norm needs (n, {self.num_features}, ...), not {tuple(x.shape)}")

    def forward(self, x: Float[Tensor, "*ncd"]) -> Float[Tensor, "*ncd"]:
        """(n, c, ...) to the same shape.

        Raises:
            ValueError: x has no channels.
        """
        self._check_input_dim(x)
        if not (self.training and is_distributed()):
            return super().forward(x)
        whole = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        out, mean, var, count = _Normalised.apply(whole, self.weight, self.bias, self.eps)
        if self.running_mean is not None:
            self._keep(mean, var, count)
        return out.to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Moves the running statistics; the variance is unbiased there, as batch norm has it."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), step)


class _Normalised(torch.autograd.Function):
    """Two sums over the processes forth, one back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        over = [0, *range(2, x.dim())]
        total, count = all_reduce_sum(x.sum(over), x.new_tensor(x.numel() / x.shape[1]))
        mean = total / count
        # Squares of what is left: squares of x itself would cancel where the mean is large beside the variance.
        (squares,) = all_reduce_sum((x - _along(mean, x)).square_().sum(over))
        var = squares / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.over = eps, over
        ctx.mark_non_differentiable(mean, var, count)
        return batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, count

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        scale = (var + ctx.eps).rsqrt()
        normal = (x - _along(mean, x)) * _along(scale, x)
        by_bias, by_weight = grad.sum(ctx.over), (grad * normal).sum(ctx.over)  # of this process: DDP adds them up
        of_all, along = (part / count for part in all_reduce_sum(by_bias, by_weight))
        slope = scale if weight is None else scale * weight
        by_x = _along(slope, x) * (grad - _along(of_all, x) - normal * _along(along, x))
        wanted = zip((by_x, by_weight, by_bias, None), ctx.needs_input_grad, strict=True)
        return tuple(part if needed else None for part, needed in wanted)


def _along(channels: Tensor, x: Tensor) -> Tensor:
    """(c,) beside (n, c, ...)."""
    return channels.view(1, -1, *[1] * (x.dim() - 2))


def sync_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every `nn.BatchNorm1d`, `2d` and `3d` by a `SyncBatchNorm`, in place, keeping weights, statistics and
    their names.

    Returns:
        the module, or its replacement if it is a batch norm itself; see `replace_batch_norms`.
    """
    return replace_batch_norms(module, _sync)


def _sync(norm: nn.Module) -> SyncBatchNorm | None:
    # Not subclasses: whoever made one wants its statistics otherwise.
    if not isinstance(norm, _BatchNorm) or type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return None
    tracked = norm.track_running_stats
    new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, affine=norm.affine, track_running_stats=tracked)
    return taken_over(norm, new)
