"""The schema of a pretraining recipe: types, defaults and meanings of every setting, in one place.

A recipe names only what is listed here: methods, backbones, data sets and optimisers are closed sets of literals, so a
recipe cannot make Surnia import anything. Nothing heavy is imported either, so that a wrong recipe is told at once.
The text under a field is its help on the command line.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sslcore.settings import BackboneSettings, Count, Fraction, NonNegative, Positive, Settings, Widths

# --- methods -----------------------------------------------------------------------------------------------------


class MethodBase(Settings):
    """What the schema must know of a method beyond its settings."""

    most_views: ClassVar[int | None] = 2
    """Views of an image that the method takes; None: two or more."""
    needs_labels: ClassVar[bool] = False

    def keys_per_image(self) -> int:
        """Rows an image adds to the method's queue in a step."""
        return 1


class MoCoSettings(MethodBase):
    """He et al. 2020 (v1) and Chen et al. 2020 (v2): keys of a momentum encoder, negatives from a queue."""

    name: Literal["moco"] = "moco"
    temperature: Positive = 0.2
    """Softmax temperature: .07 in v1, .2 in v2, .1 in the authors' CIFAR notebook."""
    momentum: Fraction = 0.999
    """Weight of the old momentum encoder."""
    queue: Count = 65536
    """Keys kept as negatives."""
    projector: Widths = [2048, 128]
    """Widths of the projection head's layers after the backbone; one number is v1's linear head."""
    symmetric: bool = False
    """Each view is once the query and once the key (twice the work a step)."""
    norm_splits: Count = 1
    """Batch norm statistics over so many parts of a process's batch, keys shuffled between them (shuffling BN). With 1,
    query and key of an image share statistics, which gives the pair away."""

    def keys_per_image(self) -> int:
        return 2 if self.symmetric else 1


class SimCLRSettings(MethodBase):
    """Chen et al. 2020: the other views of the batch are the negatives."""

    name: Literal["simclr"] = "simclr"
    temperature: Positive = 0.1
    """Softmax temperature."""
    projector: Widths = [2048, 128]
    """Widths of the projection head's layers."""


class SupConSettings(MethodBase):
    """Khosla et al. 2020: all images of the same class are positives. Needs labels."""

    needs_labels = True

    name: Literal["supcon"] = "supcon"
    temperature: Positive = 0.1
    """Softmax temperature."""
    projector: Widths = [2048, 128]
    """Widths of the projection head's layers."""
    form: Literal["out", "in"] = "out"
    """Where the mean over positives stands: outside the logarithm (the paper's choice) or inside."""


class BYOLSettings(MethodBase):
    """Grill et al. 2020: predict the momentum encoder's projection of the other view; no negatives."""

    name: Literal["byol"] = "byol"
    momentum: Fraction = 0.99
    """Weight of the old momentum encoder at the start; rises to 1 along a cosine."""
    projector: Widths = [4096, 256]
    """Widths of the projection head's layers."""
    predictor: Widths = [4096, 256]
    """Widths of the prediction head's layers; the last must equal the projector's last."""

    @model_validator(mode="after")
    def _same_end(self) -> Self:
        if self.projector[-1] != self.predictor[-1]:
            raise ValueError(
                f"predictor must end as wide as projector ({self.projector[-1]}), not {self.predictor[-1]}"
            )
        return self


class SwAVSettings(MethodBase):
    """Caron et al. 2020: predict one view's cluster code (Sinkhorn-Knopp) from the other views."""

    most_views = None

    name: Literal["swav"] = "swav"
    temperature: Positive = 0.1
    """Softmax temperature of the predictions."""
    epsilon: Positive = 0.05
    """Entropy weight of Sinkhorn-Knopp: smaller codes are harder."""
    sinkhorn_iterations: Count = 3
    """Row and column normalisations."""
    prototypes: Count = 3000
    """Learned prototypes."""
    projector: Widths = [2048, 128]
    """Widths of the projection head's layers."""
    queue: Annotated[int, Field(ge=0)] = 0
    """Features a code view that are kept to balance small batches; 0 for none."""
    queue_from_epoch: Annotated[int, Field(ge=0)] = 15
    """First epoch that uses the queue."""
    freeze_prototypes_epochs: NonNegative = 1.0
    """Epochs during which the prototypes do not move."""


