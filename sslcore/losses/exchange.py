"""Log-sum-exps over the rows of all processes: embeddings and log-sum-exps travel, gradients of embeddings do not.

Every process holds a slice of the batch and the mean loss of that slice. Its rows also stand in the log-sum-exps of
the other processes. With two numbers per row, lse_j and g_j, the derivative of its process's loss for lse_j, each
process computes the *complete* gradient of its own rows: what autograd would add up over all processes. Averaged by
DDP, that is the gradient of the global mean. Without a process group these are the plain primitives.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.distributed import all_gather_rows, is_distributed, rank
from sslcore.ops.gram import lse_over_others, pull_of_slice
from sslcore.ops.row import Similarity, keys_gradient, lse_and_mean, lse_over_keys
from sslcore.ops.tiles import Pairs


def gathered_gram_lse(
    z: Tensor, scale: Tensor, ids: Tensor | None = None, *, keep_equal: bool = False, gather: bool = True
) -> Tensor:
    """(m,) log-sum-exps of this process's unit rows z (m, d) over all other rows of all processes."""
    if not (gather and is_distributed()):
        return lse_over_others(z, scale, "unit", ids, keep_equal=keep_equal)
    return _GatheredGram.apply(z, scale, ids, keep_equal)


def gathered_row_lse(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    similarity: Similarity,
    ids: Tensor | None = None,
    *,
    gather: bool = True,
) -> Tensor:
    """(n,) log-sum-exps of this process's queries q (n, d) over the keys of all rows of all processes but its own key.

    k (n, d): key i belongs to query i. Rows with equal ids are left out.
    """
    if not (gather and is_distributed()):
        return lse_over_keys(q, k, scale, Pairs(ids, ids, own_key=0), similarity)
    return _GatheredRow.apply(q, k, scale, similarity, ids)


class _GatheredGram(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, scale: Tensor, ids: Tensor | None, keep_equal: bool) -> Tensor:
        all_z = all_gather_rows(z)
        all_ids = None if ids is None else all_gather_rows(ids)
        pairs = Pairs(ids, all_ids, keep_equal, own_key=rank() * len(z))
        lse = lse_over_keys(z, all_z, scale, pairs, "unit")
        ctx.pairs = pairs
        ctx.save_for_backward(z, all_z, scale, lse)
        return lse

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        z, all_z, scale, lse = ctx.saved_tensors
        all_g, all_lse = all_gather_rows(torch.stack([g, lse], dim=1)).unbind(1)
        pull = pull_of_slice(g, lse, z, all_g, all_lse, all_z, scale, ctx.pairs)
        # Every pair is met from both of its ends, here or in another process: half from each.
        dscale = ((z * pull).sum() / 2).to(scale) if ctx.needs_input_grad[1] else None
        return pull * scale, dscale, None, None


class _GatheredRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, scale: Tensor, similarity: Similarity, ids: Tensor | None) -> Tensor:
        all_k = all_gather_rows(k)
        all_ids = None if ids is None else all_gather_rows(ids)
        pairs = Pairs(ids, all_ids, own_key=rank() * len(q))
        with_mean = any(ctx.needs_input_grad[i] for i in (0, 2))
        lse, mean = lse_and_mean(q, all_k, scale, pairs, similarity, with_mean=with_mean)
        ctx.similarity = similarity
        ctx.save_for_backward(q, k, scale, ids, all_ids, lse, mean)
        return lse

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        q, k, scale, ids, all_ids, lse, mean = ctx.saved_tensors
        need_q, need_k, need_scale, *_ = ctx.needs_input_grad
        pull = mean * g[:, None] if need_q or need_scale else None
        dq = pull * scale if need_q else None
        dscale = (pull * q).sum().to(scale) if need_scale else None
        dk = None
        if need_k:
            # Own keys against the queries of all processes.
            everyone = all_gather_rows(torch.cat([q, g[:, None], lse[:, None]], dim=1))
            all_q, all_g, all_lse = everyone[:, :-2].contiguous(), everyone[:, -2], everyone[:, -1]
            pairs = Pairs(all_ids, ids, own_key=-rank() * len(q))
            dk = keys_gradient(all_g, all_lse, all_q, k, scale, pairs, ctx.similarity)
        return dq, dk, dscale, None, None
