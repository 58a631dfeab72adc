"""Small trees in the layout of Pascal VOC's and COCO's releases, with what makes the benchmarks built from them tricky.

In COCO's files: six classes under COCO's names; an id (139) that is also the number of an image of VOC 2007; crowds; a
box without area; images that show classes of several tasks; images without annotation; outlines.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detection.tasks import TaskSet

SIDE = 64
TASKS = TaskSet.from_file("m_owodb")
COCO_NAMES = {ours: theirs for theirs, ours in TASKS.aliases.items()}
CLASSES = TASKS.classes
CATEGORY_ID = {name: 1 + i + i // 11 for i, name in enumerate(sorted(CLASSES))}
"""With gaps, as COCO's ids have them."""

Objects = list[tuple]
"""(class, (x, y, width, height)[, "difficult" or "crowd"])"""


def colour_of(name: str) -> tuple[int, int, int]:
    rgb = np.random.default_rng(CLASSES.index(name)).integers(0, 256, 3)
    return tuple(int(value) for value in rgb)


def draw(file: Path, objects: Objects) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (170, 170, 170))
    pen = ImageDraw.Draw(image)
    for name, (x, y, width, height), *_ in objects:
        if width and height:
            pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour_of(name), outline=(20, 20, 20))
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=95)


def write_voc(folder: Path, splits: dict[str, dict[str, Objects]], *, pictures: bool = True) -> None:
    """One year: splits of images by name. Pascal VOC counts pixels from 1 and includes the last."""
    for split, images in splits.items():
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "JPEGImages").mkdir(exist_ok=True)
        for name, objects in images.items():
            (folder / "Annotations" / f"{name}.xml").write_text(_xml(objects))
            if pictures:
                draw(folder / "JPEGImages" / f"{name}.jpg", objects)


def _xml(objects: Objects) -> str:
    parts = [f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"]
    for name, (x, y, width, height), *flags in objects:
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        difficult = int("difficult" in flags)
        parts.append(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>")
    return "".join([*parts, "</annotation>"])


def write_coco(folder: Path, split: str, images: dict[int, Objects], *, pictures: bool = True) -> None:
    """One split, of images by id."""
    entries, boxes = [], []
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number, objects in images.items():
        name = f"{number:012}.jpg"
        entries.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE, "license": 1})
        if pictures:
            draw(folder / split / name, objects)
        for kind, (x, y, width, height), *flags in objects:
            crowd = "crowd" in flags
            outline = {"counts": [3, 5], "size": [SIDE, SIDE]} if crowd else [[x, y, x + width, y, x, y + height]]
            boxes.append(
                {"segmentation": outline, "area": width * height / 2, "iscrowd": int(crowd), "image_id": number,
                 "bbox": [x, y, width, height], "category_id": CATEGORY_ID[kind], "id": 1000 + len(boxes)}
            )  # fmt: skip
    categories = [
        {"supercategory": "thing", "id": number, "name": COCO_NAMES.get(name, name)}
        for name, number in sorted(CATEGORY_ID.items(), key=lambda pair: pair[1])
    ]
    content = {"info": {}, "licenses": [], "images": entries, "annotations": boxes, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


A, B, C, D = (2, 2, 28, 26), (33, 3, 27, 28), (3, 34, 26, 27), (34, 34.5, 28, 25.25)
"""Four places that do not overlap."""


def small_releases(folder: Path, *, pictures: bool = True) -> tuple[Path, Path]:
    """VOCdevkit and coco with a few images each, every one with a reason to be there."""
    voc, coco = folder / "VOCdevkit", folder / "coco"
    write_voc(
        voc / "VOC2007",
        {
            "train": {"000005": [("person", A), ("dog", B, "difficult")], "000007": [("sofa", A)]},
            "val": {"000009": [("car", B), ("tvmonitor", C)], "000012": [("aeroplane", A)]},
            "test": {"000139": [("person", A), ("diningtable", C)], "000001": [("dog", B, "difficult")]},
        },
        pictures=pictures,
    )
    (voc / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n000007\n000009\n000012\n")
    write_voc(
        voc / "VOC2012",
        {"trainval": {"2007_000027": [("person", C)], "2008_000002": [("tvmonitor", A)]}},
        pictures=pictures,
    )
    write_coco(
        coco,
        "train2017",
        {
            9: [("truck", A), ("person", B)],
            25: [("truck", A), ("pizza", B), ("cup", C)],  # of tasks 2, 3 and 4
            30: [("bear", A, "crowd")],  # a crowd only
            34: [("zebra", (5, 5, 0, 7)), ("person", B)],  # its one object of task 2 has no area
            36: [("bench", (50, 50, 30, 30)), ("sofa", A)],  # reaches out of the picture
            42: [("pizza", D), ("giraffe", A)],
            49: [("kite", A)],
            61: [("cup", B), ("bowl", C)],
            64: [("person", A)],  # of task 1 only
            71: [("toilet", A), ("tvmonitor", B), ("motorbike", C), ("pottedplant", D)],
            72: [],
        },
        pictures=pictures,
    )
    write_coco(
        coco,
        "val2017",
        {
            139: [("person", A), ("truck", B), ("pizza", C), ("cup", D)],  # in the lists of three tasks; an id of VOC's
            285: [("bear", A), ("diningtable", B)],
            632: [("person", A), ("aeroplane", B)],  # of task 1 only: not in the test of M-OWODB
            724: [("cake", A, "crowd")],
            776: [],
        },
        pictures=pictures,
    )
    return voc, coco
