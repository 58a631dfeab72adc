import pytest
import torch
from torch.nn.functional import normalize

from sslcore.memory import ClassMeans, FeatureQueue


def ring_by_loops(size, dim, groups, pushes, normalized=True):
    """The definition: a list per class, one row at a time; slot i mod size for the i-th row of a class."""
    rows = torch.zeros(groups, size, dim)
    seen = [0] * groups
    for x, labels in pushes:
        for row, label in zip(x, labels.tolist(), strict=True):
            if label >= 0:
                rows[label, seen[label] % size] = normalize(row, dim=0) if normalized else row
                seen[label] += 1
    return rows, torch.tensor(seen)


def test_rows_are_normalised_on_push_unless_told_otherwise():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    for normalized, expected in ((True, [[0.6, 0.8], [0, 0]]), (False, [[3, 4], [0, 0]])):
        queue = FeatureQueue(2, 2, normalize=normalized)
        queue.push(x)
        torch.testing.assert_close(queue.features, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("batches", [[3, 3, 3], [7], [1] * 16, [5, 2, 7, 6], [4, 0, 4]])
def test_writing_wraps_around_when_the_batch_does_not_divide_the_size(batches):
    size, pushed = 7, []
    queue = FeatureQueue(size, 4)
    expected = queue.features.clone()
    for n in batches:
        x, ids = torch.randn(n, 4), torch.arange(len(pushed), len(pushed) + n)
        for row in x:
            expected[len(pushed) % size] = normalize(row, dim=0)
            pushed.append(row)
        queue.push(x, ids)
        torch.testing.assert_close(queue.features, expected)
        assert int(queue.pointer) == len(pushed) % size
        assert queue.filled.tolist() == [slot < len(pushed) for slot in range(size)]
        newest = {i % size: i for i in range(len(pushed))}  # the latest row to land on a slot
        assert queue.labels.tolist() == [newest.get(slot, -1) for slot in range(size)]


def test_a_push_without_labels_forgets_the_labels_it_overwrites():
    queue = FeatureQueue(3, 2)
    queue.push(torch.randn(3, 2), torch.tensor([5, 6, 7]))
    queue.push(torch.randn(1, 2))
    assert queue.labels.tolist() == [-1, 6, 7]


def test_a_batch_larger_than_the_queue_is_refused_and_changes_nothing():
    queue = FeatureQueue(4, 2)
    before = queue.features.clone()
    with pytest.raises(ValueError, match=r"5 rows .* does not fit a queue of 4: make the queue larger or the batch"):
        queue.push(torch.randn(5, 2))
    assert torch.equal(queue.features, before)
    assert int(queue.pointer) == int(queue.count) == 0


def test_starts_as_unit_vectors_that_depend_on_the_seed_alone():
    queue = FeatureQueue(64, 16)
    torch.manual_seed(1)
    assert torch.equal(queue.features, FeatureQueue(64, 16).features)
    assert not torch.equal(queue.features, FeatureQueue(64, 16, seed=1).features)
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(64))
    assert not queue.filled.any()


def test_pushing_writes_in_place():
    for groups, labels in ((None, None), (3, torch.tensor([0, 2, 2]))):
        queue = FeatureQueue(8, 4, groups)
        pointers = {name: buffer.data_ptr() for name, buffer in queue.named_buffers()}
        view = queue.features
        queue.push(torch.randn(3, 4), labels)
        assert {name: buffer.data_ptr() for name, buffer in queue.named_buffers()} == pointers
        assert view is queue.features


