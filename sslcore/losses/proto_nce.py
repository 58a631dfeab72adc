"""ProtoNCE: find an image's own cluster among all clusters, or a region's own class among the classes.

Li et al., "Prototypical Contrastive Learning of Unsupervised Representations" (PCL), ICLR 2021, equation 11 (the sum
over prototypes, with a concentration for each) and equation 12 (the concentration). With labels in place of clusters,
one temperature and prototypes that are class means, the same sum is the InfoNCE form of ORE's contrastive clustering.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sslcore.losses.common import check_labelled, check_prototypes, inverse, mean_rows
from sslcore.ops import small
from sslcore.ops.numerics import Scalar, chosen_matmul_precision, unit, widened
from sslcore.ops.row import lse_over_keys
from sslcore.ops.small import is_small
from sslcore.ops.tiles import Pairs

_NONE = -100  # label of rows that do not count


def proto_nce(
    features: Float[Tensor, "n d"],
    prototypes: Float[Tensor, "k d"],
    assignments: Int[Tensor, " n"],
    *,
    temperature: Scalar,
    concentration: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over i of -log( exp(cos(v_i, c_s(i)) / phi_s(i)) / sum_j exp(cos(v_i, c_j) / phi_j) ).

    One clustering; with several (PCL uses three) take the mean of their losses. All prototypes are contrasted with,
    where PCL's code samples some 16 000: in one pass over them the whole sum takes as long.

    The temperatures phi are the concentrations scaled to a mean of `temperature`, as in PCL's code: phi_j = temperature
    * concentration_j / mean(concentration). A tight cluster (small concentration value) gets a small temperature, so
    that its members need not move closer still.

    Args:
        features: (n, d).
        prototypes: (k, d) centroids.
        assignments: (n,) index of each feature's own centroid; a row with a negative one belongs to no cluster, as
            `KMeansPrototypes.fit` says of what it left out, and contributes 0.
        temperature: mean of the phi, a positive number, or a tensor without dimensions if it is learned.
        concentration: (k,) positive, from `concentrations`; None for one temperature for all.

    Returns:
        The mean over all n rows.

    Raises:
        ValueError: shapes do not belong together, or the temperature is not positive.
    """
    _check(features, prototypes, assignments)
    scale = inverse(temperature)
    v = unit(features)
    clustered, own = assignments >= 0, assignments.clamp(min=0)
    if concentration is None:
        of_own = (v * unit(prototypes[own])).sum(1)
        of_all = lse_over_keys(v, prototypes, scale, Pairs(), "cosine")
        return torch.where(clustered, of_all - scale * of_own, 0).mean()

    if concentration.shape != prototypes.shape[:1]:
        raise ValueError(
            f"concentrations must be one per prototype, ({len(prototypes)},), not {tuple(concentration.shape)}"
        )
    # A temperature for each key is a length for each key.
    c = unit(prototypes) * (concentration.mean() / concentration)[:, None]
    of_own = (v * c[own]).sum(1)
    of_all = lse_over_keys(v, c, scale, Pairs(), "dot")
    return torch.where(clustered, of_all - scale * of_own, 0).mean()


def prototype_nce(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    prototypes: Float[Tensor, "k d"],
    *,
    temperature: Scalar,
    valid: Bool[Tensor, " k"] | None = None,
    gather: bool = True,
) -> Float[Tensor, ""]:
    """Mean over rows with a class of -log( exp(cos(f_i, p_y(i)) / T) / sum_j exp(cos(f_i, p_j) / T) ).

    `proto_nce` for labelled rows of which some have no class, and classes of which some have no prototype yet.

    Args:
        features: (n, d).
        labels: (n,) in [0, k). A row with a negative label, or whose class has no valid prototype, contributes 0 and
            does not count in the mean.
        prototypes: (k, d), e.g. the vectors of `ClassMeans`; they get gradients if they ask for them.
        temperature: T, a positive number, or a tensor without dimensions if it is learned.
        valid: (k,) which prototypes stand for a class already; the others are left out of the sum.
        gather: with several processes, divide by the mean number of rows that count in a process, so that the mean of
            the processes' losses is that of the whole batch; all processes must then call the loss.

    Returns:
        The loss; 0 if no row counts.

    Raises:
        ValueError: shapes do not belong together, the temperature is not positive, or, on the CPU, a label is not below
            the number of prototypes (on a GPU: a device-side assertion).
    """
    check_labelled(features, labels, prototypes, valid)
    scale = inverse(temperature)
    own, counts = labels.clamp(min=0), labels >= 0
    if valid is not None:
        counts = counts & valid[own]
        valid = valid | ~valid.any()  # where none counts, no row does either: the sums only have to be finite
    v, c = unit(features), unit(prototypes)
    if is_small(len(v), len(c), chosen_matmul_precision()):
        scores = small.scores_of(v, c, scale)
        if valid is not None:
            scores = scores.masked_fill(~valid, -torch.inf)
        total = functional.cross_entropy(scores, torch.where(counts, own, _NONE), ignore_index=_NONE, reduction="sum")
    else:
        bias = None if valid is None else torch.zeros_like(c[:, 0]).masked_fill_(~valid, -torch.inf).detach()
        of_all = lse_over_keys(v, c, scale, Pairs(), "unit", key_bias=bias)
        total = torch.where(counts, of_all - scale * (v * c[own]).sum(1), 0).sum()
    return total / mean_rows(counts, total.dtype, gather)


def _check(features: Tensor, prototypes: Tensor, assignments: Tensor) -> None:
    check_prototypes(features, prototypes)
    if assignments.shape != features.shape[:1]:
        raise ValueError(f"assignments must be one per feature, ({len(features)},), not {tuple(assignments.shape)}")


@torch.no_grad()
def concentrations(
    features: Float[Tensor, "n d"],
    prototypes: Float[Tensor, "k d"],
    assignments: Int[Tensor, " n"],
    *,
    smoothing: float = 10.0,
) -> Float[Tensor, " k"]:
    """How spread out each cluster is, as PCL defines it; scaled to a mean of one.

    phi_j = sum of |v - c_j| over the Z members of cluster j / (Z log(Z + smoothing)), with Euclidean distances. A
    cluster of one member or none takes the largest phi of the others; then all are clipped to the 10th and 90th
    percentile (linear interpolation), as PCL's code does. If all features sit on their centroids, all are one.

    Args:
        features: (n, d) as they were clustered (unit rows for spherical k-means).
        prototypes: (k, d) centroids.
        assignments: (n,) index of each feature's centroid, in [0, k).
        smoothing: alpha, above 0, keeps small clusters from extreme values.

    Returns:
        (k,) positive, in float32 for bf16 and fp16 features, else in their dtype; without gradient.

    Raises:
        ValueError: shapes do not belong together.
    """
    _check(features, prototypes, assignments)
    x = widened(features)
    distances = (x - widened(prototypes)[assignments]).norm(dim=1)
    zeros = x.new_zeros(len(prototypes))
    sums = zeros.index_add(0, assignments, distances)
    sizes = zeros.index_add(0, assignments, torch.ones_like(distances))
    phi = torch.where(sizes > 1, sums / (sizes * (sizes + smoothing).log()).clamp(min=1e-12), 0)
    phi = torch.where(sizes > 1, phi, phi.max())
    low, high = torch.quantile(phi, phi.new_tensor([0.1, 0.9]))
    phi = phi.clamp(low, high)
    mean = phi.mean()
    return torch.where(mean > 0, phi / mean, 1.0)
