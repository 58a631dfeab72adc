"""OpenScenes: an open-world detection benchmark made offline from drawings and photographs.

A folder holds `images/`, `tasks.yaml`, `train_1.json` ... (one a task), `val.json`, `test.json` and `manifest.json`
(the request, SHA-256 of every file, one hash over all of them, statistics).

Every json is annotated completely, with the same ids for categories, images and boxes everywhere; what a task may see
of it is the business of label views. A training image shows a few objects of its task's classes and two to four others:
one or two of other tasks' classes, and one or two far unknown ones, which no task ever labels. Half of the far unknown
classes stand about like that in training and validation images; the other half is in the test only, where a detector
meets it for the first time. About a quarter of a later task's images are images of earlier tasks. Classes are
long-tailed in training and equally frequent in val and test, where a rare class would be measured on a handful. Val and
test have photographs of their own, and half of their objects of a class with several drawings show one that training
never showed; `drawing` says which.

    >>> made = make_openscenes("M", "small", seed=0)  # doctest: +SKIP
    >>> made.train(1), made.tasks.current(1)  # doctest: +SKIP
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from detection.data.scenes import coco, openscenes_records, openscenes_statistics
from detection.data.scenes.backgrounds import Photographs
from detection.data.scenes.cache import (
    build_folder,
    cache_folder,
    differences,
    digest,
    read_manifest,
    source_digest,
)
from detection.data.scenes.catalogue import SPLITS, ArtCatalogue, Split
from detection.data.scenes.composer import ObjectGroup, Scene, SceneComposer, SceneConfig
from detection.data.scenes.openscenes_folder import TASKS, OpenScenes, changed, open_openscenes, origin
from detection.data.scenes.openscenes_records import Record, Records, with_recurring
from detection.data.scenes.openscenes_tasks import VARIANTS, Deal, Variant, deal_kenney, deal_own
from detection.tasks import TaskSet
from sslcore.errors import DataError

Size = Literal["tiny", "small", "large"]

RECURRING = 0.25
"""Share of a later task's training images that are images of earlier tasks."""
HELD_OUT = 0.5
"""Share of the objects in val and test that show a drawing of that split's own, where the class has any."""
UNLABELLED = (2, 4)
"""Objects in a training image that its task does not label."""
OTHERS, FAR_SEEN = (1, 2), (1, 2)
"""How many of them are of other tasks' classes and far unknown. Without the latter nothing in the last task's images
would be unknown, as if a world ended with its label set."""


@dataclass(frozen=True)
class SetSize:
    """Side of the images in pixels, and how many of them: training images of the first and of each later task."""

    side: int
    first: int
    later: int
    val: int
    test: int


# The prototype's 300 test images left some 30 objects of each class; 500 cost a detector two seconds more.
SIZES: dict[Size, SetSize] = {
    "tiny": SetSize(side=96, first=48, later=32, val=16, test=32),
    "small": SetSize(side=160, first=1500, later=800, val=200, test=500),
    "large": SetSize(side=320, first=6000, later=4000, val=1000, test=2000),
}


