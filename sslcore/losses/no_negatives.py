"""Losses without negatives: predict the other view, or the cluster of the other view."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sslcore.distributed import all_reduce_amax, all_reduce_sum, world_size
from sslcore.losses.common import check_same_shape, inverse
from sslcore.ops.numerics import Scalar, unit, widened


def negative_cosine(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean of -cos(prediction_i, target_i), in [-1, 1].

    Chen, He, "Exploring Simple Siamese Representation Learning" (SimSiam), CVPR 2021, equation 1; the loss of Grill et
    al., "Bootstrap Your Own Latent" (BYOL), NeurIPS 2020, equation 2, is 2 + 2 of this. Both hold the target fixed:
    pass `target.detach()`.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(prediction=prediction, target=target)
    return -(unit(prediction) * unit(target)).sum(1).mean()


def swapped_prediction(
    scores: Sequence[Float[Tensor, "n k"]], codes: Sequence[Float[Tensor, "n k"]], *, temperature: Scalar
) -> Float[Tensor, ""]:
    """Predict the code of each view from every other view: mean cross-entropy of softmax(scores_v / T) with codes_s.

    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (SwAV), NeurIPS 2020,
    equation 2; with more views than codes, multi-crop (section 3.3).

    Args:
        scores: for each view (n, k), cosines of its embeddings with the prototypes; views that have codes come first.
        codes: for each of the first views (n, k), rows summing to one, e.g. from `sinkhorn`; taken as constants.
        temperature: T, a positive number, or a tensor without dimensions if it is learned.

    Returns:
        The mean over all pairs (s, v) with s != v, and over rows.

    Raises:
        ValueError: fewer than two views, no codes or more codes than views, shapes that differ, or a temperature that
            is not positive.
    """
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores):
        raise ValueError(
            f"at least two views and codes for some of them are needed, not {len(scores)} and {len(codes)}"
        )
    for tensor in (*scores[1:], *codes):
        check_same_shape(scores=scores[0], other=tensor)
    scale = inverse(temperature)
    targets = [widened(code.detach()) for code in codes]
    total = sum(targets[1:], targets[0])
    # sum over s != v of <code_s, log p_v> = <sum of all codes - code_v, log p_v>: one product per view.
    loss = scores[0].new_zeros(())
    for view, score in enumerate(scores):
        target = total - targets[view] if view < len(codes) else total
        loss = loss - (target * torch.log_softmax(widened(score) * scale, dim=1)).sum(1).mean()
    return loss / (len(codes) * (len(scores) - 1))


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "n k"], *, epsilon: float = 0.05, iterations: int = 3, gather: bool = True
) -> Float[Tensor, "n k"]:
    """Soft assignments of all rows that spread them evenly over the prototypes, by Sinkhorn-Knopp.

    Cuturi, "Sinkhorn Distances", NIPS 2013, as SwAV uses it (equation 3 and its appendix): exp(scores / epsilon) is
    scaled `iterations` times so that every prototype, then every row, carries the same share. Computed with
    logarithms, so that no epsilon overflows or leaves a prototype without mass.

    Args:
        scores: (n, k) cosines with the prototypes.
        epsilon: strength of the smoothing; smaller values give harder assignments.
        iterations: 3 in SwAV.
        gather: with several processes, spread the rows of all of them; all must then call it.

    Returns:
        (n, k) rows that sum to one; float32 for bf16 and fp16 input.

    Raises:
        ValueError: epsilon or iterations is not positive.
    """
    if not epsilon > 0 or iterations < 1:
        raise ValueError(f"epsilon and iterations must be positive, not {epsilon} and {iterations}")
    log_codes = widened(scores) / epsilon
    for _ in range(iterations):
        log_codes = log_codes - _log_mass(log_codes, gather and world_size() > 1)
        log_codes = log_codes - log_codes.logsumexp(dim=1, keepdim=True)
    return log_codes.exp_()


def _log_mass(log_codes: Tensor, gather: bool) -> Tensor:
    """(k,) log of what each prototype holds of all rows of all processes."""
    mass = log_codes.logsumexp(dim=0)
    if not gather:
        return mass
    (largest,) = all_reduce_amax(mass)
    (total,) = all_reduce_sum((mass - largest).exp_())
    return largest + total.log_()
