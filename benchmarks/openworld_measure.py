"""What `openworld.py` measures of a trained detector: many decisions on regions that were looked at once.

The simple baselines read the regions of the plain fine-tuned detector. Their threshold t, below which a known detection
is not taken for one, is where known detections reach their best F1 on validation images; a second max-softmax baseline
takes the highest t that costs at most as much of mAP there as ours may. Neither needs a label of a future class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openworld_rows import Baseline
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from detection.data.annotations import AnnotationSet
from detection.data.openworld import OpenWorldData
from detection.data.results import category_ids, results_of
from detection.data.views import test_view, train_view, val_view
from detection.engines.torchvision import OpenWorldFasterRCNN
from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.evaluation.calibration import posterior_calibration
from detection.evaluation.comparison import compare
from detection.evaluation.strict import judge
from detection.openworld.decision import Verdicts, detections_of
from detection.openworld.energy_scorer import EnergyScorer
from detection.openworld.settings import DecisionSettings
from detection.structures import BACKGROUND, FIRST_KNOWN, UNKNOWN, Detections, Regions
from detection.training import fitting
from detection.training.inference import image_batches
from detection.training.layout import Layout, read_json
from detection.training.model import restore_engine
from detection.training.recipe import DetectionRecipe
from sslcore.training.machine import device_here

TOP = 10
"""Unknown detections an image that every row may have."""
KEPT = (
    "map_previous", "map_current", "map_both", "u_recall", "u_recall_10", "u_ap", "u_f1", "u_precision", "h_score",
    "wi", "wi_classes", "a_ose", "a_ose_objects", "a_ose_at_recall", "a_ose_objects_at_recall", "auroc_energy",
    "auroc_posterior", "auroc_score", "unknown_per_image", "distractor_recall", "distractor_recall_10",
    "ap_per_class", "known_objects", "num_unknown_gt", "images", "mode", "task", "score_floor", "per_image",
)  # fmt: skip
"""Of the evaluation, in results."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a network says of a set's images: regions on the CPU without features, and how its pixels are scaled."""

    annotations: AnnotationSet
    regions: list[Regions]
    scales: list[tuple[float, float]]


@torch.no_grad()
def look(engine: OpenWorldFasterRCNN, annotations: AnnotationSet, batch_size: int) -> Look:
    device = device_here()
    engine.to(device)
    seen, scales = list[Regions](), list[tuple[float, float]]()
    for _, images in image_batches(annotations, range(len(annotations.images)), batch_size=batch_size, device=device):
        for each in engine.regions(images):
            parts = (each.proposals, each.objectness, each.boxes, each.logits, each.features[:, :0])
            seen.append(Regions(*(part.cpu() for part in parts)))
        scales += engine.scales(images)
    return Look(annotations, seen, scales)


