"""Open-world heads in detectron2's lazy configurations."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import LazyCall

from detection.engines.detectron2.heads import OpenWorldRes5ROIHeads, OpenWorldRPN, OpenWorldStandardROIHeads
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from sslcore.errors import ConfigError


def lazy_openworld(
    model: Any,
    known: Sequence[str],
    *,
    steps: int,
    first_task: bool = True,
    unknowns: UnknownSettings | None = None,
    clustering: ClusteringSettings | None = None,
    decision: DecisionSettings | None = None,
    per_class_boxes: bool = True,
    seed: int = 0,
) -> Any:
    """A lazy configuration of detectron2 with open-world heads in the place of its own; changed in place and returned.

        model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
        lazy_openworld(model, ["cat", "dog"], steps=90000)

    Args:
        model: of a `GeneralizedRCNN` with `StandardROIHeads` or `Res5ROIHeads`; mask heads are taken out.
        known: names of the classes.
        steps: iterations of the training.
        first_task, unknowns, clustering, decision, per_class_boxes, seed: see `OpenWorldROIHeads`, `OpenWorldHead` and
            `RegionPredictor`.

    Raises:
        ConfigError: the heads are others.
    """
    heads = model.roi_heads
    name = getattr(heads["_target_"], "__name__", str(heads["_target_"]).rpartition(".")[2])
    ours = {"StandardROIHeads": OpenWorldStandardROIHeads, "Res5ROIHeads": OpenWorldRes5ROIHeads}
    if name not in ours:
        raise ConfigError(f"open-world heads replace {' or '.join(ours)}, and this model has {name}")
    dim = int(heads.box_predictor.input_shape.channels)
    for key in [key for key in heads if str(key).startswith(("mask_", "keypoint_"))]:
        del heads[key]
    model.proposal_generator["_target_"] = OpenWorldRPN
    heads["_target_"] = ours[name]
    heads.head = LazyCall(OpenWorldHead)(
        known=list(known),
        dim=dim,
        regions=heads.batch_size_per_image,
        positive=heads.positive_fraction,
        seed=seed,
        **{
            group: LazyCall(type(values))(**values.model_dump())
            for group, values in (
                ("unknowns", unknowns or UnknownSettings()),
                ("clustering", clustering or ClusteringSettings()),
                ("decision", decision or DecisionSettings()),
            )
        },
    )
    heads.box_predictor = LazyCall(RegionPredictor)(
        dim=dim, known=len(known), per_class_boxes=per_class_boxes, seed=seed
    )
    heads.steps, heads.first_task, heads.num_classes = steps, first_task, len(known) + 1
    return model
