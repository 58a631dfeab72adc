"""Weighted k-nearest-neighbour classification of frozen features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4: the k
most similar features of a labelled bank vote for their classes with weight exp(cosine / temperature). Nothing is
trained, so it is the quickest look at a representation. Exact: no index, every query meets every row of the bank, in
chunks.
"""

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslcore.pretrain.probes.accuracy import topk_accuracy


@torch.no_grad()
def knn_votes(
    bank: Float[Tensor, "N d"],
    bank_labels: Int[Tensor, " N"],
    queries: Float[Tensor, "n d"],
    *,
    k: int,
    temperature: float,
    classes: int,
    bank_ids: Int[Tensor, " N"] | None = None,
    query_ids: Int[Tensor, " n"] | None = None,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> Float[Tensor, "n C"]:
    """Sum of the neighbours' weights for each class, on the bank's device.

    Weights are relative to the query's nearest neighbour, exp((cosine - best cosine) / temperature): that changes no
    ranking of classes and cannot overflow at small temperatures.

    Args:
        bank: (N, d) features that vote; need not be normalised.
        bank_labels: (N,) their classes in [0, C).
        queries: (n, d) features to classify. Their labels are not needed here, and not asked for.
        k: neighbours that vote. More than the bank holds: all of it votes, with a warning.
        temperature: of the weights; InstDisc and MoCo use 0.07 with k = 200.
        classes: C.
        bank_ids, query_ids: names of the samples; a bank row never votes for the query of the same name
            (leave-one-out). Both or neither.
        query_chunk, bank_chunk: rows compared at a time; memory is their product, speed hardly changes.

    Returns:
        (n, C) float32 votes; rows sum to at least 1 (a query whose only candidate is itself: 0).

    Raises:
        ValueError: an empty bank, k < 1, temperature <= 0, labels outside [0, C), or features that are not finite.
    """
    _check(bank, bank_labels, queries, k, temperature, classes)
    if (bank_ids is None) != (query_ids is None):
        raise ValueError("bank_ids and query_ids go together: give both, or neither")
    if k > len(bank):
        warnings.warn(
            f"k = {k} neighbours were asked for but the bank holds {len(bank)}: all of them vote", stacklevel=2
        )
        k = len(bank)

    device = bank.device
    votes = torch.zeros(len(queries), classes, device=device)
    for at in range(0, len(queries), query_chunk):
        rows = slice(at, at + query_chunk)
        query = F.normalize(queries[rows].to(device).float(), dim=1)
        ids = None if query_ids is None or bank_ids is None else (query_ids[rows].to(device), bank_ids.to(device))
        similarity, neighbours = _nearest(query, bank, k, bank_chunk, ids)
        # Rows without any candidate are -inf throughout; their weights must be 0, not nan.
        best = similarity[:, :1].clamp(min=-2.0)
        weights = ((similarity - best) / temperature).exp()
        votes[rows].scatter_add_(1, bank_labels.to(device)[neighbours].long(), weights)
    return votes


def _nearest(
    query: Float[Tensor, "b d"],
    bank: Float[Tensor, "N d"],
    k: int,
    chunk: int,
    ids: tuple[Int[Tensor, " b"], Int[Tensor, " N"]] | None,
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """The k best cosines and their rows in the bank, best first: a top-k that runs along the bank."""
    best = query.new_full((len(query), 0), 0.0)
    where = torch.zeros(len(query), 0, dtype=torch.long, device=query.device)
    for at in range(0, len(bank), chunk):
        part = bank[at : at + chunk]
        similarity = query @ F.normalize(part.float(), dim=1).T
        if ids is not None:
            similarity.masked_fill_(ids[0][:, None] == ids[1][None, at : at + chunk], -torch.inf)
        top, index = similarity.topk(min(k, len(part)), dim=1)
        best, where = torch.cat([best, top], dim=1), torch.cat([where, index + at], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, order)
    return best, where


def _check(bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int) -> None:
    if len(bank) == 0:
        raise ValueError("the bank is empty: kNN needs at least one labelled feature to compare with")
    if k < 1:
        raise ValueError(f"k is the number of neighbours that vote and must be at least 1, not {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    low, high = int(bank_labels.min()), int(bank_labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"bank_labels must lie in [0, {classes}); these reach from {low} to {high}")
    for name, features in (("bank", bank), ("queries", queries)):
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} holds features that are nan or infinite: the backbone has diverged")


def knn_predict(
    bank: Float[Tensor, "N d"],
    bank_labels: Int[Tensor, " N"],
    queries: Float[Tensor, "n d"],
    *,
    k: int,
    temperature: float,
    classes: int,
    **chunks: int,
) -> Int[Tensor, " n"]:
    """The class with the most votes for each query, (n,) int64; see `knn_votes` for the arguments and errors."""
    votes = knn_votes(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes, **chunks)  # type: ignore[arg-type]
    return votes.argmax(1)


def knn_accuracy(
    bank: Float[Tensor, "N d"],
    bank_labels: Int[Tensor, " N"],
    queries: Float[Tensor, "n d"],
    query_labels: Int[Tensor, " n"],
    *,
    k: int,
    temperature: float,
    classes: int,
) -> float:
    """Share of queries whose class gets the most votes, in [0, 1]; see `knn_votes` for the arguments and errors."""
    votes = knn_votes(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes)
    return topk_accuracy(votes.log(), query_labels, (1,))[0]
