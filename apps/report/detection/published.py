"""A run beside what is published on its benchmark, each row with the evaluator that it used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.report.detection.run import DetectionRun
from apps.report.page import Page
from detection.published import benchmarks, published_counts, published_rows
from detection.tasks import TaskSet

COLUMNS = (
    ("mAP prev.", "map_previous"),
    ("mAP curr.", "map_current"),
    ("mAP both", "map_both"),
    ("U-Recall", "u_recall"),
    ("U-AP", "u_ap"),
    ("WI", "wi"),
    ("A-OSE", "a_ose"),
)
NOT_COMPARABLE = (
    "These rows are not mutually comparable: evaluators, test lists, score floors and the number of detections an "
    "image differ, and unknown recall, WI and A-OSE follow them. Only rows with the same letter were measured alike. "
    "None of the published numbers was measured here; a question mark: from memory, or from somebody's summary."
)
_UNSURE = ("memory", "summary")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: method or run.
        values: metrics under the evaluator's names; fractions, and counts for `a_ose`.
        setting: how it was measured, in words; rows with the same were measured alike.
        note: what else is known about the published row's.
        unsure: metrics that get a question mark each.
        ours: it is a run, not published.
    """

    label: str
    values: dict[str, Any]
    setting: str
    note: str = ""
    unsure: tuple[str, ...] = ()
    ours: bool = False


@dataclass(frozen=True)
class Beside:
    """What stands beside each other after one task."""

    task: int
    rows: tuple[Row, ...]

    @property
    def settings(self) -> dict[str, str]:
        """A letter for each way of measuring."""
        kinds = dict.fromkeys(row.setting for row in self.rows)
        return {setting: chr(ord("a") + i) for i, setting in enumerate(kinds)}

    @property
    def header(self) -> list[str]:
        return ["", *(name for name, _ in COLUMNS), "as"]

    @property
    def cells(self) -> list[list[str]]:
        return [[row.label, *(_cell(row, key) for _, key in COLUMNS), self.settings[row.setting]] for row in self.rows]

    @property
    def legend(self) -> list[str]:
        lines = []
        for setting, letter in self.settings.items():
            notes = dict.fromkeys(row.note for row in self.rows if row.setting == setting and row.note)
            lines.append(f"{letter}: {setting}" + (f" ({'; '.join(notes)})" if notes else ""))
        return lines


def benchmark_of(tasks: TaskSet) -> str | None:
    """The benchmark that a task set is, by name and classes; None if nothing is published on it."""
    known = tasks.name in benchmarks() and tasks.tasks == TaskSet.from_file(tasks.name).tasks
    return tasks.name if known else None


def rows_of_run(run: DetectionRun, task: int, label: str) -> list[Row]:
    """A run after a task, in both modes; none if it has not come so far."""
    decision, test = run.recipe.decision, getattr(run.recipe.data, "test", "")
    return [
        row
        for done in run.done
        if done["task"] == task
        for mode in ("ore", "strict")
        if (measured := done.get(mode)) is not None
        for row in rows_of_result(measured, label, test=test, floor=decision.score_floor, per_image=decision.per_image)
    ]


