import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detection.engines.networks import PyramidNetwork
from detection.engines.settings import NetworkSettings
from sslcore.errors import ConfigError

TINY = {"name": "tiny", "width": 4, "pyramid": 8, "anchors": [16, 32, 64]}


def network(**changes):
    return PyramidNetwork(NetworkSettings(**{**TINY, **changes}))


@pytest.mark.parametrize(
    ("changes", "strides", "pooled"),
    [
        ({}, (4, 8, 16), 3),
        ({"anchors": [12, 24, 48, 96]}, (4, 8, 16, 32), 3),
        ({"name": "resnet18_fpn", "anchors": [32, 64, 128, 256]}, (4, 8, 16, 32), 4),
        ({"name": "resnet50_fpn", "anchors": [32, 64, 128, 256, 512]}, (4, 8, 16, 32, 64), 4),
    ],
)
def test_each_level_has_the_stride_that_it_says(changes, strides, pooled):
    net = network(**changes).eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, 64, 128))
    assert net.strides == strides and net.pooled == pooled
    assert [tuple(m.shape) for m in maps.values()] == [(1, 8, 64 // s, 128 // s) for s in strides]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": [8, 16, 32, 64, 128]}, r"5 sizes, but tiny has 3 levels \(strides 4, 8, 16\), or 4"),
        ({"name": "resnet18_fpn"}, "3 sizes, but resnet18_fpn has 4 levels"),
        ({"frozen_stages": 5}, "frozen_stages is 5, but tiny has 4 stages"),
    ],
)
def test_what_does_not_fit_is_named_with_both_numbers(changes, message):
    with pytest.raises(ConfigError, match=message):
        network(**changes)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def trained(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_frozen_norms_keep_the_names_of_live_ones():
    live, frozen = network().backbone, network(norm="frozen").backbone
    assert norms(live) and not norms(frozen)
    assert set(frozen.state_dict()) == {k for k in live.state_dict() if not k.endswith("num_batches_tracked")}


def test_frozen_stages_are_neither_trained_nor_have_live_statistics():
    net = network(frozen_stages=2).backbone
    assert all(name.startswith(("stages.2.", "stages.3.")) for name in trained(net))
    assert not norms(net.stages[0]) and not norms(net.stages[1]) and norms(net.stages[2])

    net = network(name="resnet18_fpn", anchors=[32, 64, 128, 256], frozen_stages=2).backbone
    assert {name.split(".")[0] for name in trained(net)} == {"layer2", "layer3", "layer4"}
    assert isinstance(net.bn1, FrozenBatchNorm2d) and not norms(net.layer1) and norms(net.layer2)


def test_a_frozen_norm_computes_what_the_live_one_did_in_evaluation():
    torch.manual_seed(0)
    live = network()
    live(torch.randn(4, 3, 32, 32))  # statistics that are not the initial ones
    frozen = network(norm="frozen")
    frozen.load_state_dict({k: v for k, v in live.state_dict().items() if not k.endswith("num_batches_tracked")})
    x = torch.randn(2, 3, 32, 32)
    for a, b in zip(live.eval()(x).values(), frozen.train()(x).values()):
        assert torch.allclose(a, b, atol=1e-5)
