import itertools

import pytest
import torch

from sslcore.pretrain.data import SampleOrder


def test_an_epoch_visits_every_image_once_and_the_next_in_another_order():
    order = SampleOrder(images=11, batch=4, seed=3)
    assert sorted(order.epoch(0).tolist()) == list(range(11))
    assert order.epoch(0).tolist() == order.epoch(0).tolist() != order.epoch(1).tolist()
    assert order.steps == 2


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_same_global_batches(world):
    one = SampleOrder(images=19, batch=8, seed=0)
    for index in range(one.steps):
        shares = [list(SampleOrder(19, 8, 0, rank, world).slots(index)) for rank in range(world)]
        assert list(itertools.chain(*shares)) == list(one.slots(index))
        assert {len(share) for share in shares} == {8 // world}


@pytest.mark.parametrize(("images", "batch"), [(20, 4), (9, 4), (5, 4), (4, 4)])
def test_stand_ins_are_all_others_outside_of_the_batch(images, batch):
    order = SampleOrder(images=images, batch=batch, seed=0)
    for index in range(order.steps):
        inside = set(range(index * batch, (index + 1) * batch))
        for position in inside:
            found = list(order.stand_ins(index, position))
            assert len(found) == len(set(found))
            expected = set(range(images)) - (inside if images > batch else {position})
            assert set(found) == expected
            if images >= 2 * batch:
                assert found[0] == (position + batch) % images


def test_seeds_differ():
    assert not torch.equal(SampleOrder(50, 5, seed=0).epoch(0), SampleOrder(50, 5, seed=1).epoch(0))
