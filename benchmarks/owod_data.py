"""How long building M-OWODB (or another benchmark) takes, and how much memory, from annotations of the released size.

    python benchmarks/owod_data.py                 # some 0.6 GB of json and 21,503 XML files in a temporary folder
    python benchmarks/owod_data.py --tasks s_owodb
    python benchmarks/owod_data.py --scale 0.01    # to see it run

The files are made up: as many images and boxes as VOC 2007, VOC 2012 and COCO 2017 have, outlines of as many numbers,
and about three classes an image, of which persons are by far the most frequent. Pictures are empty files. The building
runs in a process of its own, with one thread; its time and its highest memory are what is reported.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detection.tasks import TaskSet

COCO = {"train2017": (118_287, 860_001), "val2017": (5_000, 36_781)}
VOC = {"VOC2007": {"train": 2_501, "val": 2_510, "test": 4_952}, "VOC2012": {"trainval": 11_540}}
OUTLINE = (10, 115)
"""Numbers of an outline."""
BUILD = """
import resource, sys, time
from pathlib import Path
from detection.data.owod.building import Order, build
begun = time.perf_counter()
root, out, val = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
built = build(Order(sys.argv[4], root / "VOCdevkit", root / "coco", out, val=val))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - begun, time.process_time(), peak, *(f"{k}={v}" for k, v in built.images.items()))
"""


def write_coco(folder: Path, split: str, images: int, boxes: int, random: np.random.Generator) -> int:
    """One annotation file; returns its bytes."""
    names = TaskSet.from_file("m_owodb").classes
    entries = ", ".join(
        f'{{"license": 3, "file_name": "{i:012}.jpg", "coco_url": "http://images.cocodataset.org/{split}/{i:012}.jpg", '
        f'"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "flickr_url": '
        f'"http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg", "id": {i}}}'
        for i in range(1, images + 1)
    )
    categories = [{"supercategory": "thing", "id": i + 1, "name": name} for i, name in enumerate(names)]
    file = folder / "annotations" / f"instances_{split}.json"
    with file.open("w") as out:
        out.write(f'{{"info": {{}}, "licenses": [], "images": [{entries}], "annotations": [')
        for i, text in enumerate(annotations(images, boxes, random)):
            out.write(", " + text if i else text)
        out.write(f'], "categories": {json.dumps(categories)}}}')
    pictures(folder / split, (f"{i:012}.jpg" for i in range(1, images + 1)))
    return file.stat().st_size


def annotations(images: int, boxes: int, random: np.random.Generator) -> Iterator[str]:
    """Boxes in the order of a shuffled list, as COCO's are."""
    numbers = [f"{value:.2f}" for value in random.uniform(0, 600, 100_000)]
    weights = 1 / np.arange(3, 83)
    weights = weights[random.permutation(80)]
    weights[14] = weights.sum() / 3  # person
    choices = random.choice(80, size=(images, 3), p=weights / weights.sum())
    image = random.integers(images, size=boxes)
    which = random.integers(3, size=boxes)
    corner = random.uniform(0, 400, size=(boxes, 2)).round(2)
    size = random.uniform(8, 200, size=(boxes, 2)).round(2)
    lengths = random.integers(*OUTLINE, size=boxes)
    starts = random.integers(len(numbers) - OUTLINE[1], size=boxes)
    for i in range(boxes):
        outline = ", ".join(numbers[starts[i] : starts[i] + lengths[i]])
        crowd = i % 90 == 0
        drawn = f'{{"counts": [{outline}], "size": [480, 640]}}' if crowd else f"[[{outline}]]"
        x, y = corner[i].tolist()
        width, height = size[i].tolist()
        yield (
            f'{{"segmentation": {drawn}, "area": {width * height / 2}, "iscrowd": {int(crowd)}, '
            f'"image_id": {image[i] + 1}, "bbox": [{x}, {y}, {width}, {height}], '
            f'"category_id": {choices[image[i], which[i]] + 1}, "id": {i + 1}}}'
        )


def write_voc(folder: Path, year: str, split: str, names: list[str], random: np.random.Generator) -> None:
    """One split of a year."""
    classes = TaskSet.from_file("m_owodb").current(1)
    for inner in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / year / inner).mkdir(parents=True, exist_ok=True)
    (folder / year / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        objects = []
        for _ in range(1 + random.poisson(1.9)):
            left, top = random.integers(1, 300, 2).tolist()
            kind = classes[random.integers(20)]
            objects.append(
                f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
                f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{left + 90}</xmax><ymax>{top + 60}</ymax></bndbox>"
                "</object>"
            )
        size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
        text = f"<annotation><folder>{year}</folder>{size}{''.join(objects)}</annotation>"
        (folder / year / "Annotations" / f"{name}.xml").write_text(text)
    pictures(folder / year / "JPEGImages", (f"{name}.jpg" for name in names))


def pictures(folder: Path, names: Iterator[str]) -> None:
    """Empty files: only their names are looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def make_releases(folder: Path, scale: float) -> int:
    """All of it; returns the bytes of json."""
    random, total, first = np.random.default_rng(0), 0, 1
    (folder / "coco" / "annotations").mkdir(parents=True)
    for split, (images, boxes) in COCO.items():
        total += write_coco(folder / "coco", split, int(images * scale), int(boxes * scale), random)
    for year, splits in VOC.items():
        for split, images in splits.items():
            numbers = range(first, first + int(images * scale))
            form = "{:06}" if year == "VOC2007" else "2008_{:06}"
            write_voc(folder / "VOCdevkit", year, split, [form.format(n) for n in numbers], random)
            first += len(numbers)
    lists = folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("".join((lists / f"{half}.txt").read_text() for half in ("train", "val")))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the released sizes")
    parser.add_argument("--tasks", choices=("m_owodb", "s_owodb", "voc_coco"), default="m_owodb")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", help="where to make the files (default: a temporary folder)")
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        begun = time.perf_counter()
        size = make_releases(Path(name), args.scale)
        print(f"{size / 1e9:.2f} GB of json made in {time.perf_counter() - begun:.0f} s")
        rounds = []
        for i in range(args.rounds):
            out = Path(name) / f"out{i}"
            done = subprocess.run(
                [sys.executable, "-c", BUILD, name, str(out), str(int(1000 * args.scale)), args.tasks],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            seconds, cpu, peak, *images = done.stdout.split()
            written = sum(file.stat().st_size for file in out.glob("*.json"))
            rounds.append({"seconds": float(seconds), "cpu_seconds": float(cpu), "peak_mb": float(peak)})
            print(
                f"{float(seconds):.1f} s ({float(cpu):.1f} s of processor time), highest memory {float(peak):.0f} MB; "
                f"{written / 1e6:.0f} MB written: {', '.join(images)}"
            )
    if args.json:
        facts = {"json_bytes": size, "scale": args.scale, "rounds": rounds}
        Path(args.json).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
