"""Faster R-CNN of torchvision's parts with an open-world head: everything here adapts, nothing decides.

Ren et al., "Faster R-CNN", NeurIPS 2015, with a feature pyramid (Lin et al., CVPR 2017) and the two-layer box head.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detection.engines.backbone_weights import BackboneReport, load_backbone_weights
from detection.engines.engine import OpenWorldEngine, StepOutput, check_width, looking
from detection.engines.images import ImageBatch, ImageTransform
from detection.engines.networks import SIZE_DIVISIBLE, PyramidNetwork
from detection.engines.region_pooling import RegionPool
from detection.engines.region_proposals import Proposals, RegionProposer
from detection.engines.settings import NetworkSettings
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.second_stage import region_losses, regions_of
from detection.structures import Regions, Target

POOLED = 7
"""Side of the grid that a region's features are pooled to."""

CANONICAL = 1.75
"""Side of the smallest regions pooled from a level, in anchors of that level: 224 to 128 in the paper, equation 1."""


def build_detector(
    network: NetworkSettings, head: OpenWorldHead, *, seed: int, load_weights: bool = True
) -> "OpenWorldFasterRCNN":
    """A detector with its initial weights; the global random state is left alone.

    Args:
        network: the detector without its open-world parts.
        head: these parts; it knows the classes.
        seed: of initial weights and of the sampling of anchors.
        load_weights: fill the backbone from `network.weights`; not wanted where a checkpoint will bring all weights.

    Raises:
        ConfigError: settings that do not fit each other.
        CheckpointError: the backbone's weights cannot be used.
    """
    if not load_weights:
        network = network.model_copy(update={"weights": None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OpenWorldFasterRCNN(network, head, seed=seed)


class OpenWorldFasterRCNN(OpenWorldEngine):
    """The detector. Use `build_detector`."""

    def __init__(self, settings: NetworkSettings, head: OpenWorldHead, *, seed: int) -> None:
        super().__init__()
        check_width(settings, head)
        self.settings = settings
        self.network = PyramidNetwork(settings)
        self.report: BackboneReport = load_backbone_weights(self.network, settings)
        self.transform = ImageTransform(
            min_size=settings.min_size,
            max_size=settings.max_size,
            divisible=SIZE_DIVISIBLE,
            mean=self.report.mean,
            std=self.report.std,
        )
        self.proposer = RegionProposer(
            settings.pyramid,
            strides=self.network.strides,
            sizes=settings.anchors,
            ratios=settings.ratios,
            seed=seed,
            sampled=settings.anchors_sampled,
            below=settings.anchor_iou[0],
            above=settings.anchor_iou[1],
        )
        self.pool = RegionPool(
            [str(level) for level in self.network.levels],
            self.network.strides[: self.network.pooled],
            side=POOLED,
            points=1 if settings.name == "tiny" else 2,
            canonical=CANONICAL * settings.anchors[2],
        )
        self.box_head = _box_head(settings)
        self.predictor = RegionPredictor(
            settings.representation,
            len(head.known),
            classes=head.classes,
            per_class_boxes=settings.per_class_boxes,
            seed=seed,
        )
        self.head = head

    # --- training --------------------------------------------------------------------------------------------------

    def losses(
        self,
        images: Sequence[Float[Tensor, "3 h w"]],
        targets: Sequence[Target],
        *,
        step: int,
        progress: float,
        previous: Sequence[Float[Tensor, "q 4"]] | None = None,
    ) -> StepOutput:
        batch = self.transform(images)
        there = batch.targets(targets)
        maps = self.network(batch.tensors)
        scores = self.proposer(list(maps.values()))
        losses = self.proposer.losses(scores, batch, there, step=step)

        proposals = self.proposer.propose(
            scores, batch, self.settings.proposals_train, before=self.settings.proposals_train
        )
        boxes, objectness = [p.boxes for p in proposals], [p.objectness for p in proposals]
        before = batch.boxes(previous)
        samples = self.head.label(boxes, objectness, there, step=step, progress=progress, previous=before)
        features = self._embed(maps, [sample.boxes for sample in samples])
        of_regions, to_remember = region_losses(self.head, self.predictor, features, samples)
        scales = [batch.scale(i) for i in range(len(samples))]
        return StepOutput(losses | of_regions, to_remember, samples, scales)

    # --- inference -------------------------------------------------------------------------------------------------

    def proposals(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Proposals]:
        """Proposals of each image by falling objectness, in its own pixels: the first stage alone."""
        if not len(images):
            return []
        with looking(self):
            batch = self.transform(images)
            scores = self.proposer(list(self.network(batch.tensors).values()))
            found = self.proposer.propose(scores, batch, self.settings.proposals_test)
        return [Proposals(batch.to_original(p.boxes, i), p.objectness) for i, p in enumerate(found)]

    def look(self, images: Sequence[Float[Tensor, "3 h w"]]) -> tuple[list[Regions], ImageBatch]:
        with looking(self):
            batch = self.transform(images)
            maps = self.network(batch.tensors)
            scores = self.proposer(list(maps.values()))
            proposals = self.proposer.propose(scores, batch, self.settings.proposals_test)
            features = self._embed(maps, [p.boxes for p in proposals])
            boxes, objectness = [p.boxes for p in proposals], [p.objectness for p in proposals]
            return regions_of(self.predictor, features, boxes, objectness, batch.sizes), batch

    def _embed(self, maps: "OrderedDict[str, Tensor]", boxes: list[Tensor]) -> Float[Tensor, "n d"]:
        """Embeddings of the regions of all images, in float32."""
        return self.box_head(self.pool(maps, boxes)).float()


def _box_head(settings: NetworkSettings) -> TwoMLPHead:
    """torchvision's, begun as detectron2 begins it: its own small weights would first have to be scaled up."""
    head = TwoMLPHead(settings.pyramid * POOLED**2, settings.representation)
    for layer in (head.fc6, head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    return head
