"""Detectors and batches small enough to train in a test."""

import torch

from detection.engines.settings import NetworkSettings
from detection.engines.torchvision import OpenWorldFasterRCNN, build_detector
from detection.openworld.head import OpenWorldHead
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.structures import FIRST_KNOWN, Target

CLASSES = ("circle", "square", "star")


def small_detector(
    *, known=CLASSES, network=None, unknowns=None, clustering=None, decision=None, regions=32, seed=0, load_weights=True
) -> OpenWorldFasterRCNN:
    """The tiny network on images of 64 pixels; settings given replace single ones."""
    settings = NetworkSettings(
        **{
            "name": "tiny", "width": 8, "pyramid": 16, "representation": 32, "min_size": 64, "max_size": 96,
            "anchors": [12, 24, 48], "proposals_train": 50, "proposals_test": 30, **(network or {}),
        }
    )  # fmt: skip
    head = OpenWorldHead(
        known,
        settings.representation,
        unknowns=UnknownSettings(**{"start": 0.0, "min_side": 4.0, **(unknowns or {})}),
        clustering=ClusteringSettings(**{"start": 0.0, "refresh": 1, **(clustering or {})}),
        decision=DecisionSettings(**{"fit": "none", **(decision or {})}),
        regions=regions,
        positive=0.25,
        seed=seed,
    )
    return build_detector(settings, head, seed=seed, load_weights=load_weights)


def small_batch(count=4, *, height=64, width=64, boxes=2, seed=0) -> tuple[list[torch.Tensor], list[Target]]:
    """Images with a bright coloured box for each labelled object."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for key in range(count):
        image = 0.2 * torch.rand(3, height, width, generator=generator)
        corner = torch.rand(boxes, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6])
        side = torch.tensor([width, height]) * (0.2 + 0.2 * torch.rand(boxes, 2, generator=generator))
        ltrb = torch.cat([corner, corner + side], dim=1).round()
        labels = FIRST_KNOWN + torch.randint(len(CLASSES), (boxes,), generator=generator)
        for (x1, y1, x2, y2), label in zip(ltrb.int().tolist(), labels.tolist()):
            image[label - FIRST_KNOWN, y1:y2, x1:x2] = 1.0
        images.append(image)
        targets.append(Target(ltrb, labels, torch.zeros(boxes, dtype=torch.bool), key=100 + key))
    return images, targets
