import pytest
import torch

from detection.engines.backbone_weights import load_backbone_weights
from detection.engines.networks import PyramidNetwork
from detection.engines.settings import NetworkSettings
from sslcore.errors import CheckpointError
from sslcore.nn import build_backbone
from sslcore.storage import save_checkpoint, write_weights

DESCRIPTION = {
    "method": "simclr", "backbone": {"name": "tiny", "width": 4}, "in_channels": 3,
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "size": 24,
}  # fmt: skip


def settings(weights=None, **changes):
    return NetworkSettings(
        **{"name": "tiny", "width": 4, "pyramid": 8, "anchors": [16, 32, 64], "weights": weights, **changes}
    )


def loaded(weights, **changes):
    chosen = settings(None if weights is None else str(weights), **changes)
    network = PyramidNetwork(chosen)
    return network, load_backbone_weights(network, chosen)


def pretrained(**options):
    network = build_backbone("tiny", width=4, **options)
    network(torch.randn(8, options.get("in_channels", 3), 32, 32))
    return network


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_an_exported_backbone_arrives_whole(tmp_path, norm, frozen_stages):
    source = pretrained().eval()
    write_weights(tmp_path / "b.safetensors", source.state_dict(), DESCRIPTION)
    network, report = loaded(tmp_path / "b.safetensors", norm=norm, frozen_stages=frozen_stages)
    x = torch.randn(2, 3, 32, 32)
    for mine, theirs in zip(network.backbone.eval().feature_maps(x), source.feature_maps(x)):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert set(report.matched) == set(network.backbone.state_dict())
    assert report.missing == () and report.unmatched == ()
    assert report.mean == (0.5, 0.4, 0.3) and report.std == (0.2, 0.2, 0.1)
    assert report.future_labels == "no" and "simclr uses no labels" in report.because


def test_a_run_tells_what_found_no_place_and_what_was_trained_with_labels(tmp_path):
    model = {f"method.encoder.{name}": tensor for name, tensor in pretrained().state_dict().items()}
    model["method.projector.0.weight"] = torch.zeros(3, 3)
    info = {**DESCRIPTION, "method": "supcon"}
    save_checkpoint(tmp_path / "checkpoints" / "step-00000010", model=model, train={}, info=info)
    _, report = loaded(tmp_path)
    assert report.unmatched == ("method.projector.0.weight",)
    assert report.future_labels == "possible"
    first, second = report.sentences()
    assert "36 weights matched, 0 are random, 1 of the source are not the backbone's (method.projector.0" in first
    assert "supcon is trained with labels" in second


def test_random_weights_have_seen_nothing(tmp_path):
    network, report = loaded(None)
    assert report.matched == () and set(report.missing) == set(network.backbone.state_dict())
    assert report.future_labels == "no" and report.because == "its weights are random"
    write_weights(tmp_path / "b.safetensors", pretrained().state_dict(), DESCRIPTION)
    _, report = loaded(f"random:{tmp_path / 'b.safetensors'}")
    assert report.matched == () and report.future_labels == "no"
    assert report.mean == (0.5, 0.4, 0.3)


def test_files_from_elsewhere_are_not_trusted_to_be_without_labels(tmp_path):
    source = build_backbone("resnet18")
    torch.save(source.state_dict(), tmp_path / "r.pth")
    options = {"name": "resnet18_fpn", "anchors": [32, 64, 128, 256]}
    network, report = loaded(tmp_path / "r.pth", **options)
    assert torch.equal(network.backbone.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert report.future_labels == "not known"
    _, report = loaded(f"torchvision:resnet18={tmp_path / 'r.pth'}", **options)
    assert report.future_labels == "possible" and "ImageNet" in report.because
    _, report = loaded("torchvision:resnet18", **options)
    assert report.future_labels == "no"


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [
        ({}, {"width": 8}, "has width 4, but network tiny needs width 8"),
        ({}, {"name": "resnet18_fpn", "anchors": [8, 16, 32, 64]}, "has name tiny, but .* needs name resnet18"),
        ({"in_channels": 1}, {}, "images of 1 channels"),
    ],
)
def test_other_networks_are_refused(tmp_path, made, changes, message):
    channels = made.get("in_channels", 3)
    info = {**DESCRIPTION, "in_channels": channels, "mean": [0.5] * channels, "std": [0.2] * channels}
    write_weights(tmp_path / "b.safetensors", pretrained(**made).state_dict(), info)
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path / "b.safetensors", **changes)


def test_pixels_are_no_network():
    with pytest.raises(CheckpointError, match="not a network that detectors are built on"):
        loaded("pixels")