def test_pushing_allocates_no_more_than_the_batch():
    from torch.profiler import ProfilerActivity, profile

    queue, x = FeatureQueue(65536, 128), torch.randn(256, 128)
    queue.push(x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        queue.push(x)
    largest = max(event.cpu_memory_usage for event in trace.events())
    assert largest <= 4 * x.numel() * x.element_size(), f"{largest} bytes for a batch of {x.numel() * 4}"


def test_features_pushed_with_a_graph_leave_none():
    queue = FeatureQueue(4, 2)
    queue.push(torch.randn(2, 2, requires_grad=True) * 2)
    assert not queue.features.requires_grad


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("incoming", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_storage_keeps_its_type_and_rows_are_normalised_in_float32(storage, incoming):
    queue = FeatureQueue(4, 8, dtype=storage)
    x = (torch.randn(2, 8) * 1e-3).to(incoming)  # squares of which float16 cannot hold
    queue.push(x)
    assert queue.features.dtype == storage
    expected = normalize(x.double(), dim=1)
    torch.testing.assert_close(queue.features[:2].double(), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("normalized", [True, False])
def test_rings_of_classes_equal_the_definition(normalized):
    generator = torch.Generator().manual_seed(0)
    size, dim, groups = 3, 5, 4
    queue, pushes = FeatureQueue(size, dim, groups, normalize=normalized), []
    for n in (1, 8, 0, 20, 2, 40, 5):
        x = torch.randn(n, dim, generator=generator)
        labels = torch.randint(-1, groups - 1, (n,), generator=generator)  # class 3 never occurs
        pushes.append((x, labels))
        queue.push(x, labels)
        rows, seen = ring_by_loops(size, dim, groups, pushes, normalized)
        torch.testing.assert_close(queue.features, rows)
        assert torch.equal(queue.pointer, seen % size)
        assert torch.equal(queue.count, seen.clamp(max=size))
        assert torch.equal(queue.filled, torch.arange(size) < seen[:, None])


def test_rows_without_a_class_change_nothing_even_when_there_are_no_others():
    queue = FeatureQueue(2, 3, groups=2)
    queue.push(torch.randn(2, 3), torch.tensor([0, 1]))
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    queue.push(torch.randn(4, 3), torch.tensor([-1, -1, -7, -1]))
    for name, buffer in queue.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="label 2 does not fit a queue with 2 groups"):
        FeatureQueue(2, 3, groups=2).push(torch.randn(1, 3), torch.tensor([2]))
    with pytest.raises(ValueError, match="needs the label of every row"):
        FeatureQueue(2, 3, groups=2).push(torch.randn(1, 3))


@pytest.mark.parametrize("sizes", [(0, 2, None), (2, 0, None), (2, 2, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        FeatureQueue(*sizes)


def test_integer_storage_is_refused():
    with pytest.raises(ValueError, match="floating-point"):
        FeatureQueue(2, 2, dtype=torch.int64)


@pytest.mark.parametrize("groups", [None, 3])
def test_a_restored_queue_continues_alike(groups):
    def push(queue, n):
        queue.push(torch.randn(n, 2), torch.randint(0, 3, (n,)))

    ours, copy = FeatureQueue(5, 2, groups), FeatureQueue(5, 2, groups, seed=9)
    push(ours, 4)
    copy.load_state_dict(ours.state_dict())
    for queue in (ours, copy):
        torch.manual_seed(3)
        push(queue, 4)
    for name, buffer in ours.state_dict().items():
        assert torch.equal(buffer, copy.state_dict()[name]), name


def test_class_means_can_be_renewed_from_the_store():
    queue, means = FeatureQueue(3, 2, groups=3, normalize=False), ClassMeans(3, 2, momentum=0.5)
    queue.push(torch.tensor([[1.0, 0], [3, 0], [0, 5]]), torch.tensor([0, 0, 2]))
    means.update(queue.features.flatten(0, 1), queue.labels.flatten())
    assert means.vectors.tolist() == [[2, 0], [0, 0], [0, 5]]
    assert means.seen.tolist() == [True, False, True]


@pytest.mark.parametrize("groups", [None, 3])
def test_pushing_never_waits_for_the_device(groups):
    """On the meta device nothing has a value, so that reading one back raises."""
    queue = FeatureQueue(8, 4, groups).to("meta")
    queue.push(torch.randn(5, 4, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta"))
    with pytest.raises(RuntimeError, match="meta"):
        int(queue.pointer.sum())
