"""A small open-world data set of drawn shapes, quick enough to train on in a test: colour and form are the class."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detection.data.openworld import OpenWorldData, open_files
from detection.tasks import TaskSet
from detection.training.recipe import DetectionRecipe

TASKS = TaskSet("drawn", (("red", "green"), ("blue", "yellow")))
COLOURS = {
    "red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "yellow": (230, 220, 50),
    "grey": (120, 120, 120),
}  # fmt: skip
"""Grey is of no task."""
SIDE = 64


def draw_set(folder: Path, *, seed: int = 0, train: int = 12, val: int = 8, test: int = 8, side: int = SIDE) -> Path:
    """COCO files train_1.json, train_2.json, val.json and test.json, completely annotated, and images/."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    for name, count in (("train_1", train), ("train_2", train), ("val", val), ("test", test)):
        write_coco(folder, name, [_scene(random, side, f"{name}_{i}.png", folder) for i in range(count)], side)
    return folder


def _scene(random, side, name, folder):
    image = Image.fromarray(random.integers(150, 190, (side, side, 3), dtype=np.uint8))
    pen, objects = ImageDraw.Draw(image), []
    for corner in random.permutation(4)[:3]:  # one object a quarter, so that they do not overlap
        half = side // 2
        width, height = random.integers(half // 2, half - 4, 2).tolist()
        left, top = (int(half * place + random.integers(1, 4)) for place in (corner % 2, corner // 2))
        kind = list(COLOURS)[random.integers(len(COLOURS))]
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=COLOURS[kind], outline=(20, 20, 20))
        objects.append((kind, [left, top, width, height]))
    image.save(folder / "images" / name)
    return name, objects


def write_coco(folder, name, scenes, side=SIDE):
    """One annotation file; `scenes` are (file name, [(class, [x, y, width, height])])."""
    images, boxes = [], []
    for i, (file, objects) in enumerate(scenes, start=1):
        images.append({"id": i, "file_name": file, "width": side, "height": side})
        for kind, box in objects:
            boxes.append(
                {"id": len(boxes) + 1, "image_id": i, "category_id": 1 + list(COLOURS).index(kind), "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": 1 + i, "name": kind} for i, kind in enumerate(COLOURS)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))


def open_drawn(folder: Path, tasks: TaskSet = TASKS) -> OpenWorldData:
    files = [str(folder / f"{name}.json") for name in ("train_1", "train_2", "val", "test")]
    return open_files(tasks, files[:2], *files[2:], folder / "images")


def without(annotations, *kinds):
    """The same set without the boxes of some classes."""
    gone = np.isin(annotations.box_category, [annotations.categories.index(kind) for kind in kinds])
    names = ("box_image", "boxes", "box_category", "crowd", "difficult", "area", "box_ids")
    return replace(annotations, **{name: getattr(annotations, name)[~gone] for name in names})


def drawn_recipe(**changes) -> DetectionRecipe:
    stage = {"lr": 0.01, "warmup": 2, "schedule": "steps"}
    base = {
        "network": {
            "name": "tiny", "width": 4, "pyramid": 8, "representation": 16, "min_size": 64, "max_size": 64,
            "anchors": [12, 20, 32], "proposals_train": 60, "proposals_test": 40,
        },
        "data": {"name": "openscenes", "workers": 0},
        "unknowns": {"start": 0.2, "previous": 0.0}, "clustering": {"start": 0.2, "refresh": 2},
        "first": {**stage, "steps": 6}, "later": {**stage, "steps": 6}, "finetune": {**stage, "steps": 4},
        "replay": {"per_class": 4, "share": 0.25},
        "augment": {"flip": 0.5, "brightness": 0.2, "hue": 0.05},
        "batch_size": 4, "regions": 32, "checkpoint_every": 2, "seed": 3,
    }  # fmt: skip
    for name, value in changes.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) and name in base else value
    return DetectionRecipe.model_validate(base)
