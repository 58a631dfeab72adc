"""The open-world head inside detectron2's region heads, for C4 networks and for feature pyramids.

What detectron2's own heads do before and after region features (matching, sampling, losses, suppression) is the
`OpenWorldHead`'s business here; pooling, res5, box head and everything before them stay detectron2's.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.engine import HookBase
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import Res5ROIHeads, ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from jaxtyping import Float
from torch import Tensor

from detection.engines.detectron2.config import open_world_head, refuse_other_heads
from detection.engines.detectron2.labels import IGNORED, KNOWN_BEFORE, to_classes, to_labels
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.sampling import RegionSample
from detection.openworld.second_stage import region_losses, regions_of
from detection.structures import UNKNOWN, Detections, Regions, Target
from sslcore.distributed import rank
from sslcore.errors import ConfigError

LOSSES = {"classification": "loss_cls", "boxes": "loss_box_reg", "clustering": "loss_clustering"}
"""What detectron2 calls the losses."""


@PROPOSAL_GENERATOR_REGISTRY.register()
class OpenWorldRPN(RPN):
    """detectron2's proposal network; ground-truth rows that are no object (see `labels`) are not shown to it."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
            _refuse_closed_heads(cfg.MODEL.ROI_HEADS.NAME)
        found: dict[str, Any] = super().from_config(cfg, input_shape)
        return found

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        if gt_instances is not None:
            gt_instances = [image[image.gt_classes >= 0] for image in gt_instances]
        return super().forward(images, features, gt_instances)


class OpenWorldROIHeads(ROIHeads):
    """What both kinds of heads have in common.

    Within detectron2's own models the training step is the event storage's iteration, the stage is the whole of
    `steps`, and an image is known by its place in the batch. What a step's features leave to be remembered is
    remembered before the next step, or when `RememberRegions` says so after the optimiser's.

    Args:
        head: the open-world parts; it knows the classes.
        box_predictor: logits and deltas of a region.
        steps: iterations of the training.
        first_task: there is no task before: pseudo-unknowns wait until objectness has been learnt.
        others: of detectron2's heads; `num_classes` is the head's.
    """

    head: OpenWorldHead
    box_predictor: RegionPredictor

    @configurable
    def __init__(
        self,
        *,
        head: OpenWorldHead,
        box_predictor: RegionPredictor,
        steps: int,
        first_task: bool = True,
        **others: Any,
    ) -> None:
        others["num_classes"] = len(head.known) + 1
        super().__init__(box_predictor=box_predictor, **others)
        if head.dim != box_predictor.dim:
            raise ConfigError(
                f"the open-world head is made for embeddings of {head.dim}, but the predictor for {box_predictor.dim}: "
                "make both alike"
            )
        self.head = head
        self.steps, self.first_task = steps, first_task
        self._pending: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any, head: OpenWorldHead | None = None) -> dict[str, Any]:
        refuse_other_heads(cfg)
        levels = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if issubclass(cls, Res5ROIHeads) and len(levels) > 1:
            raise ConfigError(
                f"MODEL.ROI_HEADS.NAME is {cls.__name__}, for C4 networks, but IN_FEATURES has the levels of a pyramid "
                f"({', '.join(levels)}): set it to OpenWorldStandardROIHeads"
            )
        parts: dict[str, Any] = super().from_config(cfg, input_shape)
        dim = parts["box_predictor"].cls_score.in_features
        head = head or open_world_head(cfg, dim)
        parts["head"] = head
        parts["box_predictor"] = RegionPredictor(
            dim,
            len(head.known),
            classes=head.classes,
            per_class_boxes=not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG,
            seed=head.seed,
        )
        return {**parts, "steps": cfg.SOLVER.MAX_ITER, "first_task": cfg.MODEL.OPENWORLD.TASK == 1}

    @abstractmethod
    def embed(self, features: Mapping[str, Tensor], boxes: Sequence[Float[Tensor, "r 4"]]) -> Float[Tensor, "n d"]:
        """Embeddings of the regions of all images.

        Args:
            features: maps of the backbone by name.
            boxes: regions of each image, in the network's pixels.
        """

    # --- what detectron2 calls

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As `detectron2.modeling.ROIHeads.forward`. Instances found have "pred_boxes", "pred_classes" in detectron2's
        order, "scores", "energies", "posteriors" of being unknown, and "embeddings"."""
        if not self.training:
            regions = self.regions(features, proposals)
            found = self.head.decide(regions)
            sizes = [image.image_size for image in proposals]
            return [as_instances(each, size, len(self.head.known)) for each, size in zip(found, sizes)], {}
        if targets is None:
            raise ValueError("training needs the ground truth of each image as targets")
        self.remember()
        step, count = get_event_storage().iter, len(targets)
        there = [self._target(image, rank() * count + place) for place, image in enumerate(targets)]
        before = [image.gt_boxes.tensor[image.gt_classes == KNOWN_BEFORE] for image in targets]
        _, losses, self._pending = self.learn(
            features,
            proposals,
            there,
            step=step,
            progress=min(1.0, step / max(1, self.steps)),
            previous=None if self.first_task else before,
        )
        return [], {LOSSES[name]: loss for name, loss in losses.items()}

    def remember(self) -> None:
        """Keep the features of the step that was taken last, if nobody has yet; after its optimiser's step, on all
        processes."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.head.remember(*pending)

    def _target(self, image: Instances, key: int) -> Target:
        rows = image.gt_classes > KNOWN_BEFORE
        labels = to_labels(image.gt_classes[rows], len(self.head.known))
        ignore = labels == IGNORED
        return Target(image.gt_boxes.tensor[rows], labels.masked_fill(ignore, UNKNOWN), ignore, key)

    # --- what they do

    def learn(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: list[Target],
        *,
        step: int,
        progress: float,
        previous: list[Float[Tensor, "q 4"]] | None,
    ) -> tuple[list[RegionSample], dict[str, Tensor], tuple[Tensor, Tensor]]:
        """The regions of each image that are trained on, their losses, and what is to be remembered; see
        `OpenWorldHead.label` and `region_losses`."""
        boxes = [image.proposal_boxes.tensor for image in proposals]
        objectness = [image.objectness_logits for image in proposals]
        samples = self.head.label(boxes, objectness, targets, step=step, progress=progress, previous=previous)
        embedded = self.embed(features, [sample.boxes for sample in samples])
        return samples, *region_losses(self.head, self.box_predictor, embedded, samples)

    def regions(self, features: Mapping[str, Tensor], proposals: Sequence[Instances]) -> list[Regions]:
        """What the network says of the proposals of each image, undecided."""
        boxes = [image.proposal_boxes.tensor for image in proposals]
        objectness = [image.objectness_logits.float() for image in proposals]
        sizes = [image.image_size for image in proposals]
        return regions_of(self.box_predictor, self.embed(features, boxes), boxes, objectness, sizes)


