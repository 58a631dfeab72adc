"""What each stage is taught: which labels it sees, on which images, and how batches are filled from them."""

import numpy as np

from detection.data.annotations import AnnotationSet, LabeledSet
from detection.data.openworld import OpenWorldData
from detection.data.views import finetune_view, oracle_view, train_view
from detection.openworld.replay import Manifest, choose_exemplars
from detection.structures import FIRST_KNOWN
from detection.tasks import TaskSet
from detection.training.layout import Layout
from detection.training.module import Place
from detection.training.processes import agreed
from detection.training.recipe import DetectionRecipe, StageSettings
from detection.training.samples import Part, Plan, TrainingSet, balanced, every_image
from sslcore.errors import DataError
from sslcore.training.resuming import Say


class Lessons:
    """Training sets of the stages, and the exemplars that pass from task to task.

    Images without a label are valid negatives. Only where one annotation file serves all tasks are they left out, as
    the published protocol does: most images of such a file show nothing of a task.

    Args:
        recipe, data: of the run.
        layout: where manifests of exemplars are kept.
        say: gets the sentences that a person should read.
    """

    def __init__(self, recipe: DetectionRecipe, data: OpenWorldData, layout: Layout, say: Say) -> None:
        self.recipe, self.data, self.layout, self.say = recipe, data, layout, say
        self._drop_empty = data.tasks.count > 1 and len({id(each) for each in data.trains}) == 1
        self._manifests: dict[int, Manifest] = {}

    def of(self, place: Place, settings: StageSettings) -> tuple[TrainingSet, Plan]:
        """The images of a stage and which of them make up which batch.

        Raises:
            DataError: there is nothing to train on.
        """
        if place.stage == "finetune":
            images = self._exemplars_of(range(1, place.task + 1), place.task)
            if images is None:
                raise DataError(
                    f"task {place.task}: no exemplar is in the training images, so there is nothing to fine-tune on; "
                    "give the annotations that the exemplars were chosen from"
                )
            return images, Plan((Part(balanced(images), self.recipe.batch_size),), place.seed, settings.steps)
        current = self._current(place.task)
        replayed = self._replayed(place.task)
        share = round(self.recipe.replay.share * self.recipe.batch_size) if replayed is not None else 0
        share = min(share, self.recipe.batch_size - 1)
        sets, partial = [current], [place.task > 1]
        parts = [Part(every_image(current), self.recipe.batch_size - share)]
        if replayed is not None and share:
            sets, partial = [*sets, *replayed.sets], [*partial, *replayed.partial]
            parts.append(Part(balanced(replayed) + len(current), share))
        return TrainingSet(sets, partial), Plan(tuple(parts), place.seed, settings.steps)

    def can_finetune(self, task: int) -> bool:
        """Whether there are exemplars to fine-tune on."""
        return self.recipe.replay.policy != "none" and any(self.counts(task).values())

    def counts(self, task: int) -> dict[str, int]:
        """How many exemplars there are of each class that is known after a task."""
        if self.recipe.replay.policy == "none":
            return {}
        manifests = [self.manifest(earlier) for earlier in range(1, task + 1)]
        return {name: len(found) for manifest in manifests for name, found in manifest.exemplars.items()}

    def manifest(self, task: int) -> Manifest:
        """The exemplars of a task's classes: chosen once, and from then on what the file says."""
        if task not in self._manifests:
            path = self.layout.task(task, "exemplars.json") if self.layout.folder is not None else None
            if agreed(path is not None and path.exists()):
                assert path is not None
                self._manifests[task] = Manifest.load(path)
            else:
                settings = self.recipe.replay
                view = train_view(self.data.train(task), self.data.tasks, task)
                chosen = choose_exemplars(settings.policy, view, per_class=settings.per_class, seed=self.recipe.seed)
                self._manifests[task] = chosen
                if self.layout.writes and path is not None:
                    self.layout.make(task)
                    chosen.save(path)
                if chosen.short:
                    names = ", ".join(f"{name} ({count})" for name, count in list(chosen.short.items())[:8])
                    self.say(f"task {task}: fewer than {settings.per_class} exemplars of {names}")
        return self._manifests[task]

    def _current(self, task: int) -> LabeledSet:
        annotations, tasks = self.data.train(task), self.data.tasks
        view = oracle_view if self.recipe.labels == "oracle" else train_view
        labeled = view(annotations, tasks, task, drop_empty=self._drop_empty)
        if not len(labeled):
            raise DataError(f"{annotations.source} has no image to learn task {task} from; give annotated images")
        usable = labeled.labels[~labeled.ignore]
        current = tasks.label_of(task)
        lacking = [name for name in tasks.current(task) if not (usable == current[name]).any()]
        if len(lacking) == len(tasks.current(task)):
            raise DataError(
                f"{annotations.source} has no box of any class of task {task} ({', '.join(lacking[:4])}); check the "
                "names of its categories against the task file"
            )
        if lacking:
            self.say(f"task {task}: no training sample of {', '.join(lacking)}, which therefore cannot be learnt")
        return labeled

    def _replayed(self, task: int) -> TrainingSet | None:
        """Exemplars of earlier tasks, for batches of a later one; None: there are none, or none are wanted."""
        if task == 1 or self.recipe.replay.policy == "none" or not self.recipe.replay.share:
            return None
        return self._exemplars_of(range(1, task), task)

    def _exemplars_of(self, earlier: range, task: int) -> TrainingSet | None:
        """Images with exemplars of some tasks, each with everything labelled that is annotated and known at `task`; an
        oracle sees the unknown objects in them, too. None if there are none."""
        sets, partial = [], []
        for number in earlier:
            annotations = self.data.train(number)
            rows = self.manifest(number).rows_in(annotations)
            if len(rows):
                view = finetune_view(annotations, self.data.tasks, task, rows)
                oracle = self.recipe.labels == "oracle"
                sets.append(oracle_view(view.annotations, self.data.tasks, task) if oracle else view)
                partial.append(_only_current(annotations, self.data.tasks, number, task))
        if not any((each.labels >= FIRST_KNOWN).any() for each in sets):
            return None
        return TrainingSet(sets, partial)


def _only_current(annotations: AnnotationSet, tasks: TaskSet, number: int, task: int) -> bool:
    """Whether the images of a task are annotated with its own classes only, though others are known at `task`: what a
    person names is annotated so, and so are many sets that were made task by task."""
    present = {tasks.canonical(annotations.categories[row]) for row in np.unique(annotations.box_category)}
    others = set(tasks.known(task)) - set(tasks.current(number))
    return bool(others) and not present & others
