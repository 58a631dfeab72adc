"""Fitting the decision between known and unknown on validation images, by default without a label of a future class."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations import AnnotationSet, LabeledSet
from detection.data.views import test_view, val_view
from detection.openworld.boxes import highest_iou
from detection.openworld.energy_fit import FitReport
from detection.openworld.head import OpenWorldHead
from detection.openworld.sampling import OBJECT_IOU
from detection.openworld.settings import DecisionSettings, UnknownSettings
from detection.openworld.unknown_labeler import UnknownLabeler
from detection.structures import FIRST_KNOWN, UNKNOWN, Regions
from detection.tasks import TaskSet
from detection.training.inference import image_batches
from detection.training.prior import Choice, Undecided, choose_prior, is_looked_at, undecided
from detection.training.processes import agreed
from sslcore.distributed import rank

SOURCES = {
    "known": "auto-labelled proposals on validation images; no label of a future class was used",
    "oracle": "labels of future classes on validation images: ORE's leak, for comparison only",
}
_SHOWN = 2000  # values of each kind that are kept for plots
_THINNED = 4  # of the fitted curves' points, every so many


@dataclass
class Evidence:
    """What the decision is fitted on: one number a region, larger for what looks less like a known class.

    Attributes:
        known: of regions on known objects.
        unknown: of regions taken for unknown objects.
        images: what the prior is chosen on; empty where the settings give it.
    """

    known: list[float] = field(default_factory=list)
    unknown: list[float] = field(default_factory=list)
    images: list[Undecided] = field(default_factory=list)

    def __iadd__(self, other: "Evidence") -> "Evidence":
        """This and more of it."""
        self.known += other.known
        self.unknown += other.unknown
        self.images += other.images
        return self


@torch.no_grad()
def collect_evidence(
    engine: Any,
    val: LabeledSet,
    numbers: Any,
    *,
    unknowns: UnknownSettings,
    oracle: bool,
    **reading: Any,
) -> Evidence:
    """Looks at validation images for regions on known and on unknown objects.

    A region is on an object if its proposal overlaps it by an IoU of at least 0.5. What counts as unknown objects are
    the proposals that the labeler chooses, as in training: those of highest objectness far from any known box; with
    `oracle` the boxes that are labelled unknown.

    Args:
        engine: the detector.
        val: the val view; for the oracle the test view of the same images.
        numbers: which images.
        unknowns: how proposals are chosen; at least one an image is, also where training labels none.
        oracle: whether labels of unknown objects are used.
        reading: see `image_batches`.
    """
    labeler = None if oracle else labeler_of(unknowns)
    found = Evidence()
    for job, images in image_batches(val.annotations, numbers, **reading):
        for number, regions, scale in zip(job, engine.regions(images), engine.scales(images), strict=True):
            found += evidence_of(engine.head, regions, val, number, scale=scale, labeler=labeler)
    return found


def labeler_of(unknowns: UnknownSettings) -> UnknownLabeler:
    """Chooses at least one unknown object an image, as training would."""
    return UnknownLabeler(max(1, unknowns.per_image), guard=unknowns.guard, min_side=unknowns.min_side)


@torch.no_grad()
def evidence_of(
    head: OpenWorldHead,
    regions: Regions,
    val: LabeledSet,
    number: int,
    *,
    scale: tuple[float, float],
    labeler: UnknownLabeler | None,
) -> Evidence:
    """The evidence in one image, see `collect_evidence`.

    Args:
        head: says what the evidence of a region is.
        regions: of the image.
        val: labels of the set that it is in.
        number: its number there.
        scale: pixels of the network's image in one of the image, across and down.
        labeler: chooses the unknown objects; None: they are the boxes labelled unknown.
    """
    rows = val.of_image(number)
    labels, ignore = torch.from_numpy(val.labels[rows]), torch.from_numpy(val.ignore[rows])
    boxes = torch.from_numpy(val.boxes[rows]).float() * torch.tensor([*scale, *scale])
    boxes = boxes.to(regions.proposals)
    is_known = (labels >= FIRST_KNOWN) & ~ignore
    if labeler is None:
        objects = boxes[(labels == UNKNOWN) & ~ignore]
    else:
        objects = regions.proposals[labeler.choose(regions.proposals, regions.objectness, boxes)]
    on_known, on_unknown = _overlaps(regions, boxes[is_known]), _overlaps(regions, objects)
    evidence = head.scorer.evidence(regions.logits[:, : FIRST_KNOWN + len(head.known)])
    chosen_on = head.decision.prior is None and is_looked_at(number, len(val))
    images = [undecided(head, regions, number, scale)] if chosen_on else []
    return Evidence(evidence[on_known].tolist(), evidence[on_unknown & ~on_known].tolist(), images)


def _overlaps(regions: Regions, boxes: Tensor) -> Tensor:
    """(p,) which proposals lie on one of the boxes."""
    return highest_iou(regions.proposals, boxes) >= OBJECT_IOU


def fit(
    engine: Any,
    evidence: Evidence,
    settings: DecisionSettings,
    val: LabeledSet | None,
    *,
    together: bool = False,
) -> dict[str, Any]:
    """Fits the decision of the engine's head, and says what came of it.

    Args:
        engine: the detector; its state changes.
        evidence: of all validation images.
        settings: `fit` is "known", "oracle" or "none", which leaves the classifier to decide.
        val: labels of the images that the evidence comes from; not needed for "none" or a given prior.
        together: every process calls this with the evidence of all of them, and the first one chooses the prior for
            all; else each process that calls it does for itself, and waits for no other.

    Returns:
        Plain values for JSON: what was fitted, the prior and what it costs, the sentences about it, and curves and
        samples for plots.
    """
    scorer = engine.head.scorer
    if settings.fit == "none":
        scorer.forget()
        return {"fit": "none", "status": engine.head.status(), "sentences": []}
    known, unknown = (torch.tensor(values, dtype=torch.float64) for values in (evidence.known, evidence.unknown))
    report: FitReport = scorer.fit(known, unknown, source=SOURCES[settings.fit])
    choice: Choice | None = None
    if settings.prior is not None:
        scorer.prior = settings.prior
    elif scorer.fitted and val is not None and evidence.images:
        choice = _choice(engine.head, evidence.images, val, together=together)
        scorer.prior = choice.prior
    summary = report.to_dict()
    return {
        "fit": settings.fit,
        "status": engine.head.status(),
        **summary,
        "prior": scorer.prior if scorer.fitted else None,
        "cost": vars(choice) if choice else None,
        "sentences": [*summary["sentences"], *_sentences(choice, settings)],
        "curves": _curves(report),
        "samples": {"known": _some(evidence.known), "unknown": _some(evidence.unknown)},
    }


def _choice(head: OpenWorldHead, images: list[Undecided], val: LabeledSet, *, together: bool) -> Choice:
    if not together:
        return choose_prior(head, images, val)
    choice: Choice = agreed(choose_prior(head, images, val) if rank() == 0 else None)
    return choice


def _sentences(choice: Choice | None, settings: DecisionSettings) -> list[str]:
    """What a person should know of the prior that was chosen."""
    if choice is None:
        return []
    if choice.map_without is None or choice.map_with is None:
        return [
            f"the {choice.images} validation images show no known object to choose a prior on: it is {choice.prior:.2g}"
        ]
    lost = choice.map_without - choice.map_with
    if lost > settings.cost:
        return [
            f"even with the lowest prior, {choice.prior:.2g}, calling regions unknown costs known classes {lost:.3f} "
            f"of mAP on validation images, more than the {settings.cost:.3g} that decision.cost allows"
        ]
    return []


def fit_decision(engine: Any, annotations: AnnotationSet, tasks: TaskSet, task: int, **reading: Any) -> dict[str, Any]:
    """`collect_evidence` on all images of a set and `fit`, by the settings that the engine's head was made with.

    Of several processes one suffices: it looks at all images, and waits for no other.

    Args:
        engine: the detector; its state changes.
        annotations: validation images, completely annotated; what is looked at of it depends on `DecisionSettings.fit`.
        tasks, task: the label space.
        reading: see `image_batches`; by default eight images at a time, on the engine's device.

    Returns:
        See `fit`.
    """
    settings = engine.head.decision
    oracle = settings.fit == "oracle"
    evidence, val = Evidence(), None
    if settings.fit != "none":
        val = (test_view if oracle else val_view)(annotations, tasks, task)
        reading = {"batch_size": 8, "device": next(engine.parameters()).device, **reading}
        numbers = range(len(val))
        evidence = collect_evidence(engine, val, numbers, unknowns=engine.head.unknowns, oracle=oracle, **reading)
    return fit(engine, evidence, settings, val)


def _curves(report: FitReport) -> dict[str, list[float] | None]:
    names = ("energies", "known_density", "unknown_density", "log_ratio")
    values = {name: getattr(report, name) for name in names}
    return {name: None if value is None else value[::_THINNED].tolist() for name, value in values.items()}


def _some(values: list[float]) -> list[float]:
    """At most so many finite values, evenly spread over the sorted ones: their distribution stays what it is."""
    array = np.sort(np.asarray(values, dtype=np.float64))
    array = array[np.isfinite(array)]
    if len(array) > _SHOWN:
        array = array[np.linspace(0, len(array) - 1, _SHOWN).round().astype(np.int64)]
    return array.tolist()
