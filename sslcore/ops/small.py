"""Few pairs: the whole matrix, and autograd does the rest.

What takes time there is the number of operations, not what they read and write, and custom operations cost more of it
than built-in ones. At most 1 MB of similarities is kept.
"""

import torch
from torch import Tensor

from sslcore.ops.dense import masked_lse
from sslcore.ops.tiles import Pairs

_PAIRS = 2**18
_PAIRS_OF_GRAM = 2**16  # where symmetry begins to pay


def is_small(queries: int, keys: int, precision: str, *, gram: bool = False) -> bool:
    """Whether the whole matrix is formed. A lower matmul precision would not reach autograd's backward."""
    return queries * keys <= (_PAIRS_OF_GRAM if gram else _PAIRS) and precision == "float32"


def scores_of(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    """(n, k) scaled dot products; never in half precision, also under autocast."""
    dtype = torch.promote_types(q.dtype, k.dtype)
    with torch.autocast(q.device.type, enabled=False):
        return (q.to(dtype) * scale) @ k.to(dtype).T


def lse(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
    """(n,) log-sum-exps of the scaled dot products, over the pairs that count."""
    scores = scores_of(q, k, scale)
    if bias is not None:
        scores = scores + bias
    elif pairs.query_ids is None:
        if pairs.own_key is None and len(k) > 0:
            return torch.logsumexp(scores, dim=1)
        if pairs.own_key == 0 and len(q) == len(k) > 1:
            return torch.logsumexp(scores.fill_diagonal_(-torch.inf), dim=1)
    return masked_lse(scores, left_out(pairs, scores))


def left_out(pairs: Pairs, scores: Tensor) -> Tensor:
    """(n, k) pairs that do not count."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    pairs.leave_out(mask, 0, 0, 1.0)
    return mask
