import pytest
import torch
import torchvision
from torch import nn

from sslcore.nn import Backbone, build_backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_have_torchvisions_keys_and_outputs(name):
    theirs = getattr(torchvision.models, name)(weights=None)
    ours = build_backbone(name)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)  # strict: names and shapes are exactly these
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_small_stem_keeps_the_resolution_and_the_keys(name):
    ours, imagenet = build_backbone(name, stem="small"), build_backbone(name)
    assert ours.state_dict().keys() == imagenet.state_dict().keys()
    assert ours.conv1.weight.shape == (64, 3, 3, 3)
    with torch.no_grad():
        maps = ours.eval().feature_maps(torch.randn(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tiny", "pixel_encoder"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_backbone_tells_the_truth_about_itself(name, stem, in_channels):
    backbone = build_backbone(name, stem=stem, width=8, in_channels=in_channels, size=64).eval()
    assert isinstance(backbone, Backbone)
    assert backbone.name == name
    x = torch.randn(2, in_channels, 64, 64)
    with torch.no_grad():
        features, maps = backbone(x), backbone.feature_maps(x)
    assert features.shape == (2, backbone.dim)
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert len(backbone.strides) == len(maps)
    if name != "pixel_encoder":
        assert tuple(64 // m.shape[-1] for m in maps) == backbone.strides
        torch.testing.assert_close(features, maps[-1].mean(dim=(2, 3)))


def test_tiny_is_the_prototypes_network():
    backbone = build_backbone("tiny", width=32)
    assert backbone.channels == (32, 32, 64, 128)
    # four convolutions, two more in residual blocks, six norms
    convolutions = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 128 + 32 * 32 + 64 * 64)
    assert sum(p.numel() for p in backbone.parameters()) == convolutions + 2 * (32 + 32 + 64 + 128 + 32 + 64) == 149_024


def test_tiny_takes_any_size_and_every_weight_learns():
    backbone = build_backbone("tiny", width=4)
    for size in (32, 33, 96):
        backbone(torch.randn(2, 3, size, size)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in backbone.parameters())


def test_weights_depend_on_torchs_seed_alone():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_backbone("resnet18", stem="small", in_channels=1).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="no backbone 'resnet5': choose one of resnet18, resnet34, resnet50, tiny, pix"
    ):
        build_backbone("resnet5")
