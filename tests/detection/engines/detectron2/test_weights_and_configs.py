"""Pretrained backbones in detectron2's networks, files of its model zoo, and its two kinds of configuration."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.small_detectors import small_batch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detection.engines import torchvision as torchvision_engine
from detection.engines.detectron2 import OpenWorldRPN, build_detector, config, lazy_openworld
from detection.engines.detectron2.config import config_of
from detection.engines.settings import NetworkSettings
from detection.openworld.head import OpenWorldHead
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from sslcore.backbones import LoadedBackbone
from sslcore.backbones.detectron2_files import detectron2_name
from sslcore.errors import CheckpointError, ConfigError
from sslcore.nn import build_backbone
from sslcore.pretrain.export import export_backbone
from sslcore.settings import BackboneSettings

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def trained(name):
    """A backbone whose norms are not the initial ones, with a preprocessing of its own."""
    network = build_backbone(name)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    network(torch.randn(2, 3, 64, 64))
    return LoadedBackbone(network.eval(), MEAN, STD, 64, 3, name, settings=BackboneSettings(name=name))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name -> (backbone, the safetensors that `surnia export --to torchvision` writes of it)."""
    folder, made = tmp_path_factory.mktemp("weights"), {}

    def of(name):
        if name not in made:
            loaded = trained(name)
            made[name] = loaded, export_backbone(loaded, "torchvision", folder / f"{name}.safetensors").path
        return made[name]

    return of


def settings(name, **changes):
    small = {"pyramid": 16, "representation": 2048 if name.endswith("c4") else 32, "min_size": 64, "max_size": 96,
             "anchors": [8, 16, 32, 64], "proposals_train": 40, "proposals_test": 30, "norm": "frozen"}  # fmt: skip
    return NetworkSettings(name=name, **{**small, **changes})


def detector(name, *, build=build_detector, **changes):
    network = settings(name, **changes)
    head = OpenWorldHead(
        ("circle", "square", "star"), network.representation, unknowns=UnknownSettings(),
        clustering=ClusteringSettings(), decision=DecisionSettings(), regions=32, positive=0.25, seed=0,
    )  # fmt: skip
    return build(network, head, seed=0)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18_fpn", "resnet50_fpn", "resnet50_c4"])
