"""`surnia detect predict`: what is in images, as COCO results and as annotated pictures."""

import argparse
import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from rich.console import Console

from apps.detect_like import Numbers, own_numbers, read_like
from apps.given_images import Images, find_images, list_given
from apps.probing import pick_device, provenance
from detection.data.results import results_of, write_results
from detection.detector import OpenWorldDetector
from detection.evaluation.by_name import CATEGORY, FILE
from detection.structures import UNKNOWN, Detections
from detection.visualize import draw
from sslcore.errors import DataError
from sslcore.storage import read_image, write_bytes, write_json
from sslcore.storage.folders import make_folder
from sslcore.storage.messages import show_name, show_path

RESULTS, CLASSES, PICTURES = "detections.json", "images.json", "pictures"
DRAWN = 20
"""Most detections in a picture: with more nothing could be seen. The results have them all."""


def load(place: Path, device: str) -> OpenWorldDetector:
    """The detector that a command names; that its decision was never fitted is said on stderr."""
    where = pick_device(device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        detector = OpenWorldDetector.load(place, device=where)
    for warning in said:
        if warning.category is UserWarning:
            print(f"note: {warning.message}", file=sys.stderr)
    return detector


@dataclass
class Results:
    """What `predict` has found so far, as it will be written."""

    detector: OpenWorldDetector
    numbers: Numbers
    score: float
    images: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: Path, name: str, picture: Image.Image, detections: Detections) -> None:
        """Ids alone mean nothing in annotations that number otherwise: each detection names its image and class."""
        number = self.numbers.of_image(name, len(self.images))
        about = {"file_name": name, "width": picture.width, "height": picture.height, "path": os.path.abspath(path)}
        self.images.append({"id": number, **about})
        for label, record in zip(
            detections.labels.tolist(), results_of(number, detections, self.numbers.category_of), strict=True
        ):
            self.found.append({**record, FILE: name, CATEGORY: self.detector.names[label]})

    def write(self, out: Path, command: Sequence[str]) -> None:
        """The COCO results, and beside them what their numbers mean."""
        names, of = self.detector.names, self.numbers.category_of
        write_results(out / RESULTS, self.found)
        about = {
            "info": {
                "model": str(self.detector.path), "tasks": self.detector.tasks.name, "task": self.detector.task,
                "decision": self.detector.status, "decision_notes": list(self.detector.notes), "score": self.score,
                **provenance(command),
            },
            "images": self.images,
            "categories": [{"id": of[label], "name": names[label]} for label in sorted(of)],
            "skipped": [{"file": file, "reason": reason} for file, reason in self.bad],
        }  # fmt: skip
        write_json(out / CLASSES, about)


