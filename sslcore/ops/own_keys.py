"""Log-sum-exp of queries (n, d) over keys of their own, (n, k, d), in blocks of rows.

Here the scores are d times smaller than the keys themselves; blocks only bound the copies of keys in a wider format.
"""

import torch
from torch import Tensor

from sslcore.ops.numerics import along_sphere, inverse_norms
from sslcore.ops.tiles import Pairs, blocks, closed, tile_size


def lse_and_mean(
    q: Tensor, k: Tensor, scale: Tensor, bias: Tensor | None, pairs: Pairs, similarity: str, chunk: int, with_mean: bool
) -> tuple[Tensor, Tensor]:
    """As `shared_keys.lse_and_mean`, for keys (n, k, d) and a bias (k,) or (n, k)."""
    n, d = q.shape
    lse = q.new_empty(n)
    mean = q.new_zeros(n if with_mean else 0, d)
    for i, e in blocks(n, _rows(k, chunk)):
        scores, keys, inverse = _scores(q, k, scale, bias, pairs, similarity, i, e)
        lse[i:e] = torch.logsumexp(scores, dim=1)
        if with_mean:
            p = (scores - closed(lse[i:e, None])).exp_()
            p = p if inverse is None else p * inverse
            mean[i:e] = torch.bmm(p[:, None], keys)[:, 0]
    return lse, mean


def keys_gradient(
    g: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    similarity: str,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As `shared_keys.keys_gradient`: gradients (n, k, d) and, of the bias's shape, (k,) or (n, k)."""
    dk = torch.empty_like(k)
    dbias = q.new_zeros(k.shape[:2] if bias is None else bias.shape)
    for i, e in blocks(len(q), _rows(k, chunk)):
        scores, keys, inverse = _scores(q, k, scale, bias, pairs, similarity, i, e)
        weights = (scores - closed(lse[i:e, None])).exp_().mul_(g[i:e, None])
        gradient = (weights * scale)[:, :, None] * q[i:e, None]
        if inverse is not None:
            gradient = along_sphere(gradient, keys * inverse[..., None], inverse[..., None])
        dk[i:e] = gradient
        if dbias.dim() == 2:
            dbias[i:e] = weights
        else:
            dbias += weights.sum(0)
    return dk, dbias


def _rows(k: Tensor, chunk: int) -> int:
    return chunk if chunk > 0 else max(1, tile_size(k.device) // max(1, k.shape[1] * k.shape[2]))


def _scores(
    q: Tensor, k: Tensor, scale: Tensor, bias: Tensor | None, pairs: Pairs, similarity: str, start: int, end: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores (rows, k) of queries start..end, -inf where left out; their keys and, for the cosine, inverse norms."""
    keys = k[start:end].to(q.dtype)
    inverse = inverse_norms(keys)[..., 0] if similarity == "cosine" else None
    scores = torch.bmm(keys, (q[start:end] * scale)[:, :, None])[..., 0]
    if inverse is not None:
        scores.mul_(inverse)
    if bias is not None:
        scores.add_(bias[start:end] if bias.dim() == 2 else bias)
    pairs.leave_out(scores, start, 0, -torch.inf)
    return scores, keys, inverse
