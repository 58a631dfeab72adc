"""`surnia detect evaluate`: a run measured again, in another mode or on other annotated images."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from apps.detect_predict import load
from apps.detect_score import show
from apps.launch_detect import missing_data
from apps.notes import tell
from apps.probing import provenance
from apps.recipes import load as load_recipe_file
from detection.data.annotations import AnnotationSet
from detection.data.categories import with_categories
from detection.data.coco import read_coco
from detection.data.openworld import find_pictures, open_test
from detection.data.problems import Problems
from detection.data.results import category_ids, results_of
from detection.data.validation import clean, validate
from detection.data.voc import read_voc
from detection.detector import OpenWorldDetector, find_model
from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.tasks import TaskSet
from detection.training.inference import detect
from detection.training.layout import Layout
from detection.training.model import check_info, tasks_of
from detection.training.recipe import DetectionRecipe
from sslcore.did_you_mean import nearest
from sslcore.errors import ConfigError, DataError
from sslcore.storage import write_json
from sslcore.storage.checkpoint import read_info
from sslcore.storage.messages import show_path

WORKERS = 2
BACK = (
    "put back what the run was tested on, or measure it on annotated images that are there: --data FILE, and --images "
    "FOLDER if they are not beside it"
)


def run(args: argparse.Namespace) -> int:
    """The command: tables, and JSON where --json says."""
    checkpoint = find_model(args.run, args.task)
    info = read_info(checkpoint)
    task, tasks = check_info(info, checkpoint), tasks_of(info, checkpoint)
    found: list[dict[str, Any]] | None = None
    if args.data is not None:
        test = read_own(args.data, args.images, args.split, tasks)
        tell_strangers(test, tasks, task)
        test = with_categories(test, tasks.classes, unknown_id=tasks.unknown_id)
    else:
        test, found = _own_test(args.run, info, task)
    if found is None:
        found = look(load(checkpoint, args.device), test, args.batch_size, tasks, task)
    result = evaluate(
        GroundTruth.from_annotations(test), DetectionArrays.from_results(found), tasks, task, mode=args.mode,
        score_floor=args.score_floor, per_image=args.per_image,
    )  # fmt: skip
    if args.json is not None:
        about = {"model": str(checkpoint), "data": test.source, **provenance(args.command)}
        write_json(args.json, {**result, **about})
    show(result, args.json)
    return 0


def _own_test(run: Path, info: dict[str, Any], task: int) -> tuple[AnnotationSet, list[dict[str, Any]] | None]:
    """The test images of a run, and what was found in them if that was written and still holds."""
    if not (run / "recipe.yaml").is_file():
        raise ConfigError(
            f"command line: RUN  {run} does not say what it was tested on; give the whole run, or images with --data"
        )
    loaded = load_recipe_file(str(run / "recipe.yaml"), [], DetectionRecipe, folder="detection")
    recipe = loaded.recipe
    if missing := missing_data(loaded, tested=True):
        raise ConfigError(*missing, BACK)
    test, mark = open_test(recipe.data)
    same = mark is not None and mark == info.get("data")
    found = Layout(run, writes=False).read(task, "detections.json") if same else None
    if mark is not None and not same:
        print("note: the data are not those that the run was trained with", file=sys.stderr)
    if found is None:
        _refuse_gone(test)
    return test, found


def _refuse_gone(test: AnnotationSet) -> None:
    """DataError if test images that have to be looked at are not there."""
    if fatal := [problem for problem in validate({"test": test}) if problem.fatal]:
        raise DataError("\n".join([*map(str, fatal), BACK]))


# --- own data --------------------------------------------------------------------------------------------------------


def read_own(place: Path, images: Path | None, split: str, tasks: TaskSet) -> AnnotationSet:
    """A COCO json or a split of a VOC folder, validated.

    Raises:
        DataError: what is wrong, by file and id.
    """
    problems = Problems()
    if place.is_dir():
        found = read_voc(place, split, tasks=tasks, problems=problems)
    else:
        found = read_coco(place, tasks=tasks, problems=problems)
        found = read_coco(place, images=images or _beside(place, found), tasks=tasks, problems=Problems())
    problems += validate({"test": found})
    problems.refuse()
    tell(problems)
    if not found.images:
        raise DataError(f"{show_path(place)} lists no images, so there is nothing to measure on; give another file")
    return clean(found, Problems())


def _beside(file: Path, found: AnnotationSet) -> Path:
    """The folder that an annotation file's pictures are in."""
    if not found.images:
        return file.parent
    for around in (file.parent, file.parent.parent):
        if (folder := find_pictures(found, around)) is not None:
            return folder
    first = show_path(found.images[0].file_name)
    raise DataError(f"{first}, which {show_path(file)} names, is not beside it; say where the images are: --images DIR")


def tell_strangers(test: AnnotationSet, tasks: TaskSet, task: int) -> None:
    """A class that the detector knows under a slightly other name would be taken for unknown without a word."""
    known = tasks.known(task)
    absent = [name for name in known if name not in test.categories]
    for name in test.categories:
        meant = nearest(name, absent) if name not in tasks.classes else None
        if meant:
            remedy = f"if it is '{meant}', rename it in {show_path(test.source)}"
            print(f"note: '{name}' counts as unknown; {remedy}", file=sys.stderr)
    if len(absent) == len(known):
        print(f"note: no class that the detector knows is among the categories of {test.source}", file=sys.stderr)


# --- looking ---------------------------------------------------------------------------------------------------------


def look(
    detector: OpenWorldDetector, test: AnnotationSet, batch_size: int, tasks: TaskSet, task: int
) -> list[dict[str, Any]]:
    """COCO results of every image of a set."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        shown = bar.add_task("looking at test images", total=len(test.images))
        found = detect(
            detector.engine, test, batch_size=batch_size, workers=WORKERS if len(test.images) > 500 else 0,
            device=detector.device, progress=lambda done, total: bar.update(shown, completed=done),
        )  # fmt: skip
    of_label = category_ids(test, tasks, task)
    return [
        record
        for image, detections in zip(test.images, found, strict=True)
        for record in results_of(image.id, detections, of_label)
    ]
