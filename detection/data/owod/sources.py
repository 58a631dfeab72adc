"""A user's folders of Pascal VOC and COCO: where the parts are, and what is missing, told before anything is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.data.annotations import AnnotationSet
from detection.data.coco import read_coco
from detection.data.joining import joined
from detection.data.problems import Problems
from detection.data.voc import read_voc
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage.messages import show_path

Part = tuple[str, str]
"""A release and a split of it: ("VOC2007", "trainval"), ("COCO", "val2017")."""

_ARCHIVES = {
    ("VOC2007", "trainval"): "VOCtrainval_06-Nov-2007.tar",
    ("VOC2007", "train"): "VOCtrainval_06-Nov-2007.tar",
    ("VOC2007", "val"): "VOCtrainval_06-Nov-2007.tar",
    ("VOC2007", "test"): "VOCtest_06-Nov-2007.tar",
    ("VOC2012", "trainval"): "VOCtrainval_11-May-2012.tar",
}


@dataclass(frozen=True)
class Sources:
    """Where the releases lie.

    Attributes:
        voc: the folder of VOC2007 and VOC2012; None where no part is Pascal VOC's.
        coco: the folder of COCO's annotations.
        pictures: folders with pictures by the name they get: voc2007, voc2012, train2017, val2017.
    """

    voc: Path | None
    coco: Path
    pictures: dict[str, Path]

    def read(self, parts: Sequence[Part], tasks: TaskSet, problems: Problems) -> AnnotationSet:
        """All images of some parts, as one set.

        Args:
            parts: in the order in which their images come.
            tasks: gives classes their names.
            problems: is told what is wrong without being fatal.

        Raises:
            DataError: what is fatal in the files, by file and id.
        """
        sets = [(link_name(part), self._read(part, tasks, problems)) for part in parts]
        problems.refuse()
        return joined(sets)

    def _read(self, part: Part, tasks: TaskSet, problems: Problems) -> AnnotationSet:
        release, split = part
        if release == "COCO":
            return read_coco(_coco_file(self.coco, split), tasks=tasks, problems=problems)
        assert self.voc is not None
        return read_voc(self.voc / release, split, tasks=tasks, problems=problems)


def link_name(part: Part) -> str:
    """What the folder of a part's pictures is called in a built benchmark."""
    return part[1] if part[0] == "COCO" else part[0].lower()


def find_sources(voc: Path | None, coco: Path | None, parts: Iterable[Part], *, pictures: bool = True) -> Sources:
    """Look for everything that the parts need.

    Args:
        voc: the folder with VOC2007 and VOC2012, or the one above (VOCdevkit).
        coco: the folder with annotations, train2017 and val2017; pictures may also lie in `images` of it.
        pictures: whether the pictures are needed.

    Raises:
        DataError: everything that is missing, each with its remedy.
    """
    wanted = list(dict.fromkeys(parts))
    problems = list[str]()
    of_voc = [part for part in wanted if part[0] != "COCO"]
    of_coco = [part for part in wanted if part[0] == "COCO"]
    voc_root = _voc_root(voc, of_voc, problems) if of_voc else None
    coco_root = _coco_root(coco, of_coco, problems)
    places = dict[str, Path]()
    for part in of_voc if voc_root is not None else []:
        assert voc_root is not None
        _look_at_voc(voc_root / part[0], part, problems, places if pictures else None)
    for part in of_coco if coco_root is not None else []:
        assert coco_root is not None
        _look_at_coco(coco_root, part[1], problems, places if pictures else None)
    if problems or coco_root is None:
        raise DataError("\n".join(dict.fromkeys(problems)))
    return Sources(voc_root, coco_root, places)


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def _voc_root(voc: Path | None, parts: Sequence[Part], problems: list[str]) -> Path | None:
    releases = sorted({release for release, _ in parts})
    if voc is None:
        problems.append(f"--voc is missing: give the folder that {' and '.join(releases)} lie in, such as VOCdevkit")
        return None
    for root in (voc, voc / "VOCdevkit"):
        if any((root / release).is_dir() for release in releases):
            return root
    here = show_path(voc)
    if (voc / "Annotations").is_dir() and (voc / "ImageSets").is_dir():
        problems.append(
            f"--voc {here} is one year of Pascal VOC: give the folder above it, with {' and '.join(releases)}"
        )
    elif (voc / "annotations").is_dir():
        problems.append(f"--voc {here} looks like COCO's folder: give the one with {' and '.join(releases)}")
    else:
        problems.append(
            f"--voc {here} has no folder {' nor '.join(releases)}: give the one they lie in, such as VOCdevkit"
        )
    return None


def _look_at_voc(root: Path, part: Part, problems: list[str], places: dict[str, Path] | None) -> None:
    archive, here = _ARCHIVES[part], show_path(root)
    if not root.is_dir():
        problems.append(f"{here} is missing: unpack {archive} in {show_path(root.parent.parent)}")
        return
    file = root / "ImageSets" / "Main" / f"{part[1]}.txt"
    if not file.is_file():
        problems.append(f"{show_path(file)} is missing: unpack {archive} there, too")
    elif not (root / "Annotations").is_dir():
        problems.append(f"{here} has no folder Annotations: unpack {archive} there")
    if places is not None:
        _pictures(root / "JPEGImages", link_name(part), f"unpack {archive} there", problems, places)


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _coco_root(coco: Path | None, parts: Sequence[Part], problems: list[str]) -> Path | None:
    if coco is None:
        problems.append("--coco is missing: give the folder that COCO's annotations, train2017 and val2017 lie in")
        return None
    if (coco / "annotations").is_dir():
        return coco
    here = show_path(coco)
    if coco.name == "annotations" or any(coco.glob("instances_*.json")):
        problems.append(f"--coco {here} is the folder of the annotations: give the one above it, with train2017 beside")
    elif any((coco / name).is_dir() for name in ("VOC2007", "VOC2012", "VOCdevkit")):
        problems.append(
            f"--coco {here} looks like Pascal VOC's folder: give the one with annotations, train2017, val2017"
        )
    else:
        problems.append(f"--coco {here} has no folder annotations: unpack annotations_trainval2017.zip there")
    return None


def _look_at_coco(root: Path, split: str, problems: list[str], places: dict[str, Path] | None) -> None:
    file = _coco_file(root, split)
    if not file.is_file():
        problems.append(f"{show_path(file)} is missing: unpack annotations_trainval2017.zip in {show_path(root)}")
    if places is not None:
        inner = root / "images" / split
        folder = inner if inner.is_dir() else root / split
        _pictures(folder, split, f"unpack {split}.zip in {show_path(root)}", problems, places)


def _pictures(folder: Path, name: str, remedy: str, problems: list[str], places: dict[str, Path]) -> None:
    if folder.is_dir():
        places[name] = folder
    else:
        remedy = f"{remedy}, or add --no-pictures to score detections only"
        problems.append(f"the folder of pictures {show_path(folder)} is missing: {remedy}")
