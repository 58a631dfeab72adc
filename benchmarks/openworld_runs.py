"""The trainings of `openworld.py`: recipes, data, pretrained backbones and resumable runs that share a first task."""

import argparse
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openworld_rows import ROWS, TRAININGS, Row, Training

from apps.recipes import load_recipe
from apps.run_directory import open_run
from detection.data.annotations import AnnotationSet
from detection.data.openworld import OpenWorldData, open_data
from detection.data.scenes.cache import digest
from detection.data.scenes.openscenes import make_openscenes
from detection.data.settings import OpenScenesData
from detection.training.first_task import copy_first_task, first_task_settings
from detection.training.layout import Layout
from detection.training.reading import read_pixels
from detection.training.recipe import DetectionRecipe
from detection.training.runner import detect_train
from sslcore.errors import ConfigError
from sslcore.pretrain.data import ImageArray
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import pretrain
from sslcore.random import hash_seed, permutation
from sslcore.storage import read_run

FEW = 0.1
"""Share of the first task's images that the rows with few labels have."""
CROPS, CROP_SIDE, CROP_SHARE = 8, 48, (0.25, 0.7)
"""Of each unlabelled scene: how many, in pixels, and their side before as a share of the scene's."""
_ELSEWHERE = ("data", "seed", "threads", "devices", "tasks", "checkpoint_every", "keep_checkpoints")


