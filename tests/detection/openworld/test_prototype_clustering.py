import math

import pytest
import torch
from support.processes import in_processes
from torch.nn.functional import normalize

from detection.openworld.prototype_clustering import PrototypeClustering, ore_loss
from detection.openworld.settings import ClusteringSettings
from detection.structures import BACKGROUND, UNKNOWN

NOTHING = -1


def made(known=2, dim=3, **settings):
    values = {"loss": "hinge", "start": 0.2, "refresh": 5, "store": 4, "momentum": 0.9, "margin": 10.0}
    return PrototypeClustering(known, dim, ClusteringSettings(**{**values, **settings}))


def rows(*values, dim=3):
    return torch.tensor([[float(value)] * dim for value in values])


def test_clusters_are_unknown_and_known_classes():
    clustering = made(start=0.0)
    clustering.at(0, 0.0)
    clustering.remember(rows(1, 2, 3, 4, 5), torch.tensor([BACKGROUND, UNKNOWN, 2, NOTHING, 2]))
    assert clustering.prototypes.vectors.tolist() == [[2.0] * 3, [4.0] * 3, [0.0] * 3]
    assert clustering.prototypes.seen.tolist() == [True, True, False]


def test_loss_is_the_papers_over_the_classes_seen_so_far():
    clustering = made(start=0.0, dim=1)
    clustering.at(0, 0.0)
    clustering.remember(rows(0, 4, dim=1), torch.tensor([UNKNOWN, 2]))
    # A row at 1 of class 2: 3 to its own prototype, 10 - 1 to unknown; class 3 has none. Background has no loss.
    loss = clustering.loss(rows(1, 50, 60, dim=1), torch.tensor([2, BACKGROUND, NOTHING]))
    assert loss.item() == pytest.approx(12.0)


def test_infonce_compares_directions():
    clustering = made(loss="infonce", start=0.0, dim=2, temperature=0.5)
    clustering.at(0, 0.0)
    clustering.remember(torch.tensor([[5.0, 0], [0, 2]]), torch.tensor([UNKNOWN, 2]))
    loss = clustering.loss(torch.tensor([[3.0, 4], [9, 9]]), torch.tensor([2, BACKGROUND]))
    assert loss.item() == pytest.approx(-math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2))), rel=1e-5)


def test_prototypes_wait_for_their_start_and_then_follow_on_schedule():
    clustering = made(dim=1)
    values = []
    for step in range(40):
        clustering.at(step, step / 40)
        loss = clustering.loss(rows(100, dim=1), torch.tensor([2]))
        assert (loss.item() > 0) == (step > 8)  # 20 % of 40 steps; the first prototypes are made at the end of step 8
        clustering.remember(rows(step, dim=1), torch.tensor([2]))
        values.append(clustering.prototypes.vectors[1].item())
    means = {step: step - 1.5 for step in range(40)}  # of the newest four
    expected, now = [], 0.0
    for step in range(40):
        if step == 8:
            now = means[step]
        elif step > 8 and step % 5 == 0:
            now = 0.9 * now + 0.1 * means[step]
        expected.append(now)
    assert values == pytest.approx(expected)


def test_a_new_stage_starts_over_and_keeps_the_rings():
    clustering = made(dim=1)
    for step in range(20):
        clustering.at(step, step / 20)
        clustering.remember(rows(7, dim=1), torch.tensor([2]))
    assert clustering.active
    clustering.at(0, 0.0)
    assert not clustering.active
    assert clustering.loss(rows(100, dim=1), torch.tensor([2])).item() == 0
    for step in range(5):
        clustering.at(step, step / 20)
        clustering.remember(rows(1, dim=1), torch.tensor([3]))
    # At the start of the loss each class gets the mean of its ring, whenever that was filled.
    assert clustering.active
    assert clustering.prototypes.vectors[:, 0].tolist() == [0.0, 7.0, 1.0]


def test_a_new_stage_is_noticed_although_the_loss_begins_at_once():
    clustering = made(dim=1, start=0.0, refresh=1000)
    for progress, value in ((0.0, 1), (0.5, 2), (0.0, 4)):
        clustering.at(int(progress * 10) + 1, progress)
        clustering.remember(rows(value, value, value, value, dim=1), torch.full((4,), 2))
    assert clustering.prototypes.vectors[1].item() == 4


def test_without_a_loss_nothing_is_kept():
    clustering = made(loss="none", start=0.0)
    clustering.at(0, 0.0)
    clustering.remember(rows(1, 2), torch.tensor([UNKNOWN, 2]))
    assert clustering.loss(rows(1), torch.tensor([2])).item() == 0
    assert int(clustering.store.count.sum()) == 0


@pytest.mark.parametrize("compat", [None, "ore"])
def test_growing_keeps_what_there_is(compat):
    clustering = made(start=0.0, compat=compat)
    clustering.at(0, 0.0)
    clustering.remember(torch.randn(30, 3), torch.arange(30) % 4)
    before = {name: value.clone() for name, value in clustering.state_dict().items()}
    clustering.grow(2)
    for name, value in clustering.state_dict().items():
        if name != "_extra_state":
            assert len(value) == len(before[name]) + 2
            assert torch.equal(value[: len(before[name])], before[name])
            assert not value[len(before[name]) :].any()
    clustering.remember(rows(3), torch.tensor([5]))
    assert clustering.prototypes.seen.tolist()[-2:] == [False, True]


