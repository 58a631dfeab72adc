"""Test images after one task and after the next: what was unknown is known."""

from collections.abc import Sequence

import numpy as np

from apps.report.detection.run import DetectionRun
from apps.report.detection.scenes import caption, picture
from apps.report.detection.verdicts import Judgement, judge_images
from apps.report.page import Page

PAIRS = 3


def write_progress(page: Page, run: DetectionRun, task: int, *, pairs: int = PAIRS) -> None:
    """The same images before and after a task, drawn from those where its classes were flagged as unknown before."""
    before, after = judge_images(run, task - 1), judge_images(run, task)
    if before is None or after is None or run.data is None:
        page.text("No pictures: the test images or the detections in them are not there any more.")
        return
    new = set(run.tasks.current(task))
    flagged = [j.image for j in before if _flagged(j, new)]
    named = [image for image in flagged if _named(after[image], new)]
    page.text(
        f"In {len(flagged):,} of {len(before):,} test images the detector of task {task - 1} flagged an object as "
        f"unknown that belongs to a class of task {task}. In {len(named):,} of these the detector of task {task} then "
        "names an object of these classes rightly. Drawn by lot among the latter: the same image before and after."
    )
    if not named:
        page.text("There is none to show.")
        return
    lot = np.random.default_rng(run.results["seed"]).permutation(named)[:pairs].tolist()
    for image in lot:
        shown = []
        for at, found in ((task - 1, before), (task, after)):
            drawn = picture(run.data.test, found[image], run.tasks.label_names(at))
            shown.append((drawn, f"After task {at}. {caption(found[image])}"))
        page.pictures(*shown)


def _flagged(judgement: Judgement, names: Sequence[str] | set[str]) -> bool:
    return any(verdict.kind == "found" and verdict.truth in names for verdict in judgement.verdicts)


def _named(judgement: Judgement, names: Sequence[str] | set[str]) -> bool:
    return any(verdict.kind == "known" and verdict.name in names for verdict in judgement.verdicts)
