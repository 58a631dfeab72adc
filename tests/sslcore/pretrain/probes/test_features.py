import pytest
import torch
from torch import nn

from sslcore.errors import DataError
from sslcore.pretrain.probes.features import embed


def batches(labels=True):
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    for i in range(3):
        yield images + i, torch.tensor([i, i + 1]) if labels else None, torch.tensor([2 * i, 2 * i + 1])


def backbone():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_features_are_those_of_evaluation_mode_and_modes_are_restored():
    net = backbone().train()
    net[0].eval()  # a frozen part must come back frozen
    found = embed(net, batches())
    assert [m.training for m in net] == [False, True, True, True]
    net.eval()
    torch.testing.assert_close(found.features, torch.cat([net(x) for x, _, _ in batches()]).detach())
    assert found.labels.tolist() == [0, 1, 1, 2, 2, 3]
    assert found.ids.tolist() == list(range(6))
    assert int(net[0].num_batches_tracked) == 0


def test_features_can_be_trained_on():
    features = embed(backbone(), batches()).features
    weight = torch.ones(3, requires_grad=True)
    (features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(0))


def test_modes_are_restored_after_an_error():
    def broken():
        yield from batches()
        raise DataError("a file cannot be read")

    net = backbone().train()
    with pytest.raises(DataError):
        embed(net, broken())
    assert net.training
    assert net[1].training


def test_unlabelled_and_empty_data():
    assert embed(backbone(), batches(labels=False)).labels is None
    with pytest.raises(DataError, match="no image to embed"):
        embed(backbone(), [])
