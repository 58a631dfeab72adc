"""The second stage of a detector from region features on: what every engine does with them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detection.openworld.boxes import box_loss, clipped, decode
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.sampling import RegionSample
from detection.structures import Regions


def region_losses(
    head: OpenWorldHead,
    predictor: RegionPredictor,
    features: Float[Tensor, "n d"],
    samples: Sequence[RegionSample],
) -> tuple[dict[str, Tensor], tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]]:
    """Losses of the sampled regions of all images of this process, in float32 whatever surrounds it.

    Args:
        head, predictor: of the detector.
        features: embeddings of the samples' regions, image after image.
        samples: from `OpenWorldHead.label`, at least one.

    Returns:
        "classification", "clustering" and "boxes", whose means over processes are those of the whole batch; and what
        `OpenWorldHead.remember` is to get after the optimiser's step: detached features and labels.
    """
    boxes, labels, matched, regress = (
        torch.cat([getattr(sample, name) for sample in samples]) for name in ("boxes", "labels", "matched", "regress")
    )
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        logits, deltas = predictor(features)
        losses = head.losses(features, logits, labels)
        losses["boxes"] = box_loss(deltas, boxes, matched, labels, regress)
    return losses, (features.detach(), labels)


def regions_of(
    predictor: RegionPredictor,
    features: Float[Tensor, "n d"],
    proposals: Sequence[Float[Tensor, "p 4"]],
    objectness: Sequence[Float[Tensor, " p"]],
    sizes: Sequence[tuple[int, int]],
) -> list[Regions]:
    """What the network says of the proposals of each image, undecided.

    Args:
        predictor: of the detector.
        features: embeddings of the proposals, image after image.
        proposals: of each image, in the network's pixels.
        objectness: logits of each image's proposals.
        sizes: height and width of each image without padding; boxes are cut there.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        logits, deltas = predictor(features)
    moved = decode(deltas, torch.cat(list(proposals)))
    counts = [len(boxes) for boxes in proposals]
    rows = zip(proposals, objectness, moved.split(counts), logits.split(counts), features.split(counts), sizes)
    return [Regions(p, o, clipped(b, *size), x, f) for p, o, b, x, f, size in rows]