def run(clustering, steps, total=30):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        clustering.at(step, step / total)
        x = torch.randn(12, 3, generator=generator)
        labels = torch.randint(-1, 4, (12,), generator=generator)
        loss = clustering.loss(x, labels)
        clustering.remember(x, labels)
    return loss


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole, first, second = made(loss="infonce"), made(loss="infonce"), made(loss="infonce")
    expected = run(whole, range(30))
    run(first, range(17))
    second.load_state_dict(first.state_dict())
    assert second.active
    assert torch.equal(run(second, range(17, 30)), expected)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_the_ring_gets_the_same_rows_when_most_are_left_out():
    # 80 rows, of which a ring of 4 for 3 clusters can keep 12: those are picked before the push.
    x, labels = torch.randn(80, 3), torch.randint(-1, 4, (80,))
    clustering = made(start=0.0)
    clustering.at(0, 0.0)
    clustering.remember(x, labels)
    for cluster in range(3):
        expected = x[labels == cluster + 1][-4:]
        kept = clustering.store.features[cluster]
        assert sorted(kept[:, 0].tolist()) == sorted(expected[:, 0].tolist())


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_rows_without_a_cluster_may_be_left_out_before(loss, monkeypatch):
    """A CPU leaves them out, a GPU computes and does not count them."""
    x, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(3)), torch.arange(60) % 12 - 8
    few, all_rows = made(loss=loss, dim=8, start=0.0), made(loss=loss, dim=8, start=0.0)
    found = []
    for clustering in (few, all_rows):
        for step in range(6):
            features = (x + step).requires_grad_(True)
            clustering.at(step, 0.5)
            clustering.loss(features, labels).backward() if step else None
            clustering.remember(features, labels)
        found.append((clustering.loss(features, labels), features.grad))
        path = "detection.openworld.prototype_clustering._rows_that_count"
        monkeypatch.setattr(path, lambda features, clusters, rows: (features, torch.where(rows, clusters, -1)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert not found[0][1][labels < UNKNOWN].any() and found[0][1][labels >= UNKNOWN].any()
    torch.testing.assert_close(few.store.features, all_rows.store.features)
    nothing = torch.zeros_like(labels)
    assert few.loss(features, nothing).item() == 0
    before = few.store.features.clone()
    few.remember(features, nothing)
    assert torch.equal(few.store.features, before)


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_two_processes_equal_one(loss, tmp_path):
    def train(rank, world):
        clustering = made(loss=loss, start=0.0, refresh=2)
        losses = []
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            # Most rows are background, and the processes have unlike shares of the rest.
            x = torch.randn(40, 3, generator=generator)
            labels = torch.randint(-1, 4, (40,), generator=generator)
            labels[20:35] = 0
            mine = slice(rank * 40 // world, (rank + 1) * 40 // world)
            clustering.at(step, step / 6)
            losses.append(clustering.loss(x[mine], labels[mine]).item())
            clustering.remember(x[mine], labels[mine])
        return losses, clustering.prototypes.vectors, clustering.store.features.sum(dim=1)

    losses, vectors, sums = train(0, 1)
    both = in_processes(lambda rank: train(rank, 2), tmp_path)
    assert [(a + b) / 2 for a, b in zip(both[0][0], both[1][0], strict=True)] == pytest.approx(losses, rel=1e-5)
    for _, other, other_sums in both:
        torch.testing.assert_close(other, vectors)
        torch.testing.assert_close(other_sums, sums)


def literal_ore_loss(features, labels, prototypes, order):
    """The original's loops: a sign for each pair, its hinge embedding loss with margin 2, the mean over all pairs."""
    total, count = 0.0, 0
    for f, y in zip(features.tolist(), labels.tolist(), strict=True):
        if y <= 0:
            continue
        for cluster, p in enumerate(prototypes.tolist()):
            distance = sum(abs(a - b) ** order for a, b in zip(f, p, strict=True)) ** (1 / order)
            total += distance if cluster == y else max(0.0, 2.0 - distance)
            count += 1
    return total / max(count, 1)


def test_the_original_form_equals_its_loops():
    clustering = made(start=0.0, compat="ore", margin=10.0)
    clustering.at(0, 0.0)
    clustering.remember(torch.randn(20, 3), torch.arange(20) % 3)  # class 3 was never seen: a zero prototype
    vectors = clustering.prototypes.vectors
    assert len(vectors) == 4  # background too
    assert vectors[0].any()
    assert not vectors[3].any()
    x, labels = torch.randn(15, 3, requires_grad=True), torch.randint(-1, 4, (15,))
    loss = clustering.loss(x, labels)
    assert loss.item() == pytest.approx(literal_ore_loss(x, labels, vectors, 10), rel=1e-4)
    loss.backward()
    assert x.grad.isfinite().all()
    assert ore_loss(x, torch.zeros(15, dtype=torch.int64), vectors, order=10).item() == 0


def test_features_stay_raw_for_distances_and_become_directions_for_infonce():
    for loss in ("hinge", "infonce"):
        clustering = made(loss=loss, start=0.0)
        clustering.at(0, 0.0)
        clustering.remember(rows(2), torch.tensor([2]))
        expected = rows(2) if loss == "hinge" else normalize(rows(2))
        torch.testing.assert_close(clustering.prototypes.vectors[1:2], expected)


def test_progress_is_a_share():
    with pytest.raises(ValueError, match=r"share of a stage that is done and must be in \[0, 1\], not 40"):
        made().at(3, 40)
