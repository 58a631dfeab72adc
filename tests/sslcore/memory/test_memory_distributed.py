"""Two processes with halves of a batch must hold what one process with the whole batch holds."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sslcore.memory import ClassMeans, FeatureQueue, KMeansPrototypes

WORLD = 2
BATCHES = 4


def run(rank, world):
    """Every memory fed with this process's share of the same batches; returns all their states."""
    torch.set_num_threads(1)
    queue, own = FeatureQueue(10, 4), FeatureQueue(10, 4, gather=False)
    store = FeatureQueue(3, 4, groups=3, normalize=False)
    means = ClassMeans(3, 4, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(BATCHES):
        x = torch.randn(6, 4, generator=generator)
        labels = torch.randint(-1, 3, (6,), generator=generator)
        share = slice(rank * 6 // world, (rank + 1) * 6 // world)
        queue.push(x[share], labels[share])
        own.push(x[share])
        store.push(x[share], labels[share])
        means.update(x[share], labels[share])

    kmeans = KMeansPrototypes(300, 8)  # with chunks of 700 rows, so that both processes have some
    kmeans.fit(torch.randn(3000, 8, generator=generator))
    refusal = ""
    try:
        FeatureQueue(10, 4).push(torch.randn(6, 4))
    except ValueError as error:
        refusal = str(error)
    modules = {"queue": queue, "own": own, "store": store, "means": means, "kmeans": kmeans}
    return {name: module.state_dict() for name, module in modules.items()}, refusal


def work(rank, folder):
    from sslcore.memory import kmeans_prototypes

    kmeans_prototypes._TILE = 210_000
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    torch.save(run(rank, WORLD), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.start_processes(work, (str(folder),), nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone():
    from sslcore.memory import kmeans_prototypes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_prototypes, "_TILE", 210_000)
        return run(0, 1)


@pytest.mark.parametrize("name", ["queue", "store", "kmeans"])
def test_all_processes_hold_the_same_bits_as_one_process_alone(together, alone, name):
    for states, _ in together:
        for key, expected in alone[0][name].items():
            assert torch.equal(states[name][key], expected), key


def test_class_means_are_of_all_processes_together(together, alone):
    for key, expected in alone[0]["means"].items():
        torch.testing.assert_close(together[0][0]["means"][key], expected)
        assert torch.equal(together[0][0]["means"][key], together[1][0]["means"][key])


def test_a_queue_that_does_not_gather_is_each_process_s_own(together):
    first, second = (states["own"] for states, _ in together)
    assert first["count"] == second["count"] == 10
    assert not torch.equal(first["features"], second["features"])


def test_the_rows_of_all_processes_count_towards_the_size(together, alone):
    assert [refusal for _, refusal in together] == [
        "a push of 12 rows (over all processes) does not fit a queue of 10: make the queue larger or the batch smaller"
    ] * WORLD
    assert alone[1] == ""