@ROI_HEADS_REGISTRY.register()
class OpenWorldRes5ROIHeads(OpenWorldROIHeads, Res5ROIHeads):
    """For C4 networks: a region's embedding is the mean of its res5 map, 2048 numbers in a ResNet-50."""

    def embed(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        maps = [features[name] for name in self.in_features]
        return self._shared_roi_transform(maps, [Boxes(image) for image in boxes]).mean(dim=(2, 3))


@ROI_HEADS_REGISTRY.register()
class OpenWorldStandardROIHeads(OpenWorldROIHeads, StandardROIHeads):
    """For feature pyramids: a region's embedding is the box head's output."""

    def embed(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        maps = [features[name] for name in self.box_in_features]
        return self.box_head(self.box_pooler(maps, [Boxes(image) for image in boxes])).flatten(1)


def _refuse_closed_heads(name: str) -> None:
    """ConfigError for heads that know nothing unknown: with them all would train, but not what was asked for."""
    if not issubclass(ROI_HEADS_REGISTRY.get(name), OpenWorldROIHeads):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME is {name}, which know nothing unknown: set it to OpenWorldStandardROIHeads (with a "
            "C4 network OpenWorldRes5ROIHeads), or MODEL.PROPOSAL_GENERATOR.NAME back to RPN for a detector without "
            "open-world parts"
        )


def as_instances(found: Detections, size: tuple[int, int], known: int) -> Instances:
    """Detections as detectron2 passes them on.

    Args:
        found: boxes in pixels of an image of this size.
        size: height and width.
        known: number of known classes.
    """
    return Instances(
        size,
        pred_boxes=Boxes(found.boxes),
        pred_classes=to_classes(found.labels, known),
        scores=found.scores,
        energies=found.energies,
        posteriors=found.posteriors,
        embeddings=found.embeddings,
    )


class RememberRegions(HookBase):
    """Remembers each step's features right after it, so that checkpoints hold them, too: register it before the
    checkpointer. Without it they are remembered when the next step begins."""

    def after_step(self) -> None:
        for module in self.trainer.model.modules():
            if isinstance(module, OpenWorldROIHeads):
                with torch.no_grad():
                    module.remember()
