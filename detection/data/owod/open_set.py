"""The test sets of VOC-COCO: VOC 2007 test, and with it images of COCO train2017 that show classes nobody taught.

Two series (OpenDet, Han et al., CVPR 2022). *More classes*: 20, 40 or 60 further ones in 5,000, 10,000 or 15,000
images, without a person, and drawn so that each class has its share. *More images*: 2,500 to 20,000 of those that show
none of Pascal VOC's classes. The published lists were drawn without a seed: drawing again gives other images by the
same rule, and only the lists themselves, which that project publishes, give the same.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.annotations import AnnotationSet, Indices
from detection.data.owod.protocols import is_voc, showing
from detection.data.problems import shown
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage.files import read_file
from sslcore.storage.messages import show_path

TAUGHT = 20
_LONGEST = 1 << 28
_REMEDY = "give the folder of the released lists, or leave --lists out to draw anew"


@dataclass(frozen=True)
class OpenSet:
    """One test set.

    Attributes:
        name: of its file.
        classes: of which unknown classes may be shown, up to this place in the list of 80.
        images: of COCO, at most.
        first: objects drawn class by class before the images are; None: any images are drawn.
    """

    name: str
    classes: int
    images: int
    first: int | None = None

    @property
    def published(self) -> str:
        """The name of the released list."""
        return f"voc_coco_{self.name.removeprefix('test_')}_test"


OPEN_SETS = (
    OpenSet("test_20_40", 40, 5_000, first=8_000),
    OpenSet("test_20_60", 60, 10_000, first=16_000),
    OpenSet("test_20_80", 80, 15_000, first=24_000),
    *(OpenSet(f"test_{count}", 80, count) for count in (2_500, 5_000, 10_000, 20_000)),
)
DRAWN_BY_OBJECTS = frozenset(one.name for one in OPEN_SETS if one.first is not None)
"""How many images these have is a matter of the draw, unless more than enough are left."""


def open_test_lists(pool: AnnotationSet, *, seed: int, lists: Path | None) -> dict[str, Indices]:
    """Every test set by name, with VOC 2007 test alone as `test`, as indices into the pool.

    Args:
        pool: VOC 2007 test and COCO train2017.
        seed: of the drawing.
        lists: folder of the published lists, which are then taken instead.

    Raises:
        DataError: a list is missing or names an image that the pool does not have.
    """
    voc = np.flatnonzero(is_voc(pool))
    found = {"test": voc}
    for one in OPEN_SETS:
        if lists is not None:
            found[one.name] = np.unique(read_list(lists / f"{one.published}.txt", pool))
        else:
            found[one.name] = np.concatenate([voc, _drawn(pool, one, seed)])
    return found


def _drawn(pool: AnnotationSet, one: OpenSet, seed: int) -> Indices:
    names = TaskSet.from_file("m_owodb").classes
    random = np.random.default_rng([seed, one.classes, one.images])
    coco = ~is_voc(pool)
    forbidden = np.zeros(len(pool.images), dtype=np.bool_)
    never = (*names[one.classes :], "person") if one.first is not None else names[:TAUGHT]
    forbidden[showing(pool, never)] = True
    fitting = showing(pool, names[TAUGHT : one.classes], coco & ~forbidden)
    if one.first is not None:
        fitting = _by_class(pool, fitting, one.first, random)
    return np.sort(random.choice(fitting, min(one.images, len(fitting)), replace=False))


def _by_class(pool: AnnotationSet, images: Indices, first: int, random: np.random.Generator) -> Indices:
    """The images of about `first` objects, of each class as large a share of its objects."""
    rows = np.flatnonzero(np.isin(pool.box_image, images))
    drawn = list[Indices]()
    for category in np.unique(pool.box_category[rows]):
        mine = pool.box_image[rows[pool.box_category[rows] == category]]
        drawn.append(random.choice(mine, min(len(mine), first * len(mine) // len(rows)), replace=False))
    return np.unique(np.concatenate(drawn)) if drawn else images[:0]


def read_names(file: Path) -> list[str]:
    """The lines of a released list."""
    return read_file(file, limit=_LONGEST, error=DataError, remedy=_REMEDY).decode("utf-8", "replace").split()


def read_list(file: Path, pool: AnnotationSet) -> Indices:
    """The images of a published list, a name without suffix on each line.

    Raises:
        DataError: it is missing, or names an image that the pool does not have.
    """
    place = {PurePosixPath(image.file_name).stem: i for i, image in enumerate(pool.images)}
    names = read_names(file)
    strangers = [name for name in names if name not in place]
    if strangers:
        raise DataError(
            f"{show_path(file)} names {len(strangers):,} images that are not among those of the given folders, "
            f"{shown(strangers[0])} for one; {_REMEDY}"
        )
    if not names:
        raise DataError(f"{show_path(file)} names no image; {_REMEDY}")
    return np.array([place[name] for name in names], dtype=np.int64)