def run(args: argparse.Namespace) -> int:
    """The command; exit code 0 also if some images could not be read, which are named."""
    given = list_given(args.images)
    detector = load(args.run, args.device)
    if args.like is None:
        images, numbers = find_images(given), own_numbers(detector)
    else:  # which may list a link beside its file
        images, numbers = read_like(args.like, given, detector)
    results, console = Results(detector, numbers, args.score), Console()
    pictures_of = picture_names([name for _, name in images])
    drawn_all = True
    for batch in _batches(images, args, results):
        pictures = [picture for _, _, picture in batch]
        for (path, name, picture), detections in zip(batch, detector.predict(pictures, batch_size=args.batch_size)):
            kept = detections[detections.scores >= args.score]
            make_folder(args.out)  # not before there is something to write
            results.add(path, name, picture, kept)
            if not args.no_pictures:
                _draw(args.out / PICTURES / pictures_of[name], picture, kept, detector.names)
                drawn_all &= len(kept) <= DRAWN
            hidden = 0 if args.no_pictures else max(0, len(kept) - DRAWN)
            console.print(line(name, kept, detector.names, hidden), soft_wrap=True, highlight=False, markup=False)
    if not results.images:
        if len(images) == 1:
            raise DataError("there is nothing to look at: the only image cannot be used")
        raise DataError(f"none of the {len(images)} images can be used")
    results.write(args.out, args.command)
    unknown = sum(found["category_id"] == detector.tasks.unknown_id for found in results.found)
    skipped = f", {len(results.bad)} skipped" if results.bad else ""
    counted = f"{len(results.found) - unknown:,} known objects, {unknown:,} unknown"
    looked_at = f"{len(results.images):,} image{'s' * (len(results.images) > 1)}"
    said = f"{looked_at}{skipped}: {counted}, in {args.out}"
    console.print(said, soft_wrap=True, highlight=False, markup=False)
    if results.found and not args.no_pictures:
        meaning = "Numbers in the pictures: a known object's score, an unknown one's probability of being unknown."
        fair = "of the known and of the unknown the best, up to half of them in any case"
        most = "" if drawn_all else f" No picture shows more than {DRAWN}, {fair}; {RESULTS} has all."
        console.print(meaning + most, soft_wrap=True, highlight=False)
    for note in detector.notes:
        print(f"note: on telling known from unknown: {note}", file=sys.stderr)
    if unknown:
        console.print(f"To name the unknown: surnia detect unknowns {args.run} IMAGES --out DIR", soft_wrap=True)
    return 0


def _batches(
    images: Images, args: argparse.Namespace, results: Results
) -> Iterator[list[tuple[Path, str, Image.Image]]]:
    """Pictures that can be read, and are as large as annotated, so many at a time.

    Raises:
        DataError: more cannot be used than --bad-images allows.
    """
    batch = list[tuple[Path, str, Image.Image]]()
    for path, name in images:
        try:
            picture = read_image(path)
            results.numbers.check(name, path, picture)
            batch.append((path, name, picture))
        except DataError as error:
            results.bad.append((str(path), str(error)))
            print(f"skipped: {error}", file=sys.stderr)
            if len(results.bad) > args.bad_images:
                many = f"{len(results.bad)} images" if len(results.bad) > 1 else "1 image"
                raise DataError(
                    f"{many} cannot be used, more than --bad-images {args.bad_images} allows; the last: {error}"
                ) from error
        if len(batch) == args.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def picture_names(names: Sequence[str]) -> dict[str, str]:
    """PNG files to draw in, none of them twice: `a.png` for a.jpg, but `a.jpg.png` where there is an a.bmp, too.

    Names that differ in capitals only count as one, because to some file systems they are.
    """
    plain = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    bearers = Counter(file.lower() for file in plain.values())
    taken = {name.lower() for name in names if name.endswith(".png")}
    files = dict[str, str]()
    for name, file in plain.items():
        if not name.endswith(".png"):
            file = file if bearers[file.lower()] == 1 else f"{name}.png"
            while file.lower() in taken:  # somebody's a.jpg.png
                file = f"{file}.png"
            taken.add(file.lower())
        files[name] = file
    return files


def _draw(target: Path, picture: Image.Image, found: Detections, names: Sequence[str]) -> None:
    encoded = io.BytesIO()
    draw(picture, found, names, limit=DRAWN).save(encoded, "PNG")
    make_folder(target.parent)
    write_bytes(target, encoded.getbuffer())


def line(name: str, found: Detections, names: Sequence[str], hidden: int = 0) -> str:
    """`street.jpg: 2 car, 1 dog, 3 unknown`, and how many of these the picture does not show."""
    counts: dict[int, int] = {}
    for label in sorted(found.labels.tolist(), key=lambda label: (label == UNKNOWN, label)):
        counts[label] = counts.get(label, 0) + 1
    said = ", ".join(f"{count} {show_name(names[label])}" for label, count in counts.items())
    drawn = f" ({hidden} not drawn)" if hidden else ""
    return f"{show_path(name)}: {said or 'nothing'}{drawn}"
