"""Everything an open-world detector is judged by, in one dict of plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detection.evaluation.arrays import DetectionArrays, GroundTruth
from detection.evaluation.average_precision import harmonic
from detection.evaluation.cleaning import as_given, cleaned, refuse_bad_boxes
from detection.evaluation.coco_ap import coco_metrics
from detection.evaluation.comparison import Comparison, compare
from detection.evaluation.ore import ore_metrics
from detection.evaluation.separation import distraction_metrics, separation_metrics
from detection.evaluation.strict import strict_metrics
from sslcore.errors import ConfigError

if TYPE_CHECKING:
    from detection.tasks import TaskSet

Mode = Literal["strict", "ore"]
MODES = ("strict", "ore")
MANY = 100_000
"""With more detections pycocotools takes longer than everything else together, and runs only when asked."""


@dataclass(frozen=True)
class OpenWorldEvaluator:
    """Judges detections in one test set after any task; `evaluate` explains the arguments.

    evaluator = OpenWorldEvaluator(GroundTruth.from_coco("test.json"), TaskSet.from_file("tasks.yaml"))
    result = evaluator(DetectionArrays.from_results("detections.json"), task=2)
    """

    ground_truth: GroundTruth
    tasks: "TaskSet"
    mode: Mode = "strict"
    score_floor: float | None = None
    per_image: int | None = None
    image_list: Sequence[int | str] | None = None
    detections_once_per_image: bool = False
    ground_truth_boxes_as_coco_script: bool = False
    coco: bool | None = None

    def __call__(self, detections: DetectionArrays, task: int) -> dict[str, Any]:
        """The metrics after `task`, see `evaluate`."""
        variants = {
            "detections_once_per_image": self.detections_once_per_image,
            "ground_truth_boxes_as_coco_script": self.ground_truth_boxes_as_coco_script,
        }
        if self.mode not in MODES:
            raise ConfigError(f"mode must be strict or ore, not '{self.mode}'.")
        if self.mode == "strict" and any(variants.values()):
            name = next(name for name, given in variants.items() if given)
            raise ConfigError(f"{name} is a variant of mode ore; choose that mode.")
        truth, mended = cleaned(self.ground_truth) if self.mode == "strict" else as_given(self.ground_truth)
        refuse_bad_boxes(truth)
        comparison = compare(
            truth,
            detections,
            self.tasks,
            task,
            score_floor=self.score_floor,
            per_image=self.per_image,
            image_list=self.image_list,
        )
        found = strict_metrics(comparison) if self.mode == "strict" else ore_metrics(comparison, **variants)
        coco = self.mode == "strict" and (len(comparison.found) <= MANY if self.coco is None else self.coco)
        return {
            "mode": self.mode,
            "tasks": self.tasks.name,
            "task": task,
            "score_floor": self.score_floor,
            "per_image": self.per_image,
            "images": comparison.images,
            "image_lines": len(comparison.lines),
            "detections": len(comparison.found),
            "left_out": dict(comparison.left_out),
            **mended,
            **_told(comparison),
            **(variants if self.mode == "ore" else {}),
            **found,
            "h_score": harmonic(found["map_both"], found["u_recall"]),
            **(coco_metrics(comparison) if coco else _NO_COCO),
            **separation_metrics(comparison),
            **distraction_metrics(comparison),
        }


def _told(comparison: Comparison) -> dict[str, Any]:
    """What tells detections that are not those of this test set or task, or lack the weaker ones."""
    found, known = comparison.found, comparison.known
    later = np.unique(found.label[(found.label >= known) & (found.label < comparison.unknown)])
    return {
        "lowest_score": float(found.scores.min()) if len(found) else None,
        "images_without_detections": comparison.images - len(np.unique(found.image)),
        "later_classes": [comparison.names[label] for label in later.tolist()],
    }


_NO_COCO = dict.fromkeys(
    ("coco_ap_previous", "coco_ap_current", "coco_ap_both", "coco_ap_unknown", "coco_ap_per_class")
)


def evaluate(
    ground_truth: GroundTruth,
    detections: DetectionArrays,
    tasks: "TaskSet",
    task: int,
    *,
    mode: Mode = "strict",
    score_floor: float | None = None,
    per_image: int | None = None,
    image_list: Sequence[int | str] | None = None,
    detections_once_per_image: bool = False,
    ground_truth_boxes_as_coco_script: bool = False,
    coco: bool | None = None,
) -> dict[str, Any]:
    """Metrics of a detector that has learnt the tasks up to `task`. Fractions; None for what is undefined.

    Args:
        ground_truth: all objects of the test set; what no task up to `task` has brought is an unknown object. `strict`
            clips boxes to their images, if their sizes are known, and ignores those without area or outside; `ore`
            takes them as they are.
        detections: of the model after that task.
        task: from 1.
        mode: `strict`, see `detection.evaluation.strict`, or `ore`, see `detection.evaluation.ore`, for the meaning of
            each key. Both have the same keys, but `ap50_mean_over_all_names` and the two variants are those of `ore`,
            and COCO's AP and A-OSE at a recall are None there.
        score_floor: leave out detections below this score, before anything else.
        per_image: then keep so many of each image, the best of all labels. The result states both.
        image_list: file names, with or without folder and suffix, or ids. `strict` takes each image once, `ore` as
            often as it is listed.
        detections_once_per_image, ground_truth_boxes_as_coco_script: variants of `ore`, see `ore_metrics`.
        coco: COCO's AP by pycocotools (`strict` only); by default up to 100 000 detections, because it is slow.

    Returns:
        Plain numbers under names, ready for JSON. Besides the metrics of the mode: `h_score`, the harmonic mean of
        `map_both` and `u_recall`; those of `separation_metrics` and `distraction_metrics`; `boxes_clipped` and
        `boxes_ignored`, how many of the boxes in `ground_truth` were (none where it was cleaned before); `left_out`,
        how many detections the arguments left out; of those that stay, `lowest_score`, `images_without_detections`, and
        `later_classes`, which tasks after this one bring.

    Raises:
        ConfigError: there is no such task or mode, or an argument is out of range.
        DataError: detections, image list and annotations do not belong together, or a box that counts is none.
    """
    evaluator = OpenWorldEvaluator(
        ground_truth,
        tasks,
        mode,
        score_floor,
        per_image,
        image_list,
        detections_once_per_image,
        ground_truth_boxes_as_coco_script,
        coco,
    )
    return evaluator(detections, task)
