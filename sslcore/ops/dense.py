"""The two primitives written as their definitions, with the whole matrix in memory: what the fast forms are tested
against, and what `form="dense"` selects."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sslcore.ops.numerics import Scalar, unit, widened


def row_lse(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "k d"] | Float[Tensor, "n k d"],
    scale: Scalar,
    *,
    query_ids: Int[Tensor, " n"] | None = None,
    key_ids: Int[Tensor, " k"] | Int[Tensor, "n k"] | None = None,
    key_bias: Float[Tensor, " k"] | Float[Tensor, "n k"] | None = None,
    cosine: bool = False,
    keep: Literal["different", "equal"] = "different",
    own_key: int | None = None,
) -> Float[Tensor, " n"]:
    """`sslcore.ops.row_lse` by its definition."""
    q, k = (unit(q), unit(k)) if cosine else (widened(q), widened(k))
    scores = torch.einsum("nd,nkd->nk", q, k) if k.dim() == 3 else q @ k.T
    scores = scores * scale
    if key_bias is not None:
        scores = scores + key_bias

    left_out = torch.zeros_like(scores, dtype=torch.bool)
    if query_ids is not None and key_ids is not None:
        left_out |= (query_ids[:, None] == key_ids) == (keep == "different")
    if own_key is not None:
        own = own_key + torch.arange(len(q), device=q.device)
        left_out |= own[:, None] == torch.arange(scores.shape[1], device=q.device)
    return masked_lse(scores, left_out)


def gram_lse(
    z: Float[Tensor, "n d"],
    scale: Scalar,
    *,
    ids: Int[Tensor, " n"] | None = None,
    keep: Literal["different", "equal"] = "different",
    cosine: bool = False,
) -> Float[Tensor, " n"]:
    """`sslcore.ops.gram_lse` by its definition."""
    return row_lse(z, z, scale, query_ids=ids, key_ids=ids, keep=keep, cosine=cosine, own_key=0)


def masked_lse(scores: Tensor, left_out: Tensor) -> Tensor:
    """Log-sum-exp of each row over what is not left out; -inf, with gradient 0, where nothing remains."""
    left_out = left_out | scores.isneginf()  # a key bias of -inf leaves a key out as well
    empty = left_out.all(dim=1)
    # logsumexp of a row of -inf has a gradient of NaN, so such rows are first filled with zeros.
    scores = scores.masked_fill(left_out, -torch.inf).masked_fill(empty[:, None], 0)
    return torch.logsumexp(scores, dim=1).masked_fill(empty, -torch.inf)
