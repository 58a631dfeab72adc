"""The chain of tasks: which stage comes next, on which weights, and what of it is done already.

What is finished is read off the disk (`detection.training.layout`), so a run that was killed anywhere goes on where
it was.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from detection.data.openworld import OpenWorldData
from detection.data.results import write_results
from detection.data.views import test_view, val_view
from detection.engines.backbone_weights import BackboneReport
from detection.engines.engine import OpenWorldEngine
from detection.training import fitting, results
from detection.training.batches import BatchStream
from detection.training.callbacks import PurityWatch, stage_record
from detection.training.inference import detect, object_embeddings
from detection.training.layout import STAGES, Layout, Stage
from detection.training.lessons import Lessons
from detection.training.model import build_engine, check_info, description, restore_engine, save_engine
from detection.training.module import Place
from detection.training.previous import Look, previous_boxes
from detection.training.processes import agreed
from detection.training.reading import Reader
from detection.training.recipe import DetectionRecipe, StageSettings
from detection.training.samples import Plan, TrainingSet
from detection.training.sharing import Stopped, share
from detection.training.stage import StageOutcome, train_stage
from detection.training.truth import Truth
from sslcore.distributed import rank, world_size
from sslcore.errors import CheckpointError, ConfigError
from sslcore.random import hash_seed
from sslcore.storage import RunDirectory, load_checkpoint
from sslcore.storage.checkpoint import read_info
from sslcore.training.machine import device_here
from sslcore.training.resuming import Say
from sslcore.training.trainer import tensorboard


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        engine: the detector after the last task, in evaluation mode.
        task: that it has learnt last.
        stopped: a signal ended the run early.
        exit_code: what a shell expects: 0, or 128 plus the signal's number.
        steps: optimiser steps done in this process.
        results: the content of results.json: all tasks that have been evaluated.
        checkpoint: the newest one.
    """

    engine: OpenWorldEngine = field(repr=False)
    task: int
    stopped: bool
    exit_code: int
    steps: int
    results: dict[str, Any]
    checkpoint: Path | None


