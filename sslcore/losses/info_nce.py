"""InfoNCE: pick the positive out of the negatives.

van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4; with a queue of
negatives He et al., "Momentum Contrast", CVPR 2020, equation 1; with the other positives of the batch one direction of
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), 2021, and, with bilinear
similarity, Srinivas et al., "CURL", ICML 2020, section 4.2.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sslcore.distributed import is_distributed
from sslcore.losses.common import Similarity, check_same_shape, inverse, projected
from sslcore.losses.exchange import gathered_row_lse
from sslcore.ops import dense, small
from sslcore.ops.numerics import Scalar, chosen_matmul_precision, unit, widened
from sslcore.ops.row import check_keys, lse_over_keys
from sslcore.ops.small import is_small
from sslcore.ops.tiles import Pairs


def info_nce(
    query: Float[Tensor, "n d"],
    positive: Float[Tensor, "n d"],
    negatives: Float[Tensor, "k d"] | Float[Tensor, "n k d"] | None = None,
    *,
    temperature: Scalar,
    similarity: Similarity = "cosine",
    query_ids: Int[Tensor, " n"] | None = None,
    negative_ids: Int[Tensor, " k"] | Int[Tensor, "n k"] | None = None,
    gather: bool = True,
) -> Float[Tensor, ""]:
    """Mean over i of -log( exp(s(q_i, p_i) / T) / (exp(s(q_i, p_i) / T) + sum_j exp(s(q_i, n_j) / T)) ).

    Args:
        query: (n, d).
        positive: (n, d) the key that belongs to each query.
        negatives: (k, d) keys shared by all queries, such as a queue; (n, k, d) keys of each query; None for the
            positives of all the other queries.
        temperature: T, a positive number, or a tensor without dimensions if it is learned.
        similarity: "cosine", "dot", or a module such as `nn.Bilinear` (see `Similarity`).
        query_ids, negative_ids: (n,) and (k,) or (n, k); negatives with the id of the query are left out. With
            negatives=None give query_ids only: rows with equal ids are no negatives of each other.
        gather: with several processes and negatives=None, take the other positives of all of them; all processes must
            then call the loss and its backward. Their batches must be equally large. A function without `project`
            cannot do this, because only queries and keys travel, never matrices: give gather=False.

    Returns:
        The mean over this process's queries. A query without any negative contributes 0.

    Raises:
        ValueError: shapes do not belong together, the temperature is not positive, or the similarity has no `project`
            where one is needed: for negatives of each query, and for the positives of several processes.

    Example:
        >>> loss = info_nce(q, k, queue.features, temperature=0.2)
    """
    check_same_shape(query=query, positive=positive)
    if negatives is not None:
        check_keys(query, negatives, query_ids, negative_ids)
    elif negative_ids is not None:
        raise ValueError("negatives=None takes the positives as negatives: give their ids as query_ids")
    else:
        check_keys(query, positive, query_ids, query_ids)

    scale = inverse(temperature)
    q = projected(query, similarity)
    if q is None:
        assert callable(similarity)
        if negatives is None and gather and is_distributed():
            raise ValueError(
                "with several processes the similarity needs a method `project`, as nn.Bilinear has, to meet the "
                "positives of all of them: give it one, or take gather=False"
            )
        return _of_matrices(query, positive, negatives, scale, similarity, Pairs(query_ids, negative_ids))

    cosine = similarity == "cosine"
    p = unit(positive) if cosine else widened(positive)
    if negatives is None and not (gather and is_distributed()) and is_small(len(q), len(q), chosen_matmul_precision()):
        return _of_square(small.scores_of(q, p, scale), query_ids)
    of_positive = (q * p).sum(1) * scale
    if negatives is None:
        of_negatives = gathered_row_lse(q, p, scale, "unit" if cosine else "dot", query_ids, gather=gather)
    else:
        pairs = Pairs(query_ids, negative_ids)
        of_negatives = lse_over_keys(q, negatives, scale, pairs, "cosine" if cosine else "dot")
    return _loss(of_positive, of_negatives)


def _loss(of_positive: Tensor, of_negatives: Tensor) -> Tensor:
    """-log(e^p / (e^p + e^n)) = softplus(n - p): exact also where the positive is far ahead, and 0 for n = -inf."""
    return functional.softplus(of_negatives - of_positive, threshold=40).mean()


def _of_square(scores: Tensor, ids: Tensor | None) -> Tensor:
    """For the matrix (n, n) of all queries with all positives, the positives on its diagonal."""
    own = torch.arange(len(scores), device=scores.device)
    if ids is not None:
        others = own[:, None] != own
        scores = scores.masked_fill((ids[:, None] == ids) & others, -torch.inf)
    return functional.cross_entropy(scores, own)


def _of_matrices(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    scale: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
    pairs: Pairs,
) -> Tensor:
    """For a similarity that only gives whole matrices."""
    of_positives = widened(similarity(query, positive)) * scale
    if negatives is None:
        return _of_square(of_positives, pairs.query_ids)
    if negatives.dim() == 3:
        raise ValueError("negatives of each query (n, k, d) need a similarity with a method `project`, as nn.Bilinear")
    scores = widened(similarity(query, negatives)) * scale
    return _loss(of_positives.diagonal(), dense.masked_lse(scores, small.left_out(pairs, scores)))