class Trained:
    """A training after one of its tasks.

    Args:
        run: its directory.
        recipe: its own.
        data: of the benchmark.
        task: counts from 1.
    """

    def __init__(self, run: Path, recipe: DetectionRecipe, data: OpenWorldData, task: int) -> None:
        self.recipe, self.data, self.tasks, self.task = recipe, data, data.tasks, task
        self.layout = Layout(run, writes=False)
        model = self.layout.model(task)
        assert model is not None
        self.engine, _ = restore_engine(model, tasks=data.tasks)
        self.head = self.engine.head

    @cached_property
    def test(self) -> Look:
        return look(self.engine, self.data.test, self.recipe.batch_size)

    @cached_property
    def val(self) -> Look:
        return look(self.engine, self.data.val, self.recipe.batch_size)

    # --- decisions

    def decided(self, settings: DecisionSettings) -> tuple[list[Detections], dict[str, Any]]:
        """What is found in the test images by a decision fitted anew, and what was fitted."""
        self._fresh(settings)
        evidence, view = fitting.Evidence(), None
        if settings.fit != "none":
            oracle = settings.fit == "oracle"
            labeler = None if oracle else fitting.labeler_of(self.recipe.unknowns)
            view = (test_view if oracle else val_view)(self.data.val, self.tasks, self.task)
            for number, (regions, scale) in enumerate(zip(self.val.regions, self.val.scales, strict=True)):
                evidence += fitting.evidence_of(self.head, regions, view, number, scale=scale, labeler=labeler)
        summary = fitting.fit(self.engine, evidence, settings, view)
        return self.head.decide(self.test.regions), {k: v for k, v in summary.items() if k not in ("curves", "samples")}

    def _fresh(self, settings: DecisionSettings) -> None:
        self.engine.to("cpu")
        self.head.decision = settings
        self.head.scorer = EnergyScorer(score=settings.score, temperature=settings.temperature)

    # --- baselines

    def baseline(self, kind: Baseline, seed: int) -> tuple[list[Detections], dict[str, Any]]:
        """What is found in the test images where unknown objects are found in a simple way, and its threshold."""
        self._fresh(self.recipe.decision)
        if kind == "random":
            shapes = self._shapes()
            found = [
                _joined(known, _random_boxes(shapes, size, np.random.default_rng([seed, self.task, number])))
                for number, (known, size) in enumerate(zip(self._known(self.test), self._sizes()))
            ]
            return found, {}
        threshold = self.keeping_threshold if kind == "softmax_kept" else self.threshold
        if kind in ("softmax", "softmax_kept"):
            found = [self._by_softmax(image, threshold) for image in self.test.regions]
        else:
            pairs = zip(self.test.regions, self._known(self.test), strict=True)
            found = [_joined(known, self._free_proposals(image, known, threshold)) for image, known in pairs]
        return found, {"threshold": threshold}

    @cached_property
    def threshold(self) -> float:
        """The score from which on known detections have their best F1 on validation images."""
        found = as_coco(self.val, self._known(self.val), self.tasks, self.task)
        truth = GroundTruth.from_annotations(self.data.val)
        comparison = compare(truth, DetectionArrays.from_results(found), self.tasks, self.task)
        judged = judge(comparison)
        rows = np.flatnonzero((judged.found.label < comparison.known) & judged.counts)
        if not len(rows):
            return self.recipe.decision.score_floor
        objects = int(judged.objects[: comparison.known].sum())
        right = np.cumsum(judged.right[rows])
        f1 = 2 * right / (np.arange(1, len(rows) + 1) + objects)
        return float(judged.found.scores[rows[f1.argmax()]])

    @cached_property
    def keeping_threshold(self) -> float:
        """The highest threshold, in steps of .01, that costs at most `decision.cost` of mAP on validation images."""
        truth = GroundTruth.from_annotations(self.data.val)

        def quality(threshold: float) -> float:
            found = [self._by_softmax(image, threshold) for image in self.val.regions]
            records = DetectionArrays.from_results(as_coco(self.val, found, self.tasks, self.task))
            return evaluate(truth, records, self.tasks, self.task, coco=False)["map_both"] or 0.0

        needed = quality(0.0) - self.recipe.decision.cost
        low, high = 0, 100  # in hundredths; mAP falls as the threshold rises, as good as always
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if quality(middle / 100) >= needed else (low, middle)
        return low / 100

    def _known(self, there: Look) -> list[Detections]:
        """Every region taken for its likeliest known class."""
        return [self._by_softmax(image, 0.0) for image in there.regions]

    def _by_softmax(self, image: Regions, threshold: float) -> Detections:
        """A region whose likeliest known class is less probable than the threshold is an unknown object, and as surely
        an object as it is not background."""
        probabilities = image.logits.softmax(dim=1)
        best, which = probabilities[:, FIRST_KNOWN:].max(dim=1)
        unknown = best < threshold
        verdicts = Verdicts(
            torch.where(unknown, UNKNOWN, which + FIRST_KNOWN),
            torch.where(unknown, 1 - probabilities[:, BACKGROUND], best),
            torch.zeros_like(best),
        )
        return detections_of(image, verdicts, torch.zeros_like(best), self.recipe.decision)

    def _free_proposals(self, image: Regions, known: Detections, threshold: float) -> Detections:
        """Proposals by falling objectness that overlap neither a known detection nor each other."""
        iou = self.recipe.decision.nms
        sure = known.boxes[known.scores >= threshold]
        free = torch.ones(len(image.proposals), dtype=torch.bool)
        if len(sure) and len(image.proposals):
            free = box_iou(image.proposals, sure).amax(dim=1) <= iou
        boxes, scores = image.proposals[free], image.objectness[free].sigmoid()
        kept = nms(boxes, scores, iou)[:TOP]
        return _unknown(boxes[kept], scores[kept])

    def _shapes(self) -> np.ndarray:
        """(n, 2) width and height of everything labelled for the first task, as a share of its image."""
        view = train_view(self.data.train(1), self.tasks, 1)
        sides = view.boxes[:, 2:] - view.boxes[:, :2]
        return sides / np.array([[image.width, image.height] for image in view.images])[view.box_image]

    def _sizes(self) -> list[tuple[float, float]]:
        """Width and height of each test image in the network's pixels."""
        pairs = zip(self.data.test.images, self.test.scales, strict=True)
        return [(image.width * x, image.height * y) for image, (x, y) in pairs]


def _unknown(boxes: Tensor, scores: Tensor) -> Detections:
    none = torch.zeros(len(boxes))
    return Detections(boxes, torch.full((len(boxes),), UNKNOWN), scores, none, none, torch.zeros(len(boxes), 0))


def _random_boxes(shapes: np.ndarray, size: tuple[float, float], random: np.random.Generator) -> Detections:
    """Boxes as large as labelled objects are, anywhere, in random order."""
    sides = shapes[random.integers(len(shapes), size=TOP)] * size
    corners = random.random((TOP, 2)) * (np.array(size) - sides)
    boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=1)).float()
    return _unknown(boxes, torch.from_numpy(random.random(TOP)).float())


