"""`row_lse`: the log-sum-exp of each query's similarities to all keys, without the matrix of similarities."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslcore.ops import dense, own_keys, shared_keys, small
from sslcore.ops.numerics import Scalar, as_scale, chosen_matmul_precision, matmuls_in, unit, widened
from sslcore.ops.small import is_small
from sslcore.ops.tiles import Pairs, check_chunk

Form = Literal["auto", "dense"]

# "dot": of anything. "cosine": queries are unit rows, keys are normalised chunk by chunk. "unit": both are unit rows
# already. With the last two a score is known to be at most the scale.
Similarity = Literal["dot", "cosine", "unit"]


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
    chunk: int | None = None,
    form: Form = "auto",
) -> Float[Tensor, " n"]:
    """lse_i = log sum_j exp(scale * <q_i, k_j> + key_bias_j), over the keys j that count for query i.

    Differentiable in q, k, scale and key_bias (once). If the keys need no gradient, that of the queries is formed in
    the same pass and the backward is free; otherwise the tiles are formed again, so that memory never grows with n * k.

    Args:
        q: (n, d) queries.
        k: (k, d) keys that all queries share, or (n, k, d), each query's own.
        scale: 1 / temperature; a tensor without dimensions if it is learned.
        query_ids, key_ids: (n,) and (k,), or (n, k) for a query's own keys; pairs with equal ids are left out.
        key_bias: (k,), or (n, k) for a query's own keys; added to the scores. -inf leaves a key out.
        cosine: compare directions: queries and keys are divided by their lengths, the keys chunk by chunk. A zero row
            has similarity 0 with everything and a gradient of zero.
        keep: "different" leaves out pairs with equal ids, "equal" all the others.
        own_key: key own_key + i is query i itself, and is left out.
        chunk: longest edge of a tile; None chooses one that suits the caches. Changes rounding only.
        form: "auto", or "dense" for the definition with the whole matrix in memory.

    Returns:
        (n,) in float32 for bf16 and fp16 input (as all sums are), else in the dtype of the input; -inf, with a
        gradient of zero, where no key counts.

    Raises:
        ValueError: shapes do not belong together.
    """
    check_keys(q, k, query_ids, key_ids)
    _check_per_key("bias", key_bias, k)
    check_chunk(chunk)
    if form == "dense":
        return dense.row_lse(
            q,
            k,
            scale,
            query_ids=query_ids,
            key_ids=key_ids,
            key_bias=key_bias,
            cosine=cosine,
            keep=keep,
            own_key=own_key,
        )
    return lse_over_keys(
        unit(q) if cosine else widened(q),
        k,
        as_scale(scale),
        Pairs(query_ids, key_ids, keep == "equal", own_key),
        "cosine" if cosine else "dot",
        key_bias=key_bias,
        chunk=chunk or 0,
    )


def lse_over_keys(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    pairs: Pairs,
    similarity: Similarity,
    *,
    key_bias: Tensor | None = None,
    chunk: int = 0,
) -> Tensor:
    """`row_lse` behind its checks, with queries (and keys) as `similarity` wants them."""
    if chunk == 0 and k.dim() == 2 and is_small(len(q), len(k), chosen_matmul_precision()):
        return small.lse(q, unit(k) if similarity == "cosine" else widened(k), scale, key_bias, pairs)
    if len(q) == 0:
        return q.sum(1)
    with_mean = torch.is_grad_enabled() and (q.requires_grad or scale.requires_grad)
    return lse_and_mean(q, k, scale, pairs, similarity, key_bias=key_bias, chunk=chunk, with_mean=with_mean)[0]


def lse_and_mean(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    pairs: Pairs,
    similarity: Similarity,
    *,
    key_bias: Tensor | None = None,
    chunk: int = 0,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    """The log-sum-exps (n,) and, if asked for, d lse / d (scale * q), (n, d): the mean key under each softmax."""
    dtype = torch.promote_types(q.dtype, widened(k[:0]).dtype)
    return _row_lse(
        q.to(dtype),
        k,
        scale,
        pairs.query_ids,
        pairs.key_ids,
        None if key_bias is None else key_bias.to(dtype),
        pairs.keep_equal,
        pairs.own_key,
        similarity,
        chunk,
        chosen_matmul_precision(),
        with_mean,
    )


def keys_gradient(
    g: Tensor, lse: Tensor, q: Tensor, k: Tensor, scale: Tensor, pairs: Pairs, similarity: Similarity
) -> Tensor:
    """The gradient for the keys, from the gradients g (n,) and the values of the log-sum-exps of the queries q."""
    ids = pairs.query_ids, pairs.key_ids
    options = pairs.keep_equal, pairs.own_key, similarity, 0, chosen_matmul_precision()
    return _row_lse_keys_gradient(g, lse, q, k, scale, *ids, None, *options)[0]


def check_keys(query: Tensor, keys: Tensor, query_ids: Tensor | None, key_ids: Tensor | None) -> None:
    """Raise a ValueError unless queries, keys and their ids belong together."""
    if query.dim() != 2 or keys.dim() not in (2, 3) or keys.shape[-1] != query.shape[1]:
        raise ValueError(
            "queries (n, d) need keys (k, d) or (n, k, d) of the same d, "
            f"not {tuple(query.shape)} and {tuple(keys.shape)}"
        )
    if keys.dim() == 3 and len(keys) != len(query):
        raise ValueError(f"{len(query)} queries need as many sets of keys of their own, not {len(keys)}")
    if (query_ids is None) != (key_ids is None):
        raise ValueError("pairs with equal ids are left out: give ids of both queries and keys, or of neither")
    if query_ids is not None and query_ids.shape != query.shape[:1]:
        raise ValueError(f"query ids must be one per query, ({len(query)},), not {tuple(query_ids.shape)}")
    _check_per_key("ids", key_ids, keys)


def _check_per_key(what: str, values: Tensor | None, keys: Tensor) -> None:
    if values is not None and values.shape not in (keys.shape[-2:-1], keys.shape[:-1]):
        raise ValueError(f"key {what} must be one per key, {tuple(keys.shape[:-1])}, not {tuple(values.shape)}")


# The custom operations. A kernel for another device plugs in with `_row_lse.register_kernel("cuda")`, and likewise for
# the gradient of the keys; nothing above this line changes.


@torch.library.custom_op("sslcore::row_lse", mutates_args=())
def _row_lse(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    key_bias: Tensor | None,
    keep_equal: bool,
    own_key: int | None,
    similarity: str,
    chunk: int,
    precision: str,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    pairs = Pairs(query_ids, key_ids, keep_equal, own_key)
    keys = shared_keys if k.dim() == 2 else own_keys
    with matmuls_in(precision):
        return keys.lse_and_mean(q, k, scale, key_bias, pairs, similarity, chunk, with_mean)


@_row_lse.register_fake
def _(q, k, scale, query_ids, key_ids, key_bias, keep_equal, own_key, similarity, chunk, precision, with_mean):
    return q.new_empty(q.shape[0]), q.new_empty(q.shape[0] if with_mean else 0, q.shape[1])


@torch.library.custom_op("sslcore::row_lse_keys_gradient", mutates_args=())
def _row_lse_keys_gradient(
    g: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    key_bias: Tensor | None,
    keep_equal: bool,
    own_key: int | None,
    similarity: str,
    chunk: int,
    precision: str,
) -> tuple[Tensor, Tensor]:
    pairs = Pairs(query_ids, key_ids, keep_equal, own_key)
    keys = shared_keys if k.dim() == 2 else own_keys
    with matmuls_in(precision):
        return keys.keys_gradient(g, lse, q, k, scale, key_bias, pairs, similarity, chunk)


@_row_lse_keys_gradient.register_fake
def _(g, lse, q, k, scale, query_ids, key_ids, key_bias, keep_equal, own_key, similarity, chunk, precision):
    return torch.empty_like(k), q.new_empty(k.shape[:-1] if key_bias is None else key_bias.shape)


def _setup_context(ctx, inputs, output):
    q, k, scale, query_ids, key_ids, key_bias, *ctx.options, _ = inputs
    lse, mean = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean)
    ctx.save_for_backward(q, k, scale, query_ids, key_ids, key_bias, lse, mean)


@once_differentiable  # a second derivative would take what the forward returned for a constant
def _backward(ctx, g, _):
    q, k, scale, query_ids, key_ids, key_bias, lse, mean = ctx.saved_tensors
    need_q, need_k, need_scale, _, _, need_bias, *_ = ctx.needs_input_grad
    dq = dk = dscale = dbias = None
    if g is not None:
        if need_q or need_scale:
            pull = mean * g[:, None]
            dq = pull * scale if need_q else None
            dscale = (pull * q).sum().to(scale) if need_scale else None
        if need_k or need_bias:
            dk, dbias = _row_lse_keys_gradient(g, lse, q, k, scale, query_ids, key_ids, key_bias, *ctx.options)
            dk, dbias = dk if need_k else None, dbias if need_bias else None
    return dq, dk, dscale, None, None, dbias, None, None, None, None, None, None


_row_lse.register_autograd(_backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    # Under autocast the inputs come in float32 and nothing inside is cast down: logits are never half precision.
    _row_lse.register_autocast(_device, torch.float32)
    _row_lse_keys_gradient.register_autocast(_device, torch.float32)
