"""Log-sum-exp of rows over all the other rows, with half of the work: score_ij = score_ji.

Only tiles on and above the diagonal are formed. A tile's row sums go to its rows and its column sums to its columns;
in the backward one weight per pair, exp(score_ij) (a_i + a_j), serves both rows. One tile of scratch memory is all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sslcore.ops.tiles import Pairs, blocks, closed, relative_exp_


def upper_sums(z: Tensor, scale: Tensor, pairs: Pairs, edge: int, kept: Tensor | None) -> Tensor:
    """(n,) log-sum-exps for scores that need no shift; `kept` (n, n) receives the exponentials above the diagonal."""
    scaled = z * scale
    sums = z.new_zeros(len(z))
    for i, e, j, f, tile in _upper_tiles(len(z), edge, kept, z):
        torch.mm(scaled[i:e], z[j:f].T, out=tile).exp_()
        pairs.leave_out(tile, i, j, 0.0)
        sums[i:e] += tile.sum(1)
        if f > e:
            beyond = max(e, j)
            sums[beyond:f] += tile[:, beyond - j :].sum(0)
    return sums.log()


def upper_pull(
    g: Tensor, lse: Tensor, z: Tensor, scale: Tensor, pairs: Pairs, edge: int, kept: Tensor | None
) -> Tensor:
    """(n, d) sum_j (g_i p_ij + g_j p_ji) z_j with p_ij = exp(score_ij - lse_i), for scores that need no shift.

    Times the scale it is the gradient for z. Takes the exponentials from `kept` if there are any.
    """
    scaled = z * scale
    a = g * closed(lse).neg().exp_()
    pull = torch.zeros_like(z)
    weights = z.new_empty(edge * (edge if kept is None else len(z)))
    for i, e, j, f, tile in _upper_tiles(len(z), edge, kept, z):
        if kept is None:
            torch.mm(scaled[i:e], z[j:f].T, out=tile).exp_()
            pairs.leave_out(tile, i, j, 0.0)
        w = weights[: tile.numel()].view(tile.shape)
        torch.add(a[i:e, None], a[j:f], out=w).mul_(tile)
        pull[i:e].addmm_(w, z[j:f])
        if f > e:
            beyond = max(e, j)
            pull[beyond:f].addmm_(w[:, beyond - j :].T, z[i:e])
    return pull


def full_pull(
    g: Tensor,
    lse: Tensor,
    z: Tensor,
    all_g: Tensor,
    all_lse: Tensor,
    all_z: Tensor,
    scale: Tensor,
    pairs: Pairs,
    edge: int,
) -> Tensor:
    """As `upper_pull` for scores of any size and rows z (m, d) out of all_z (n, d), without the use of symmetry."""
    scaled = z * scale
    g, all_g = g.masked_fill(lse.isneginf(), 0)[:, None], all_g.masked_fill(all_lse.isneginf(), 0)
    lse, all_lse = closed(lse)[:, None], closed(all_lse)
    pull = torch.zeros_like(z)
    for i, e in blocks(len(z), edge):
        for j, f in blocks(len(all_z), edge):
            scores = scaled[i:e] @ all_z[j:f].T
            w = relative_exp_(scores - lse[i:e]).mul_(g[i:e])
            w.addcmul_(relative_exp_(scores.sub_(all_lse[j:f])), all_g[j:f])
            pairs.leave_out(w, i, j, 0.0)
            pull[i:e].addmm_(w, all_z[j:f])
    return pull


def _upper_tiles(n: int, edge: int, kept: Tensor | None, like: Tensor) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """(first row, end, first column, end, memory) of the tiles on and above the diagonal.

    Tiles are edge x edge in one scratch buffer; or strips from the diagonal to the last column, inside `kept`.
    """
    scratch = like.new_empty(edge * edge) if kept is None else None
    for i, e in blocks(n, edge):
        if scratch is None:
            assert kept is not None
            yield i, e, i, n, kept[i:e, i:]
            continue
        for j in range(i, n, edge):
            f = min(j + edge, n)
            yield i, e, j, f, scratch[: (e - i) * (f - j)].view(e - i, f - j)
