import pytest
import torch

from sslcore.memory import ClassMeans


def update_by_loops(means, seen, features, labels, momentum):
    """The definition, one class and one vector at a time."""
    for c in range(len(means)):
        mine = [f for f, y in zip(features, labels, strict=True) if y == c]
        if mine:
            batch_mean = sum(mine) / len(mine)
            means[c] = momentum * means[c] + (1 - momentum) * batch_mean if seen[c] else batch_mean
            seen[c] = True


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_the_definition_over_several_batches(momentum):
    ours, means, seen = ClassMeans(5, 3, momentum=momentum), torch.zeros(5, 3), [False] * 5
    for n in (1, 7, 4):
        features, labels = torch.randn(n, 3), torch.randint(-1, 4, (n,))  # class 4 never occurs, -1 is no class
        ours.update(features, labels)
        update_by_loops(means, seen, features, labels, momentum)
        torch.testing.assert_close(ours.vectors, means)
        assert ours.seen.tolist() == seen
    assert not seen[4]


def test_a_restored_copy_continues_alike():
    ours, copy = ClassMeans(3, 2, momentum=0.5), ClassMeans(3, 2, momentum=0.5)
    ours.update(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))
    copy.load_state_dict(ours.state_dict())
    batch = torch.randn(2, 2), torch.tensor([1, 2])
    ours.update(*batch), copy.update(*batch)
    assert torch.equal(ours.vectors, copy.vectors)
    assert torch.equal(ours.seen, copy.seen)


def test_a_batch_without_classes_changes_nothing():
    ours = ClassMeans(3, 2, momentum=0.5)
    ours.update(torch.empty(0, 2), torch.empty(0, dtype=torch.long))
    ours.update(torch.ones(2, 2), torch.tensor([-1, -1]))
    assert not ours.seen.any()
    assert not ours.vectors.any()


def test_half_precision_features_are_averaged_in_float32_and_leave_no_graph():
    ours = ClassMeans(1, 2, momentum=0.0)
    features = torch.tensor([[1.0, 0.0], [1.0078125, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    ours.update(features, torch.tensor([0, 0]))
    assert ours.vectors[0, 0] == 1.00390625  # between two neighbours of bfloat16
    assert not ours.vectors.requires_grad


def test_an_update_never_waits_for_the_device():
    """On the meta device nothing has a value, so that reading one back raises."""
    ours = ClassMeans(3, 2, momentum=0.5).to("meta")
    ours.update(torch.randn(4, 2, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="label 3 has no mean: there are 3 classes"):
        ClassMeans(3, 2, momentum=0.5).update(torch.randn(2, 2), torch.tensor([0, 3]))


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_momentum_outside_its_range_is_refused_with_the_reason(momentum):
    with pytest.raises(ValueError, match="weight of the old mean"):
        ClassMeans(3, 2, momentum=momentum)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ClassMeans(0, 2, momentum=0.5)
