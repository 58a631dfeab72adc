"""What came out of OpenScenes: counted from the annotations, kept in the manifest, shown as a table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from detection.tasks import TaskSet

SIDES = (0, 16, 24, 32, 48, 64, 96, 128, 192)
"""Edges of the histogram of box sizes, sqrt(w * h) in pixels; the last bin is open."""
_HIDDEN = 0.95  # an object inside the image of which less is visible counts as occluded


def count_all(files: Mapping[str, Mapping[str, Any]], tasks: TaskSet) -> dict[str, Any]:
    """Statistics of all parts ("train_1", ..., "val", "test") from their COCO dictionaries.

    Returns plain values: `parts` (see `_count`), and `classes`: class -> task (None: far unknown), `drawings` and
    images and objects by part.
    """
    labelled = {f"train_{k}": set(tasks.current(k)) for k in range(1, tasks.count + 1)}
    named = {f"train_{k}": set(tasks.known(k)) for k in range(1, tasks.count + 1)}
    seen: set[int] = set()
    parts: dict[str, Any] = {}
    every = set(tasks.classes)
    for part, contents in files.items():
        parts[part] = _count(contents, labelled.get(part, every), named.get(part, every), seen)
        seen |= {image["id"] for image in contents["images"]}
    return {"parts": parts, "classes": _count_classes(files, tasks)}


def _count(contents: Mapping[str, Any], labelled: set[str], named: set[str], seen: set[int]) -> dict[str, Any]:
    """Of one part: counts, mean objects an image, and shares in [0, 1].

    Args:
        contents: COCO's dictionary.
        labelled: the classes that the part labels; the other objects are unlabelled.
        named: those and the ones of earlier tasks; the other objects are unknown.
        seen: ids of images of earlier parts.
    """
    names = {category["id"]: category["name"] for category in contents["categories"]}
    images, things = contents["images"], contents["annotations"]
    total = Counter(thing["image_id"] for thing in things)
    known = Counter(thing["image_id"] for thing in things if names[thing["category_id"]] in labelled)
    others = [total[image["id"]] - known[image["id"]] for image in images]
    unknown = sum(names[thing["category_id"]] not in named for thing in things)
    inside = [thing for thing in things if not thing["truncated"]]
    return {
        "images": len(images),
        "photographs": sorted({image["background"] for image in images}),
        "objects": len(things),
        "objects_per_image": _mean(total[image["id"]] for image in images),
        "labelled_per_image": _mean(known[image["id"]] for image in images),
        "unlabelled_per_image": _mean(others),
        "unknown_per_image": round(unknown / len(images), 4),
        "images_by_unlabelled": {str(n): count for n, count in sorted(Counter(others).items())},
        "distractors_per_image": round(len(contents["distractors"]) / len(images), 4),
        "occluded": _mean(thing["visible"] < _HIDDEN for thing in inside),
        "truncated": _mean(thing["truncated"] for thing in things),
        "recurring": _mean(image["id"] in seen for image in images),
        "box_sides": _histogram(things),
    }


def _count_classes(files: Mapping[str, Mapping[str, Any]], tasks: TaskSet) -> dict[str, Any]:
    categories = next(iter(files.values()))["categories"]
    found: dict[str, Any] = {}
    for category in categories:
        name = category["name"]
        of = {
            part: [thing for thing in contents["annotations"] if thing["category_id"] == category["id"]]
            for part, contents in files.items()
        }
        in_training = {thing["drawing"] for part, things in of.items() if part.startswith("train") for thing in things}
        in_test = {thing["drawing"] for thing in of["test"]}
        found[name] = {
            "task": next((k for k in range(1, tasks.count + 1) if name in tasks.current(k)), None),
            "drawings_train": len(in_training),
            "drawings_test": len(in_test),
            "test_drawings_unseen": bool(in_test) and in_training.isdisjoint(in_test),
            "images": {part: len({thing["image_id"] for thing in things}) for part, things in of.items()},
            "objects": {part: len(things) for part, things in of.items()},
        }
    return found


def _histogram(things: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    sides = [(thing["bbox"][2] * thing["bbox"][3]) ** 0.5 for thing in things]
    bins = [(f"{low}-{high}", low, float(high)) for low, high in pairwise(SIDES)]
    bins.append((f"{SIDES[-1]}-", SIDES[-1], float("inf")))
    return {name: sum(low <= side < high for side in sides) for name, low, high in bins}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else 0.0


# --- tables ----------------------------------------------------------------------------------------------------------


def describe(statistics: Mapping[str, Any]) -> str:
    """Parts and classes, as `count_all` counted them, in two tables of plain text."""
    return "\n\n".join([_parts_table(statistics["parts"]), _classes_table(statistics["classes"])])


def _parts_table(parts: Mapping[str, Any]) -> str:
    rows = [
        [
            "part",
            "images",
            "recurring",
            "objects",
            "an image",
            "labelled",
            "not",
            "unknown",
            "distractors",
            "occluded",
            "cut off",
        ]
    ]
    rows += [
        [
            part,
            f"{of['images']:,}",
            f"{of['recurring']:.0%}" if part.startswith("train") else "-",
            f"{of['objects']:,}",
            f"{of['objects_per_image']:.2f}",
            f"{of['labelled_per_image']:.2f}",
            f"{of['unlabelled_per_image']:.2f}",
            f"{of['unknown_per_image']:.2f}",
            f"{of['distractors_per_image']:.2f}",
            f"{of['occluded']:.0%}",
            f"{of['truncated']:.0%}",
        ]
        for part, of in parts.items()
    ]
    return _aligned(rows)


def _classes_table(classes: Mapping[str, Any]) -> str:
    """Objects by class: labelled ones in training, others in training, in val and test."""
    rows = [["task", "class", "drawings", "for test", "labelled", "not", "val", "test"]]
    for name, of in classes.items():
        own = f"train_{of['task']}"
        others = sum(count for part, count in of["objects"].items() if part.startswith("train") and part != own)
        rows.append(
            [
                str(of["task"] or "far"),
                name,
                str(of["drawings_train"]),
                _test_drawings(of),
                f"{of['objects'].get(own, 0):,}",
                f"{others:,}",
                f"{of['objects']['val']:,}",
                f"{of['objects']['test']:,}",
            ]
        )
    return _aligned(rows)


def _test_drawings(of: Mapping[str, Any]) -> str:
    if of["task"] is None or not of["drawings_test"]:
        return str(of["drawings_test"])
    return f"{of['drawings_test']} {'others' if of['test_drawings_unseen'] else 'same'}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of the same width: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    words = [not any(c.isdigit() for c in column[-1]) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(w) if word or k == 0 else cell.rjust(w)
            for k, (cell, w, word) in enumerate(zip(row, widths, words))
        )
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])
