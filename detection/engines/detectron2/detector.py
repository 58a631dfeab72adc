"""A Faster R-CNN of detectron2 as Surnia's training, inference and discovery ask for one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage, has_event_storage
from jaxtyping import Float
from torch import Tensor, nn

from detection.engines.backbone_weights import BackboneReport
from detection.engines.detectron2.config import config_of
from detection.engines.detectron2.heads import OpenWorldROIHeads
from detection.engines.detectron2.labels import to_classes
from detection.engines.detectron2.weights import load_weights_of
from detection.engines.engine import OpenWorldEngine, StepOutput, check_width, looking
from detection.engines.images import ImageBatch, ImageTransform
from detection.engines.settings import NetworkSettings
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.structures import Regions, Target
from sslcore.errors import ConfigError


def build_detector(
    network: NetworkSettings, head: OpenWorldHead, *, seed: int, load_weights: bool = True
) -> "OpenWorldRCNN":
    """A detector with its initial weights; the global random state is left alone.

    Args:
        network: the detector without its open-world parts.
        head: these parts; it knows the classes.
        seed: of initial weights.
        load_weights: fill the backbone from `network.weights`; not wanted where a checkpoint will bring all weights.

    Raises:
        ConfigError: settings that do not fit each other.
        CheckpointError: the backbone's weights cannot be used.
    """
    check_width(network, head)
    cfg = config_of(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        proposer = build_proposal_generator(cfg, shapes)
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = head.regions
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, shapes, head=head)
    model = GeneralizedRCNN(
        backbone=backbone, proposal_generator=proposer, roi_heads=heads,
        pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD, input_format=cfg.INPUT.FORMAT,
    )  # fmt: skip
    report = load_weights_of(model, network if load_weights else network.model_copy(update={"weights": None}))
    return OpenWorldRCNN(model, min_size=network.min_size, max_size=network.max_size, report=report)


class OpenWorldRCNN(OpenWorldEngine):
    """A `GeneralizedRCNN` with open-world heads, whoever built it. See `build_detector` for one from a recipe.

    Anchors are sampled by detectron2, from torch's own generator, and the losses on them are means of each process;
    regions are sampled, and their losses normalised, as with the other engine.

    Args:
        model: the network, open-world heads included.
        min_size, max_size: of its images, see `ImageTransform`.
        report: where the backbone's weights come from; its mean and deviation are the images'.

    Attributes:
        model: it.
    """

    def __init__(self, model: GeneralizedRCNN, *, min_size: int, max_size: int, report: BackboneReport) -> None:
        super().__init__()
        if not isinstance(model.roi_heads, OpenWorldROIHeads):
            raise ConfigError(
                f"the model has {type(model.roi_heads).__name__}, which know nothing unknown: set MODEL.ROI_HEADS.NAME "
                "to OpenWorldStandardROIHeads or OpenWorldRes5ROIHeads"
            )
        self.model = model
        self.report = report
        self.transform = ImageTransform(
            min_size=min_size,
            max_size=max_size,
            divisible=max(1, model.backbone.size_divisibility),
            mean=report.mean,
            std=report.std,
        )

    @classmethod
    def around(cls, model: nn.Module, *, min_size: int, max_size: int) -> "OpenWorldRCNN":
        """A model that was built and loaded elsewhere, with its own mean and deviation of pixels. Where several
        processes train, the model that their trainer has wrapped."""
        inner: GeneralizedRCNN = getattr(model, "module", model)
        values = [(getattr(inner, name).flatten() / 255).tolist() for name in ("pixel_mean", "pixel_std")]
        mean, std = (tuple(v[::-1] if inner.input_format == "BGR" else v) for v in values)
        report = BackboneReport(
            "weights from elsewhere", (), (), (), "not known", "they were given as they are", mean, std
        )
        return cls(inner, min_size=min_size, max_size=max_size, report=report).to(inner.device)

    @property
    def heads(self) -> OpenWorldROIHeads:
        """The region heads."""
        return self.model.roi_heads

    # Attributes of other engines; here the model holds both already, and a second time they would stand twice in a
    # checkpoint.

    @property
    def head(self) -> OpenWorldHead:  # type: ignore[override]
        """The open-world parts, which the region heads hold."""
        return self.heads.head

    @property
    def predictor(self) -> RegionPredictor:  # type: ignore[override]
        """Logits and box deltas of a region."""
        return self.heads.box_predictor

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
        features, listed = self._features(batch)
        with _storage(step):
            truth = [self._instances(target, size) for target, size in zip(there, batch.sizes)]
            proposals, of_anchors = self.model.proposal_generator(listed, features, truth)
        samples, of_regions, to_remember = self.heads.learn(
            features, proposals, there, step=step, progress=progress, previous=batch.boxes(previous)
        )
        losses = {"objectness": of_anchors["loss_rpn_cls"], "proposal_boxes": of_anchors["loss_rpn_loc"], **of_regions}
        return StepOutput(losses, to_remember, samples, [batch.scale(i) for i in range(len(samples))])

    def look(self, images: Sequence[Float[Tensor, "3 h w"]]) -> tuple[list[Regions], ImageBatch]:
        with looking(self):
            batch = self.transform(images)
            features, listed = self._features(batch)
            proposals, _ = self.model.proposal_generator(listed, features, None)
            return self.heads.regions(features, proposals), batch

    def _features(self, batch: ImageBatch) -> tuple[dict[str, Tensor], ImageList]:
        pixels = batch.tensors.flip(1) if self.model.input_format == "BGR" else batch.tensors
        return self.model.backbone(pixels), ImageList(pixels, batch.sizes)

    def _instances(self, target: Target, size: tuple[int, int]) -> Instances:
        """What the proposal network is taught; ignored boxes are left out, as detectron2 does with crowds."""
        rows = ~target.ignore
        classes = to_classes(target.labels[rows], len(self.head.known))
        return Instances(size, gt_boxes=Boxes(target.boxes[rows]), gt_classes=classes)


@contextmanager
def _storage(step: int) -> Iterator[None]:
    """detectron2's proposal network writes down how many anchors it took; where nobody collects that, nowhere."""
    if has_event_storage():
        yield
        return
    with EventStorage(step):
        yield
