"""What a run of `surnia detect train` has left, read for a report; what is not there is None, with a sentence why."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.openworld import OpenWorldData, open_data
from detection.evaluation import DetectionArrays, GroundTruth
from detection.evaluation.comparison import Comparison, compare
from detection.tasks import TaskSet
from detection.training.layout import Layout
from detection.training.recipe import DetectionRecipe
from detection.training.results import read_results
from sslcore.errors import CheckpointError, DataError, SurniaError
from sslcore.storage import read_metrics, read_weights
from sslcore.storage.files import read_file

_TEXT = 1 << 24


@dataclass
class DetectionRun:
    """A run with at least one evaluated task.

    Attributes:
        path: its directory.
        results: the content of its results.json.
        given: its data if they are open already; else the recipe's are opened when first needed.
        problems: why something could not be read, in sentences; grows.
    """

    path: Path
    results: dict[str, Any]
    given: OpenWorldData | None = None
    problems: list[str] = field(default_factory=list)
    _comparisons: dict[int, Comparison | None] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, data: OpenWorldData | None = None) -> "DetectionRun":
        """Raises CheckpointError if no task has been evaluated yet, or results.json is damaged."""
        results = read_results(path)
        if results is None or not results["by_task"]:
            raise CheckpointError(f"no task of {path} has been evaluated yet; finish the run, then report on it")
        return cls(path, results, data)

    # --- what was measured

    @cached_property
    def recipe(self) -> DetectionRecipe:
        return DetectionRecipe.model_validate(self.results["recipe"])

    @cached_property
    def recipe_text(self) -> str:
        path = self.path / "recipe.yaml"
        if not path.exists():
            return ""
        return read_file(path, limit=_TEXT, error=CheckpointError, remedy="restore it from a copy").decode()

    @cached_property
    def tasks(self) -> TaskSet:
        return TaskSet.from_dict(self.results["tasks"])

    @property
    def done(self) -> list[dict[str, Any]]:
        """The results of each evaluated task, in order."""
        found: list[dict[str, Any]] = self.results["by_task"]
        return found

    @property
    def last(self) -> int:
        return int(self.done[-1]["task"])

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)

    def fit(self, task: int) -> dict[str, Any] | None:
        """What a task's decision was fitted on."""
        return self._json(task, "energies.json")

    def embeddings(self, task: int) -> dict[str, np.ndarray] | None:
        """Of objects in the test images, and the prototypes; see `detection.training.inference.object_embeddings`."""
        path = Layout(self.path).task(task, "embeddings.safetensors")
        if not path.exists():
            return None
        return {name: tensor.numpy() for name, tensor in read_weights(path).items()}

    def _json(self, task: int, name: str) -> Any:
        try:
            return Layout(self.path).read(task, name)
        except CheckpointError as error:
            self.problems.append(str(error))
            return None

    # --- what it was measured on

    @cached_property
    def data(self) -> OpenWorldData | None:
        """The run's data; None if they are gone or have changed since."""
        found = self.given
        if found is None:
            try:
                found = open_data(self.recipe.data, fits=self.recipe.fits)
            except SurniaError as error:
                self.problems.append(f"the data of the run cannot be opened: {error}")
                return None
        if found.fingerprint != self.results["data"]:
            self.problems.append(f"{found.test.source} or its training files have changed since the run")
            return None
        return found

    def comparison(self, task: int) -> Comparison | None:
        """Detections and objects after a task, as the evaluator compares them; None if either are gone."""
        if task not in self._comparisons:
            self._comparisons[task] = self._compare(task)
        return self._comparisons[task]

    def _compare(self, task: int) -> Comparison | None:
        path = Layout(self.path).task(task, "detections.json")
        if self.data is None or not path.exists():
            return None
        try:
            found = DetectionArrays.from_results(path)
            return compare(GroundTruth.from_annotations(self.data.test), found, self.tasks, task)
        except DataError as error:
            self.problems.append(str(error))
            return None
