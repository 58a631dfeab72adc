"""`surnia detect report`: runs, and detections scored before, beside what is published; and each run's page anew."""

import argparse
import json
from pathlib import Path
from typing import Any

from apps import options as check
from apps.options import Options
from sslcore.errors import ConfigError, DataError

_LIMIT = 1 << 28
_KEYS = ("mode", "tasks", "task", "images", "image_lines", "score_floor", "per_image", "map_both")


def options() -> Options:
    """What the command understands."""
    parser = Options(
        "surnia detect report",
        "Put runs beside the published numbers of their benchmark, with the evaluator that each row used, and write "
        "each run's report.html anew.",
    )
    parser.positional(
        "RUN", check.existing, "runs of `surnia detect train`, or JSON files of `surnia detect score`", many=True
    )
    parser.flag("--no-page", "print the tables only")
    return parser


def report(args: argparse.Namespace) -> int:
    """Print a table for each task, and write the pages.

    Raises:
        ConfigError: a folder that is no run, or runs of different benchmarks.
        CheckpointError, DataError: a run or a file that cannot be used.
    """
    from apps.report.detection import write_detection_report
    from apps.report.detection.published import NOT_COMPARABLE, Row, not_the_benchmark, published_beside
    from apps.report.detection.run import DetectionRun
    from detection.published import benchmarks

    for place in args.run:
        if place.is_dir() and not any((place / name).is_file() for name in ("recipe.yaml", "results.json")):
            raise ConfigError(f"command line: RUN  {place} is no run of surnia detect train: it has no recipe.yaml")
    rows = dict[int, list[Row]]()
    found = dict[str, str | None]()
    images = list[int]()
    for place in args.run:
        name, by_task = _rows_of_file(place) if place.is_file() else _rows_of_run(DetectionRun.open(place), place)
        found[str(place)] = name
        for task, some in by_task.items():
            rows.setdefault(task, []).extend(some)
            images += [int(row.values["images"]) for row in some]
    benchmark = _common(found)
    if benchmark is None:
        known = ", ".join(benchmarks())
        print(f"Nothing is published on the task set of {', '.join(found)}; there are numbers on {known}.")
    else:
        for task in sorted(rows):
            _print(benchmark, published_beside(benchmark, task, rows[task]))
        print(NOT_COMPARABLE)
        told = not_the_benchmark(benchmark, images)
        if told:
            print(told)
    for place in [] if args.no_page else [place for place in args.run if place.is_dir()]:
        print(f"{write_detection_report(place)} is written.")
    return 0


def _rows_of_run(run: Any, place: Path) -> tuple[str | None, dict[int, list[Any]]]:
    from apps.report.detection.published import benchmark_of, rows_of_run

    by_task = {done["task"]: rows_of_run(run, done["task"], place.name) for done in run.done}
    return benchmark_of(run.tasks), by_task


def _rows_of_file(file: Path) -> tuple[str | None, dict[int, list[Any]]]:
    from apps.report.detection.published import rows_of_result
    from detection.published import benchmarks
    from sslcore.storage.files import read_file
    from sslcore.storage.messages import show_path

    remedy = "give a run, or a file that surnia detect score has written with --json"
    try:
        result = json.loads(read_file(file, limit=_LIMIT, error=DataError, remedy=remedy))
        missing = [key for key in _KEYS if key not in result]
        by_task = {
            int(result["task"]): rows_of_result(result, file.stem, test=str(result.get("ground_truth_file", "")))
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{show_path(file)} is no result of surnia detect score; {remedy}") from error
    if missing:
        raise DataError(f"{show_path(file)} is no result of surnia detect score; {remedy}")
    return result["tasks"] if result["tasks"] in benchmarks() else None, by_task


def _common(found: dict[str, str | None]) -> str | None:
    names = set(found.values())
    if len(names) > 1:
        each = ", ".join(f"{place} ({name or 'none that is published'})" for place, name in found.items())
        raise ConfigError(f"command line: RUN  these are not of one benchmark: {each}; report on them one by one")
    return names.pop()


def _print(benchmark: str, beside: Any) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Ten columns in a terminal of eighty characters: no lines between them, and headings of two words on two lines.
    title = f"{benchmark} after task {beside.task}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(beside.header):
        heading = name.replace(" ", "\n").replace("U-R", "U-\nR")
        table.add_column(heading, justify="right" if i else "left", overflow="fold", min_width=None if i else 20)
    for row, cells in zip(beside.rows, beside.cells, strict=True):
        table.add_row(*cells, style="bold" if row.ours else "")
    console = Console()
    console.print(table)
    for line in beside.legend:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print()
