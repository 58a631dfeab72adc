"""Faster R-CNN of torchvision's parts with an open-world head: everything here adapts, nothing decides.

Ren et al., "Faster R-CNN", NeurIPS 2015, with a feature pyramid (Lin et al., CVPR 2017) and the two-layer box head.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detection.engines.backbone_weights import BackboneReport, load_backbone_weights
from detection.engines.images import ImageBatch, ImageTransform
from detection.engines.networks import SIZE_DIVISIBLE, PyramidNetwork
from detection.engines.region_pooling import RegionPool
from detection.engines.region_proposals import Proposals, RegionProposer
from detection.engines.settings import NetworkSettings
from detection.openworld.boxes import box_loss, clipped, decode
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.sampling import RegionSample
from detection.structures import Detections, Regions, Target
from sslcore.errors import ConfigError

POOLED = 7
"""Side of the grid that a region's features are pooled to."""

CANONICAL = 1.75
"""Side of the smallest regions pooled from a level, in anchors of that level: 224 to 128 in the paper, equation 1."""


@dataclass
class StepOutput:
    """What one training step gives.

    Attributes:
        losses: scalars to be added up: `"objectness"` and `"proposal_boxes"` of the first stage, `"classification"`,
            `"boxes"` and `"clustering"` of the second. Their means over processes are those of the whole batch.
        to_remember: (n, d) detached region features and (n,) labels, for `OpenWorldHead.remember` after the optimiser's
            step.
        samples: the regions of each image that the second stage was trained on, in the network's pixels.
        scales: pixels of the network's image in one of the image given, across and down, of each image.
    """

    losses: dict[str, Tensor]
    to_remember: tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]
    samples: list[RegionSample]
    scales: list[tuple[float, float]]


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


class OpenWorldFasterRCNN(nn.Module):
    """The detector. Use `build_detector`.

    Which statistics batch norms use follows the module's mode in `losses`; everything that only looks (`regions`,
    `predict`, `proposals`) runs in evaluation mode and without gradients, and leaves the mode as it was.

    Attributes:
        head: the open-world parts.
        predictor: logits and box deltas of a region; it grows with the classes.
        report: where the backbone's weights come from.
    """

    def __init__(self, settings: NetworkSettings, head: OpenWorldHead, *, seed: int) -> None:
        super().__init__()
        if head.dim != settings.representation:
            raise ConfigError(
                f"network.representation is {settings.representation}, but the open-world head was made for embeddings "
                f"of {head.dim}: make both alike"
            )
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
        """The losses of one batch; every process must call it with as many images.

        Args:
            images: with values in [0, 1], not normalised.
            targets: one an image, in pixels of the images given.
            step: of the run or stage; together with the targets' keys it determines all sampling.
            progress: share of the stage that is done, 0 to 1.
            previous: boxes of each image that the previous task's model calls known, in pixels of the images given.

        Raises:
            ValueError: an image that is none (see `ImageTransform`), or not one target an image.
        """
        batch = self.transform(images)
        there = batch.targets(targets)
        if previous is not None:
            previous = [batch.to_network(boxes.to(batch.tensors), i) for i, boxes in enumerate(previous)]
        maps = self.network(batch.tensors)
        scores = self.proposer(list(maps.values()))
        losses = self.proposer.losses(scores, batch, there, step=step)

        proposals = self.proposer.propose(
            scores, batch, self.settings.proposals_train, before=self.settings.proposals_train
        )
        boxes, objectness = [p.boxes for p in proposals], [p.objectness for p in proposals]
        samples = self.head.label(boxes, objectness, there, step=step, progress=progress, previous=previous)
        features = self._embed(maps, [sample.boxes for sample in samples])
        labels = torch.cat([sample.labels for sample in samples])
        with torch.autocast(features.device.type, enabled=False):
            logits, deltas = self.predictor(features)
            losses |= self.head.losses(features, logits, labels)
            losses["boxes"] = box_loss(
                deltas,
                torch.cat([sample.boxes for sample in samples]),
                torch.cat([sample.matched for sample in samples]),
                labels,
                torch.cat([sample.regress for sample in samples]),
            )
        scales = [batch.scale(i) for i in range(len(samples))]
        return StepOutput(losses, (features.detach(), labels), samples, scales)

    def grow(self, names: Sequence[str]) -> None:
        """Room for new classes; old weights are kept. Make the optimiser after it: layers have new parameters."""
        self.head.grow(names)
        self.predictor.grow(len(names))

    # --- inference -------------------------------------------------------------------------------------------------

    def predict(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Detections]:
        """What is found in each image, in its own pixels; nothing for no image.

        Raises:
            ValueError: an image that is none, see `ImageTransform`.
        """
        if not len(images):
            return []
        regions, batch = self._regions(images)
        found = self.head.decide(regions)
        for i, detections in enumerate(found):
            detections.boxes = batch.to_original(detections.boxes, i)
        return [detections[_have_area(detections.boxes)] for detections in found]

    def regions(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Regions]:
        """What the network says of the proposals of each image, undecided, in the network's pixels (see `scales`).

        Raises:
            ValueError: an image that is none, see `ImageTransform`.
        """
        return self._regions(images)[0] if len(images) else []

    def proposals(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Proposals]:
        """Proposals of each image by falling objectness, in its own pixels: the first stage alone."""
        if not len(images):
            return []
        with _looking(self):
            batch = self.transform(images)
            scores = self.proposer(list(self.network(batch.tensors).values()))
            found = self.proposer.propose(scores, batch, self.settings.proposals_test)
        return [Proposals(batch.to_original(p.boxes, i), p.objectness) for i, p in enumerate(found)]

    def scales(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[tuple[float, float]]:
        """Pixels of the network's image in one of the image given, across and down, of each image."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return [(w_to / w, h_to / h) for (h, w), (h_to, w_to) in zip(sizes, map(self.transform.resized, sizes))]

    def _regions(self, images: Sequence[Tensor]) -> tuple[list[Regions], ImageBatch]:
        with _looking(self):
            batch = self.transform(images)
            maps = self.network(batch.tensors)
            scores = self.proposer(list(maps.values()))
            proposals = self.proposer.propose(scores, batch, self.settings.proposals_test)
            features = self._embed(maps, [p.boxes for p in proposals])
            with torch.autocast(features.device.type, enabled=False):
                logits, deltas = self.predictor(features)
            moved = decode(deltas, torch.cat([p.boxes for p in proposals]))
        counts = [len(p.boxes) for p in proposals]
        rows = zip(proposals, moved.split(counts), logits.split(counts), features.split(counts), batch.sizes)
        return [Regions(p.boxes, p.objectness, clipped(b, *size), x, f) for p, b, x, f, size in rows], batch

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


def _have_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


@contextmanager
def _looking(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and afterwards the mode that was, also where parts had different ones."""
    before = [part for part in module.modules() if part.training]
    for part in before:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in before:
            part.training = True