def test_a_pretrained_backbone_computes_the_same_in_both_engines(exported, name):
    loaded, file = exported(name.partition("_")[0])
    ours = detector(name, weights=str(file)).eval()
    assert len(ours.report.matched) == len(loaded.backbone.state_dict()) and not ours.report.missing
    theirs = detector(
        f"{loaded.backbone.name}_fpn", build=torchvision_engine.build_detector, weights=str(file), representation=32
    ).eval()  # fmt: skip
    images, _ = small_batch(2)
    batch, there = ours.transform(images), theirs.transform(images)
    assert ours.transform.mean.tolist() == pytest.approx(MEAN)
    with torch.no_grad():
        expected = theirs.network.backbone.feature_maps(there.tensors)
        if name.endswith("c4"):
            assert torch.equal(batch.tensors, there.tensors[..., : batch.tensors.shape[-2], : batch.tensors.shape[-1]])
            found = [ours.model.backbone(there.tensors)["res4"]]
            found.append(ours.heads.res5(found[0]))
            expected = expected[-2:]
        else:
            assert torch.equal(batch.tensors, there.tensors)
            maps = ours.model.backbone.bottom_up(batch.tensors)
            found = [maps[f"res{stage}"] for stage in range(2, 6)]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def as_zoo(loaded, path, *, author="MSRA", **more):
    """A file in the layout of detectron2's model zoo, of these weights."""
    state = loaded.backbone.state_dict()
    arrays = {detectron2_name(k): v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    content = {"model": {**arrays, **more}, "__author__": author, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("name", ["resnet50_fpn", "resnet50_c4"])
def test_a_file_of_the_model_zoo_loads_with_its_colours_and_strides(exported, tmp_path, name):
    loaded, _ = exported("resnet50")
    other = torch.ones(81, 1024).numpy()
    file = as_zoo(loaded, tmp_path / "R-50.pkl", **{"roi_heads.box_predictor.cls_score.weight": other})
    ours = detector(name, weights=f"detectron2:{file}").eval()
    assert ours.model.input_format == "BGR" and len(ours.report.matched) == 265 and not ours.report.missing
    assert "roi_heads.box_predictor.cls_score.weight" in ours.report.unmatched
    assert ours.report.future_labels == "possible" and "made by MSRA" in ours.report.sentences()[0]
    state = ours.model.state_dict()
    stem, last = ("backbone.bottom_up.", "backbone.bottom_up.") if name.endswith("fpn") else ("backbone.", "roi_heads.")
    weights = loaded.backbone.state_dict()
    assert torch.equal(state[f"{stem}stem.conv1.weight"], weights["conv1.weight"])
    assert torch.equal(state[f"{last}res5.2.conv3.norm.running_var"], weights["layer4.2.bn3.running_var"])
    bottleneck = ours.model.backbone.bottom_up.res3[0] if name.endswith("fpn") else ours.model.backbone.res3[0]
    assert bottleneck.conv1.stride == (2, 2) and bottleneck.conv2.stride == (1, 1)
    grey = ours.transform([torch.full((3, 64, 64), 0.5)]).tensors[0, :, 0, 0]
    assert grey.tolist() == pytest.approx([127.5 - mean for mean in (123.675, 116.28, 103.53)], abs=1e-3)  # RGB here
    red = torch.zeros(3, 64, 64)
    red[0] = 1
    _, listed = ours._features(ours.transform([red]))
    assert listed.tensor[0, 2, 0, 0] == pytest.approx(255 - 123.675, abs=1e-3)  # BGR there


def test_files_of_other_networks_and_of_other_makers_are_refused(exported, tmp_path):
    small, _ = exported("resnet18")
    file = as_zoo(small, tmp_path / "R-18.pkl")
    with pytest.raises(CheckpointError, match=r"of the 265 weights of the backbone; give a file of the same network"):
        detector("resnet50_fpn", weights=f"detectron2:{file}")
    surnias = export_backbone(small, "detectron2", tmp_path / "ours.pkl").path
    with pytest.raises(CheckpointError, match="was made by Surnia and is no file of detectron2's zoo"):
        detector("resnet18_fpn", weights=f"detectron2:{surnias}")


# --- configurations --------------------------------------------------------------------------------------------------


def test_recipes_and_configurations_have_the_same_settings(small_cfg):
    cfg = small_cfg()
    for group, kind in config.GROUPS.items():
        assert set(cfg.MODEL.OPENWORLD[group]) == {name.upper() for name in kind.model_fields}
    made = config_of(settings("resnet50_c4"))
    assert made.MODEL.ROI_HEADS.NAME == "OpenWorldRes5ROIHeads" and made.MODEL.RPN.IN_FEATURES == ["res4"]
    assert made.MODEL.RPN.POST_NMS_TOPK_TEST == 30
    with pytest.raises(ConfigError, match="tiny is not detectron2's"):
        config_of(NetworkSettings(name="tiny"))


@pytest.mark.parametrize(
    ("file", "dim"), [("common/models/mask_rcnn_fpn.py", 1024), ("common/models/mask_rcnn_c4.py", 2048)]
)
def test_a_lazy_configuration_gets_open_world_heads(file, dim):
    model = copy.deepcopy(model_zoo.get_config(file).model)
    decision = DecisionSettings(prior=None, per_image=7)
    lazy_openworld(model, ["circle", "square", "star"], steps=100, decision=decision, per_class_boxes=False, seed=5)
    model.pixel_std = [58.0, 57.0, 57.0]
    made = instantiate(model)
    heads = made.roi_heads
    assert heads.head.known == ("circle", "square", "star") and heads.head.dim == dim == heads.box_predictor.dim
    assert heads.head.decision == decision and heads.head.seed == 5 and heads.steps == 100 and not heads.mask_on
    assert heads.head.regions == 512 and heads.num_classes == 4 and heads.box_predictor.columns == 1
    made.eval()
    with torch.no_grad():
        found = made([{"image": 255 * small_batch(1)[0][0], "height": 64, "width": 64}])
    assert found[0]["instances"].has("posteriors") and len(found[0]["instances"]) <= 7


def test_lazy_heads_of_another_kind_are_refused():
    model = copy.deepcopy(model_zoo.get_config("common/models/cascade_rcnn.py").model)
    with pytest.raises(ConfigError, match="this model has CascadeROIHeads"):
        lazy_openworld(model, ["circle"], steps=1)


# --- the detector ----------------------------------------------------------------------------------------------------


def test_it_grows_like_the_other_engine_and_keeps_what_it_has_learnt():
    ours = detector("resnet18_fpn", norm="batch")
    before = ours.predictor.classify.weight.clone()
    ours.grow(["moon"])
    assert torch.equal(ours.predictor.classify.weight[:5], before) and ours.head.known[-1] == "moon"
    assert ours.heads.head is ours.head
    images, targets = small_batch(2)
    output = ours.losses(images, targets, step=0, progress=1.0, previous=[torch.zeros(0, 4)] * 2)
    assert set(output.losses) == {"objectness", "proposal_boxes", "classification", "boxes", "clustering"}
    assert ours.training and len(ours.predict(images)) == 2 and ours.training
    with EventStorage(5) as storage:  # where detectron2's loop collects, it gets what its network writes
        ours.losses(images, targets, step=0, progress=1.0)
        assert "rpn/num_pos_anchors" in storage.latest()


def test_ignored_boxes_are_not_shown_to_the_proposal_network(monkeypatch):
    ours = detector("resnet18_fpn", norm="batch")
    images, targets = small_batch(2, boxes=3)
    targets[0].ignore[1] = True
    seen, forward = [], OpenWorldRPN.forward

    def watched(self, images, features, truth):
        seen.extend(truth)
        return forward(self, images, features, truth)

    monkeypatch.setattr(OpenWorldRPN, "forward", watched)
    ours.losses(images, targets, step=0, progress=1.0)
    assert [len(each) for each in seen] == [2, 3]
    assert torch.equal(seen[0].gt_boxes.tensor, targets[0].boxes[[0, 2]])


def test_the_same_seed_makes_the_same_detector_whatever_was_drawn_before(small_cfg):
    first = detector("resnet18_fpn").state_dict()
    torch.manual_seed(99)
    again = detector("resnet18_fpn").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert build_model(small_cfg()).roi_heads.head.seed == 3


QUIET = """
from support.drawn import drawn_recipe
from support.small_detectors import small_batch
from detection.training.model import build_engine

network = {"name": "resnet18_fpn", "anchors": [8, 16, 32, 64]}
engine = build_engine(drawn_recipe(engine="detectron2", network=network), ["red", "green", "blue"], classes=3)
images, targets = small_batch(2)
engine.losses(images, targets, step=0, progress=0.5)
engine.predict(images)
"""


def test_what_torch_says_of_detectron2s_code_is_not_passed_on():
    """In a process of its own, as such warnings are given once."""
    paths = os.pathsep.join(str(Path(__file__).parents[place]) for place in (4, 3))
    done = subprocess.run(
        [sys.executable, "-c", QUIET], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- recipes ---------------------------------------------------------------------------------------------------------

OTHERWISE = {"OPENWORLD", "WEIGHTS", "DEVICE", "PROPOSAL_GENERATOR.NAME", "ROI_HEADS.NAME", "ROI_HEADS.NUM_CLASSES",
             "RPN.POST_NMS_TOPK_TRAIN", "PIXEL_MEAN", "PIXEL_STD"}  # fmt: skip


def flat(node, prefix=""):
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if hasattr(value, "items") else {name: value}
    return found


@pytest.mark.parametrize(
    ("recipe", "upstream", "differs"),
    [
        ("ore_resnet50_c4_detectron2_m_owodb", "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", {}),
        (
            "openworld_resnet50_fpn_detectron2_m_owodb",
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            # torchvision's form of a ResNet, class-agnostic boxes, and more proposals to choose unknown ones from
            {"RESNETS.STRIDE_IN_1X1": False, "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, "RPN.PRE_NMS_TOPK_TEST": 2000},
        ),
    ],
)
def test_recipes_for_published_benchmarks_have_upstreams_networks(recipe, upstream, differs):
    from apps.recipes import load
    from detection.training.recipe import DetectionRecipe

    network = load(recipe, [], DetectionRecipe, folder="detection").recipe.network
    ours, theirs = flat(config_of(network).MODEL), flat(model_zoo.get_config(upstream).MODEL)
    left_out = [name for name in ours if name in OTHERWISE or name.startswith("OPENWORLD.")]
    found = {name: value for name, value in ours.items() if value != theirs.get(name) and name not in left_out}
    # Settings that only other networks read.
    unread = ("RETINANET.", "SEM_SEG_HEAD.", "PANOPTIC_FPN.", "ROI_MASK_HEAD.", "ROI_KEYPOINT_HEAD.")
    assert {name: value for name, value in found.items() if not name.startswith(unread)} == differs


@pytest.mark.parametrize("benchmark", ["m_owodb", "s_owodb", "voc_coco"])
@pytest.mark.parametrize("whose", ["openworld", "ore"])
def test_the_other_engines_recipes_for_published_benchmarks_are_taken(benchmark, whose):
    from apps.recipes import load
    from detection.training.recipe import DetectionRecipe

    options = [("engine", "detectron2"), ("network.weights", "null")]
    recipe = load(f"{whose}_resnet50_{benchmark}", options, DetectionRecipe, folder="detection").recipe
    cfg = config_of(recipe.network)
    assert recipe.engine == "detectron2" and cfg.MODEL.ROI_HEADS.NAME == "OpenWorldStandardROIHeads"
    assert recipe.network.representation == cfg.MODEL.ROI_BOX_HEAD.FC_DIM
