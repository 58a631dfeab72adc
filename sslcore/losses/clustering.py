"""Contrastive clustering of region features: near their own class's prototype, a margin away from the others.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, equation 1.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.losses.common import check_labelled, mean_rows
from sslcore.ops.numerics import widened


def hinge_clustering(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    prototypes: Float[Tensor, "k d"],
    *,
    margin: float,
    valid: Bool[Tensor, " k"] | None = None,
    gather: bool = True,
) -> Float[Tensor, ""]:
    """Mean over rows with a class of sum_j l_ij: D_ij for the row's own class, max(0, margin - D_ij) for the others.

    D is the Euclidean distance, whatever the margin (ORE's code passes its margin as the order of the norm). Summed
    over classes and averaged over rows, as the equation says (its code averages over both).

    Args:
        features: (n, d), not normalised.
        labels: (n,) in [0, k); a row with a negative label has no class, as in `ClassMeans` and `FeatureQueue`: it
            contributes 0 and does not count in the mean.
        prototypes: (k, d), e.g. the vectors of `ClassMeans`; they get gradients if they ask for them.
        margin: distance, in the units of the features, beyond which other prototypes no longer repel.
        valid: (k,) which prototypes stand for a class already; the others neither repel nor attract.
        gather: with several processes, divide by the mean number of rows with a class that a process has, so that the
            mean of the processes' losses is that of the whole batch; all processes must then call the loss.

    Returns:
        The loss; 0 if no row has a class. Where a feature sits on a prototype (closer than rounding can tell) the
        distance has no direction and its gradient is 0.

    Raises:
        ValueError: shapes do not belong together, the margin is not positive, or, on the CPU, a label is not below the
            number of prototypes (on a GPU: a device-side assertion).
    """
    check_labelled(features, labels, prototypes, valid)
    if not margin > 0:
        raise ValueError(f"margin is a distance and must be positive, not {margin}")
    x = widened(features)
    count = mean_rows(labels >= 0, x.dtype, gather)
    return _HingeClustering.apply(x, labels, widened(prototypes), float(margin), valid, count)


class _HingeClustering(torch.autograd.Function):
    """Distances by one matrix product, and the gradients by one more each.

    With w_ij = dl_ij/dD_ij / D_ij, the gradient of row i is sum_j w_ij (f_i - p_j) = f_i sum_j w_ij - sum_j w_ij p_j.
    """

    @staticmethod
    def forward(
        ctx, features: Tensor, labels: Tensor, prototypes: Tensor, margin: float, valid: Tensor | None, count: Tensor
    ):
        with torch.autocast(features.device.type, enabled=False):
            loss, weights = _loss_and_weights(features, labels, prototypes, margin, valid, count)
        ctx.save_for_backward(features, prototypes, weights)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        features, prototypes, weights = ctx.saved_tensors
        weights = weights * g
        of_features = of_prototypes = None
        with torch.autocast(features.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_features = torch.addmm(features * weights.sum(1, keepdim=True), weights, prototypes, alpha=-1)
            if ctx.needs_input_grad[2]:
                of_prototypes = torch.addmm(prototypes * weights.sum(0)[:, None], weights.T, features, alpha=-1)
        return of_features, None, of_prototypes, None, None, None


def _loss_and_weights(
    features: Tensor, labels: Tensor, prototypes: Tensor, margin: float, valid: Tensor | None, count: Tensor
) -> tuple[Tensor, Tensor]:
    lengths = features.square().sum(1, keepdim=True) + prototypes.square().sum(1)
    squared = torch.addmm(lengths, features, prototypes.T, alpha=-2)
    # A difference of large numbers: below this it is rounding, and its root no distance.
    nothing = squared <= 4 * torch.finfo(squared.dtype).eps * lengths
    distance = squared.masked_fill_(nothing, 0).sqrt_()

    has_class = labels[:, None] >= 0
    own = torch.zeros_like(nothing).scatter_(1, labels.clamp(min=0)[:, None], has_class)
    pushed = ~own & has_class & (distance < margin)
    if valid is not None:
        own &= valid
        pushed &= valid
    loss = torch.where(own, distance, 0).sum() + torch.where(pushed, margin - distance, 0).sum()

    direction = own.to(distance.dtype) - pushed.to(distance.dtype)
    weights = direction.div_(distance.masked_fill(nothing, torch.inf)).div_(count)
    return loss / count, weights
