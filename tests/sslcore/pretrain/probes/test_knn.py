import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sslcore.pretrain.probes.accuracy import topk_accuracy
from sslcore.pretrain.probes.knn import knn_accuracy, knn_predict, knn_votes


def votes_by_loops(bank, labels, queries, k, temperature, classes):
    """The definition, one query and one neighbour at a time."""
    votes = torch.zeros(len(queries), classes, dtype=torch.float64)
    for i, q in enumerate(queries.double()):
        similarity = [(F.cosine_similarity(q, b, dim=0).item(), y) for b, y in zip(bank.double(), labels.tolist())]
        for s, y in sorted(similarity, key=lambda pair: -pair[0])[:k]:
            votes[i, y] += math.exp(s / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 5, 37])
@pytest.mark.parametrize("chunks", [(1, 1), (4, 7), (3, 36), (100, 100)])
def test_equals_the_definition_for_every_chunk_size(k, chunks):
    bank, labels, queries = torch.randn(37, 6), torch.randint(0, 4, (37,)), torch.randn(10, 6)
    ours = knn_votes(
        bank, labels, queries, k=k, temperature=0.2, classes=5, query_chunk=chunks[0], bank_chunk=chunks[1]
    )
    loops = votes_by_loops(bank, labels, queries, k, 0.2, 5)
    torch.testing.assert_close(ours / ours.sum(1, keepdim=True), (loops / loops.sum(1, keepdim=True)).float())
    assert knn_predict(bank, labels, queries, k=k, temperature=0.2, classes=5).tolist() == loops.argmax(1).tolist()


def test_length_does_not_count_and_the_nearest_weighs_most():
    bank = torch.tensor([[100.0, 1.0], [0.0, 1.0], [0.1, 1.0]])
    assert knn_predict(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), k=3, temperature=0.1, classes=2) == 0
    assert (
        knn_predict(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), k=3, temperature=100.0, classes=2) == 1
    )


def test_a_small_temperature_stays_finite():
    bank, labels = torch.randn(50, 8), torch.randint(0, 3, (50,))
    votes = knn_votes(bank, labels, bank[:5].half(), k=10, temperature=1e-4, classes=3)
    assert torch.isfinite(votes).all()
    assert votes.argmax(1).tolist() == labels[:5].tolist()


def test_more_neighbours_than_the_bank_holds_is_told_and_all_vote():
    bank, labels, queries = torch.randn(9, 4), torch.randint(0, 3, (9,)), torch.randn(6, 4)
    with pytest.warns(UserWarning, match="k = 200 neighbours were asked for but the bank holds 9"):
        many = knn_votes(bank, labels, queries, k=200, temperature=0.1, classes=3)
    assert torch.equal(many, knn_votes(bank, labels, queries, k=9, temperature=0.1, classes=3))


def test_no_sample_votes_for_itself_when_ids_are_given():
    """Labels that have nothing to do with the features: with itself in the bank kNN seems perfect, without it is
    chance."""
    bank, labels, ids = torch.randn(600, 16), torch.randint(0, 2, (600,)), torch.arange(600) + 7
    assert knn_accuracy(bank, labels, bank, labels, k=1, temperature=0.1, classes=2) == 1.0
    votes = knn_votes(bank, labels, bank, k=1, temperature=0.1, classes=2, bank_ids=ids, query_ids=ids)
    assert 0.4 < topk_accuracy(votes, labels, (1,))[0] < 0.6
    alone = knn_votes(
        bank[:1], labels[:1], bank[:1], k=1, temperature=0.1, classes=2, bank_ids=ids[:1], query_ids=ids[:1]
    )
    assert alone.tolist() == [[0.0, 0.0]]


def test_the_order_of_queries_and_bank_changes_nothing():
    bank, labels, queries = torch.randn(40, 5), torch.randint(0, 3, (40,)), torch.randn(8, 5)
    votes = knn_votes(bank, labels, queries, k=7, temperature=0.1, classes=3)
    p, r = torch.randperm(40), torch.randperm(8)
    torch.testing.assert_close(knn_votes(bank[p], labels[p], queries[r], k=7, temperature=0.1, classes=3), votes[r])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "at least 1"),
        ({"temperature": 0.0}, "above 0"),
        ({"classes": 2}, r"\[0, 2\)"),
        ({"bank": torch.empty(0, 3), "bank_labels": torch.empty(0, dtype=torch.long)}, "bank is empty"),
        ({"queries": torch.full((1, 3), math.nan)}, "queries holds features that are nan"),
        ({"bank_ids": torch.arange(2)}, "both, or neither"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    good = {"bank": torch.eye(3)[:2], "bank_labels": torch.tensor([0, 2]), "queries": torch.eye(3), "k": 1}
    with pytest.raises(ValueError, match=message):
        knn_votes(**(good | {"temperature": 0.1, "classes": 3} | change))


class NoFloat64(TorchDispatchMode):
    """Refuses float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert not (isinstance(out, torch.Tensor) and out.dtype == torch.float64), function
        return out


def test_topk_accuracy_needs_no_float64():
    with NoFloat64():
        assert topk_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), (1,)) == [2 / 3]


def test_topk_accuracy_counts_the_rank_of_the_true_class():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, -math.inf]])
    assert topk_accuracy(scores, torch.tensor([0, 2, 1]), (1, 2, 3)) == pytest.approx([1 / 3, 2 / 3, 1])
    assert topk_accuracy(scores, torch.tensor([1, 1, 2]), (3,)) == pytest.approx([2 / 3])  # no vote, not found
    with pytest.raises(ValueError, match="empty"):
        topk_accuracy(torch.empty(0, 2), torch.empty(0, dtype=torch.long))
