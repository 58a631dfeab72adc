"""Chunked log-sum-exp of queries (n, d) over keys that all of them share, (k, d).

The forward is attention with the keys as values: the softmax-weighted mean of the keys, formed in the same pass, is the
gradient of the log-sum-exp for its query (up to the scale). Queries therefore need no backward pass over the keys, and
no (n, k) matrix exists at any time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sslcore.ops.numerics import along_sphere, inverse_norms
from sslcore.ops.tiles import Pairs, blocks, closed, needs_no_shift, relative_exp_, tile_shape


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys and how they are met: in chunks of `columns`, each tile of scores in the same scratch memory."""

    k: Tensor
    bias: Tensor | None
    similarity: str
    columns: int
    scratch: Tensor

    def chunks(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """(first column, keys in the working format, their inverse norms if they were normalised).

        Normalised keys stand in one buffer until the next chunk comes: a new one for each would cost page faults.
        """
        unit = self.scratch.new_empty(self.columns, self.k.shape[1]) if self.similarity == "cosine" else None
        for start, end in blocks(len(self.k), self.columns):
            keys = self.k[start:end].to(self.scratch.dtype)
            if unit is None:
                yield start, keys, None
            else:
                inverse = inverse_norms(keys)
                yield start, torch.mul(keys, inverse, out=unit[: end - start]), inverse

    def scores(self, q: Tensor, keys: Tensor, column: int) -> Tensor:
        """The tile of scaled queries q with a chunk of keys that begins at `column`."""
        tile = self.scratch[: len(q) * len(keys)].view(len(q), len(keys))
        torch.mm(q, keys.T, out=tile)
        return tile if self.bias is None else tile.add_(self.bias[column : column + len(keys)])


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
    rows, columns = tile_shape(n, len(k), chunk, q.device)
    keys = _Keys(k, bias, similarity, columns, q.new_empty(rows * columns))
    bounded = bias is None and needs_no_shift(scale, q, k if similarity == "dot" else None)
    sums = _sums if bounded else _running_sums
    for i, e in blocks(n, rows):
        lse[i:e] = sums(scaled[i:e], i, keys, pairs, mean[i:e] if with_mean else None)
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
    rows, columns = tile_shape(len(q), len(k), chunk, q.device)
    every = _Keys(k, bias, similarity, columns, q.new_empty(rows * columns))
    for j, keys, inverse in every.chunks():
        f = j + len(keys)
        gradient = torch.zeros_like(keys)
        for i, e in blocks(len(q), rows):
            p = relative_exp_(every.scores(scaled[i:e], keys, j).sub_(lse[i:e]))
            pairs.leave_out(p, i, j, 0.0)
            gradient.addmm_(p.T, pulls[i:e])
            if bias is not None:
                dbias[j:f].addmv_(p.T, g[i:e])
        dk[j:f] = gradient if inverse is None else along_sphere(gradient, keys, inverse)
    return dk, dbias


def _sums(q: Tensor, row: int, every: _Keys, pairs: Pairs, mean: Tensor | None) -> Tensor:
    """Log-sum-exps of scaled queries from `row` on, with scores that need no shift; `mean` is filled in place."""
    total = q.new_zeros(len(q))
    for column, keys, _ in every.chunks():
        p = every.scores(q, keys, column).exp_()
        pairs.leave_out(p, row, column, 0.0)
        total += p.sum(1)
        if mean is not None:
            mean.addmm_(p, keys)
    if mean is not None:
        mean.div_(_positive(total)[:, None])
    return total.log()


def _running_sums(q: Tensor, row: int, every: _Keys, pairs: Pairs, mean: Tensor | None) -> Tensor:
    """As `_sums` for scores of any size: everything is kept relative to the largest score met so far."""
    total = q.new_zeros(len(q))
    peak = q.new_full((len(q),), -torch.inf)
    shift = torch.zeros_like(peak)
    for column, keys, _ in every.chunks():
        scores = every.scores(q, keys, column)
        pairs.leave_out(scores, row, column, -torch.inf)
        higher = torch.maximum(peak, scores.amax(1))
        # Before the first key that counts the peak is -inf, and -inf - -inf would be NaN.
        shift = higher.masked_fill(higher.isneginf(), 0)
        fade = (peak - shift).exp_()
        peak = higher
        p = relative_exp_(scores.sub_(shift[:, None]))
        pairs.leave_out(p, row, column, 0.0)
        total = total.mul_(fade).add_(p.sum(1))
        if mean is not None:
            mean.mul_(fade[:, None]).addmm_(p, keys)
    empty = peak.isneginf()
    if mean is not None:
        mean.div_(_positive(total)[:, None]).masked_fill_(empty[:, None], 0)
    return total.log().add_(shift).masked_fill_(empty, -torch.inf)


def _positive(total: Tensor) -> Tensor:
    """Denominators: 1 in place of the 0 of a row without any key."""
    return total.masked_fill(total == 0, 1)
