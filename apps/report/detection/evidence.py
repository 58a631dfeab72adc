"""What the decision goes by, on regions of test images. A run does not keep it: the saved detector looks again."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from apps.report.detection.run import DetectionRun
from detection.data.views import test_view
from detection.detector import OpenWorldDetector
from detection.openworld.sampling import OBJECT_IOU
from detection.structures import UNKNOWN, Regions
from detection.training.inference import image_batches
from sslcore.errors import SurniaError

IMAGES = 150
SECONDS = 6.0
KINDS = ("background", "known", "unknown", "distractor")


@dataclass(frozen=True)
class Evidence:
    """Values of the proposals of some test images, by what they lie on ("background": on nothing by an IoU of .5).

    Attributes:
        values: of each of `KINDS`.
        images: how many images were looked at.
    """

    values: dict[str, npt.NDArray[np.float64]]
    images: int


@torch.no_grad()
def look_again(
    run: DetectionRun, task: int, *, images: int = IMAGES, seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Evidence | None:  # fmt: skip
    """Looks at the test images again, spread evenly over the set, until the time is used up.

    Returns None if the detector or the images are gone; why is then among the run's problems.
    """
    if run.data is None:
        return None
    view = test_view(run.data.test, run.tasks, task)
    spread = np.unique(np.linspace(0, len(view) - 1, min(images, len(view))).round().astype(np.int64))
    order = np.random.default_rng(0).permutation(spread).tolist()  # whenever it stops, the set is covered evenly
    found: dict[str, list[npt.NDArray[np.float64]]] = {kind: [] for kind in KINDS}
    began, looked_at = clock(), 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decision that was not fitted is said elsewhere
            detector = OpenWorldDetector.load(run.path, task=task)
        engine = detector.engine
        for [number], pictures in image_batches(view.annotations, order, batch_size=1):
            (regions,), (scale,) = engine.regions(pictures), engine.scales(pictures)
            rows = view.of_image(number)
            boxes = torch.from_numpy(view.boxes[rows]).float() * torch.tensor([*scale, *scale])
            kinds = torch.from_numpy(np.where(view.labels[rows] == UNKNOWN, 2, 1))
            near = run.data.test.distractor_image == number
            pasted = torch.from_numpy(run.data.test.distractors[near]).float() * torch.tensor([*scale, *scale])
            of = _kinds(regions, torch.cat([boxes, pasted]), torch.cat([kinds, torch.full((len(pasted),), 3)]))
            values = engine.head.scorer.evidence(regions.logits).double().numpy()
            for number_of_kind, kind in enumerate(KINDS):
                found[kind].append(values[of == number_of_kind])
            looked_at += 1
            if clock() - began > seconds:
                break
    except SurniaError as error:
        run.problems.append(f"the detector after task {task} cannot look at the test images again: {error}")
        return None
    empty = np.zeros(0)
    return Evidence({kind: np.concatenate([empty, *parts]) for kind, parts in found.items()}, looked_at)


def _kinds(regions: Regions, boxes: torch.Tensor, kinds: torch.Tensor) -> npt.NDArray[np.int64]:
    """(p,) index into `KINDS` of what each proposal overlaps best."""
    if not len(boxes):
        return np.zeros(len(regions.proposals), dtype=np.int64)
    overlap, which = box_iou(regions.proposals, boxes).max(dim=1)
    return torch.where(overlap >= OBJECT_IOU, kinds[which], 0).numpy()
