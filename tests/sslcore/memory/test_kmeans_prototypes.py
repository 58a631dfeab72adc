import inspect

import pytest
import torch
from torch.nn.functional import normalize

from sslcore.losses import concentrations
from sslcore.memory import KMeansPrototypes, kmeans_prototypes


def blobs(clusters, each, dim, spread, seed=0):
    """Tight clusters around random directions, of unequal lengths; and where each row comes from."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(clusters, dim, generator=generator), dim=1).repeat_interleave(each, 0)
    rows = normalize(centres + spread * torch.randn(len(centres), dim, generator=generator), dim=1)
    lengths = 0.1 + 5 * torch.rand(len(rows), 1, generator=generator)
    mixed = torch.randperm(len(rows), generator=generator)
    return (rows * lengths)[mixed], torch.arange(clusters).repeat_interleave(each)[mixed]


def step_by_loops(rows, vectors):
    """One round of spherical k-means, one row at a time."""
    nearest = [max(range(len(vectors)), key=lambda j: float(row @ vectors[j])) for row in rows]
    moved = vectors.clone()
    for j in range(len(vectors)):
        mine = [row for row, n in zip(rows, nearest, strict=True) if n == j]
        if mine:
            moved[j] = normalize(sum(mine), dim=0)
    return moved, nearest


def fitted(count, features, seed=0, valid=None, iterations=20):
    prototypes = KMeansPrototypes(count, features.shape[1], seed=seed)
    prototypes.fit(features, valid=valid, iterations=iterations)
    return prototypes


def mean_similarity(prototypes, features):
    return float((normalize(features, dim=1) * prototypes.vectors[prototypes.assignments]).sum(1).mean())


def test_one_round_equals_the_definition():
    features = torch.randn(60, 4)
    rows = normalize(features, dim=1)
    start = rows[torch.randperm(60, generator=torch.Generator().manual_seed(3))[:5]]
    ours = fitted(5, features, seed=3, iterations=1)
    moved, _ = step_by_loops(rows, start)
    torch.testing.assert_close(ours.vectors, moved)
    assert ours.assignments.tolist() == step_by_loops(rows, moved)[1]


def test_clear_clusters_are_found_and_lengths_do_not_matter():
    features, truth = blobs(6, 40, 16, 0.05)
    ours = max((fitted(6, features, seed) for seed in range(8)), key=lambda found: mean_similarity(found, features))
    pairs = set(zip(ours.assignments.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == 6  # every cluster is one source, and every source one cluster
    torch.testing.assert_close(ours.vectors.norm(dim=1), torch.ones(6))


def test_it_ends_where_another_round_changes_nothing():
    features = torch.randn(200, 8)
    ours = fitted(7, features, iterations=100)
    moved, nearest = step_by_loops(normalize(features, dim=1), ours.vectors)
    torch.testing.assert_close(moved, ours.vectors)
    assert nearest == ours.assignments.tolist()


def test_the_seed_decides():
    features = torch.randn(300, 8)
    assert torch.equal(fitted(9, features, seed=0).vectors, fitted(9, features, seed=0).vectors)
    assert not torch.equal(fitted(9, features, seed=0).vectors, fitted(9, features, seed=1).vectors)


def test_empty_clusters_get_new_rows():
    # Ten copies of each of four directions: a start that picks one direction twice leaves a centroid without rows.
    directions = torch.eye(4).repeat(10, 1)
    for seed in range(8):
        ours = fitted(4, directions, seed)
        assert ours.assignments.bincount(minlength=4).tolist() == [10] * 4, seed


@pytest.mark.parametrize("left_out", ["not valid", "zero", "both"])
def test_rows_that_are_left_out_change_nothing_and_belong_to_no_cluster(left_out):
    features = torch.randn(40, 4)
    among = torch.randperm(50)[:40].sort().values
    valid = torch.zeros(50, dtype=torch.bool).index_fill(0, among, True)
    everything = torch.full((50, 4), {"zero": 0.0}.get(left_out, torch.nan)).index_copy(0, among, features)
    if left_out == "both":
        everything[among[:2]] = 0  # zero rows among the valid ones
        features, among = features[2:], among[2:]
    alone, ours = fitted(5, features), fitted(5, everything, valid=None if left_out == "zero" else valid)
    assert torch.equal(ours.vectors, alone.vectors)
    assert torch.equal(ours.concentration, alone.concentration)
    assert torch.equal(ours.assignments[among], alone.assignments)
    assert (ours.assignments == -1).sum() == 50 - len(among)


def test_no_centroid_starts_or_lands_on_a_zero_row():
    # The directions take turns with zero rows, which are less similar to every centroid than any other row.
    features = torch.stack([torch.eye(4).repeat(5, 1), torch.zeros(20, 4)], dim=1).reshape(40, 4)
    for seed in range(8):
        ours = fitted(4, features, seed)
        torch.testing.assert_close(ours.vectors.norm(dim=1), torch.ones(4))
        assert ours.assignments[::2].bincount(minlength=4).tolist() == [5] * 4, seed


def test_rows_that_cancel_out_leave_a_finite_centroid():
    ours = fitted(1, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    torch.testing.assert_close(ours.vectors.norm(dim=1), torch.ones(1))


def test_small_tiles_give_the_same(monkeypatch):
    features, results = torch.randn(500, 8), []
    for tile in (1 << 24, 700):
        monkeypatch.setattr(kmeans_prototypes, "_TILE", tile)
        results.append(fitted(10, features))
    assert torch.equal(results[0].assignments, results[1].assignments)
    torch.testing.assert_close(results[0].vectors, results[1].vectors)
    torch.testing.assert_close(results[0].concentration, results[1].concentration)


def test_all_similarities_are_never_held_at_once(monkeypatch):
    monkeypatch.setattr(kmeans_prototypes, "_TILE", 4096)
    largest, multiply = [], torch.Tensor.__matmul__

    def watched(a, b):
        largest.append(a.shape[0] * b.shape[1])
        return multiply(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    fitted(100, torch.randn(1000, 4), iterations=1)
    assert largest
    assert max(largest) <= 4096


def test_fit_reports_the_concentrations_of_its_clusters():
    features, truth = blobs(2, 50, 8, 0.0)
    features[truth == 0] += 0.3 * torch.randn(50, 8) * features[truth == 0].norm(dim=1, keepdim=True)
    ours = fitted(2, features)
    loose = ours.assignments[truth == 0][0]
    assert ours.concentration[loose] > 5 * ours.concentration[1 - loose]
    assert ours.concentration.mean().item() == pytest.approx(1.0)
    expected = concentrations(normalize(features, dim=1), ours.vectors, ours.assignments)
    torch.testing.assert_close(ours.concentration, expected)


def test_the_state_has_the_assignments_whatever_their_number():
    ours, copy = fitted(3, torch.randn(20, 4)), fitted(3, torch.randn(11, 4))
    copy.load_state_dict(ours.state_dict())
    for name, buffer in ours.state_dict().items():
        assert torch.equal(buffer, copy.state_dict()[name]), name
    copy.load_state_dict(KMeansPrototypes(3, 4).state_dict())
    assert len(copy.assignments) == 0


def test_half_precision_features_are_clustered_in_float32():
    features, truth = blobs(3, 20, 8, 0.05)
    ours = max((fitted(3, features.bfloat16(), seed) for seed in range(8)), key=lambda f: mean_similarity(f, features))
    assert ours.vectors.dtype == torch.float32
    assert len(set(zip(ours.assignments.tolist(), truth.tolist(), strict=True))) == 3


def test_what_cannot_be_clustered_is_refused():
    with pytest.raises(ValueError, match="3 features cannot make 4 clusters: ask for fewer"):
        fitted(4, torch.randn(3, 2))
    with pytest.raises(ValueError, match="must be finite"):
        fitted(1, torch.tensor([[1.0, float("nan")], [0, 1]]))
    with pytest.raises(ValueError, match="at least 1"):
        KMeansPrototypes(0, 2)
    with pytest.raises(ValueError, match="at least one iteration"):
        fitted(1, torch.eye(2), iterations=0)
    with pytest.raises(ValueError, match="2 features cannot make 3 clusters"):
        fitted(3, torch.eye(4), valid=torch.tensor([True, False, False, True]))
    with pytest.raises(ValueError, match="1 features cannot make 2 clusters"):
        fitted(2, torch.tensor([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"one per feature, \(2,\), not \(3,\)"):
        inspect.unwrap(KMeansPrototypes.fit)(
            KMeansPrototypes(1, 2), torch.eye(2), valid=torch.ones(3, dtype=torch.bool)
        )