class PCLSettings(MethodBase):
    """Li et al. 2021: MoCo's loss plus a contrast against k-means centroids of the momentum features."""

    name: Literal["pcl"] = "pcl"
    temperature: Positive = 0.2
    """Softmax temperature of the instance term, and the mean concentration of the prototypes."""
    momentum: Fraction = 0.999
    """Weight of the old momentum encoder."""
    queue: Count = 16384
    """Keys kept as negatives."""
    clusters: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [25000, 50000, 100000]
    """Numbers of clusters: one k-means each; every one smaller than the data set."""
    projector: Widths = [2048, 128]
    """Widths of the projection head's layers."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of the instance term alone before the first clustering."""
    kmeans_iterations: Count = 20
    """Iterations of k-means."""
    norm_splits: Count = 1
    """As MoCo's."""


MethodSettings = Annotated[
    MoCoSettings | SimCLRSettings | SupConSettings | BYOLSettings | SwAVSettings | PCLSettings,
    Field(discriminator="name"),
]

# --- what is trained on what ---------------------------------------------------------------------------------------


class DataSettings(Settings):
    """The images."""

    kind: Literal["auto", "folder", "cifar10", "cifar100", "stl10", "fashion_mnist"] = "auto"
    """What `path` holds; `auto` looks. A folder may have class folders (ImageNet's layout) or loose images."""
    path: str = Field(default="")
    """Where it is. Nothing is downloaded."""
    size: Count | None = None
    """Side that folder images are resized to when `hold` is `memory`; null keeps crops from the full image."""
    hold: Literal["auto", "memory", "files"] = "auto"
    """Keep all images as uint8 on the training device, or read files as needed; `auto`: memory if they fit."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Processes that read files."""
    worker_timeout: Positive = 120
    """Seconds without a batch from the readers before the run stops with an error."""
    bad_images: Annotated[int, Field(ge=0)] = 100
    """Unreadable images that are named, counted and skipped; one more stops the run."""
    max_pixels: Count = 100_000_000
    """Images that decode to more pixels than this are refused as decompression bombs."""
    validation: Fraction = 0.0
    """Share of the images held out of pretraining, for comparing settings."""


class ViewSettings(Settings):
    """How one kind of random view is made. Probabilities are per image; strengths as in torchvision's ColorJitter."""

    count: Count = 1
    """Views of this kind an image."""
    size: Count = 224
    """Side in pixels."""
    scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Range of the crop's aspect ratio."""
    flip: Fraction = 0.5
    """Probability of mirroring left and right."""
    brightness: NonNegative = 0.4
    """Strength: factors from 1 - x to 1 + x."""
    contrast: NonNegative = 0.4
    """Strength: factors from 1 - x to 1 + x."""
    saturation: NonNegative = 0.4
    """Strength: factors from 1 - x to 1 + x."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Strength: turns of the colour circle from -x to x."""
    jitter: Fraction = 0.8
    """Probability of the four changes of colour above."""
    grayscale: Fraction = 0.2
    """Probability of losing all colour."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of a 224-pixel view; scaled with `size`."""
    solarize: Fraction = 0.0
    """Probability of inverting all values above one half."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for field in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, field)
            if low > high:
                raise ValueError(f"{field} is a range and must not begin above its end ({low} > {high})")
        if self.scale[1] <= 0:
            raise ValueError("scale must end above 0: it is the crop's share of the image area")
        return self


class OptimizerSettings(Settings):
    """Optimiser and schedule: linear warm-up, then a cosine to `final_lr`, step by step."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    """SGD with momentum; LARS (You et al. 2017) for batches of thousands; AdamW."""
    lr: Positive = 0.03
    """Learning rate for a batch of `lr_batch`."""
    lr_batch: Annotated[int, Field(ge=0)] = 256
    """The rate is scaled by batch_size * accumulate / lr_batch; 0: used as it is."""
    momentum: Fraction = 0.9
    """SGD's and LARS's momentum."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: NonNegative = 1e-4
    """Pull towards zero: added to the gradient by SGD and LARS, decoupled from it in AdamW."""
    exclude_norm_and_bias: bool = False
    """No weight decay (and no LARS scaling) for biases and normalisation."""
    trust: Positive = 0.001
    """LARS's trust coefficient."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the rate rises: from one step's share of it, in a straight line."""
    final_lr: NonNegative = 0.0
    """Rate at the end of the cosine, before the scaling by batch size."""


