import dataclasses
import pickle

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from sslcore.backbones.loading import LoadedBackbone, load_backbone
from sslcore.errors import CheckpointError
from sslcore.nn import build_backbone
from sslcore.pretrain import export
from sslcore.pretrain.export import detectron2_name, export_backbone
from sslcore.settings import BackboneSettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def backbone(name="resnet18", stem="imagenet", channels=3):
    """A network whose running statistics, scales and shifts are not the initial ones."""
    network = build_backbone(name, stem=stem, in_channels=channels, width=8)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    network(torch.randn(4, channels, 64, 64))
    settings = BackboneSettings(name=name, stem=stem, width=8)
    return LoadedBackbone(network.eval(), MEAN[:channels], STD[:channels], 64, channels, name, settings=settings)


# --- torchvision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_loads_the_file_and_computes_the_same(tmp_path, name):
    loaded = backbone(name)
    report = export_backbone(loaded, "torchvision", tmp_path / "b.safetensors")
    assert report.max_difference == 0.0
    assert report.unmatched == ()
    assert set(report.matched) == set(loaded.backbone.state_dict())
    network = torchvision.models.get_model(name)
    result = network.load_state_dict(load_file(report.path), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []
    again = load_backbone(report.path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.backbone(images), loaded.backbone(images))
    assert (again.mean, again.std, again.size) == (MEAN, STD, 64)


@pytest.mark.parametrize(("stem", "channels"), [("small", 3), ("small", 1), ("imagenet", 1)])
def test_usage_works_as_printed_also_for_changed_first_layers(tmp_path, stem, channels):
    loaded = backbone("resnet18", stem, channels)
    report = export_backbone(loaded, "torchvision", tmp_path / "b.safetensors")
    names = {}
    exec(report.usage, names)  # the very lines that users are told to copy
    images = torch.randn(1, channels, 32, 32)
    assert torch.equal(names["network"].eval()(images), loaded.backbone(images))


# --- detectron2 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer1.0.bn3.bias", "res2.0.conv3.norm.bias"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer4.0.downsample.1.running_var", "res5.0.shortcut.norm.running_var"),
        ("layer3.22.bn2.weight", "res4.22.conv2.norm.weight"),
    ],
)
def test_names_are_detectron2s(ours, theirs):
    assert detectron2_name(ours) == theirs


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_without_detectron2_the_file_is_mapped_back_and_the_report_says_so(tmp_path, monkeypatch, name):
    monkeypatch.setattr(export, "has_detectron2", lambda: False)
    loaded = backbone(name)
    report = export_backbone(loaded, "detectron2", tmp_path / "b.pkl")
    assert report.max_difference == 0.0
    assert "detectron2 is not installed" in report.checked_by
    content = pickle.loads(report.path.read_bytes())
    assert content["__author__"] == "Surnia"
    assert content["matching_heuristics"] is True
    weights = {k for k in loaded.backbone.state_dict() if not k.endswith("num_batches_tracked")}
    assert len(content["model"]) == len(weights) == len(report.matched)
    stem = torch.from_numpy(content["model"]["stem.conv1.weight"])
    assert torch.equal(stem, loaded.backbone.conv1.weight)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2_itself_computes_the_same(tmp_path, name):
    pytest.importorskip("detectron2")
    report = export_backbone(backbone(name), "detectron2", tmp_path / "b.pkl")
    assert report.checked_by.startswith("detectron2 itself loaded the file")
    assert report.max_difference == 0.0
    assert report.unmatched == ()


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {"res2": "backbone.bottom_up.", "res5": "backbone.bottom_up."}),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", {"res2": "backbone.", "res5": "roi_heads."}),
    ],
)
def test_whole_detectors_of_detectron2_take_every_weight(tmp_path, config, prefix):
    pytest.importorskip("detectron2")
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model
    from ruamel.yaml import YAML

    loaded = backbone("resnet50")
    report = export_backbone(loaded, "detectron2", tmp_path / "b.pkl")
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    usage = YAML(typ="safe").load(report.usage)
    cfg.MODEL.WEIGHTS, cfg.MODEL.PIXEL_MEAN = usage["MODEL"]["WEIGHTS"], usage["MODEL"]["PIXEL_MEAN"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = usage["MODEL"]["RESNETS"]["STRIDE_IN_1X1"]
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    state = model.state_dict()
    for name, tensor in export._detectron2_weights(loaded).items():
        place = prefix.get(name.split(".")[0], prefix["res2"]) + name
        assert torch.equal(state[place], tensor), place


def test_a_pickle_that_asks_for_more_than_arrays_is_refused(tmp_path):
    file = tmp_path / "b.pkl"
    file.write_bytes(pickle.dumps({"model": print}))
    with pytest.raises(CheckpointError, match=r"asks for builtins\.print"):
        export._check_mapped_back(file, backbone())


# --- what must not be published --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "to", "message"),
    [
        (("tiny",), "torchvision", "tiny has no counterpart in torchvision"),
        (("tiny",), "detectron2", "tiny has no counterpart in detectron2"),
        (("resnet18", "small"), "detectron2", "stem for small images"),
        (("resnet18", "imagenet", 1), "detectron2", "takes 1 channels"),
    ],
)
def test_what_the_target_lacks_is_refused_in_a_sentence(tmp_path, arguments, to, message):
    with pytest.raises(CheckpointError, match=message):
        export_backbone(backbone(*arguments), to, tmp_path / f"b{export.SUFFIXES[to]}")
    assert list(tmp_path.iterdir()) == []


def test_wrong_targets_and_names_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no export to 'timm'"):
        export_backbone(backbone(), "timm", tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        export_backbone(backbone(), "torchvision", tmp_path / "b.pth")


@pytest.mark.parametrize("to", ["torchvision", "detectron2"])
def test_an_export_that_computes_something_else_is_not_published(tmp_path, monkeypatch, to):
    monkeypatch.setattr(export, "has_detectron2", lambda: False)
    loaded = backbone()
    (tmp_path / "old.pkl").write_bytes(b"kept")

    class Shifted(type(loaded.backbone)):
        def feature_maps(self, x):
            return [m + 1e-6 for m in super().feature_maps(x)]

    loaded.backbone.__class__ = Shifted
    out = tmp_path / f"b{export.SUFFIXES[to]}"
    with pytest.raises(CheckpointError, match="computes something else"):
        export_backbone(loaded, to, out)
    assert not out.exists()


def test_a_missing_weight_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "has_detectron2", lambda: False)
    loaded = backbone()
    whole = export._detectron2_weights
    monkeypatch.setattr(
        export, "_detectron2_weights", lambda b: {k: v for k, v in whole(b).items() if k != "res4.1.conv2.weight"}
    )
    with pytest.raises(CheckpointError, match=r"1 weights do not match in detectron2 \(res4.1.conv2.weight\), 99 do"):
        export_backbone(loaded, "detectron2", tmp_path / "b.pkl")


def test_broken_weights_are_not_published(tmp_path):
    loaded = backbone()
    with torch.no_grad():
        loaded.backbone.conv1.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="computes something else"):
        export_backbone(dataclasses.replace(loaded), "torchvision", tmp_path / "b.safetensors")
