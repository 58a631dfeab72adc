"""Losses with a margin, and N-pair: contrast before the softmax over a whole batch or queue."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslcore.losses.common import check_same_shape
from sslcore.losses.info_nce import info_nce
from sslcore.ops.numerics import Scalar, widened


def max_margin(
    first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], same: Bool[Tensor, " n"], *, margin: float
) -> Float[Tensor, ""]:
    """Mean over pairs of D^2 / 2 where the pair is the same, max(0, margin - D)^2 / 2 where not; D = |first - second|.

    Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.

    Args:
        first, second: (n, d) the two sides of each pair.
        same: (n,) whether a pair belongs together.
        margin: distance, in the units of the embeddings, beyond which different pairs are left alone.

    Raises:
        ValueError: shapes do not belong together, or the margin is not positive.
    """
    check_same_shape(first=first, second=second)
    _check_margin(margin)
    if same.shape != first.shape[:1]:
        raise ValueError(f"same must be one per pair, ({len(first)},), not {tuple(same.shape)}")
    squared = (widened(first) - widened(second)).square().sum(1)
    short_of_margin = (margin - _root(squared)).clamp(min=0)
    return torch.where(same, squared, short_of_margin.square()).mean() / 2


def triplet(
    anchor: Float[Tensor, "n d"],
    positive: Float[Tensor, "n d"],
    negative: Float[Tensor, "n d"],
    *,
    margin: float,
    distance: Literal["squared", "euclidean"] = "squared",
) -> Float[Tensor, ""]:
    """Mean over triplets of max(0, D(anchor, positive) - D(anchor, negative) + margin).

    Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, equation 3, where D is the squared Euclidean distance.

    Args:
        anchor, positive, negative: (n, d).
        margin: by how much the negative must be farther than the positive, in units of D.
        distance: "squared" (FaceNet) or "euclidean".

    Raises:
        ValueError: shapes differ, the margin is not positive, or the distance is unknown.
    """
    check_same_shape(anchor=anchor, positive=positive, negative=negative)
    _check_margin(margin)
    if distance not in ("squared", "euclidean"):
        raise ValueError(f'distance is "squared" or "euclidean", not {distance!r}')
    a = widened(anchor)
    near = (a - widened(positive)).square().sum(1)
    far = (a - widened(negative)).square().sum(1)
    if distance == "euclidean":
        near, far = _root(near), _root(far)
    return (near - far + margin).clamp(min=0).mean()


def n_pair(
    query: Float[Tensor, "n d"],
    positive: Float[Tensor, "n d"],
    *,
    temperature: Scalar,
    labels: Int[Tensor, " n"] | None = None,
    l2: float = 0.0,
    gather: bool = True,
) -> Float[Tensor, ""]:
    """Mean over i of log(1 + sum_{j != i} exp((<q_i, p_j> - <q_i, p_i>) / T)), plus l2 * mean(|q|^2 + |p|^2).

    Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, equation 6; the paper has
    T = 1 and one pair per class. It is InfoNCE with dot products against the other pairs of the batch.

    Args:
        query, positive: (n, d).
        temperature: T, a positive number, or a tensor without dimensions if it is learned.
        labels: (n,) classes, if some may occur twice: pairs of the same class are no negatives of each other.
        l2: weight of the squared lengths, which nothing else bounds.
        gather: as for `info_nce`.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.
    """
    loss = info_nce(query, positive, temperature=temperature, similarity="dot", query_ids=labels, gather=gather)
    if l2:
        loss = loss + l2 * (widened(query).square().sum(1) + widened(positive).square().sum(1)).mean()
    return loss


def _check_margin(margin: float) -> None:
    if not margin > 0:
        raise ValueError(f"margin is a distance and must be positive, not {margin}")


def _root(squared: Tensor) -> Tensor:
    """Square root with a gradient of 0, instead of infinity, at 0."""
    zero = squared == 0
    return squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
