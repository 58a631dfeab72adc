"""Building a published benchmark: annotation files for each task and split, pictures referred to and not copied."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import AnnotationSet, Indices
from detection.data.owod.counts import Count
from detection.data.owod.open_set import DRAWN_BY_OBJECTS, OPEN_SETS, open_test_lists, read_list, read_names
from detection.data.owod.protocols import PROTOCOLS, Protocol, instances, is_voc, showing, test_lists, train_lists
from detection.data.owod.sources import Sources, find_sources
from detection.data.owod.writing import PUBLISHED, Writer, stems
from detection.data.problems import Problems, shown
from detection.data.validation import clean
from detection.published import published_counts
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage import folders
from sslcore.storage.messages import show_path

VAL_LIST = "all_task_val"


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Attributes:
        benchmark: m_owodb, s_owodb or voc_coco.
        voc, coco: the folders, see `find_sources`.
        out: a new folder.
        val: images of each task's training that are held out, for fitting the decision.
        seed: of what is drawn.
        as_published: write the released lists, too, and test objects as the original's conversion has them.
        lists: folder of lists that were drawn by hand or without a seed, to take instead of drawing.
        pictures: refer to the pictures; without them detections can be scored and nothing trained.
    """

    benchmark: str
    voc: Path | None
    coco: Path | None
    out: Path
    val: int = 1000
    seed: int = 0
    as_published: bool = False
    lists: Path | None = None
    pictures: bool = True


@dataclass
class Built:
    """What was built: its folder, its sizes, the images of each file, sentences about what was left out."""

    folder: Path
    tasks: TaskSet
    counts: list[Count] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build(order: Order) -> Built:
    """Build a benchmark into a new folder; it is there whole or not at all.

    The folder holds `train_1.json`, ... (each image with all that is annotated in it: views choose), `val.json` of
    images that are in no other file, `test.json` with each image once, `tasks.yaml`, `images/` with links to the
    folders of pictures, `manifest.json`, and perhaps `as_published/`.

    Raises:
        DataError: something of the folders is missing or wrong, or `out` holds something.
        CheckpointError: it cannot be written.
    """
    protocol = PROTOCOLS[order.benchmark]
    tasks = TaskSet.from_file(order.benchmark)
    if order.out.exists() and (not order.out.is_dir() or any(order.out.iterdir())):
        raise DataError(f"{show_path(order.out)} already holds something and is never overwritten; name a new folder")
    if order.lists is not None:
        _look_for_lists(order)
    sources = find_sources(order.voc, order.coco, protocol.parts, pictures=order.pictures)
    folders.make_folder(order.out.absolute().parent)
    with folders.new_folder(order.out, replace=False) as folder:
        return _Builder(order, protocol, tasks, sources, folder).build()


def _look_for_lists(order: Order) -> None:
    assert order.lists is not None
    names = [one.published for one in OPEN_SETS] if order.benchmark == "voc_coco" else [VAL_LIST]
    missing = [name for name in names if not (order.lists / f"{name}.txt").is_file()]
    if missing:
        whose = "datasets/voc_coco_ann/ImageSets/Main of opendet2" if order.benchmark == "voc_coco" else (
            "datasets/OWOD_imagesets of ORE's repository"
        )  # fmt: skip
        raise DataError(
            f"--lists {show_path(order.lists)} has no {', '.join(f'{name}.txt' for name in missing)}; give {whose}, or "
            "leave --lists out to draw anew"
        )