def rows_of_result(
    result: dict[str, Any], label: str, *, test: str = "", floor: float | None = None, per_image: int | None = None
) -> list[Row]:
    """What the evaluator returned, of a run or of anybody's detections; in mode ore with 11-point averages, too.

    Args:
        result: as `detection.evaluation.evaluate` gives it.
        label: of the rows.
        test: the file of the test set. VOC-COCO has several, two of as many images; its name tells which.
        floor, per_image: what the detector cut off before the evaluator did; None where nobody knows.
    """
    floors = [value for value in (floor, result["score_floor"]) if value is not None]
    caps = [value for value in (per_image, result["per_image"]) if value is not None]
    lines, images = result["image_lines"], result["images"]
    listed = f"{images:,} images" if lines == images else f"{lines:,} lines, {images:,} images"
    if Path(test).stem in _test_sets(result["tasks"]):
        listed = f"{Path(test).stem}, {listed}"
    facts = {
        "mode": result["mode"], "ap": "area", "list": listed, "score_floor": max(floors, default=None),
        "per_image": min(caps, default=None),
    }  # fmt: skip
    rows = [Row(f"{label} ({result['mode']})", result, in_words(facts, result["task"]), ours=True)]
    if result["mode"] == "ore":
        coarse = {key: result[f"{key}_11"] for key in ("map_previous", "map_current", "map_both", "u_ap")}
        setting = in_words({**facts, "ap": "11-point"}, result["task"])
        rows.append(Row(f"{label} (ore, 11-point)", {**result, **coarse}, setting, ours=True))
    return rows


def _test_sets(tasks: str) -> set[str]:
    """Names of a benchmark's test sets if it has several."""
    return set(published_counts(tasks).get("test", ())) if tasks in benchmarks() else set()


def published_beside(benchmark: str, task: int, ours: Sequence[Row]) -> Beside:
    """Our rows, then all that is published after that task."""
    found = [row for row in published_rows(benchmark) if task in row.by_task]
    theirs = [
        Row(
            f"{row.method}{' ?' if row.seen in _UNSURE else ''}", row.by_task[task], in_words(row.evaluator, task),
            row.evaluator["note"] or "", unsure=row.from_memory,
        )
        for row in found
    ]  # fmt: skip
    return Beside(task, (*ours, *theirs))


def in_words(evaluator: dict[str, Any], task: int) -> str:
    """How something was measured."""
    cap = evaluator["per_image"]
    cap = cap[min(task, len(cap)) - 1] if isinstance(cap, list) else cap
    floor = evaluator["score_floor"]
    parts = [
        "mode not stated" if evaluator["mode"] is None else f"mode {evaluator['mode']}",
        "AP not stated" if evaluator["ap"] is None else f"AP by {evaluator['ap']}",
        "test list not stated" if evaluator["list"] is None else evaluator["list"],
        "score floor not stated" if floor is None else f"scores from {floor:g}" if floor else "no score floor",
        "detections an image not stated" if cap is None else f"at most {cap} detections an image",
    ]
    return ", ".join(parts)


def not_the_benchmark(benchmark: str, images: Iterable[int]) -> str | None:
    """A sentence if something was tested on other images than the benchmark has."""
    counts = published_counts(benchmark)
    known = {counts["test_images"]} if "test_images" in counts else set(counts["test"].values())
    others = sorted(set(images) - known)
    if not others:
        return None
    tested = ", ".join(f"{count:,}" for count in others)
    wanted = " or ".join(f"{count:,}" for count in sorted(known))
    return f"Tested on {tested} images, where {benchmark} has {wanted}: these are not the benchmark's numbers."


def write_published(page: Page, run: DetectionRun) -> None:
    """A table for each task that the run has learnt."""
    benchmark = benchmark_of(run.tasks)
    if benchmark is None:
        return
    page.section("Beside published numbers")
    told = not_the_benchmark(benchmark, (done["strict"]["images"] for done in run.done))
    if told:
        page.alert(told)
    page.text(NOT_COMPARABLE)
    for done in run.done:
        beside = published_beside(benchmark, done["task"], rows_of_run(run, done["task"], "this run"))
        page.subheading(f"After task {done['task']}")
        page.table(beside.header, beside.cells, note="Measured as " + "; ".join(beside.legend) + ".")


def _cell(row: Row, key: str) -> str:
    shown = _shown(key, row.values.get(key))
    return f"{shown} ?" if key in row.unsure and row.values.get(key) is not None else shown


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key == "a_ose":
        return f"{value:,.0f}"
    return f"{value:.4f}" if key == "wi" else f"{100 * value:.1f}"