class ProbeSettings(Settings):
    """Weighted kNN on labelled images while training runs; skipped when the data has no labels."""

    every_epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs between two evaluations; 0: never."""
    neighbours: Count = 200
    """Nearest labelled images that vote."""
    temperature: Positive = 0.07
    """A neighbour's vote weighs exp(similarity / temperature)."""
    limit: Count = 20000
    """At most this many labelled images of each split."""


class Recipe(Settings):
    """Everything that determines a pretraining run."""

    method: MethodSettings
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    views: list[ViewSettings] = [ViewSettings(count=2)]
    """Kinds of views, in the order in which the method sees them. The first two views are the full-size ones."""
    optimizer: OptimizerSettings = OptimizerSettings()
    probe: ProbeSettings = ProbeSettings()
    epochs: Count = 200
    """Passes over the images."""
    max_steps: Count | None = None
    """Stop after this many optimiser steps, whatever `epochs` says; schedules end there too."""
    batch_size: Count = 256
    """Images a step, over all processes."""
    accumulate: Count = 1
    """Steps whose gradients are added up before the optimiser moves."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Numbers in the network's matrix products: float32, or mixed with bfloat16 or float16."""
    sync_batchnorm: bool = False
    """Batch norm statistics over all processes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Determines initial weights, the order of the images and every random view."""
    devices: Literal["auto"] | Count = "auto"
    """Processes on this machine, one a device; `auto`: every GPU, or one process on the CPU."""
    nodes: Count = 1
    """Machines; start with torchrun or SLURM."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads a process; 0: torch's choice."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; one is also written at the run's end, and when it is stopped."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints that are kept."""
    diagnostics: bool = True
    """Watch for collapse and for a loss that stays at chance, and say so."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = list(self._misfits())
        if problems:
            # One line for each; the line begins with the setting it is about.
            raise ValueError("\n".join(problems))
        return self

    def _misfits(self) -> Iterator[str]:
        views = sum(view.count for view in self.views)
        if views < 2:
            yield "views must add up to at least 2 views of an image: set `count: 2` or list two kinds"
        elif self.method.most_views is not None and views > self.method.most_views:
            yield f"views must add up to exactly 2 for {self.method.name}, not {views}; swav takes more"
        elif self.views[0].count == 1 and self.views[1].size != self.views[0].size:
            yield f"views.1.size must equal views.0.size ({self.views[0].size}): the first two views are compared"
        queue = getattr(self.method, "queue", 0)  # SwAV's may be 0: none
        keys = self.batch_size * self.accumulate * self.method.keys_per_image()
        if 0 < queue < keys:
            yield f"method.queue must hold at least the keys of one optimiser step ({keys}), not {queue}"
        splits = getattr(self.method, "norm_splits", 1)
        if splits > 1 and self.sync_batchnorm:
            yield "method.norm_splits must be 1 with sync_batchnorm, which makes one of all parts again; choose one"

    @property
    def learning_rate(self) -> float:
        """The rate after scaling by the batch size."""
        scale = self.batch_size * self.accumulate / self.optimizer.lr_batch if self.optimizer.lr_batch else 1.0
        return self.optimizer.lr * scale

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return self.model_dump(mode="json")
