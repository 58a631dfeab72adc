"""What `surnia detect score` is given: annotations, detections and a list of images, read and told about."""

import argparse
from pathlib import Path

from apps.notes import tell
from detection.data.annotations import AnnotationSet
from detection.data.categories import with_categories
from detection.data.clipping import clip, sides_of
from detection.data.coco import read_coco
from detection.data.problems import Problems
from detection.data.validation import clean
from detection.evaluation import DetectionArrays, GroundTruth
from detection.evaluation.arrays import read_results
from detection.evaluation.by_name import by_name, has_names
from detection.evaluation.voc_files import notes_on, read_voc_detections
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError
from sslcore.storage.files import read_file

MAX_LIST = 1 << 28


def read(
    args: argparse.Namespace, tasks: TaskSet, image_list: list[str] | None
) -> tuple[GroundTruth, DetectionArrays, dict[str, bool], list[str]]:
    """Annotations, detections, variants of the evaluator that they need, and what a person should know about them.

    Raises:
        ConfigError: one file of a folder that has one a class.
        DataError: what is wrong in the files.
    """
    if not args.detections.is_dir():
        if args.detections.suffix == ".txt":
            folder = args.detections.parent
            raise ConfigError(f"command line: --detections  {args.detections} has one class; give its folder, {folder}")
        results, source = read_results(args.detections), str(args.detections)
        if not isinstance(results, list) or not has_names(results):
            truth = GroundTruth.from_annotations(read_truth(args.gt, args.mode))
            return truth, DetectionArrays.from_results(results, source=source), {}, []
        truth = _with_all_classes(args, tasks)
        found, remarks = by_name(results, truth, tasks, source=source)
        return truth, found, {}, list(remarks)

    truth = _with_all_classes(args, tasks)
    listed = read_voc_detections(args.detections, truth, tasks)
    notes = list(notes_on(listed))
    if args.mode == "strict" or listed.fit(truth, image_list):
        return truth, listed.once, {}, notes
    notes.append(
        "The files do not have each image as often as --image-list does: its objects count as often as it is listed, "
        "detections as often as the files have them, as the original evaluator takes them."
    )
    return truth, listed.lines, {"detections_once_per_image": True}, notes


def _with_all_classes(args: argparse.Namespace, tasks: TaskSet) -> GroundTruth:
    """The annotations with a category for every class of the task set, under its names."""
    annotations = read_truth(args.gt, args.mode, tasks)
    return GroundTruth.from_annotations(with_categories(annotations, tasks.classes, unknown_id=tasks.unknown_id))


def read_truth(file: Path, mode: str, tasks: TaskSet | None = None) -> AnnotationSet:
    """The annotations as the file has them; what the mode makes of boxes that are wrong is told.

    Raises:
        DataError: what is fatal, by file and id.
    """
    problems = Problems()
    annotations = read_coco(file, tasks=tasks, problems=problems, by_ids=True)
    if mode == "strict":
        clean(annotations, problems)  # for what it says: the mode does the same to the boxes
    else:
        _tell_taken(annotations, problems)
    problems.refuse()
    tell(problems)
    return annotations


def _tell_taken(annotations: AnnotationSet, problems: Problems) -> None:
    """That mode ore takes boxes as they are, if there are any that strict would not."""
    found = clip(annotations.boxes, sides_of(annotations.images)[annotations.box_image])
    empty, outside, out = (int(which.sum()) for which in (~found.solid, found.solid & ~found.inside, found.moved))
    if empty or outside or out:
        problems.add(
            annotations.source,
            "boxes count in mode ore as they are, as in the original, be they "
            f"without area ({empty:,}), outside the image ({outside:,}) or reaching out of it ({out:,}); mode strict "
            "ignores the first two kinds and clips the third",
            fatal=False,
        )


def read_list(path: Path) -> list[str]:
    """The lines of a list of images, without empty ones.

    Raises:
        DataError: it cannot be read or names nothing.
    """
    remedy = "give a text file with one file name or id per line"
    raw = read_file(path, limit=MAX_LIST, error=DataError, remedy=remedy)
    try:
        lines = [line.strip() for line in raw.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text; {remedy}") from error
    named = [line for line in lines if line]
    if not named:
        raise DataError(f"{path} names no image; {remedy}")
    return named
