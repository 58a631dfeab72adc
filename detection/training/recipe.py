"""The schema of an open-world detection recipe: types, defaults and meanings of every setting.

Each part brings its own settings; here are training's, and all of them together. A recipe names only what is listed
there, so it cannot make Surnia import anything; nothing heavy is imported either. The text under a field is its help on
the command line.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from detection.data.settings import DataSettings, OpenScenesData
from detection.engines.settings import NetworkSettings
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from sslcore.settings import Count, Fraction, NonNegative, Positive, Settings, Whole


class StageSettings(Settings):
    """One stage of training with a schedule of its own: linear warm-up, then drops or a cosine."""

    steps: Whole = 18000
    """Optimiser steps; 0 leaves the stage out."""
    lr: Positive = 0.01
    """Learning rate at the given batch size."""
    warmup: Whole = 100
    """Steps of linear warm-up."""
    schedule: Literal["steps", "cosine"] = "cosine"
    """steps: the rate drops to a tenth at each milestone."""
    milestones: list[Fraction] = [0.67, 0.89]
    """Shares of the stage at which the rate drops."""


class ReplaySettings(Settings):
    """Exemplars of earlier tasks."""

    policy: Literal["random", "none"] = "random"
    """How exemplars are chosen."""
    per_class: Count = 50
    """Instances of each class."""
    share: Fraction = 0.0
    """Share of each training batch of a later task that is taken from earlier tasks' exemplars; fine-tuning comes on
    top."""


class AugmentSettings(Settings):
    """Random changes of training images. Strengths as in torchvision's ColorJitter."""

    flip: Fraction = 0.5
    """Probability of mirroring left and right."""
    brightness: NonNegative = 0.0
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class DetectionRecipe(Settings):
    """Everything that determines an open-world detection run."""

    data: DataSettings = OpenScenesData()
    engine: Literal["torchvision", "detectron2"] = "torchvision"
    """Library whose Faster R-CNN the open-world parts work in."""
    network: NetworkSettings = NetworkSettings()
    unknowns: UnknownSettings = UnknownSettings()
    clustering: ClusteringSettings = ClusteringSettings()
    decision: DecisionSettings = DecisionSettings()
    first: StageSettings = StageSettings()
    """Training of the first task."""
    later: StageSettings = StageSettings()
    """Training of every later task."""
    finetune: StageSettings = StageSettings(steps=3000)
    """Balanced fine-tuning on exemplars after every task but the first."""
    replay: ReplaySettings = ReplaySettings()
    augment: AugmentSettings = AugmentSettings()
    tasks: Count | None = None
    """Stop after this many tasks; null: all."""
    labels: Literal["task", "oracle"] = "task"
    """oracle: unknown objects are labelled in training, the upper bound; never for a result."""
    batch_size: Count = 8
    """Images a step, over all processes."""
    momentum: Fraction = 0.9
    """SGD's."""
    weight_decay: NonNegative = 1e-4
    """SGD's."""
    clip_norm: NonNegative = 10.0
    """Longest allowed gradient; 0: any."""
    regions: Count = 512
    """Regions an image that the losses of the second stage are taken on."""
    positive: Fraction = 0.25
    """Largest share of them that are objects."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Numbers in the network's matrix products: float32, or mixed with bfloat16 or float16."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Determines initial weights, the order of images, sampling of regions, augmentation and exemplars."""
    devices: Literal["auto"] | Count = "auto"
    """Processes on this machine, one a device; `auto`: every GPU, or one process on the CPU."""
    nodes: Count = 1
    """Machines; start with torchrun or SLURM."""
    threads: Whole = 0
    """CPU threads a process; 0: torch's choice."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; one is also written at each stage's end, and when the run is stopped."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints kept of the stage that is running; each finished stage keeps its last."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if (self.engine, self.network.name) in (("torchvision", "resnet50_c4"), ("detectron2", "tiny")):
            other = "detectron2" if self.engine == "torchvision" else "torchvision"
            problems.append(f"network.name: {self.network.name} is a network of engine {other}, not of {self.engine}")
        if self.engine != "detectron2" and (self.network.weights or "").startswith("detectron2:"):
            problems.append("network.weights: files of detectron2's model zoo are for engine detectron2")
        if len(self.network.anchors) not in (3, 4, 5):
            problems.append(f"network.anchors must have 3 to 5 sizes, one a level, not {len(self.network.anchors)}")
        if self.network.min_size > self.network.max_size:
            problems.append(f"network.min_size must not be above network.max_size ({self.network.max_size})")
        low, high = self.network.anchor_iou
        if low > high:
            problems.append(f"network.anchor_iou must not begin above its end ({low} > {high})")
        if self.clustering.momentum >= 1:
            problems.append("clustering.momentum must be below 1: at 1 prototypes never move")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def without_effect(self) -> list[str]:
        """A sentence for each setting that another one leaves without effect; they are no mistakes, so a run that has
        them can be read."""
        least, floor = self.unknowns.previous, self.decision.score_floor
        looks = self.unknowns.per_image > 0 and self.unknowns.compat is None and self.tasks != 1
        if not looks or not 0 < least < floor:
            return []
        return [
            f"unknowns.previous is {least:g}, but what has a score below decision.score_floor ({floor:g}) is not "
            f"detected at all: give --decision.score_floor {least:g} for it to count, or --unknowns.previous 0 for all "
            "that is detected"
        ]

    @property
    def fits(self) -> bool:
        """Whether the decision is fitted on validation images."""
        return self.decision.fit != "none"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return self.model_dump(mode="json")
