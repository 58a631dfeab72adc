"""`surnia detect score`: the metrics of open-world detection for anybody's detections, as a table and as JSON."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps import options as check
from apps.options import Options
from apps.wilderness import impact
from sslcore.errors import ConfigError
from sslcore.storage.messages import show_names

if TYPE_CHECKING:
    from detection.evaluation import DetectionArrays, GroundTruth
    from detection.tasks import TaskSet


def options() -> Options:
    """What the command understands."""
    parser = Options(
        "surnia detect score",
        "Score detections of known and unknown objects: mAP, unknown recall, wilderness impact, open-set errors.",
        closing=(
            "Mode strict takes every image once and the papers' definitions; mode ore gives the numbers of ORE's own\n"
            "evaluator, for comparing with published tables. In Python: help(detection.evaluation.evaluate).\n"
            "Annotated boxes are clipped to their images, and left out if they have no area, in mode strict; mode ore\n"
            "takes them as they are.\n"
            "Detections that carry file_name and category_name, as those of surnia detect predict, go by these names;\n"
            "others by their ids, which must be those of --gt.\n"
            "Files of ORE's code and its heirs (opendet2 leaves them in OUTPUT_DIR/pascal_voc_eval) are read, too:\n"
            "a folder of aeroplane.txt, ..., unknown.txt; lines of image, score, left, top, right, bottom."
        ),
    )
    parser.option("--gt", check.existing, "annotations of the test set, a COCO json", metavar="FILE", required=True)
    parser.option(
        "--detections",
        check.existing,
        "COCO results: a list of {image_id, category_id, bbox, score}, of unknown objects with unknown_id; or a folder "
        "of files in Pascal VOC's form, one a class",
        metavar="PATH",
        required=True,
    )
    benchmarks = "a task file (YAML), or m_owodb, s_owodb, voc_coco"
    parser.option("--tasks", check.text, benchmarks, metavar="TASKS", required=True)
    parser.option("--task", check.whole(1), "the last task that the model has learnt", metavar="N", required=True)
    parser.option("--mode", check.choice("strict", "ore"), "definitions", metavar="{strict,ore}", default="strict")
    parser.option("--image-list", check.existing, "score these images only, one name or id per line", metavar="FILE")
    parser.option("--score-floor", check.number(), "leave out detections below this score", metavar="SCORE")
    parser.option("--per-image", check.whole(1), "then keep so many of each image, the best", metavar="N")
    parser.flag("--coco", "COCO's AP also for more than 100 000 detections, where it takes minutes")
    parser.option("--json", check.path, "write all numbers here", metavar="FILE")
    parser.flag("--overwrite", "replace what --json names")
    return parser


def score(args: argparse.Namespace) -> int:
    """Score, show, write.

    Raises:
        ConfigError, DataError: one sentence each.
    """
    if args.json is not None and args.json.is_dir():
        raise ConfigError(f"command line: --json  {args.json} is a folder; give the name of a file")
    if args.json is not None and args.json.exists() and not args.overwrite:
        raise ConfigError(f"command line: --json  {args.json} exists already; give another name, or add --overwrite")
    from apps.score_files import read, read_list
    from detection.evaluation import evaluate
    from detection.tasks import TaskSet
    from sslcore.storage import surroundings, write_json

    tasks = TaskSet.from_file(args.tasks)
    image_list = None if args.image_list is None else read_list(args.image_list)
    truth, found, variants, notes = read(args, tasks, image_list)
    result = evaluate(
        truth,
        found,
        tasks,
        args.task,
        mode=args.mode,
        score_floor=args.score_floor,
        per_image=args.per_image,
        image_list=image_list,
        coco=True if args.coco else None,
        **variants,
    )
    if args.json is not None:
        files = {"ground_truth_file": str(args.gt), "detections_file": str(args.detections)}
        around = surroundings()
        write_json(args.json, {**result, **files, "versions": around["versions"], "git": around["git"]})
    show(result, args.json)
    for note in (*notes, *_remedies(args, result, tasks), *_silent(truth, found, result, tasks)):
        print(note)
    if not result["detections"]:
        print(f"note: {_nothing(args, result, len(found))}", file=sys.stderr)
    return 0


def show(result: dict[str, Any], written: Path | None) -> None:
    """A table of the main numbers, and how they were taken."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"Task {result['task']} of {result['tasks']}, mode {result['mode']}"
    for heading, columns, rows in (
        ("", ("", "mAP", "11-point", "COCO AP"), _precision_rows(result)),
        ("", ("", "value"), _other_rows(result)),
    ):
        table = Table(title=title or heading, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        title = ""
    for note in _notes(result, written):
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def _precision_rows(result: dict[str, Any]) -> list[list[str]]:
    keys = {
        "classes of earlier tasks": ("map_previous", "map_previous_11", "coco_ap_previous"),
        "classes of this task": ("map_current", "map_current_11", "coco_ap_current"),
        "both": ("map_both", "map_both_11", "coco_ap_both"),
        "unknown": ("u_ap", "u_ap_11", "coco_ap_unknown"),
    }
    return [[name, *(_percent(result[key]) for key in columns)] for name, columns in keys.items()]


def _other_rows(result: dict[str, Any]) -> list[list[str]]:
    shares = {
        "unknown recall": "u_recall",
        "  best 10 per image": "u_recall_10",
        "  best 50 per image": "u_recall_50",
        "  best 100 per image": "u_recall_100",
        "unknown precision": "u_precision",
        "unknown F1": "u_f1",
        "H-score (mAP both, unknown recall)": "h_score",
    }
    rows = [[name, _percent(result[key])] for name, key in shares.items()]
    rows.append(["wilderness impact at recall 0.8", impact(result, ".4f")])
    rows.append(["unknown objects taken for known (A-OSE, detections)", _number(result["a_ose"], ",")])
    rows.append(["unknown objects taken for known (A-OSE, objects)", _number(result["a_ose_objects"], ",")])
    rows.append([f"AUROC known / unknown, by {result['auroc_by']}", _number(result["auroc"], ".4f")])
    if result["calibration_error"] is not None:
        rows.append(["calibration error of the posterior", _number(result["calibration_error"], ".4f")])
    rows.append(["unknown detections per image", _number(result["unknown_per_image"], ".2f")])
    if result["distractors"]:
        rows.append(["distractors called unknown", _percent(result["distractor_recall"])])
        rows.append(["  best 10 per image", _percent(result["distractor_recall_10"])])
    return rows


def _notes(result: dict[str, Any], written: Path | None) -> list[str]:
    floor, cap = result["score_floor"], result["per_image"]
    lines = "" if result["image_lines"] == result["images"] else f" ({result['image_lines']:,} lines)"
    notes = [
        f"{result['images']:,} images{lines}, {result['detections']:,} detections; "
        f"{'no score floor' if floor is None else f'scores of at least {floor:g}'}, "
        f"{'no cap per image' if cap is None else f'at most {cap} per image'}.",
        f"{result['known_objects']:,} known objects, {result['num_unknown_gt']:,} unknown.",
    ]
    if result["lowest_score"] is not None:
        notes.append(f"The lowest score of a detection is {result['lowest_score']:.3g}.")
    if result["detections"] and any(result["left_out"].values()):
        notes.append(f"Left out were {_left_out(result)}.")
    if result["detections"] and result["images_without_detections"]:
        notes.append(f"In {result['images_without_detections']:,} of the images there is no detection.")
    if result["later_class_detections"]:
        scored = "not scored" if result["mode"] == "strict" else "counted in A-OSE only"
        notes.append(
            f"{result['later_class_detections']:,} detections name classes that task {result['task']} does not know "
            f"yet ({show_names(result['later_classes'])}): they are {scored}."
        )
    if result["mode"] == "strict" and result["coco_ap_per_class"] is None:
        notes.append("COCO AP is left out of more than 100 000 detections; --coco computes it, in minutes.")
    if written is not None:
        notes.append(f"Written to {written}.")
    return notes


def _remedies(args: argparse.Namespace, result: dict[str, Any], tasks: "TaskSet") -> list[str]:
    """What to do if detections, images and task do not seem to belong together."""
    notes = []
    if result["later_classes"]:
        task = next(task for task in range(1, tasks.count + 1) if set(result["later_classes"]) <= {*tasks.known(task)})
        notes.append(f"If the detector has learnt {show_names(result['later_classes'])}, score it with --task {task}.")
    empty = result["images_without_detections"]
    if result["detections"] and 2 * empty > result["images"] and args.image_list is None:
        notes.append("If only some of the images were looked at, name these with --image-list.")
    return notes


def _silent(truth: "GroundTruth", found: "DetectionArrays", result: dict[str, Any], tasks: "TaskSet") -> list[str]:
    """Which tasks up to the one given no detection speaks of: the detector may not have learnt them."""
    ids = set(found.category_ids.tolist())
    named = {tasks.canonical(name) for name, number in zip(truth.categories, truth.category_ids) if number in ids}
    learnt = [task for task in range(1, tasks.count + 1) if named & {*tasks.current(task)}]
    silent = [task for task in range(1, result["task"] + 1) if task not in learnt]
    if not result["detections"] or not silent:
        return []
    if not learnt:
        return ["No detection names a known class: if the detector knows some, score what it found of them, too."]
    last, notes = learnt[-1], []
    if missed := [task for task in silent if task < last]:
        counted = "their objects count as missed, even if the detector has not learnt them"
        notes.append(f"No detection names a class of {_tasks(missed, tasks)}: {counted}.")
    if further := [task for task in silent if task > last]:
        remedy = f"if the detector has learnt no further than task {last}, score it with --task {last}"
        notes.append(f"No detection names a class of {_tasks(further, tasks)}: {remedy}.")
    return notes


def _tasks(numbers: list[int], tasks: "TaskSet") -> str:
    """`tasks 2 and 3 (dog, fox)`."""
    listed = " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))
    classes = [name for task in numbers for name in tasks.current(task)]
    return f"task{'s' * (len(numbers) > 1)} {listed} ({show_names(classes)})"


def _nothing(args: argparse.Namespace, result: dict[str, Any], given: int) -> str:
    """Why there is nothing to score."""
    if not given:
        return f"there is no detection in {args.detections}: nothing was found, or written to another file"
    return f"no detection was scored: of the {given:,} in {args.detections}, left out were {_left_out(result)}"


def _left_out(result: dict[str, Any]) -> str:
    """`3 detections below the score floor and 2 beyond the cap per image`."""
    reasons = {
        "image_list": "in images that are not listed",
        "score_floor": "below the score floor",
        "per_image": "beyond the cap per image",
    }
    counts = [(result["left_out"][key], why) for key, why in reasons.items() if result["left_out"][key]]
    said = [f"{count:,} {'detections ' if not place else ''}{why}" for place, (count, why) in enumerate(counts)]
    return " and ".join(said)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
