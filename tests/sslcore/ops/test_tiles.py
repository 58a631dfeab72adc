import torch

from sslcore.ops import gram
from sslcore.ops.tiles import tile_shape, tile_size

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_tiles_are_as_large_as_suits_the_device():
    assert tile_shape(100_000, 100_000, 0, CPU) == (512, 2048)
    assert tile_shape(100_000, 100_000, 0, GPU) == (4096, 4096)
    for device in (CPU, GPU):
        rows, columns = tile_shape(256, 1 << 20, 0, device)
        assert rows == 256
        assert rows * columns == tile_size(device)


def test_no_tile_is_larger_than_the_matrix_or_than_asked_for():
    for device in (CPU, GPU):
        assert tile_shape(3, 5, 0, device) == (3, 5)
        assert tile_shape(0, 0, 0, device) == (1, 1)
        assert tile_shape(1000, 1000, 7, device) == (7, 7)


def test_edges_of_symmetric_tiles_are_longer_on_a_gpu():
    assert [gram._edge(100_000, CPU, 0, keep) for keep in (False, True)] == [512, 256]
    assert [gram._edge(100_000, GPU, 0, keep) for keep in (False, True)] == [2048, 1024]
    assert gram._edge(100, GPU, 0, False) == 100
    assert gram._edge(100, GPU, 7, False) == 7
