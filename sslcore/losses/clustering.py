"""Contrastive clustering of region features: near their own class's prototype, a margin away from the others.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, equation 1.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.ops.numerics import widened


def hinge_clustering(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    prototypes: Float[Tensor, "k d"],
    *,
    margin: float,
    valid: Bool[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of sum_j l_ij: D_ij for the row's own class, max(0, margin - D_ij) for the others.

    D is the Euclidean distance, whatever the margin (ORE's code passes its margin as the order of the norm). Summed
    over classes and averaged over rows, as the equation says (its code averages over both).

    Args:
        features: (n, d), not normalised.
        labels: (n,) in [0, k).
        prototypes: (k, d), e.g. the vectors of `ClassMeans`; they get gradients if they ask for them.
        margin: distance, in the units of the features, beyond which other prototypes no longer repel.
        valid: (k,) which prototypes stand for a class already; the others neither repel nor attract.

    Returns:
        The loss; 0 for no rows. Where a feature sits on a prototype (closer than rounding can tell) the distance has
        no direction and its gradient is 0.

    Raises:
        ValueError: shapes do not belong together, or the margin is not positive.
    """
    if features.dim() != 2 or prototypes.dim() != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            "features (n, d) need prototypes (k, d) of the same d, "
            f"not {tuple(features.shape)} and {tuple(prototypes.shape)}"
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be one per feature, ({len(features)},), not {tuple(labels.shape)}")
    if valid is not None and valid.shape != prototypes.shape[:1]:
        raise ValueError(f"valid must be one per prototype, ({len(prototypes)},), not {tuple(valid.shape)}")
    if not margin > 0:
        raise ValueError(f"margin is a distance and must be positive, not {margin}")
    return _HingeClustering.apply(widened(features), labels, widened(prototypes), float(margin), valid)


class _HingeClustering(torch.autograd.Function):
    """Distances by one matrix product, and the gradients by one more each.

    With w_ij = dl_ij/dD_ij / D_ij, the gradient of row i is sum_j w_ij (f_i - p_j) = f_i sum_j w_ij - sum_j w_ij p_j.
    """

    @staticmethod
    def forward(ctx, features: Tensor, labels: Tensor, prototypes: Tensor, margin: float, valid: Tensor | None):
        with torch.autocast(features.device.type, enabled=False):
            loss, weights = _loss_and_weights(features, labels, prototypes, margin, valid)
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
        return of_features, None, of_prototypes, None, None


def _loss_and_weights(
    features: Tensor, labels: Tensor, prototypes: Tensor, margin: float, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    rows = max(len(features), 1)
    lengths = features.square().sum(1, keepdim=True) + prototypes.square().sum(1)
    squared = torch.addmm(lengths, features, prototypes.T, alpha=-2)
    # A difference of large numbers: below this it is rounding, and its root no distance.
    nothing = squared <= 4 * torch.finfo(squared.dtype).eps * lengths
    distance = squared.masked_fill_(nothing, 0).sqrt_()

    own = torch.zeros_like(nothing).scatter_(1, labels[:, None], True)
    pushed = ~own & (distance < margin)
    if valid is not None:
        own &= valid
        pushed &= valid
    loss = torch.where(own, distance, 0).sum() + torch.where(pushed, margin - distance, 0).sum()

    direction = own.to(distance.dtype) - pushed.to(distance.dtype)
    weights = direction.div_(distance.masked_fill(nothing, torch.inf)).div_(rows)
    return loss / rows, weights
