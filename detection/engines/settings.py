"""The detector without its open-world parts. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from sslcore.settings import Count, Fraction, Positive, Settings


class NetworkSettings(Settings):
    """The detector without its open-world parts."""

    name: Literal["tiny", "resnet18_fpn", "resnet50_fpn", "resnet50_c4"] = "resnet50_fpn"
    """Backbone of the Faster R-CNN: with a feature pyramid, or (engine detectron2) without one, regions being pooled
    from its fourth stage and embedded by its fifth; tiny is torchvision's engine's only."""
    weights: str | None = None
    """The backbone's weights: a run of `surnia pretrain`, an exported file, torchvision:NAME=FILE, detectron2:FILE (of
    its model zoo; engine detectron2); null: random."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """Stem and first stages that are not trained: 0 none, 1 the stem, 2 the stem and C2, ..."""
    norm: Literal["batch", "frozen"] = "batch"
    """batch: learns from the images of all processes; frozen: keeps the statistics and scales it came with, for
    pretrained ResNets and small batches."""
    width: Count = 16
    """First-stage width of `tiny`."""
    pyramid: Count = 256
    """Channels of the feature pyramid."""
    representation: Count = 1024
    """Length of a region's embedding, d."""
    min_size: Count = 800
    """Shorter side that images are resized to."""
    max_size: Count = 1333
    """Longest allowed longer side."""
    anchors: list[Positive] = [32, 64, 128, 256, 512]
    """Side of the square anchors, one for each pyramid level, finest first, in pixels; without a pyramid all on the one
    level."""
    ratios: list[Positive] = [0.5, 1.0, 2.0]
    """Height over width of the anchors."""
    anchors_sampled: Count = 256
    """Anchors an image that the proposals' losses are taken on, at most half of them objects."""
    anchor_iou: tuple[Fraction, Fraction] = (0.3, 0.7)
    """Anchors that overlap a labelled box by less than the first are background, by at least the second objects."""
    proposals_train: Count = 2000
    """Proposals an image in training, after suppression."""
    proposals_test: Count = 1000
    """Proposals an image at inference, after suppression."""
    per_class_boxes: bool = False
    """Box deltas for each known class beside the class-agnostic ones."""
    compat: Literal["ore"] | None = None
    """ore: the classifier has outputs for every class of the task set from the start, those not introduced yet masked;
    null: it grows with the classes."""
