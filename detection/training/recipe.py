"""The schema of an open-world detection recipe: types, defaults and meanings of every setting, in one place.

A recipe names only what is listed here, so it cannot make Surnia import anything; nothing heavy is imported either. The
text under a field is its help on the command line.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sslcore.settings import Count, Fraction, NonNegative, Positive, Settings

Whole = Annotated[int, Field(ge=0)]

# --- data ----------------------------------------------------------------------------------------------------------


class OpenScenesData(Settings):
    """The offline benchmark: scenes composed from drawings and photographs."""

    name: Literal["openscenes"] = "openscenes"
    variant: Literal["M", "S"] = "M"
    """M: every task mixes super-categories; S: a super-category belongs to one task, the stress test."""
    size: Literal["small", "large"] = "small"
    """How many scenes, and how large."""
    seed: Whole = 0
    """Of the scenes."""
    path: str | None = None
    """Folder of a set made before; null composes it once and keeps it in the cache."""
    sprites: str | None = None
    """Your own cut-outs in place of the demo's art: a folder of class folders with transparent PNGs."""
    backgrounds: str | None = None
    """Your own photographs."""
    workers: Whole = 2
    """Processes that read images; 0: the training process itself."""


class CocoData(Settings):
    """COCO-style annotations and a task file."""

    name: Literal["coco"] = "coco"
    tasks: str
    """YAML file: name, tasks (lists of class names), perhaps unknown_id and aliases."""
    train: list[str]
    """Annotation files of the training images: one for each task, or one for all."""
    val: str
    """Annotation file of the images that the decision is fitted on; none of them among the training images."""
    test: str
    """Annotation file of the test images, completely annotated."""
    images: str
    """Folder that the file names are relative to."""
    workers: Whole = 4
    """Processes that read images; 0: the training process itself."""


DataSettings = Annotated[OpenScenesData | CocoData, Field(discriminator="name")]

# --- network -------------------------------------------------------------------------------------------------------


class NetworkSettings(Settings):
    """The detector without its open-world parts."""

    name: Literal["tiny", "resnet18_fpn", "resnet50_fpn"] = "resnet50_fpn"
    """Backbone of the Faster R-CNN, each with a feature pyramid."""
    weights: str | None = None
    """The backbone's weights: a run of `surnia pretrain`, an exported file, torchvision:NAME=FILE; null: random."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """Stem and first stages that are not trained: 0 none, 1 the stem, 2 the stem and C2, ..."""
    norm: Literal["batch", "frozen"] = "batch"
    """batch: learns, on GPUs from the images of all processes, on CPUs from each process's own; frozen: keeps the
    statistics and scales it came with, for pretrained ResNets and small batches."""
    width: Count = 16
    """First-stage width of `tiny`."""
    pyramid: Count = 256
    """Channels of the feature pyramid."""
    representation: Count = 1024
    """Length of a region's embedding, d."""
    min_size: Count = 800
    """Shorter side that images are resized to."""
    max_size: Count = 1333
    """Longest allowed longer side."""
    anchors: list[Positive] = [32, 64, 128, 256, 512]
    """Side of the square anchors, one for each pyramid level, finest first, in pixels."""
    ratios: list[Positive] = [0.5, 1.0, 2.0]
    """Height over width of the anchors."""
    anchors_sampled: Count = 256
    """Anchors an image that the proposals' losses are taken on, at most half of them objects."""
    anchor_iou: tuple[Fraction, Fraction] = (0.3, 0.7)
    """Anchors that overlap a labelled box by less than the first are background, by at least the second objects."""
    proposals_train: Count = 2000
    """Proposals an image in training, after suppression."""
    proposals_test: Count = 1000
    """Proposals an image at inference, after suppression."""
    per_class_boxes: bool = False
    """Box deltas for each known class beside the class-agnostic ones."""
    compat: Literal["ore"] | None = None
    """ore: the classifier has outputs for every class of the task set from the start, those not introduced yet masked;
    null: it grows with the classes."""


# --- open-world parts ------------------------------------------------------------------------------------------------


class UnknownSettings(Settings):
    """Which background proposals are labelled unknown in training (ORE, section 4.2)."""

    per_image: Whole = 2
    """Proposals an image, those of highest objectness; 0: none."""
    guard: Fraction = 0.1
    """Proposals that overlap a labelled box by more than this IoU are not chosen."""
    start: Fraction = 0.3
    """Share of a task's steps after which labelling begins: before, objectness says little."""
    min_side: NonNegative = 8.0
    """Shorter proposals are not chosen; in pixels of the network's image."""
    compat: Literal["ore"] | None = None
    """ore: the original's choice, among the sampled background regions only."""


class ClusteringSettings(Settings):
    """The contrastive loss on region features (ORE, section 4.1)."""

    loss: Literal["none", "hinge", "infonce"] = "infonce"
    """hinge: ORE's equation 1; infonce: the cross-entropy of cosine similarities to the prototypes."""
    weight: NonNegative = 0.1
    """Of the loss among the others."""
    margin: Positive = 10.0
    """Of the hinge."""
    temperature: Positive = 0.1
    """Of infonce."""
    momentum: Fraction = 0.99
    """Weight of the old prototype at a refresh."""
    store: Count = 20
    """Newest features kept for each class."""
    start: Fraction = 0.1
    """Share of a task's steps after which prototypes are made and the loss begins."""
    refresh: Count = 20
    """Steps between two refreshes of the prototypes."""
    compat: Literal["ore"] | None = None
    """ore: the original code's Minkowski distance of order `margin` with a hinge of 2, averaged over classes too."""


class DecisionSettings(Settings):
    """What makes a detection unknown at inference, and what is kept."""

    score: Literal["energy", "max_probability", "foreground"] = "energy"
    """What the two densities are fitted on: free energy, the greatest known probability, or 1 - p(background)."""
    fit: Literal["known", "oracle", "none"] = "known"
    """known: no label of a future class is used; oracle: ORE's leak, labels of future classes on validation images;
    none: the classifier alone decides."""
    temperature: Positive = 1.0
    """T of the energy, in the fit and in use."""
    prior: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    """Probability of unknown before the energy is known: higher finds more unknown objects and mistakes more known
    ones; null: the share among the fitted regions, which follows the number of proposals on each."""
    score_floor: Fraction = 0.05
    """Detections below this score are dropped."""
    nms: Fraction = 0.5
    """IoU above which the lower of two detections is suppressed."""
    per_image: Count = 100
    """Most detections an image."""


# --- training --------------------------------------------------------------------------------------------------------


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
    engine: Literal["torchvision"] = "torchvision"
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return self.model_dump(mode="json")
