"""Chunked log-sum-exp of queries (n, d) over keys that all of them share, (k, d).

The forward is attention with the keys as values: the softmax-weighted mean of the keys, formed in the same pass, is the
gradient of the log-sum-exp for its query (up to the scale). Queries therefore need no backward pass over the keys, and
no (n, k) matrix exists at any time.
"""

import torch
from torch import Tensor

from sslcore.ops.numerics import along_sphere, inverse_norms
from sslcore.ops.tiles import Pairs, blocks, closed, needs_no_shift, relative_exp_, tile_shape


def lse_and_mean(
    q: Tensor, k: Tensor, scale: Tensor, bias: Tensor | None, pairs: Pairs, similarity: str, chunk: int, with_mean: bool
) -> tuple[Tensor, Tensor]:
    """(n,) log-sum-exps and, if asked for, the (n, d) means of the keys under each query's softmax (else (0, d)).

    similarity: as in `row`; for "cosine" the keys are normalised chunk by chunk.
    """
    n, d = q.shape
    scaled = q * scale
    lse = q.new_empty(n)
    mean = q.new_zeros(n if with_mean else 0, d)
    rows, columns = tile_shape(n, len(k), chunk)
    scratch = q.new_empty(rows * columns)
    sums = _sums if bias is None and needs_no_shift(scale, q, k if similarity == "dot" else None) else _running_sums
    for i, e in blocks(n, rows):
        block_mean = mean[i:e] if with_mean else None
        lse[i:e] = sums(scaled[i:e], k, bias, pairs, similarity, i, columns, scratch, block_mean)
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
    """Gradients (k, d) for the keys and (k,) for the bias, from the gradients g (n,) of the log-sum-exps.

    Tiles are formed again: with p_ij = exp(score_ij - lse_i), dk_j = scale * sum_i g_i p_ij q_i.
    """
    scaled = q * scale
    g = g.masked_fill(lse.isneginf(), 0)
    pulls = scaled * g[:, None]
    lse = closed(lse)[:, None]
    dk = torch.empty_like(k)
    dbias = q.new_zeros(len(k))
    rows, columns = tile_shape(len(q), len(k), chunk)
    scratch = q.new_empty(rows * columns)
    for j, f in blocks(len(k), columns):
        keys, inverse = _chunk_of_keys(k, j, f, similarity, q.dtype)
        gradient = q.new_zeros(f - j, q.shape[1])
        for i, e in blocks(len(q), rows):
            p = relative_exp_(_scores(scaled[i:e], keys, bias, j, scratch).sub_(lse[i:e]))
            pairs.leave_out(p, i, j, 0.0)
            gradient.addmm_(p.T, pulls[i:e])
            if bias is not None:
                dbias[j:f].addmv_(p.T, g[i:e])
        dk[j:f] = along_sphere(gradient, keys, inverse) if inverse is not None else gradient
    return dk, dbias


def _sums(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    similarity: str,
    row: int,
    columns: int,
    scratch: Tensor,
    mean: Tensor | None,
) -> Tensor:
    """Log-sum-exps of one block of scaled queries with scores that need no shift; `mean` is filled in place."""
    total = q.new_zeros(len(q))
    for j, f in blocks(len(k), columns):
        keys, _ = _chunk_of_keys(k, j, f, similarity, q.dtype)
        p = _scores(q, keys, bias, j, scratch).exp_()
        pairs.leave_out(p, row, j, 0.0)
        total += p.sum(1)
        if mean is not None:
            mean.addmm_(p, keys)
    if mean is not None:
        mean.div_(_positive(total)[:, None])
    return total.log()


def _running_sums(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    similarity: str,
    row: int,
    columns: int,
    scratch: Tensor,
    mean: Tensor | None,
) -> Tensor:
    """As `_sums` for scores of any size: everything is kept relative to the largest score met so far."""
    total = q.new_zeros(len(q))
    peak = q.new_full((len(q),), -torch.inf)
    shift = torch.zeros_like(peak)
    for j, f in blocks(len(k), columns):
        keys, _ = _chunk_of_keys(k, j, f, similarity, q.dtype)
        scores = _scores(q, keys, bias, j, scratch)
        pairs.leave_out(scores, row, j, -torch.inf)
        higher = torch.maximum(peak, scores.amax(1))
        # Before the first key that counts the peak is -inf, and -inf - -inf would be NaN.
        shift = higher.masked_fill(higher.isneginf(), 0)
        fade = (peak - shift).exp_()
        peak = higher
        p = relative_exp_(scores.sub_(shift[:, None]))
        pairs.leave_out(p, row, j, 0.0)
        total = total.mul_(fade).add_(p.sum(1))
        if mean is not None:
            mean.mul_(fade[:, None]).addmm_(p, keys)
    empty = peak.isneginf()
    if mean is not None:
        mean.div_(_positive(total)[:, None]).masked_fill_(empty[:, None], 0)
    return total.log().add_(shift).masked_fill_(empty, -torch.inf)


def _scores(q: Tensor, keys: Tensor, bias: Tensor | None, column: int, scratch: Tensor) -> Tensor:
    rows, columns = len(q), len(keys)
    tile = torch.mm(q, keys.T, out=scratch[: rows * columns].view(rows, columns))
    return tile if bias is None else tile.add_(bias[column : column + columns])


def _chunk_of_keys(
    k: Tensor, start: int, end: int, similarity: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Keys start..end in the working format, of unit length for the cosine, with their inverse norms."""
    keys = k[start:end].to(dtype)
    if similarity != "cosine":
        return keys, None
    inverse = inverse_norms(keys)
    return keys * inverse, inverse


def _positive(total: Tensor) -> Tensor:
    """Denominators: 1 in place of the 0 of a row without any key."""
    return total.masked_fill(total == 0, 1)
