"""The numbers of a detection run, task by task."""

from typing import Any

from apps.measures import duration
from apps.report.detection.run import DetectionRun
from apps.report.page import Page
from apps.wilderness import impact

ROWS: tuple[tuple[str, str, str], ...] = (
    ("mAP, classes of earlier tasks", "map_previous", "share"),
    ("mAP, classes of this task", "map_current", "share"),
    ("mAP, both", "map_both", "share"),
    ("U-Recall@10", "u_recall_10", "share"),
    ("U-Recall@50", "u_recall_50", "share"),
    ("U-AP", "u_ap", "share"),
    ("U-F1", "u_f1", "share"),
    ("distractors taken for unknown objects", "distractor_recall", "share"),
    ("the same, ten best an image", "distractor_recall_10", "share"),
    ("WI at recall .8 (of how many classes)", "wi", "impact"),
    ("A-OSE, objects", "a_ose_objects", "count"),
    ("A-OSE, detections", "a_ose", "count"),
    ("AUROC, known against unknown", "auroc", "fraction"),
    ("H-score", "h_score", "share"),
    ("unknown detections an image", "unknown_per_image", "number"),
)
DISTRACTORS = {"distractor_recall", "distractor_recall_10"}


def meanings(*, distractors: bool) -> str:
    """What the rows say; `distractors` are explained where there are any."""
    about = (
        "Distractors are patches of other photographs that were pasted like objects and are none: the fewer of them "
        "are taken for unknown objects, the better. "
    )
    return (
        "mAP: mean over the known classes of the area under the precision-recall curve at IoU .5. U-Recall@k: share of "
        "unknown objects that one of an image's k best unknown detections hits; U-AP and U-F1: average precision, and "
        f"F1 of all unknown detections, of the class unknown. {about if distractors else ''}WI, wilderness impact: how "
        "much unknown objects lower the precision of known classes, at a recall of .8, over the classes that reach it: "
        "a few are enough for a number, and the table says how many there were. A-OSE: unknown objects that were "
        "called something known, and the detections that did so. AUROC: how well known and unknown objects are told "
        "apart once they are found. H-score: harmonic mean of mAP and of the recall of unknown objects. Higher is "
        "better but for "
        f"{'distractors, ' if distractors else ''}WI and A-OSE; a dash stands for what is undefined."
    )


def write_tables(page: Page, run: DetectionRun) -> None:
    """Results task by task, what they were measured with, and how much was forgotten."""
    done = run.done
    header = ["on the test images", *(f"after task {task['task']}" for task in done)]
    rows = [["known classes", *(str(len(run.tasks.known(task["task"]))) for task in done)]]
    distractors = any(task["strict"].get(key) is not None for task in done for key in DISTRACTORS)
    rows += [
        [name, *(_cell(task["strict"], key, form) for task in done)]
        for name, key, form in ROWS
        if distractors or key not in DISTRACTORS
    ]
    page.table(header, rows, note=how_measured(run))
    page.text(meanings(distractors=distractors))
    _forgetting(page, run)


def _cell(strict: dict[str, Any], key: str, form: str) -> str:
    return impact(strict, ".3f") if form == "impact" else shown(strict.get(key), form)


def how_measured(run: DetectionRun) -> str:
    """The evaluator's mode, and what was cut off before it."""
    strict = run.done[-1]["strict"]
    cuts = []
    if strict["score_floor"] is not None:
        cuts.append(f"scores of at least {strict['score_floor']:g}")
    if strict["per_image"] is not None:
        cuts.append(f"the best {strict['per_image']} detections of each image")
    decision = run.recipe.decision
    return (
        f"Evaluator in mode strict (the papers' definitions; the original code's are in results.json) on "
        f"{strict['images']:,} test images with {strict['known_objects']:,} known and {strict['num_unknown_gt']:,} "
        f"unknown objects after task {run.last}. It counted {' and '.join(cuts) or 'every detection it was given'}; "
        f"the detector itself gives scores of at least {decision.score_floor:g} and at most {decision.per_image} "
        "detections an image."
    )


def _forgetting(page: Page, run: DetectionRun) -> None:
    found = (run.results.get("forgetting") or {}).get("strict")
    if not found or len(found["map_by_task"]) < 2:
        return
    by_task = found["map_by_task"]
    header = ["mAP of the classes of", *(f"after task {t}" for t in range(1, len(by_task) + 1)), "forgotten"]
    lost = found["forgetting"][-1]
    rows = [
        [
            f"task {j + 1}",
            *(shown(scores[j], "share") if j < len(scores) else "" for scores in by_task),
            shown(lost[j], "points") if j < len(lost) else "",
        ]
        for j in range(len(by_task))
    ]
    page.table(
        header, rows, note="Forgotten: the best mAP that these classes ever had, less what they have now, in points."
    )


def write_timing(page: Page, run: DetectionRun) -> None:
    """How long each stage took."""
    stages = ("train", "finetune", "fit", "detect")
    rows = [
        [f"task {task['task']}", *(_seconds(task["timing"].get(stage)) for stage in stages), _per_image(task["timing"])]
        for task in run.done
    ]
    header = ["", "training", "fine-tuning", "fitting the decision", "detection in the test images", "an image"]
    page.table(header, rows, note="A dash: the stage was not done, or an earlier session did it.")


def _seconds(value: float | None) -> str:
    return "–" if value is None else duration(value)


def _per_image(timing: dict[str, Any]) -> str:
    value = timing.get("seconds_per_test_image")
    return "–" if value is None else f"{1000 * value:.0f} ms"


def shown(value: float | None, form: str) -> str:
    """A number as it stands in the tables; what is undefined as a dash."""
    if value is None:
        return "–"
    if form == "share":
        return f"{100 * value:.1f} %"
    if form == "points":
        return f"{100 * value:.1f}"
    return {"count": f"{value:,.0f}", "number": f"{value:.1f}"}.get(form, f"{value:.3f}")
