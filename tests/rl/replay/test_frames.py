import numpy as np
import pytest
import torch

from rl.replay.frames import FramePool
from sslcore.errors import ConfigError


def frame(value):
    return np.full((1, 2, 2), value, dtype=np.uint8)


def pool_of(*values, capacity=8):
    pool = FramePool(capacity, (1, 2, 2))
    places = np.array([pool.put(frame(v)) for v in values])
    pool.hold(places)
    return pool, places


def test_frames_are_found_where_they_were_put():
    pool, places = pool_of(5, 6, 7)
    found = pool.gather(places[[2, 0, 0]], torch.device("cpu"))
    assert found.shape == (3, 1, 2, 2) and found[:, 0, 0, 0].tolist() == [7, 5, 5]


def test_a_place_is_free_when_the_last_reference_has_gone_and_is_taken_before_new_memory():
    pool, places = pool_of(5, 6, 7)
    pool.hold(places[[1, 1]])
    pool.release(places[[1, 1]])
    assert pool.put(frame(8)) == 3
    pool.release(places[[1]])
    assert pool.put(frame(9)) == places[1] and pool.used == 4


def test_references_of_one_call_add_up():
    pool, places = pool_of(5)
    pool.hold(np.repeat(places, 4))
    assert pool.references[places[0]] == 5
    pool.release(np.repeat(places, 5))
    assert pool.put(frame(6)) == places[0]


def test_it_grows_in_place_and_keeps_what_it_has():
    pool, _ = pool_of(*range(8), capacity=8)
    pool.reserve(3)
    assert pool.capacity == 11 and len(pool.frames) == 11
    assert [pool.put(frame(v)) for v in (8, 9, 10)] == [8, 9, 10]
    assert pool.gather(np.arange(11), torch.device("cpu"))[:, 0, 0, 0].tolist() == list(range(11))


def test_it_grows_by_what_is_free_and_says_why_if_that_is_too_little(monkeypatch):
    pool, _ = pool_of(*range(8), capacity=8)
    monkeypatch.setattr("rl.replay.memory.available_bytes", lambda device: 11)
    with pytest.raises(ConfigError, match="short episodes"):
        pool.reserve(3)
    assert pool.capacity == 8
    monkeypatch.setattr("rl.replay.memory.available_bytes", lambda device: 12)
    pool.reserve(3)


def test_it_does_not_grow_while_there_are_free_places():
    pool, places = pool_of(*range(8), capacity=8)
    pool.release(places[:3])
    pool.reserve(3)
    assert pool.capacity == 8


def test_more_than_can_be_addressed_is_refused():
    with pytest.raises(ConfigError, match="do not fit into the memory of cpu; lower buffer_size"):
        FramePool(1 << 42, (3, 100, 100))


def test_memory_is_touched_only_as_frames_arrive():
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096  # noqa: E731, SIM115
    before = resident()
    pool = FramePool(4_000, (3, 100, 100))  # 120 MB
    for value in range(10):
        pool.put(np.full((3, 100, 100), value, dtype=np.uint8))
    assert resident() - before < 20e6 < pool.nbytes


def test_chunks_that_got_a_frame_are_marked():
    pool = FramePool(10, (1, 2, 2))
    pool.chunk_frames = 2
    for v in range(5):
        pool.put(frame(v))
    assert pool.changed.tolist() == [True, True, True]
    pool.changed[:] = False
    pool.put(frame(5))
    assert pool.changed.tolist() == [False, False, True]
    assert pool.chunk(2)[:, 0, 0, 0].tolist() == [4, 5]
