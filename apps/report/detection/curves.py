"""Sections that need no image: losses, purity of pseudo-labels, precision and recall, calibration."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from apps.report.detection.figures import (
    FEW,
    KIND_COLOURS,
    KNOWN_COLOUR,
    UNKNOWN_COLOUR,
    Line,
    lines,
    reliability,
    stacked,
)
from apps.report.detection.run import DetectionRun
from apps.report.detection.tables import shown
from apps.report.figures import SOFT
from apps.report.page import Page
from detection.evaluation.calibration import posterior_calibration
from detection.evaluation.comparison import Comparison
from detection.evaluation.strict import judge

TERMS = {
    "loss": "All losses together.",
    "objectness": "Of proposals: object or not.",
    "proposal_boxes": "Of proposals: where exactly.",
    "classification": "Of regions: which class, unknown or background.",
    "boxes": "Of regions: where exactly.",
    "clustering": "Of regions: near the prototype of their class, far from others; 0 until it begins in each stage.",
}
GRID = np.linspace(0, 1, 101)
WINDOWS, FEWEST = 5, 4


# --- training --------------------------------------------------------------------------------------------------------


def write_losses(page: Page, run: DetectionRun) -> None:
    """Each loss over all stages."""
    trained = [line for line in run.metrics if "loss" in line and line.get("stage") in ("train", "finetune")]
    breaks = beginnings(trained)
    if len(trained) < 2:
        page.text("No loss curves: metrics.jsonl holds too few steps.")
        return
    figures = []
    for term, meaning in TERMS.items():
        xs, ys = by_stage(trained, term)
        if not any(value > 0 for value in ys):
            continue
        figure = lines([(term, xs, ys, KNOWN_COLOUR)], x="step", y=term.replace("_", " "), breaks=breaks)
        figures.append((figure, meaning))
    page.figures(*figures)
    page.text(
        "Dotted lines: where a stage begins, each with a learning rate schedule of its own. Losses of different tasks "
        "cannot be compared: a later task has more classes, and other images. A low loss is no evidence that unknown "
        "objects are found; the table above is."
    )
    if not any(line.get("clustering") for line in trained):
        page.text("There is no clustering loss: it was switched off, or it had not begun when training ended.")


def beginnings(trained: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    """The first step of each stage, with its name."""
    found: dict[tuple[int, str], int] = {}
    for line in trained:
        found.setdefault((line["task"], line["stage"]), line["step"])
    words = {"train": "train", "finetune": "fine-tune"}
    return [(step, f"{task} {words[stage]}") for (task, stage), step in found.items()]


def by_stage(logged: Sequence[dict[str, Any]], key: str, width: int = 1) -> tuple[list[float], list[float]]:
    """Steps and values over the stages, with a gap (NaN) between two; values are running means over `width` of them."""
    xs, ys = list[float](), list[float]()
    stages: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in logged:
        if line.get(key) is not None:
            stages.setdefault((line["task"], line["stage"]), []).append(line)
    for of_stage in stages.values():
        values = [line[key] for line in of_stage]
        means = [float(np.mean(values[max(0, i + 1 - width) : i + 1])) for i in range(len(values))]
        xs += [*(line["step"] for line in of_stage), of_stage[-1]["step"]]
        ys += [*means, math.nan]
    return xs, ys


# --- purity ----------------------------------------------------------------------------------------------------------


def write_purity(page: Page, run: DetectionRun) -> None:
    """What lay under the pseudo-unknowns, beside what lay under random proposals."""
    rows, sentences, unjudged = [], [], list[int]()
    for task in run.done:
        for stage, found in (task.get("purity") or {}).items():
            if not found:
                continue
            if not found["chosen"]["count"]:
                unjudged += [task["task"]] if stage == "train" else []
                continue
            where = f"task {task['task']}" + (", fine-tuning" if stage == "finetune" else "")
            rows += [(f"{where}: labelled unknown", _shares(found["chosen"]))]
            if found["random"]["count"]:
                rows += [(f"{where}: random proposals", _shares(found["random"]))]
            if stage == "train":
                times = f", {found['times_random']:.1f} times as often as random ones" if found["times_random"] else ""
                sentences.append(
                    f"In task {task['task']}, {found['chosen']['unknown']:.1%} of {found['chosen']['count']:,} "
                    f"pseudo-unknowns lay on an unlabelled unknown object{times}, and {found['chosen']['old']:.1%} on "
                    "a class of an earlier task."
                )
    if unjudged:
        page.text(
            f"What pseudo-unknowns of {', '.join(f'task {task}' for task in unjudged)} lay on is not known: there were "
            "none, or the annotation of these images has nothing in it that was unknown then."
        )
    if not rows:
        if not unjudged:
            page.text("No pseudo-labels were given: training labelled no region as unknown, or ended before it began.")
        return
    page.text(
        "In training the proposals of highest objectness that overlap no labelled object are taught as unknown. What "
        "they really lie on (IoU at least .5) is counted against the whole annotation, which training never sees, in "
        "images of those files where it shows unknown objects at all."
    )
    caption = (
        "Share of pseudo-unknowns, and of as many proposals drawn at random from the same ones, on unknown objects, on "
        "classes of earlier tasks, on the task's own, on distractors, and on none of these."
    )
    page.figures((stacked(rows), caption))
    page.text(" ".join(sentences))
    _purity_over_training(page, run)


def _shares(counted: dict[str, Any]) -> dict[str, float]:
    return {kind: counted[kind] or 0.0 for kind in KIND_COLOURS}


def _purity_over_training(page: Page, run: DetectionRun) -> None:
    names = {"purity": ("on unknown objects", UNKNOWN_COLOUR), "purity_of_random": ("random proposals", SOFT),
             "pseudo_on_old": ("on earlier classes", KIND_COLOURS["old"])}  # fmt: skip
    watched = [line for line in run.metrics if line.get("purity") is not None and "stage" in line]
    drawn: list[Line] = []
    for key, (name, drawn_in) in names.items():
        xs, ys = by_stage(watched, key, width=WINDOWS)
        if len(xs) > FEWEST:
            drawn.append((name, xs, ys, drawn_in))
    if not drawn:
        return
    figure = lines(drawn, x="step", y="share", breaks=beginnings(watched), size=(9.4, 2.9))
    page.figures(
        (figure, f"The same while training went on, as running means over {WINDOWS} windows of steps; they stay noisy.")
    )


# --- precision and recall, calibration -------------------------------------------------------------------------------


def write_precision_recall(page: Page, run: DetectionRun, task: int) -> None:
    """One curve for the known classes together, one for unknown."""
    compared = run.comparison(task)
    if compared is None:
        page.text("No precision-recall curves: the annotations or the detections are not there any more.")
        return
    strict = run.done[-1]["strict"] if run.last == task else next(t for t in run.done if t["task"] == task)["strict"]
    known, unknown = precision_curves(compared)
    drawn: list[Line] = []
    if known is not None:
        drawn.append((f"known classes, mAP {shown(strict['map_both'], 'share')}", GRID, known, KNOWN_COLOUR))
    if unknown is not None:
        drawn.append((f"unknown, AP {shown(strict['u_ap'], 'share')}", GRID, unknown, UNKNOWN_COLOUR))
    figures = []
    if drawn:
        caption = (
            "Precision at each recall at IoU .5, at its best from there on. Known: the mean over classes, 0 for "
            "those of which no more objects are found, whatever the score. Unknown: the curve ends there."
        )
        figures.append((lines(drawn, x="recall", y="precision", limits=(0, 1.05), size=(4.8, 3.6)), caption))
    found = posterior_calibration(compared)
    if found is not None and found.error is not None:
        caption = (
            f"Posterior of being unknown against what is true, on the {int(found.count.sum()):,} objects that were "
            f"found at all: expected calibration error {found.error:.3f}. On the dashed line it could be taken at its "
            f"word; hollow: bins of fewer than {FEW} objects. Background is left out: there the posterior has no "
            "meaning."
        )
        figures.append((reliability(found), caption))
    page.figures(*figures)
    if unknown is None:
        page.text("The test images show no unknown object after this task, so there is no curve for them.")
    if found is None:
        page.text("The detections carry no posterior, so its calibration cannot be told.")


def precision_curves(compared: Comparison) -> tuple[Any, Any]:
    """Interpolated precision on `GRID`: mean over the known classes that have objects, and of unknown; None without."""
    judged = judge(compared)
    by_label = {
        label: _precision(judged, label)
        for label in (*range(compared.known), compared.unknown)
        if judged.objects[label]
    }
    known = [by_label[label] for label in range(compared.known) if label in by_label]
    unknown = by_label.get(compared.unknown)
    if unknown is not None:
        unknown = np.where(unknown > 0, unknown, np.nan)  # the curve ends; of a mean of curves none can end
    return (np.mean(known, axis=0) if known else None), unknown


def _precision(judged: Any, label: int) -> Any:
    rows = np.flatnonzero((judged.found.label == label) & judged.counts)
    hits = np.cumsum(judged.right[rows])
    recall, precision = hits / judged.objects[label], hits / np.arange(1, len(rows) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, GRID - 1e-12)
    return np.where(place < len(rows), np.append(best, 0.0)[np.minimum(place, len(rows))], 0.0)
