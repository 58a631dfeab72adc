"""Recognising detection data sets (COCO, Pascal VOC), so that their pictures can be used for pretraining.

The files are untrusted: JSON and XML of limited size, every shape checked, nothing followed.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_JSON, _MAX_XML = 1 << 30, 1 << 20


@dataclass
class Annotated:
    """A detection data set.

    Attributes:
        title: what it is, for people.
        images: the folder with its pictures; None if they are not there.
        boxes: number of boxes by class.
        problems: what is wrong, one sentence each.
    """

    title: str
    images: Path | None
    boxes: Counter[str]
    problems: list[str] = field(default_factory=list)


def find_annotated(folder: Path) -> Annotated | None:
    """The detection data set that a folder holds, or None."""
    return _find_voc(folder) or _find_coco(folder)


# --- COCO ------------------------------------------------------------------------------------------------------------


def _find_coco(folder: Path) -> Annotated | None:
    files = sorted(folder.glob("*.json")) + sorted((folder / "annotations").glob("*.json"))
    # A training split before the others.
    for file in sorted(files, key=lambda path: "train" not in path.name):
        content = _json(file)
        if isinstance(content, dict) and all(
            isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
        ):
            return _coco(folder, file, content)
    return None


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_JSON:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _coco(folder: Path, file: Path, content: dict[str, Any]) -> Annotated:
    names = [entry["file_name"] for entry in content["images"] if _has(entry, "file_name", str)]
    classes = {
        entry["id"]: entry["name"]
        for entry in content["categories"]
        if _has(entry, "id", int) and _has(entry, "name", str)
    }
    boxes = Counter(
        classes.get(entry["category_id"], f"category {entry['category_id']}")
        for entry in content["annotations"]
        if _has(entry, "category_id", int)
    )
    split = file.stem.removeprefix("instances_")
    places = [folder / split, folder / "images" / split, folder / "images", folder, file.parent]
    images = next((place for place in places if names and (place / names[0]).is_file()), None)
    problems = []
    if images is None:
        problems.append(f"{file} names {len(names)} pictures, but they are not in {folder}")
    else:
        missing = [name for name in names if not (images / name).is_file()]
        if missing:
            problems.append(f"{len(missing)} pictures that {file} names are missing, the first is {missing[0]!r}")
    return Annotated(f"COCO annotations ({file.name})", images, boxes, problems)


def _has(entry: Any, key: str, kind: type) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(key), kind)


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def _find_voc(folder: Path) -> Annotated | None:
    for root in [folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*"))]:
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            return _voc(root)
    return None


def _voc(root: Path) -> Annotated:
    boxes, problems = Counter[str](), list[str]()
    for file in sorted((root / "Annotations").glob("*.xml")):
        try:
            if file.stat().st_size > _MAX_XML:
                raise ValueError("larger than any annotation")
            tree = ElementTree.fromstring(file.read_bytes())
        except (OSError, ValueError, ElementTree.ParseError) as error:
            problems.append(f"{file} cannot be read ({error})")
            continue
        boxes.update((name.text or "").strip() for name in tree.findall("object/name"))
    return Annotated(f"Pascal VOC ({root.name})", root / "JPEGImages", boxes, problems)
