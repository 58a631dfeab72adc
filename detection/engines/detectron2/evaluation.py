"""Surnia's evaluation as a `DatasetEvaluator` of detectron2."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor

from detection.data.results import category_ids, results_of, write_results
from detection.engines.detectron2.labels import to_labels
from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.evaluation.evaluator import MODES
from sslcore.errors import ConfigError
from sslcore.storage import write_json


class OpenWorldEvaluator(DatasetEvaluator):
    """Judges what any detector of detectron2 finds in a data set that `register_openworld` registered.

    `evaluate` gives, as detectron2 wants it, numbers by mode ("strict", "ore") and name, those alone that are defined;
    everything that `detection.evaluation.evaluate` says, lists by class included, is in `results` after it, and in
    openworld_results.json of `output_dir`.

    Args:
        dataset_name: in the catalogue; its annotations are the ground truth.
        output_dir: where the results and the detections (COCO's form) are written; None: nowhere.
        modes: of the evaluation.
        score_floor, per_image, image_list: see `detection.evaluation.evaluate`.
        variants: of mode "ore", see `evaluate`.

    Attributes:
        results: everything, by mode.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        modes: Sequence[str] = MODES,
        score_floor: float | None = None,
        per_image: int | None = None,
        image_list: Sequence[int | str] | None = None,
        **variants: bool,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        annotations = metadata.get("annotations", None)
        if annotations is None:
            raise ConfigError(
                f"the data set {dataset_name} has no complete annotation to be judged by; register it with "
                "register_openworld, or one set alone with register_view"
            )
        self.tasks, self.task = metadata.tasks, metadata.task
        self.truth = GroundTruth.from_annotations(annotations)
        self.output_dir = Path(output_dir) if output_dir is not None else None
        self.modes = modes
        self.how = {"score_floor": score_floor, "per_image": per_image, "image_list": image_list}
        self.variants = variants
        self.results: dict[str, dict[str, Any]] = {}
        self._known = len(self.tasks.known(self.task))
        self._category_of = category_ids(annotations, self.tasks, self.task)
        self._found: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._found = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._found += results_of(image["image_id"], _found_in(instances, self._known), self._category_of)

    def evaluate(self) -> "OrderedDict[str, dict[str, float]] | None":
        """Numbers by mode and name; None in all processes but the first."""
        parts = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        found = [record for part in parts for record in part]
        arrays = DetectionArrays.from_results(found)
        for mode in self.modes:
            variants = self.variants if mode == "ore" else {}
            self.results[mode] = evaluate(
                self.truth, arrays, self.tasks, self.task, mode=mode, **self.how, **variants  # type: ignore[arg-type]
            )  # fmt: skip
        if self.output_dir is not None:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_results(self.output_dir / "openworld_detections.json", found)
            write_json(self.output_dir / "openworld_results.json", self.results)
        return OrderedDict((mode, _numbers(values)) for mode, values in self.results.items())


@dataclass
class _Found:
    """What `results_of` reads of detections."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    energies: Tensor
    posteriors: Tensor


def _found_in(instances: Instances, known: int) -> _Found:
    """Detections in the label space; a detector without open-world heads says nothing of energies."""
    silent = torch.full_like(instances.scores, torch.nan)
    extra = [getattr(instances, name) if instances.has(name) else silent for name in ("energies", "posteriors")]
    return _Found(instances.pred_boxes.tensor, to_labels(instances.pred_classes, known), instances.scores, *extra)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    # detectron2 prints every value as a number, and takes names with a hyphen for classes.
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