class _Builder:
    """Decides what goes into each file of one benchmark, and counts it."""

    def __init__(self, order: Order, protocol: Protocol, tasks: TaskSet, sources: Sources, folder: Path) -> None:
        self.order, self.protocol, self.tasks, self.sources = order, protocol, tasks, sources
        self.built = Built(order.out, tasks)
        self.published: Mapping[str, Any] = published_counts(protocol.name)
        self.writer = Writer(folder, sources.pictures if order.pictures else None)

    def build(self) -> Built:
        self._train()
        if "val" in self.protocol.pools:
            self._val()
        self._test()
        order = self.order
        about = {
            "benchmark": order.benchmark,
            "made_of": {"voc": _text(order.voc), "coco": _text(order.coco), "lists": _text(order.lists)},
            "val": order.val,
            "seed": order.seed,
            "counts": [count.as_dict() for count in self.built.counts],
        }
        self.writer.finish(self.tasks, about)
        self.built.images = {k: n for k, n in self.writer.images.items() if not k.startswith(PUBLISHED)}
        return self.built

    # --- training and validation -------------------------------------------------------------------------------------

    def _train(self) -> None:
        raw, pool = self._pool("train")
        rule, ours = train_lists(self.tasks, raw), train_lists(self.tasks, pool)
        held = self._held_out(pool, ours) if "val" not in self.protocol.pools else np.zeros(0, dtype=np.int64)
        for task, (published, mine) in enumerate(zip(rule, ours, strict=True), start=1):
            kept = np.setdiff1d(mine, held)
            self._count_train(task, (raw, published), (pool, mine), kept)
            self.writer.annotations(f"train_{task}", pool, kept)
            self._released(f"t{task}_train", raw, published)
        if len(held):
            self.writer.annotations("val", pool, held)
            self.built.counts.append(Count("images to fit the decision on", None, len(held), len(held)))

    def _held_out(self, pool: AnnotationSet, lists: list[Indices]) -> Indices:
        """Images for fitting the decision: those of the given list, or as many of each task, by a hash of their ids."""
        if self.order.lists is not None:
            file = self.order.lists / f"{VAL_LIST}.txt"
            remedy = "give the released list, or leave --lists out to draw anew"
            return self._enough_left(np.unique(read_list(file, pool)), lists, show_path(file), remedy)
        held = np.zeros(0, dtype=np.int64)
        for mine in lists:
            free = np.setdiff1d(mine, held)
            drawn = sorted(free.tolist(), key=lambda i: _key(self.order.seed, pool.images[i].id))
            held = np.union1d(held, np.array(drawn[: self.order.val], dtype=np.int64))
        return self._enough_left(held, lists, f"--val {self.order.val}", "hold out fewer with --val")

    @staticmethod
    def _enough_left(held: Indices, lists: list[Indices], what: str, remedy: str) -> Indices:
        for task, mine in enumerate(lists, start=1):
            left = len(np.setdiff1d(mine, held))
            if 3 * left < len(mine) or not left:
                raise DataError(f"{what} leaves {left:,} of {len(mine):,} images to train task {task} on; {remedy}")
        return held

    def _count_train(
        self, task: int, published: tuple[AnnotationSet, Indices], ours: tuple[AnnotationSet, Indices], kept: Indices
    ) -> None:
        pool, mine = ours
        names, where = self.tasks.current(task), f"training, task {task}"
        by_rule, in_list, left = (
            instances(*published, names),
            instances(pool, mine, names),
            instances(pool, kept, names),
        )
        images, boxes = len(mine) - len(kept), in_list - left
        bare = len(published[1]) - len(mine)
        self.built.counts += [
            Count(
                f"images, {where}", self._published("train_images", task), len(published[1]), len(kept),
                _reasons((images, "held out to fit the decision on"), (bare, "show nothing of it that has an area")),
            ),
            Count(
                f"objects, {where}", self._published("train_instances", task), by_rule, left,
                _reasons((boxes, "in images held out"), (by_rule - in_list, "without area")),
            ),
        ]  # fmt: skip

    def _val(self) -> None:
        _, pool = self._pool("val")
        chosen = np.union1d(np.flatnonzero(is_voc(pool)), showing(pool, pool.categories))
        self.writer.annotations("val", pool, chosen)
        told = self.published.get("val_lines")
        self.built.counts.append(Count("images to fit the decision on", told, len(chosen), len(chosen)))

    # --- test --------------------------------------------------------------------------------------------------------

    def _test(self) -> None:
        raw, pool = self._pool("test")
        if self.protocol.name == "voc_coco":
            self._open_tests(raw, pool)
            return
        lists = test_lists(self.protocol, self.tasks, raw)
        lines = np.concatenate(lists)
        once = np.unique(lines)
        self.built.counts += [
            Count(
                "lines of the test list", self.published["test_lines"], len(lines), len(once),
                "an image of several tasks is listed once",
            ),
            Count("images, test", self.published["test_images"], len(once), len(once)),
        ]  # fmt: skip
        for task in range(1, self.tasks.count + 1):
            names = self.tasks.current(task)
            counted = lists[task - 1] if len(lists) > 1 else once
            told = self._published("test_instances", task)
            by_rule, written = instances(raw, counted, names), instances(pool, once, names)
            further, of_all = "more in COCO's images, which the published count leaves out", instances(raw, once, names)
            reason = _reasons((of_all - by_rule, further), (of_all - written, "without area"))
            self.built.counts.append(Count(f"objects, test, task {task}", told, by_rule, written, reason))
        self.writer.annotations("test", pool, once)
        self._released("all_task_test", raw, lines)
        if self.order.as_published:
            self.writer.annotations(f"{PUBLISHED}/test", as_converted(raw), once)

    def _open_tests(self, raw: AnnotationSet, pool: AnnotationSet) -> None:
        found = open_test_lists(raw, seed=self.order.seed, lists=self.order.lists)
        for name, images in found.items():
            told = self.published["test"][name]
            by_lot = self.order.lists is None and name in DRAWN_BY_OBJECTS
            self.built.counts.append(Count(f"images, {name}", told, len(images), len(images), by_lot=by_lot))
            self.writer.annotations(name, pool, images)
            if self.order.as_published:
                listed = name if name == "test" else f"voc_coco_{name.removeprefix('test_')}_test"
                self.writer.lines(f"{PUBLISHED}/{listed}", raw, images)
                self.writer.annotations(f"{PUBLISHED}/{name}", as_converted(raw), images)
        if self.order.lists is None:
            self.built.notes.append(
                "The test sets with COCO's images were drawn anew, as the published ones were drawn without a seed: "
                "for the same images give the published lists with --lists."
            )

    def _released(self, name: str, pool: AnnotationSet, images: Indices) -> None:
        """A released list as the rules give it: written if wanted, compared if it is at hand."""
        if self.order.as_published:
            self.writer.lines(f"{PUBLISHED}/{name}", pool, images)
        file = None if self.order.lists is None else self.order.lists / f"{name}.txt"
        if file is not None and file.is_file():
            released, ours = Counter(read_names(file)), Counter(stems(pool, images))
            lacking, more = (released - ours).total(), (ours - released).total()
            verdict = "is what the rules give" if not lacking + more else (
                f"has {lacking:,} lines that the rules do not give, and lacks {more:,} that they give"
            )  # fmt: skip
            self.built.notes.append(f"The released {name}.txt ({released.total():,} lines) {verdict}.")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _pool(self, role: str) -> tuple[AnnotationSet, AnnotationSet]:
        """The images of a role as they are annotated, and with boxes clipped and those without area left out."""
        problems = Problems()
        raw = self.sources.read(self.protocol.pools[role], self.tasks, problems)
        self.built.notes += [f"note: {problem}" for problem in problems]
        missing = sorted(set(self.tasks.classes) - {raw.categories[i] for i in np.unique(raw.box_category).tolist()})
        if len(missing) == len(self.tasks.classes):
            raise DataError(f"{raw.source}: no class of {self.tasks.name} is annotated; give the folders as released")
        self._tell_of_strangers(raw, role)
        pool = clean(raw, Problems())
        left_out = len(raw.boxes) - len(pool.boxes)
        if left_out:
            self.built.notes.append(f"Left out for want of area: {left_out:,} of {len(raw.boxes):,} boxes ({role}).")
        return raw, pool

    def _tell_of_strangers(self, raw: AnnotationSet, role: str) -> None:
        """A misspelt class would be no more than an unlabelled object in training."""
        known = TaskSet.from_file("m_owodb").classes  # all 80, of whatever benchmark
        boxes = np.bincount(raw.box_category, minlength=len(raw.categories)).tolist()
        strange = [
            f"{shown(name)} ({count:,})"
            for name, count in zip(raw.categories, boxes, strict=True)
            if count and name not in known
        ]
        if strange:
            self.built.notes.append(
                f"Objects of classes that neither Pascal VOC nor COCO has ({role}): {', '.join(strange)}; they are "
                "unlabelled in training and unknown in tests."
            )

    def _published(self, key: str, task: int) -> int | None:
        told = self.published.get(key)
        return None if told is None else int(told[task - 1])


def as_converted(pool: AnnotationSet) -> AnnotationSet:
    """Objects as the original's conversion to Pascal VOC's files writes them: COCO's corners are whole pixels, and
    right and bottom lie one further (`int(x + w + 1)`, which counts from 1, where the pixel itself is meant)."""
    of_coco = ~is_voc(pool)[pool.box_image]
    corners = np.concatenate([np.trunc(pool.boxes[:, :2]), np.trunc(pool.boxes[:, 2:] + 1.0)], axis=1)
    return replace(pool, boxes=np.where(of_coco[:, None], corners, pool.boxes))


def _reasons(*parts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {said}" for count, said in parts if count)


def _key(seed: int, image: int | str) -> bytes:
    return hashlib.sha256(f"{seed} {image}".encode()).digest()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