class Chain:
    """The stages of a run, each done at most once.

    Args:
        recipe, data, run, quiet, say: see `detect_train`.
    """

    def __init__(
        self, recipe: DetectionRecipe, data: OpenWorldData, run: RunDirectory | Path | None, *, quiet: bool, say: Say
    ) -> None:
        self.recipe, self.data, self.tasks = recipe, data, data.tasks
        self.quiet = quiet
        self.run = run if isinstance(run, RunDirectory) else None
        folder = run.path if isinstance(run, RunDirectory) else run
        self.layout = Layout(folder, writes=rank() == 0)
        self.say: Say = say if rank() == 0 else lambda sentence: None
        self.last = recipe.tasks or data.tasks.count
        self.lessons = Lessons(recipe, data, self.layout, self.say)
        self.device = device_here()
        self.steps = 0
        self.records: dict[int, dict[str, Any]] = {}  # what is measured of each task as it goes on
        self._engine: OpenWorldEngine | None = None
        self._checkpoint: Path | None = None  # holds the engine's weights, if the engine itself is not here

    # --- the order of things

    def go(self, until: tuple[int, Stage] | None = None) -> Outcome:
        """Does what is left to do."""
        for sentence in self.recipe.without_effect:
            self.say(f"note: {sentence}")
        try:
            for task in range(1, self.last + 1):
                for stage in STAGES:
                    self._do(task, stage)
                    if until == (task, stage):
                        return self._outcome(task)
        except Stopped as stopped:
            return self._outcome(task, stopped)
        return self._outcome(self.last)

    def _do(self, task: int, stage: Stage) -> None:
        if stage == "train":
            self._train(task, stage, self.recipe.first if task == 1 else self.recipe.later)
        elif stage == "finetune":
            if task > 1 and self.lessons.can_finetune(task):
                self._train(task, stage, self.recipe.finetune)
        elif stage == "fit":
            self._fit(task)
        else:
            self._evaluate(task)

    def offset(self, task: int, stage: Stage) -> int:
        """Steps of the run before a stage. An evaluation counts as one, so that its measurements have their own."""
        recipe = self.recipe
        before = (recipe.first.steps + 1 if task > 1 else 0) + max(0, task - 2) * (
            recipe.later.steps + recipe.finetune.steps + 1
        )
        own = {"train": 0, "finetune": (recipe.first if task == 1 else recipe.later).steps}
        return before + own.get(stage, own["finetune"] + (recipe.finetune.steps if task > 1 else 0))

    def take_up(self) -> None:
        """Clears what a killed process left, and refuses a run of other data or of another task set."""
        for sentence in self.layout.sweep():
            self.say(sentence)
        if self.layout.folder is None:
            return
        for path in sorted(self.layout.folder.glob("tasks/*/*/checkpoints/step-*[0-9]")) + sorted(
            self.layout.folder.glob("tasks/*/model")
        ):
            if (path / "manifest.json").exists() and _readable(path):
                info = read_info(path)
                check_info(info, path, tasks=self.tasks)
                if info.get("data") != self.data.fingerprint:
                    raise ConfigError(
                        f"{self.layout.folder} was begun with other data than {self.data.test.source} and its training "
                        "files now hold; restore them, or start a new run"
                    )
                return

    def _outcome(self, task: int, stopped: Stopped | None = None) -> Outcome:
        engine = self._ready(task) if stopped is None else self._any_engine()
        engine.eval()
        return Outcome(
            engine=engine,
            task=task,
            stopped=stopped is not None,
            exit_code=stopped.exit_code if stopped else 0,
            steps=self.steps,
            results=self._together(),
            checkpoint=self._checkpoint,
        )

    # --- the detector

    def _ready(self, task: int) -> OpenWorldEngine:
        """The detector with room for the classes of a task."""
        engine = self._any_engine()
        known = self.tasks.known(task)
        if len(engine.head.known) < len(known):
            engine.grow(known[len(engine.head.known) :])
        return engine.to(self.device)

    def _any_engine(self) -> OpenWorldEngine:
        """As it is after the last stage that was done."""
        if self._engine is None and self._checkpoint is not None:
            self._engine, _ = restore_engine(self._checkpoint, tasks=self.tasks, recipe=self.recipe)
        if self._engine is None:
            # A stage that was begun goes on with its checkpoint's weights, or not at all.
            begun = self.layout.steps_done(1, "train") > 0
            known, classes = self.tasks.known(1), len(self.tasks.classes)
            self._engine = build_engine(self.recipe, known, classes=classes, load_weights=not begun)
            if not begun:
                self._tell_of(self._engine.report)
        return self._engine.to(self.device)

    def _tell_of(self, report: BackboneReport) -> None:
        """Where the backbone's weights come from: in sentences, and with every name in a file."""
        for sentence in report.sentences():
            self.say(sentence)
        self.layout.write(1, "backbone.json", asdict(report))

    def _passed(self, checkpoint: Path) -> None:
        """What a stage leads to is in a checkpoint already."""
        self._engine, self._checkpoint = None, checkpoint

    # --- training

    def _train(self, task: int, stage: Stage, settings: StageSettings) -> None:
        if not settings.steps:
            return
        finished = agreed(self.layout.last_of(task, stage, settings.steps))
        if finished is not None:
            self._record(task, stage, stage_record(load_checkpoint(finished).train))
            self._passed(finished)
            return
        place = Place(task, stage, self.offset(task, stage), hash_seed(self.recipe.seed, task, STAGES.index(stage)))
        images, plan = self.lessons.of(place, settings)
        previous = self._previous(place, images, plan)
        engine = self._ready(task)
        purity = None
        if self.recipe.unknowns.per_image:
            purity = PurityWatch(Truth(images, self.tasks, task), self.recipe.unknowns.start if task == 1 else 0.0)
        outcome = train_stage(
            engine,
            BatchStream(
                images, plan, reader=Reader(images.files(), workers=self.recipe.data.workers),
                rank=rank(), world=world_size(), fingerprint=self.data.fingerprint,
            ),
            self.recipe,
            settings,
            place,
            layout=self.layout,
            run=self.run,
            previous=previous,
            purity=purity,
            description=description(self.recipe, self.tasks, task, stage, self.data.fingerprint),
            quiet=self.quiet,
            say=self.say,
        )  # fmt: skip
        self._after(task, stage, outcome)

    def _previous(self, place: Place, images: TrainingSet, plan: Plan) -> list[torch.Tensor] | None:
        """What is known in each image of a stage and may be unlabelled; None: objectness has to be learnt before
        anything is labelled unknown."""
        unknowns = self.recipe.unknowns
        if not unknowns.per_image or (place.task == 1 and place.stage == "train"):
            return None
        if unknowns.compat == "ore":
            return [torch.zeros(0, 4)] * len(images)  # the original's choice does not look at them
        # The detector as it is before the stage: of the task before, or in fine-tuning as training has left it.
        return previous_boxes(
            self._any_engine(), images, plan, self.layout, place, least=unknowns.previous,
            share=lambda count, look: self._share(f"{place.name}, what is known already", count, look),
        )  # fmt: skip

    def _after(self, task: int, stage: Stage, outcome: StageOutcome) -> None:
        self.steps += outcome.steps
        self._checkpoint = outcome.checkpoint or self._checkpoint
        self._record(task, stage, {"seconds": outcome.seconds, "purity": outcome.purity, "loss": outcome.loss})
        if outcome.stopped:
            raise Stopped(outcome.exit_code)

    def _record(self, task: int, stage: Stage, values: dict[str, Any]) -> None:
        self.records.setdefault(task, {})[stage] = values

    # --- the decision

    def _fit(self, task: int) -> None:
        model, summary = agreed((self.layout.model(task), self.layout.read(task, "energies.json")))
        if model is not None and summary is not None:
            self._record(task, "fit", summary)
            self._passed(model)
            return
        began = time.perf_counter()
        engine = self._ready(task).eval()
        settings = self.recipe.decision
        evidence, val = fitting.Evidence(), None
        if settings.fit != "none":
            oracle = settings.fit == "oracle"
            val = (test_view if oracle else val_view)(self.data.val, self.tasks, task)
            parts = self._share(
                f"task {task}, decision",
                len(val),
                lambda numbers, reading: fitting.collect_evidence(
                    engine, val, numbers, unknowns=self.recipe.unknowns, oracle=oracle, **reading
                ),
            )
            for part in parts:
                evidence += part
        summary = fitting.fit(engine, evidence, settings, val, together=True)
        for sentence in summary["sentences"]:
            self.say(f"task {task}, decision: {sentence}")
        summary["seconds"] = time.perf_counter() - began
        self._record(task, "fit", summary)
        self.layout.write(task, "energies.json", summary)
        if self.layout.folder is not None:
            self._checkpoint = self.layout.task(task, "model")
            if self.layout.writes:
                save_engine(
                    self._checkpoint, engine, description(self.recipe, self.tasks, task, "fit", self.data.fingerprint)
                )

    # --- evaluation

    def _evaluate(self, task: int) -> None:
        finished = agreed(self.layout.read(task, "results.json"))
        if finished is not None:
            self._record(task, "evaluate", finished)
            return
        if self.run is not None:
            self.run.rewind_metrics(self.offset(task, "evaluate"))
        found = agreed(self.layout.read(task, "detections.json"))
        seconds = None
        if found is None:
            began = time.perf_counter()
            found = self._detections(task)
            seconds = time.perf_counter() - began
            if self.layout.writes:
                write_results(self.layout.task(task, "detections.json"), found)
        exemplars = self.lessons.counts(task)
        measured = agreed(self._measure(task, found, seconds, exemplars) if rank() == 0 else None)
        self._record(task, "evaluate", measured)
        self._log(self.offset(task, "evaluate") + 1, task, results.headline(measured))
        self.layout.write(task, "results.json", measured)
        if self.layout.writes:
            results.write(self.layout, self._together())

    def _log(self, step: int, task: int, figures: dict[str, float]) -> None:
        if self.run is not None:
            self.run.log_metrics(step, task=task, stage="evaluate", **figures)
        if self.layout.writes and (logger := tensorboard(self.layout.folder, step - 1)):
            logger.log_metrics(figures, step=step)
            logger.finalize("success")

    def _detections(self, task: int) -> list[dict[str, Any]]:
        """COCO results of the test images; the embeddings of some of the objects go to a file."""
        engine = self._ready(task).eval()
        view = test_view(self.data.test, self.tasks, task)

        def look(numbers: list[int], reading: dict[str, Any]) -> list[tuple[int, list[dict[str, Any]]]]:
            found = detect(engine, self.data.test, numbers, embeddings=True, **reading)
            if self.layout.writes:
                memory = engine.head.clustering.prototypes
                results.write_embeddings(
                    self.layout.task(task, "embeddings.safetensors"),
                    object_embeddings(found, view, numbers),
                    memory.vectors,
                    memory.seen,
                )
            return results.as_coco(found, numbers, self.data.test, self.tasks, task)

        parts = self._share(f"task {task}, evaluation", len(view), look)
        by_image = sorted((entry for part in parts for entry in part), key=lambda entry: entry[0])
        return [record for _, records in by_image for record in records]

    def _measure(
        self, task: int, found: list[dict[str, Any]], seconds: float | None, exemplars: dict[str, int]
    ) -> dict[str, Any]:
        """The content of a task's results.json. Only one process does it: nothing here may wait for another."""
        measured = results.measure(self.data.test, found, self.tasks, task)
        record = self.records.get(task, {})
        stages: dict[str, Any] = {stage: record[stage] for stage in ("train", "finetune") if stage in record}
        fit = {key: value for key, value in record.get("fit", {}).items() if key not in ("curves", "samples")}
        timing = {stage: values["seconds"] for stage, values in stages.items()} | {"fit": fit.pop("seconds", None)}
        images = len(self.data.test.images)
        return {
            "task": task,
            "classes": list(self.tasks.current(task)),
            **measured,
            "purity": {stage: values["purity"] for stage, values in stages.items()},
            "loss": {stage: values["loss"] for stage, values in stages.items()},
            "fit": fit,
            "exemplars": exemplars,
            "timing": timing | {"detect": seconds, "seconds_per_test_image": seconds and seconds / max(1, images)},
        }

    def _together(self) -> dict[str, Any]:
        done = [record["evaluate"] for _, record in sorted(self.records.items()) if "evaluate" in record]
        return results.together(self.recipe, self.data, done, complete=len(done) == self.last)

    def _share(self, what: str, count: int, look: Look) -> list[Any]:
        return share(what, count, look, recipe=self.recipe, device=self.device, quiet=self.quiet)


def _readable(checkpoint: Path) -> bool:
    try:
        read_info(checkpoint)
    except CheckpointError:
        return False
    return True
