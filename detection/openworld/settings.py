"""Settings of the open-world parts. Imports nothing heavy."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sslcore.settings import Count, Fraction, NonNegative, Positive, Settings, Whole

Score = Literal["energy", "max_probability", "foreground"]


class UnknownSettings(Settings):
    """Which background proposals are labelled unknown in training (ORE, section 4.2)."""

    per_image: Whole = 2
    """Proposals an image, those of highest objectness; 0: none."""
    guard: Fraction = 0.1
    """Proposals that overlap a labelled box by more than this IoU are not chosen."""
    previous: Fraction = 0.3
    """From the second task on, nor are proposals that overlap by more than `guard` what the previous task's model calls
    known with at least this score: its classes are unlabelled now. Lower: fewer old objects are labelled unknown, and
    fewer unknown ones; 0: all that it detects, and below `decision.score_floor` nothing is detected. The runner finds
    the boxes; the head takes any."""
    start: Fraction = 0.3
    """Share of the first task's steps after which labelling begins: before, objectness says little. Later tasks label
    from their first step."""
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

    score: Score = "energy"
    """What the two densities are fitted on: free energy, the greatest known probability, or 1 - p(background)."""
    fit: Literal["known", "oracle", "none"] = "known"
    """known: no label of a future class is used; oracle: ORE's leak, labels of future classes on validation images;
    none: the classifier alone decides, without a prior."""
    temperature: Positive = 1.0
    """T of the energy, in the fit and in use."""
    prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of unknown before classifier and energy are asked: higher finds more unknown objects and loses more
    known ones; null: the highest, up to one half, that costs known classes no more than `cost`."""
    cost: Fraction = 0.02
    """mAP of known classes on validation images that calling regions unknown may cost, where `prior` is null."""
    score_floor: Fraction = 0.05
    """Detections below this score are dropped."""
    nms: Fraction = 0.5
    """IoU above which the lower of two detections of one label is suppressed."""
    sure: Fraction = 0.7
    """Known detections of at least this score suppress the unknown ones that they overlap by more than `nms`."""
    doubtful: Fraction = 0.3
    """Known detections below this score are suppressed by such unknown ones; 1 and 0: neither suppresses the other."""
    per_image: Count = 100
    """Most detections an image."""

    @model_validator(mode="after")
    def _sure_is_no_doubt(self) -> Self:
        if self.doubtful > self.sure:
            raise ValueError(f"doubtful must not be above sure ({self.doubtful:g} > {self.sure:g})")
        return self