def make_openscenes(
    variant: Variant = "M",
    size: Size = "small",
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    sprites: str | Path | ArtCatalogue | None = None,
    backgrounds: str | Path | Photographs | None = None,
    workers: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> OpenScenes:
    """Compose the benchmark; the same request finds it there again.

    Args:
        variant: "M", every task mixes super-categories, or "S", each task has super-categories of its own.
        size: "tiny" (for tests), "small" or "large"; see `SIZES`.
        seed: together with art and photographs decides every pixel.
        folder: where; None keeps it in `cache_folder()` under a key of the request.
        sprites: anyone's own art in place of the demo's, a folder of class folders with transparent PNGs; its classes
            are dealt as `deal_own` says.
        backgrounds: anyone's own photographs: a folder of at least 8, or two or more for each split.
        workers: processes; with more than one, the calling script needs the usual `if __name__ == "__main__":`.
        say: is told before they are composed, which takes a while; not where they are found.

    Raises DataError if art or photographs are missing or too few, or the folder holds something else.
    """
    if variant not in VARIANTS or size not in SIZES or seed < 0 or workers < 1:
        raise ValueError(
            f"variant is M or S, size one of {', '.join(SIZES)}, seed at least 0 and workers at least 1, not "
            f"{variant!r}, {size!r}, {seed}, {workers}"
        )
    art, photographs = ArtCatalogue.open(sprites), Photographs.open(backgrounds)
    _check_photographs(photographs, backgrounds)
    source = str(sprites) if isinstance(sprites, str | Path) else "the art"
    deal = deal_kenney(variant) if sprites is None else deal_own(art, variant, source)
    art = art.subset([*deal.known, *deal.far])  # decides the category ids, too
    plan = _Plan(deal, SIZES[size], seed, art, photographs)
    request = {"openscenes": variant, "size": size, "seed": seed, "own_art": sprites is not None, "key": plan.key}
    target = Path(folder) if folder else cache_folder() / "openscenes" / f"{variant}-{size}-{seed}-{plan.key[:16]}"
    manifest = read_manifest(target)
    if manifest is None or manifest["request"] != request:
        if folder and target.exists() and (not target.is_dir() or any(target.iterdir())):
            if manifest is None and differences(target).manifest.get("request") == request:
                raise changed(target)
            raise DataError(f"{target} already holds something else: name a new folder, or delete this one")
        tasks = TaskSet(name=f"OpenScenes-{variant}", tasks=deal.tasks)
        kept = "" if folder else ", and they are kept in the cache"
        say(f"composing OpenScenes: {sum(plan.counts):,} pictures, once{kept}")
        build = partial(_build, plan=plan, tasks=tasks, workers=workers)
        build_folder(target, request, build, origin=origin(sprites, backgrounds))
    return open_openscenes(target)


def _check_photographs(photographs: Photographs, source: object) -> None:
    for split in SPLITS:
        if len(photographs.of(split)) < 2:
            named = source if isinstance(source, str | Path) else "the background set"
            raise DataError(
                f"{named} leaves one photograph for the split {split!r}: every split needs two, because distractors "
                "are cut from another one; a folder of at least 8 is enough"
            )


# --- what is composed ------------------------------------------------------------------------------------------------


class _Plan:
    """Which scenes there are: a composer for each task's training images, one for validation, one for the test."""

    def __init__(self, deal: Deal, size: SetSize, seed: int, art: ArtCatalogue, photographs: Photographs) -> None:
        self.deal, self.size, self.seed, self.art = deal, size, seed, art
        configs = [
            *(_train_config(deal, size, task) for task in range(1, len(deal.tasks) + 1)),
            _config(size, "val", ObjectGroup(deal.known, count=(3, 6)), *_far(deal.far_seen, (0, 2))),
            _config(size, "test", ObjectGroup(deal.known, count=(3, 6)), *_far(deal.far, (0, 2))),
        ]
        self.composers = [SceneComposer(config, art, photographs, seed) for config in configs]
        fresh = size.later - round(RECURRING * size.later)
        self.counts = [size.first, *[fresh] * (len(deal.tasks) - 1), size.val, size.test]

    @property
    def key(self) -> str:
        """SHA-256 of everything the files depend on."""
        made_by = source_digest(sys.modules[__name__], coco, openscenes_records, openscenes_statistics)
        return digest([made_by, [c.key for c in self.composers], self.counts, self.size.later, self.deal.tasks])

    def scenes(self, workers: int) -> Iterator[tuple[int, Scene]]:
        """(which composer, scene) of everything; a scene's number runs on over all of them, so that none is alike."""
        of = [which for which, count in enumerate(self.counts) for _ in range(count)]
        jobs = list(zip(of, range(len(of))))
        yield from zip(of, coco.compose_in_order(self.composers, jobs, workers))


def _train_config(deal: Deal, size: SetSize, task: int) -> SceneConfig:
    labelled = ObjectGroup(deal.tasks[task - 1], count=(1, 4), tail=0.5)
    others = ObjectGroup(deal.others(task), count=OTHERS if deal.far_seen else UNLABELLED, tail=0.4)
    return _config(size, "train", labelled, others, *_far(deal.far_seen, FAR_SEEN))


def _far(classes: tuple[str, ...], count: tuple[int, int]) -> list[ObjectGroup]:
    return [ObjectGroup(classes, count=count)] if classes else []


def _config(size: SetSize, split: Split, *groups: ObjectGroup) -> SceneConfig:
    # Objects under 24 of 160 pixels were missed even by a detector that had all labels, and so were slender ones.
    return SceneConfig(
        groups=groups,
        split=split,
        held_out=HELD_OUT,
        width=size.side,
        height=size.side,
        object_size=(0.2, 0.55),
        min_side=round(0.15 * size.side),
        min_short_side=round(0.1 * size.side),
        min_visible=0.5,
    )


# --- what is written -------------------------------------------------------------------------------------------------


def _build(folder: Path, plan: _Plan, tasks: TaskSet, workers: int) -> dict[str, Any]:
    (folder / "images").mkdir()
    made: list[list[Record]] = [[] for _ in plan.composers]
    records = Records(plan.art)
    for which, scene in plan.scenes(workers):
        record = records.add(scene, plan.composers[which].config)
        (folder / "images" / record.image["file_name"]).write_bytes(scene.jpeg)
        made[which].append(record)
    *trained, val, test = made
    share = round(RECURRING * plan.size.later)
    recurring = with_recurring(trained, plan.deal, share, UNLABELLED, plan.seed)
    parts = {f"train_{k}": images for k, images in enumerate(recurring, start=1)} | {"val": val, "test": test}
    files = {part: records.as_coco(images, part, plan.seed) for part, images in parts.items()}
    for part, contents in files.items():
        (folder / f"{part}.json").write_text(json.dumps(contents), encoding="utf-8")
    tasks.save(folder / TASKS)
    return openscenes_statistics.count_all(files, tasks)
