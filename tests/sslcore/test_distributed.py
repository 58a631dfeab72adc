import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from sslcore import distributed


def test_without_a_process_group_everything_is_the_identity():
    x, counts = torch.randn(3, 2), torch.tensor([1, 2])
    assert (distributed.world_size(), distributed.rank(), distributed.is_distributed()) == (1, 0, False)
    assert all(a is b for a, b in zip(distributed.all_reduce_sum(x, counts), (x, counts), strict=True))
    assert distributed.all_gather_rows(x) is x
    assert distributed.all_reduce_amax(x)[0] is x


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x, counts, scale = torch.full((2, 3), rank + 1.0), torch.tensor([rank, 10]), torch.tensor(rank + 0.5)
    sums = distributed.all_reduce_sum(x, counts, scale)
    largest = distributed.all_reduce_amax(x, counts)
    gathered = distributed.all_gather_rows(x.t())  # not contiguous
    refusal = ""
    try:
        distributed.all_gather_rows(torch.zeros(rank + 1, 2))
    except ValueError as error:
        refusal = str(error)
    numbers = (distributed.world_size(), distributed.rank(), distributed.is_distributed())
    torch.save((x, sums, largest, gathered, refusal, numbers), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_sums_and_maxima_keep_shapes_and_dtypes_and_leave_the_arguments(both):
    for rank, (x, sums, largest, *_) in enumerate(both):
        assert torch.equal(x, torch.full((2, 3), rank + 1.0))
        assert torch.equal(sums[0], torch.full((2, 3), 3.0))
        assert sums[1].dtype == torch.int64
        assert sums[1].tolist() == [1, 20]
        assert sums[2] == 2.0
        assert torch.equal(largest[0], torch.full((2, 3), 2.0))
        assert largest[1].tolist() == [1, 10]


def test_rows_come_in_rank_order(both):
    expected = torch.cat([torch.full((3, 2), 1.0), torch.full((3, 2), 2.0)])
    assert all(torch.equal(gathered, expected) for _, _, _, gathered, *_ in both)


def test_all_know_their_number(both):
    assert [found[5] for found in both] == [(2, 0, True), (2, 1, True)]


def test_unequal_numbers_of_rows_are_refused_in_every_process(both):
    for found in both:
        assert "the same number of rows, not [1, 2]" in found[4]
