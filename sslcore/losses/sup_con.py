"""SupCon: all samples of the same class are positives of each other.

Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equations 2 (L_out) and 3 (L_in).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.distributed import all_gather_rows, all_reduce_sum, is_distributed, rank, world_size
from sslcore.losses.common import inverse
from sslcore.losses.exchange import gathered_gram_lse
from sslcore.ops.numerics import Scalar, unit


def sup_con(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    temperature: Scalar,
    form: Literal["out", "in"] = "out",
    gather: bool = True,
) -> Float[Tensor, ""]:
    """Supervised contrastive loss; P(i) are the other rows with the label of row i, s_ij = cos(z_i, z_j) / T.

    form "out": mean over i of -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_{j != i} exp(s_ij) ).
    form "in":  mean over i of -log( 1/|P(i)| sum_{p in P(i)} exp(s_ip) / sum_{j != i} exp(s_ij) ).

    The mean is over the anchors that have a positive; without any the loss is 0 and so is its gradient.

    Args:
        features: (n, d) embeddings; with two views of each image, both views in one batch.
        labels: (n,) any integers.
        temperature: T, a positive number, or a tensor without dimensions if it is learned.
        form: "out" (the paper's choice) or "in".
        gather: with several processes, contrast with the rows of all of them; all processes must then call the loss
            and its backward. Their batches must be equally large.

    Returns:
        This process's share of the loss: the mean of the shares over the processes is the loss of the whole batch.

    Raises:
        ValueError: features and labels differ in number, the temperature is not positive, or the form is unknown.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features (n, d) need labels (n,), not {tuple(features.shape)} and {tuple(labels.shape)}")
    if form not in ("out", "in"):
        raise ValueError(f'form is "out" or "in", not {form!r}')
    scale = inverse(temperature)
    z = unit(features)
    gather = gather and is_distributed()

    all_labels = all_gather_rows(labels) if gather else labels
    groups = numbered(all_labels)
    sizes = torch.zeros_like(groups).index_add_(0, groups, torch.ones_like(groups))
    positives = sizes[groups] - 1  # |P(i)| for the rows of all processes
    mine = slice(rank() * len(z), (rank() + 1) * len(z)) if gather else slice(None)
    count = positives[mine]
    if form == "out":
        of_positives = scale * _MeanPositive.apply(z, groups, positives, mine, gather)
    else:
        of_positives = (
            gathered_gram_lse(z, scale, labels, keep_equal=True, gather=gather) - count.clamp(min=1).to(z.dtype).log()
        )
    of_others = gathered_gram_lse(z, scale, gather=gather)

    has_positive = count > 0
    total = torch.where(has_positive, of_others - of_positives, 0).sum()
    anchors = has_positive.sum().to(total.dtype)
    if gather:
        anchors = all_reduce_sum(anchors)[0] / world_size()
    return total / anchors.clamp(min=1 / world_size())


def numbered(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Labels renumbered as 0, 1, ... in ascending order; no value is read back to the host, as `unique` would."""
    ascending, order = labels.sort()
    first_of_its_kind = torch.ones_like(ascending, dtype=torch.bool)
    first_of_its_kind[1:] = ascending[1:] != ascending[:-1]
    return torch.empty_like(order).scatter_(0, order, first_of_its_kind.cumsum(0) - 1)


class _MeanPositive(torch.autograd.Function):
    """(m,) mean similarity of this process's rows to their positives, from class sums: no pair is ever looked at.

    sum_{p in P(i)} <z_i, z_p> = <z_i, C - z_i> with C the sum of the rows of the class. As in `exchange`, a process
    computes the complete gradient of its own rows, from the weights g that all processes give to their anchors.
    """

    @staticmethod
    def forward(ctx, z: Tensor, groups: Tensor, positives: Tensor, mine: slice, gather: bool) -> Tensor:
        rows = all_gather_rows(z) if gather else z
        sums = _class_sums(rows, groups)[mine]
        ctx.save_for_backward(z, rows, sums, groups, positives)
        ctx.mine, ctx.gather = mine, gather
        return (z * (sums - z)).sum(1) / positives[mine].clamp(min=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        z, rows, sums, groups, positives = ctx.saved_tensors
        weights = (all_gather_rows(g) if ctx.gather else g)[:, None]
        # z_i counts as an anchor, with the sum of its positives, and as a positive of each of them, with their weights.
        as_anchor = g[:, None] * (sums - z)
        as_positive = _class_sums(rows * weights, groups)[ctx.mine] - z * g[:, None]
        return (as_anchor + as_positive) / positives[ctx.mine, None].clamp(min=1), None, None, None, None


def _class_sums(rows: Tensor, groups: Tensor) -> Tensor:
    """For every row the sum of all rows of its class."""
    return torch.zeros_like(rows).index_add_(0, groups, rows)[groups]
