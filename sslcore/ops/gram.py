"""`gram_lse`: the log-sum-exp of each row's similarities to all the other rows, using their symmetry."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.ops import dense, gram_tiles, shared_keys, small
from sslcore.ops.numerics import Scalar, as_scale, chosen_matmul_precision, matmuls_in, unit, widened
from sslcore.ops.row import Form, Similarity
from sslcore.ops.small import is_small
from sslcore.ops.tiles import Pairs, check_chunk, needs_no_shift

# Up to this many rows the exponentials are kept for the backward (16 MB at most), which then forms no tile again.
_KEEP_UP_TO = 2048
# Edges of tiles: 512 x 512 float32 is 1 MB and stays in the cache of one core; kept strips have no such bound, and
# narrower ones waste less on the lower half of the blocks on the diagonal.
_EDGE = 512
_EDGE_OF_KEPT = 256
# On a GPU the launches of a tile's kernels take longer than such a tile: larger ones (16 MB), though not as large as
# without symmetry, because what a tile on the diagonal has below it is formed in vain.
_EDGE_ON_GPU = 2048
_EDGE_OF_KEPT_ON_GPU = 1024


def gram_lse(
    z: Float[Tensor, "n d"],
    scale: Scalar,
    *,
    ids: Int[Tensor, " n"] | None = None,
    keep: Literal["different", "equal"] = "different",
    cosine: bool = False,
    chunk: int | None = None,
    form: Form = "auto",
) -> Float[Tensor, " n"]:
    """lse_i = log sum_{j != i} exp(scale * <z_i, z_j>), over the rows j that count for row i.

    Differentiable in z and scale (once). Memory beyond z and its gradient is one tile; up to 2048 rows the
    exponentials are kept instead, which saves forming them twice.

    Args:
        z: (n, d) rows, each in turn the query and the key of the others.
        scale: 1 / temperature; a tensor without dimensions if it is learned.
        ids: (n,) pairs with equal ids are left out.
        keep: "different" leaves out pairs with equal ids, "equal" all the others (and always a row with itself).
        cosine: rows are divided by their lengths first; a zero row has similarity 0 with everything.
        chunk: edge of a tile; None chooses one that suits the caches. Changes rounding only.
        form: "auto", or "dense" for the definition with the whole matrix in memory.

    Returns:
        (n,) in float32 for bf16 and fp16 input, else in the dtype of z; -inf, with a gradient of zero, where no row
        counts.

    Raises:
        ValueError: shapes do not belong together.
    """
    if z.dim() != 2:
        raise ValueError(f"rows are (n, d), not {tuple(z.shape)}")
    if ids is not None and ids.shape != z.shape[:1]:
        raise ValueError(f"ids need one id per row, ({len(z)},), not {tuple(ids.shape)}")
    check_chunk(chunk)
    if form == "dense":
        return dense.gram_lse(z, scale, ids=ids, keep=keep, cosine=cosine)
    rows = unit(z) if cosine else widened(z)
    similarity: Similarity = "unit" if cosine else "dot"
    return lse_over_others(rows, as_scale(scale), similarity, ids, keep_equal=keep == "equal", chunk=chunk or 0)


def lse_over_others(
    z: Tensor,
    scale: Tensor,
    similarity: Similarity,
    ids: Tensor | None = None,
    *,
    keep_equal: bool = False,
    chunk: int = 0,
) -> Tensor:
    """`gram_lse` behind its checks; similarity is "unit" or "dot"."""
    precision = chosen_matmul_precision()
    if chunk == 0 and is_small(len(z), len(z), precision, gram=True):
        return small.lse(z, z, scale, None, Pairs(ids, ids, keep_equal, own_key=0))
    if len(z) == 0:
        return z.sum(1)
    needs_grad = torch.is_grad_enabled() and (z.requires_grad or scale.requires_grad)
    # What bounds the scores must be known without asking a GPU, else they are not kept (see `needs_no_shift`).
    known = scale.device.type == "cpu" and (similarity == "unit" or z.device.type == "cpu")
    keep_exponentials = needs_grad and known and len(z) <= _KEEP_UP_TO
    lse, _ = _gram_lse(z, scale, ids, keep_equal, similarity, chunk, precision, keep_exponentials)
    return lse


def pull_of_slice(
    g: Tensor, lse: Tensor, z: Tensor, all_g: Tensor, all_lse: Tensor, all_z: Tensor, scale: Tensor, pairs: Pairs
) -> Tensor:
    """(m, d) sum_j (g_i p_ij + g_j p_ji) z_j for rows z that are a slice of all_z; times the scale their gradient."""
    with matmuls_in(chosen_matmul_precision()), torch.autocast(z.device.type, enabled=False):
        return gram_tiles.full_pull(g, lse, z, all_g, all_lse, all_z, scale, pairs, _largest_edge(z.device, False))


def _edge(n: int, device: torch.device, chunk: int, keep: bool) -> int:
    return chunk if chunk > 0 else min(_largest_edge(device, keep), n)


def _largest_edge(device: torch.device, keep: bool) -> int:
    if device.type == "cuda":
        return _EDGE_OF_KEPT_ON_GPU if keep else _EDGE_ON_GPU
    return _EDGE_OF_KEPT if keep else _EDGE


def _bounded(z: Tensor, scale: Tensor, similarity: str) -> bool:
    return needs_no_shift(scale, z, z if similarity == "dot" else None)


# The custom operations; `register_kernel("cuda")` is where other kernels plug in.


@torch.library.custom_op("sslcore::gram_lse", mutates_args=())
def _gram_lse(
    z: Tensor,
    scale: Tensor,
    ids: Tensor | None,
    keep_equal: bool,
    similarity: str,
    chunk: int,
    precision: str,
    keep_exponentials: bool,
) -> tuple[Tensor, Tensor]:
    n = len(z)
    pairs = Pairs(ids, ids, keep_equal, own_key=0)
    kept = z.new_empty(n, n) if keep_exponentials else z.new_empty(0, 0)
    with matmuls_in(precision):
        if _bounded(z, scale, similarity):
            edge = _edge(n, z.device, chunk, keep_exponentials)
            return gram_tiles.upper_sums(z, scale, pairs, edge, kept if keep_exponentials else None), kept
        lse, _ = shared_keys.lse_and_mean(z, z, scale, None, pairs, similarity, chunk, with_mean=False)
        return lse, kept


@_gram_lse.register_fake
def _(z, scale, ids, keep_equal, similarity, chunk, precision, keep_exponentials):
    n = z.shape[0]
    return z.new_empty(n), z.new_empty(n, n) if keep_exponentials else z.new_empty(0, 0)


@torch.library.custom_op("sslcore::gram_lse_pull", mutates_args=())
def _gram_lse_pull(
    g: Tensor,
    lse: Tensor,
    kept: Tensor,
    z: Tensor,
    scale: Tensor,
    ids: Tensor | None,
    keep_equal: bool,
    similarity: str,
    chunk: int,
    precision: str,
) -> Tensor:
    pairs = Pairs(ids, ids, keep_equal, own_key=0)
    edge = _edge(len(z), z.device, chunk, kept.numel() > 0)
    with matmuls_in(precision):
        if _bounded(z, scale, similarity):
            return gram_tiles.upper_pull(g, lse, z, scale, pairs, edge, kept if kept.numel() else None)
        return gram_tiles.full_pull(g, lse, z, g, lse, z, scale, pairs, edge)


@_gram_lse_pull.register_fake
def _(g, lse, kept, z, scale, ids, keep_equal, similarity, chunk, precision):
    return torch.empty_like(z)


def _setup_context(ctx, inputs, output):
    z, scale, ids, *ctx.options, _ = inputs
    lse, kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(z, scale, ids, lse, kept)


@once_differentiable  # a second derivative would take what the forward returned for a constant
def _backward(ctx, g, _):
    z, scale, ids, lse, kept = ctx.saved_tensors
    dz = dscale = None
    if g is not None:
        pull = _gram_lse_pull(g, lse, kept, z, scale, ids, *ctx.options)
        if ctx.needs_input_grad[1]:
            # <z_i, pull_i> counts every pair from both of its ends.
            dscale = ((z * pull).sum() / 2).to(scale)
        dz = pull.mul_(scale) if ctx.needs_input_grad[0] else None
    return dz, dscale, None, None, None, None, None, None


_gram_lse.register_autograd(_backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    _gram_lse.register_autocast(_device, torch.float32)
    _gram_lse_pull.register_autocast(_device, torch.float32)
