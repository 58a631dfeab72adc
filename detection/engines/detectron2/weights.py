"""Backbone weights for a detector of detectron2: Surnia's, torchvision's, and those of detectron2's model zoo."""

from pathlib import Path

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import Tensor

from detection.engines.backbone_weights import BackboneReport, random_report, read_backbone, report_of
from detection.engines.detectron2.config import ZOO
from detection.engines.settings import NetworkSettings
from sslcore.backbones.detectron2_files import detectron2_name, read_detectron2
from sslcore.errors import CheckpointError
from sslcore.storage.messages import show_path

_BGR_MEAN = (103.530, 116.280, 123.675)  # of detectron2's configurations; its zoo's networks divide by nothing
_SHOULD_MATCH = 0.9  # of the backbone's weights, or the file is of another network


def load_weights_of(model: GeneralizedRCNN, settings: NetworkSettings) -> BackboneReport:
    """Fill a model's backbone, res5 of C4 heads included, from `settings.weights`, and say what was found.

    Raises:
        CheckpointError: the source cannot be read, or is of another network.
    """
    if (settings.weights or "").startswith(ZOO):
        return _from_zoo(model, Path((settings.weights or "").removeprefix(ZOO)))
    loaded = read_backbone(settings)
    places = _places(model)
    if loaded is None:
        return random_report(tuple(places), settings)
    found = {detectron2_name(name): value for name, value in loaded.backbone.state_dict().items()}
    _fill(model, {places[name]: value for name, value in found.items() if name in places})
    return report_of(loaded, tuple(loaded.backbone.state_dict()), settings)


def _places(model: GeneralizedRCNN) -> dict[str, str]:
    """Names of the backbone's weights, as a ResNet's, to their names in the model."""
    prefixes = ("backbone.bottom_up.", "backbone.", "roi_heads.")
    parts = ("stem.", "res2.", "res3.", "res4.", "res5.")
    places = {}
    for name in model.state_dict():
        for prefix in prefixes:
            if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts):
                places[name.removeprefix(prefix)] = name
    return places


def _fill(model: GeneralizedRCNN, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        own = model.state_dict()
        for name, value in tensors.items():
            own[name].copy_(value)


def _from_zoo(model: GeneralizedRCNN, path: Path) -> BackboneReport:
    """A file of the model zoo: names are matched by their ends, as detectron2's own checkpointer matches them, and
    what has another shape (a classifier of other classes) stays as it is."""
    tensors, author = read_detectron2(path)
    shown = show_path(path)
    if author in ("Surnia", "torchvision"):
        raise CheckpointError(
            f"network.weights: {shown} was made by {author} and is no file of detectron2's zoo, whose colours and "
            "strides differ; give the run or torchvision:NAME=FILE that it was made from"
        )
    own, places = model.state_dict(), _places(model)
    offered = {name: t for name, t in tensors.items() if not name.startswith("roi_heads.box_predictor.")}
    found = align_and_update_state_dicts(own, offered, c2_conversion=author == "Caffe2")
    fitting = {name: t for name, t in found.items() if name in own and t.shape == own[name].shape}
    matched = tuple(name for name, place in places.items() if place in fitting)
    wanted = [name for name in places if not name.endswith("num_batches_tracked")]
    if len(matched) < _SHOULD_MATCH * len(wanted):
        raise CheckpointError(
            f"network.weights: {shown} holds {len(matched)} of the {len(wanted)} weights of the backbone; give a file "
            "of the same network"
        )
    _fill(model, fitting)
    missing = tuple(name for name in wanted if name not in matched)
    because = "the files of detectron2's model zoo are trained with labels, of ImageNet or of COCO"
    return BackboneReport(
        f"{shown}, made by {author or 'a training with detectron2'}", matched,
        tuple(name for name in tensors if name not in fitting), missing, "possible", because,
        tuple(value / 255 for value in reversed(_BGR_MEAN)), (1 / 255,) * 3,
    )  # fmt: skip