@dataclass
class Bench:
    """One recipe on one set of scenes, and the folder that everything about it is in.

    Another recipe or other scenes have another folder: results that do not belong together never meet.
    """

    arguments: argparse.Namespace
    options: list[str]

    @cached_property
    def base(self) -> DetectionRecipe:
        """The recipe as given, its stages at the scale asked for."""
        variant = [f"--data.variant={self.arguments.variant}"]
        recipe, _ = load_recipe(self.arguments.recipe, DetectionRecipe, [*variant, *self.options], folder="detection")
        if not isinstance(recipe.data, OpenScenesData):
            raise ConfigError(f"recipe {self.arguments.recipe} is not about OpenScenes; give one that is")
        stages = {name: getattr(recipe, name) for name in ("first", "later", "finetune")}
        return recipe.model_copy(update={name: self._scaled(stage) for name, stage in stages.items()})

    def _scaled(self, stage: Any) -> Any:
        scale = self.arguments.scale
        numbers = {"steps": stage.steps and max(1, round(scale * stage.steps)), "warmup": round(scale * stage.warmup)}
        return stage.model_copy(update=numbers)

    @cached_property
    def data(self) -> OpenWorldData:
        settings = self.base.data
        assert isinstance(settings, OpenScenesData)
        path = settings.path
        if path is None:
            size = self.arguments.size or settings.size
            scenes = make_openscenes(settings.variant, size, settings.seed, workers=self.arguments.workers)
            path = str(scenes.folder)
        return open_data(settings.model_copy(update={"path": path}))

    @cached_property
    def folder(self) -> Path:
        """Where runs and results of this recipe on these scenes are."""
        values = {name: value for name, value in self.base.as_dict().items() if name not in _ELSEWHERE}
        key = digest([values, self.data.fingerprint])[:10]
        return Path(self.arguments.out) / f"{self.arguments.recipe.replace('/', '_')}-{self.arguments.variant}-{key}"

    def run(self, name: str, seed: int) -> Path:
        """The run directory of a training."""
        return self.folder / "runs" / f"{name}-seed{seed}"

    # --- recipes

    def tasks_of(self, training: Training) -> int:
        return min(training.tasks or self.arguments.tasks, self.arguments.tasks, self.data.tasks.count)

    def recipe(self, name: str, seed: int, decision: tuple[str, ...] = ()) -> tuple[DetectionRecipe, str]:
        """The recipe of a training, perhaps with another decision, and its YAML."""
        training = TRAININGS[name]
        stages = [
            f"--{stage}.{key}={getattr(getattr(self.base, stage), key)}"
            for stage in ("first", "later", "finetune")
            for key in ("steps", "warmup")
        ]
        changes = [
            f"--data.variant={self.arguments.variant}", *self.options, *stages, f"--seed={seed}", "--devices=1",
            f"--threads={self.arguments.threads}", f"--tasks={self.tasks_of(training)}", *training.changes, *decision,
        ]  # fmt: skip
        if training.pretrained:
            changes.append(f"--network.weights={self.backbone_run(seed)}")
        return load_recipe(self.arguments.recipe, DetectionRecipe, changes, folder="detection")

    def is_ours(self, row: Row) -> bool:
        """Whether a row that changes a part asks for what the recipe has anyway."""
        recipes = (self.recipe(row.training, 0, row.decision)[0], self.recipe("ours", 0)[0])
        ours, theirs = (recipe.model_copy(update={"tasks": None}) for recipe in recipes)
        return row is not ROWS["ours"] and row.baseline is None and row.group == "part" and ours == theirs

    # --- trainings

    def data_of(self, training: Training, seed: int) -> OpenWorldData:
        """The data of a training; the few are another choice for each seed."""
        if not training.few:
            return self.data
        first = self.data.train(1)
        order = permutation(seed, 0, len(first.images), stream=701).numpy()
        chosen = first.select(np.sort(order[: max(1, round(FEW * len(order)))]))
        fingerprint = digest([self.data.fingerprint, FEW, seed])
        return replace(self.data, trains=(chosen, *self.data.trains[1:]), fingerprint=fingerprint)

    def train(self, name: str, seed: int) -> Path:
        """Begins a training, or goes on with it; nothing is left to do where it is finished. Returns its run."""
        training = TRAININGS[name]
        if training.pretrained:
            self.pretrain_backbone(seed)
        recipe, text = self.recipe(name, seed)
        run = self.run(name, seed)
        begun = (run / "recipe.yaml").exists()
        with open_run(run, recipe=text, command=sys.argv, seed=seed, resume=begun, quiet=True) as directory:
            if not Layout(run).task(1, "train").exists() and (donor := self._donor(recipe, training, seed)):
                print(f"{name} {seed}: the first task is that of {donor.name}", flush=True)
                copy_first_task(donor, run, recipe)
            outcome = detect_train(recipe, directory, data=self.data_of(training, seed), resume=True)
        if outcome.stopped:
            sys.exit(outcome.exit_code)
        return run

    def _donor(self, recipe: DetectionRecipe, training: Training, seed: int) -> Path | None:
        """A run that has trained the same first task."""
        wanted = first_task_settings(recipe)
        for other, theirs in TRAININGS.items():
            run = self.run(other, seed)
            if theirs.few != training.few or not run.is_dir():
                continue
            same = first_task_settings(self.recipe(other, seed)[0]) == wanted
            if same and Layout(run, writes=False).last_of(1, "train", recipe.first.steps) is not None:
                return run
        return None

    # --- the pretrained backbone

    def backbone_run(self, seed: int) -> Path:
        return self.folder / "backbones" / f"seed{seed}"

    def pretrain_backbone(self, seed: int) -> None:
        """The demo's recipe on unlabelled crops of the first task's scenes, with a backbone as the detector's."""
        run = self.backbone_run(seed)
        begun = (run / "recipe.yaml").exists()
        if begun and read_run(run).get("status") == "finished":
            return
        full, _ = load_recipe("demo", Recipe)
        recipe, text = load_recipe(
            "demo",
            Recipe,
            [
                f"--backbone.width={self.base.network.width}", f"--seed={seed}", "--probe.every_epochs=0",
                f"--max_steps={max(1, round(self.arguments.scale * (full.max_steps or 1000)))}", "--devices=1",
                f"--threads={self.arguments.threads}",
            ],
        )  # fmt: skip
        with open_run(run, recipe=text, command=sys.argv, seed=seed, resume=begun, quiet=True) as directory:
            crops = ImageArray(images=scene_crops(self.data.train(1), seed), name="crops of scenes")
            outcome = pretrain(recipe, directory, images=crops, resume=begun)
            if outcome.stopped:
                directory.set_status("stopped")
        if outcome.stopped:
            sys.exit(outcome.exit_code)


def scene_crops(scenes: AnnotationSet, seed: int) -> torch.Tensor:
    """(N, 3, s, s) uint8: squares of any place and of sizes as objects have, with or without an object in them."""
    random = np.random.default_rng(hash_seed(seed, 702))
    crops = []
    for number in range(len(scenes.images)):
        image = torch.from_numpy(read_pixels(scenes.path(number)))
        height, width = image.shape[1:]
        for share, down, across in zip(random.uniform(*CROP_SHARE, CROPS), *random.random((2, CROPS)), strict=True):
            side = max(8, round(share * min(height, width)))
            top, left = round(down * (height - side)), round(across * (width - side))
            crop = image[None, :, top : top + side, left : left + side]
            crops.append(torch.nn.functional.interpolate(crop, (CROP_SIDE, CROP_SIDE), mode="bilinear", antialias=True))
    return torch.cat(crops)