def _joined(a: Detections, b: Detections) -> Detections:
    names = ("boxes", "labels", "scores", "energies", "posteriors", "embeddings")
    return Detections(*(torch.cat([getattr(a, name), getattr(b, name)]) for name in names))


# --- figures ---------------------------------------------------------------------------------------------------------


def as_coco(there: Look, found: Sequence[Detections], tasks: Any, task: int) -> list[dict[str, Any]]:
    """COCO results of detections in the network's pixels."""
    of_label, records = category_ids(there.annotations, tasks, task), []
    for image, each, (x, y) in zip(there.annotations.images, found, there.scales, strict=True):
        boxes = clip_boxes_to_image(each.boxes / torch.tensor([x, y, x, y]), (image.height, image.width))
        area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        records += results_of(image.id, replace(each, boxes=boxes)[area], of_label)
    return records


def best_unknown(found: list[dict[str, Any]], unknown_id: int) -> list[dict[str, Any]]:
    """The same with each image's best unknown detections only; of equal ones the earlier."""
    unknown = sorted((r for r in found if r["category_id"] == unknown_id), key=lambda r: -r["score"])
    kept, of_image = list[dict[str, Any]](), dict[Any, int]()
    for record in unknown:
        of_image[record["image_id"]] = of_image.get(record["image_id"], 0) + 1
        if of_image[record["image_id"]] <= TOP:
            kept.append(record)
    return [r for r in found if r["category_id"] != unknown_id] + kept


def figures(trained: Trained, found: Sequence[Detections], *, by_posterior: bool) -> dict[str, Any]:
    """Everything about one task.

    Args:
        trained: the detector that `found` comes from.
        found: in the test images.
        by_posterior: whether known and unknown were told apart by the detections' posterior, else by the score.
    """
    data, tasks, task = trained.data, trained.tasks, trained.task
    truth = GroundTruth.from_annotations(data.test)
    records = as_coco(trained.test, found, tasks, task)
    if not by_posterior:
        records = [{k: v for k, v in r.items() if k not in ("energy", "unknown_posterior")} for r in records]
    arrays = DetectionArrays.from_results(best_unknown(records, tasks.unknown_id))
    measured = evaluate(truth, arrays, tasks, task, coco=False)
    uncapped = evaluate(truth, DetectionArrays.from_results(records), tasks, task, coco=False)
    calibrated = posterior_calibration(compare(truth, arrays, tasks, task)) if by_posterior else None
    return {
        **{name: measured[name] for name in KEPT},
        "auroc": measured["auroc_posterior" if by_posterior else "auroc_score"],
        "ece": calibrated.error if calibrated else None,
        "uncapped": {name: uncapped[name] for name in ("u_ap", "u_recall", "u_f1", "unknown_per_image", "h_score")},
        "u_recall_10_by_kind": _recall_by_kind(truth, arrays, data, task),
        **_of_training(trained),
    }


def _recall_by_kind(
    truth: GroundTruth, found: DetectionArrays, data: OpenWorldData, task: int
) -> dict[str, float | None]:
    """U-Recall@10 of later tasks' classes, of those that no task labels though training images show them, and of those
    that only the test has."""
    trained_on = {train.categories[k] for train in data.trains for k in np.unique(train.box_category)}
    never = set(truth.categories) - set(data.tasks.classes)
    kinds = {"later": set(data.tasks.future(task)), "far_seen": never & trained_on, "far_new": never - trained_on}
    unknown, measured = set().union(*kinds.values()), {}
    for kind, names in kinds.items():
        left_out = [k for k, name in enumerate(truth.categories) if name in unknown - names]
        rows = ~np.isin(truth.box_category, left_out)
        per_box = ("box_image", "boxes", "box_category", "crowd", "difficult")
        of_kind = replace(truth, **{name: getattr(truth, name)[rows] for name in per_box})
        measured[kind] = evaluate(of_kind, found, data.tasks, task, coco=False)["u_recall_10"]
    return measured


def _of_training(trained: Trained) -> dict[str, Any]:
    """What the run itself has measured: the rate, and what its pseudo-unknowns lie on."""
    task, recipe = trained.task, trained.recipe
    run = read_json(trained.layout.task(task, "results.json"))
    purity = (run["purity"] or {}).get("train") or {"chosen": {}, "random": {}, "times_random": None}
    steps = (recipe.first if task == 1 else recipe.later).steps
    return {
        "seconds_per_step": run["timing"]["train"] / steps if steps and run["timing"].get("train") else None,
        "purity": purity["chosen"].get("unknown"),
        "purity_random": purity["random"].get("unknown"),
        "purity_times_random": purity["times_random"],
        "pseudo_on_old": purity["chosen"].get("old") if task > 1 else None,
        "pseudo_on_distractors": purity["chosen"].get("distractor"),
    }
