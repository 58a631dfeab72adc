"""The detector's half of `surnia demo`: two tasks of OpenScenes, and in between the unknown objects in groups."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apps.detect_unknowns import origin
from apps.recipe_files import shipped_file
from apps.recipes import load_recipe
from apps.run_directory import open_run
from detection.data.annotations import AnnotationSet
from detection.data.openworld import OpenWorldData, open_data
from detection.data.scenes.openscenes import make_openscenes
from detection.data.settings import OpenScenesData
from detection.detector import OpenWorldDetector
from detection.discovery import Wanted, discover
from detection.discovery.grouping import Group, Grouping
from detection.discovery.records import UnknownObjects
from detection.evaluation.matching import best_truth, overlapping
from detection.tasks import TaskSet
from detection.training.layout import read_json
from detection.training.recipe import DetectionRecipe
from detection.training.runner import detect_train
from sslcore.errors import DataError

DETECTION, UNKNOWNS = "detection", "unknowns"
LOOKED_AT = 400
"""Training images of task 2 in which unknown objects are looked for: few enough for a demo."""
GROUPS = 12
WANTED = Wanted(per_image=3)
"""The surest of each image: groups of background would teach nobody anything."""
_COCO_IOU = 0.5


@dataclass(frozen=True, eq=False)
class FoundGroups:
    """Unknown objects in groups, and what they really are, which only a demo knows.

    Attributes:
        folder: with contact sheets, index.html and names.yaml.
        truths: of each object the class that lies there by an IoU of .5, or "no object".
        images: in how many images was looked.
    """

    folder: Path
    unknowns: UnknownObjects
    grouping: Grouping
    truths: list[str]
    images: int

    def mostly(self, group: Group, kinds: int = 3) -> list[tuple[str, float]]:
        """What a group's objects are for the most part, and which share of them that is."""
        counts = Counter(self.truths[i] for i in group.members.tolist())
        return [(name, count / len(group)) for name, count in counts.most_common(kinds)]


@dataclass(frozen=True, eq=False)
class Found:
    """What the detector's half came to; `groups` is None if no unknown object was found."""

    run_dir: Path
    data: OpenWorldData
    groups: FoundGroups | None

    @cached_property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.run_dir / "results.json")
        return found


class Learning:
    """The detector's run, in a folder of the demo's own; every part of it goes on where it was left.

    Args:
        demo_dir: of the demo: a run of pretraining, whose backbone the detector begins with.
        seed: of everything.
        threads: CPU threads.
        share: of the recipe's steps.
    """

    def __init__(self, demo_dir: Path, *, seed: int, threads: int, share: float = 1.0) -> None:
        self.demo_dir, self.run_dir, self.folder = demo_dir, demo_dir / DETECTION, demo_dir / UNKNOWNS
        begun = self.run_dir / "recipe.yaml"
        self.recipe, self.text = (
            load_recipe(str(begun), DetectionRecipe, [f"--threads={threads}"])  # whatever has come to ship since
            if begun.exists()
            else self._new(seed, threads, share)
        )
        self.data = self._open(threads)

    def _new(self, seed: int, threads: int, share: float) -> tuple[DetectionRecipe, str]:
        file = str(shipped_file("demo", "detection"))
        base, _ = load_recipe(file, DetectionRecipe)
        stages = {"first": base.first, "later": base.later, "finetune": base.finetune}
        steps = (f"--{name}.steps={max(1, round(share * stage.steps))}" for name, stage in stages.items())
        common = (f"--network.weights={self.demo_dir}", f"--seed={seed}", f"--data.seed={seed}", f"--threads={threads}")
        return load_recipe(file, DetectionRecipe, [*common, *steps])

    def _open(self, threads: int) -> OpenWorldData:
        settings = self.recipe.data
        if isinstance(settings, OpenScenesData) and settings.path is None:
            make_openscenes(settings.variant, settings.size, settings.seed, workers=threads)
        return open_data(settings)

    def learn(self, task: int) -> tuple[bool, int]:
        """Up to the end of a task; (whether a signal stopped it, the exit code)."""
        begun = (self.run_dir / "recipe.yaml").exists()
        command = ["surnia", "detect", "train", "demo", "--network.weights", str(self.demo_dir)]
        with open_run(
            self.run_dir, recipe=self.text, command=command, seed=self.recipe.seed, resume=begun, quiet=True
        ) as directory:
            outcome = detect_train(
                self.recipe, directory, data=self.data, resume=begun, until=(task, "evaluate"),
                say=lambda sentence: None,
            )  # fmt: skip
            finished = not outcome.stopped and task == (self.recipe.tasks or self.data.tasks.count)
            directory.set_status("finished" if finished else "stopped")
        return outcome.stopped, outcome.exit_code

    def find_groups(self) -> FoundGroups | None:
        """Unknown objects that the detector of task 1 finds in images of task 2, in groups; made once."""
        images = self.data.train(2)
        count = min(LOOKED_AT, len(images.images))
        if not (self.folder / "index.html").exists():
            detector = OpenWorldDetector.load(self.run_dir, task=1)
            try:
                discover(
                    lambda pictures: detector.predict(pictures),
                    [images.path(i) for i in range(count)],
                    self.folder,
                    known=detector.known,
                    found_by=origin(detector, self.run_dir),
                    wanted=WANTED,
                    method="kmeans",
                    groups=GROUPS,
                    seed=self.recipe.seed,
                    command=f"surnia detect learn {self.run_dir} {self.folder / 'names.yaml'}",
                )
            except DataError:  # nothing, or less than there are groups to make
                return None
        unknowns = UnknownObjects.load(self.folder)
        grouping = Grouping.load(self.folder, objects=len(unknowns))
        return FoundGroups(self.folder, unknowns, grouping, true_names(unknowns, images, self.data.tasks), count)


def true_names(unknowns: UnknownObjects, annotations: AnnotationSet, tasks: TaskSet) -> list[str]:
    """What lies under each object by an IoU of at least .5: the name of its class, or "no object"."""
    number = {annotations.path(i).resolve(): i for i in range(len(annotations.images))}
    images = np.array([number[unknowns.path(i).resolve()] for i in range(len(unknowns.images))], dtype=np.int64)
    pairs = overlapping(
        images[unknowns.box_image], unknowns.boxes, annotations.box_image, annotations.boxes, above=_COCO_IOU
    )
    names = [tasks.canonical(annotations.categories[category]) for category in annotations.box_category.tolist()]
    return [names[row] if row >= 0 else "no object" for row in best_truth(pairs, len(unknowns)).tolist()]
