"""What the published benchmarks are, as rules on class lists and splits.

* **M-OWODB** (ORE, Joseph et al., CVPR 2021): task 1 is trained on VOC 2007 and 2012 trainval; each later task on the
  images of COCO train2017 that show one of its classes, so that images recur. Tested on VOC 2007 test and the images of
  val2017 that show a class of a later task; the released list joins those of the tasks, so that an image with objects
  of several stands there several times.
* **S-OWODB** (OW-DETR, Gupta et al., CVPR 2022): COCO only; every task as the later ones above; tested on all of
  val2017 that has an annotation.
* **VOC-COCO** (OpenDet, Han et al., CVPR 2022): one task of Pascal VOC's classes, trained on VOC 2007 train and 2012
  trainval, tested on VOC 2007 test with images of train2017 that show other classes; see `open_set`.

Crowds and difficult objects count as objects here, as in the published counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from detection.data.annotations import AnnotationSet, Indices
from detection.data.owod.sources import Part
from detection.tasks import TaskSet

VOC_TEST: Part = ("VOC2007", "test")
COCO_TRAIN: Part = ("COCO", "train2017")
COCO_VAL: Part = ("COCO", "val2017")


@dataclass(frozen=True)
class Protocol:
    """A benchmark.

    Attributes:
        name: of its task set.
        pools: the parts that the images of training, validation and test come from, in the order of the lists.
            Without validation images of its own some of training are held out.
    """

    name: str
    pools: Mapping[str, tuple[Part, ...]]

    @property
    def parts(self) -> list[Part]:
        return [part for parts in self.pools.values() for part in parts]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "m_owodb",
            {
                "train": (("VOC2007", "trainval"), ("VOC2012", "trainval"), COCO_TRAIN),
                "test": (VOC_TEST, COCO_VAL),
            },
        ),
        Protocol("s_owodb", {"train": (COCO_TRAIN,), "test": (COCO_VAL,)}),
        Protocol(
            "voc_coco",
            {
                "train": (("VOC2007", "train"), ("VOC2012", "trainval")),
                "val": (("VOC2007", "val"), COCO_VAL),
                "test": (VOC_TEST, COCO_TRAIN),
            },
        ),
    )
}
"""The benchmarks by name."""


def train_lists(tasks: TaskSet, pool: AnnotationSet) -> list[Indices]:
    """The training images of each task, as indices into the pool."""
    voc = is_voc(pool)
    if not voc.any():
        return [showing(pool, tasks.current(task)) for task in range(1, tasks.count + 1)]
    later = [showing(pool, tasks.current(task), ~voc) for task in range(2, tasks.count + 1)]
    return [np.flatnonzero(voc), *later]


def test_lists(protocol: Protocol, tasks: TaskSet, pool: AnnotationSet) -> list[Indices]:
    """The lists whose lines together are the published test list: of M-OWODB one for each task, else one of all."""
    voc = is_voc(pool)
    if protocol.name == "m_owodb":
        later = [showing(pool, tasks.current(task), ~voc) for task in range(2, tasks.count + 1)]
        return [np.flatnonzero(voc), *later]
    return [np.union1d(np.flatnonzero(voc), showing(pool, pool.categories))]


def is_voc(pool: AnnotationSet) -> np.ndarray:
    """(N,) which images are Pascal VOC's."""
    return np.array([image.file_name.startswith("voc") for image in pool.images], dtype=np.bool_)


def showing(pool: AnnotationSet, names: Iterable[str], among: np.ndarray | None = None) -> Indices:
    """Images with a box of one of the classes, in the pool's order."""
    wanted = set(names)
    of_category = np.array([name in wanted for name in pool.categories], dtype=np.bool_)
    found = np.zeros(len(pool.images), dtype=np.bool_)
    found[pool.box_image[of_category[pool.box_category]]] = True
    return np.flatnonzero(found if among is None else found & among)


def instances(pool: AnnotationSet, images: Indices, names: Iterable[str]) -> int:
    """Boxes of some classes in images; in one that is listed twice they count twice."""
    wanted = set(names)
    of_category = np.array([name in wanted for name in pool.categories], dtype=np.bool_)
    times = np.bincount(images, minlength=len(pool.images))
    return int(times[pool.box_image[of_category[pool.box_category]]].sum())
