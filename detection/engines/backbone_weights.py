"""Pretrained weights for a detector's backbone, and what must be said about them in an open-world experiment."""

from dataclasses import dataclass

from detection.engines.networks import PyramidNetwork, architecture_of
from detection.engines.settings import NetworkSettings
from sslcore.augment.normalise import IMAGENET_MEAN, IMAGENET_STD
from sslcore.backbones import LoadedBackbone, load_backbone
from sslcore.errors import CheckpointError

WITHOUT_LABELS = ("simclr", "moco", "byol", "swav", "pcl")
WITH_LABELS = ("supcon",)


@dataclass(frozen=True)
class BackboneReport:
    """Where a backbone's weights come from.

    Attributes:
        description: the source, in words.
        matched: names of the backbone's weights that were found in the source; empty for random weights.
        unmatched: names in the source that are not the backbone's: heads, momentum encoders and the like.
        missing: names of the backbone's weights that stayed random: all or none.
        future_labels: whether the backbone can have seen labels of classes that a later task brings: "no", "possible",
            or "not known".
        because: the same as a sentence.
        mean, std: per channel, of pixel values in [0, 1]: the preprocessing that goes with the weights.
    """

    description: str
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    future_labels: str
    because: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def sentences(self) -> list[str]:
        """For the log."""
        found = f"backbone: {self.description}"
        if self.matched or self.unmatched:
            found += f"; {len(self.matched)} weights matched, {len(self.missing)} are random"
        if self.unmatched:
            names = ", ".join(self.unmatched[:3]) + (", ..." if len(self.unmatched) > 3 else "")
            found += f", {len(self.unmatched)} of the source are not the backbone's ({names})"
        seen = {
            "no": "the backbone has seen no labels of later classes",
            "possible": "the backbone may have seen labels of later classes",
        }.get(self.future_labels, "whether the backbone has seen labels of later classes is not known")
        return [found, f"{seen}: {self.because}"]


def load_backbone_weights(network: PyramidNetwork, settings: NetworkSettings) -> BackboneReport:
    """Fill the backbone from `settings.weights`; without them, only say that it is random.

    Raises:
        CheckpointError: the source cannot be read, or is of another network or of other than colour images.
    """
    names = tuple(network.backbone.state_dict())
    loaded = read_backbone(settings)
    if loaded is None:
        return random_report(names, settings)
    # A frozen norm has no counter of batches, and ignores the source's.
    network.backbone.load_state_dict(loaded.backbone.state_dict())
    return report_of(loaded, names, settings)


def read_backbone(settings: NetworkSettings) -> LoadedBackbone | None:
    """The backbone that `settings.weights` names, checked to be the detector's; None: it begins with random weights.

    Raises:
        CheckpointError: see `load_backbone_weights`.
    """
    if settings.weights is None:
        return None
    loaded = load_backbone(settings.weights, architecture=architecture_of(settings))
    _check_same(loaded, settings)
    return loaded


def random_report(names: tuple[str, ...], settings: NetworkSettings) -> BackboneReport:
    """What is said of random weights of these names."""
    words = f"{architecture_of(settings).name} with random weights"
    if settings.frozen_stages or settings.norm == "frozen":
        words += ", and what is frozen of it stays as it is drawn"
    return BackboneReport(words, (), (), names, "no", "its weights are random", IMAGENET_MEAN, IMAGENET_STD)


def report_of(loaded: LoadedBackbone, names: tuple[str, ...], settings: NetworkSettings) -> BackboneReport:
    """What is said of a backbone that was loaded; `names` are those of the detector's backbone, as torchvision's."""
    matched = tuple(name for name in loaded.matched if name in names)
    counters = tuple(name for name in names if name.endswith("num_batches_tracked"))
    missing = tuple(name for name in names if name not in matched and name not in counters)
    exposure, because = _future_labels(loaded, settings.weights or "")
    return BackboneReport(
        loaded.description, matched, loaded.unmatched, missing, exposure, because, loaded.mean, loaded.std
    )


def _check_same(loaded: LoadedBackbone, settings: NetworkSettings) -> None:
    wanted, found = architecture_of(settings), loaded.settings
    if found is None:
        raise CheckpointError(
            f"network.weights: {loaded.description} is not a network that detectors are built on; give weights of "
            f"{wanted.name} for {settings.name}"
        )
    same = ["name", "width"] if wanted.name == "tiny" else ["name", "stem"]
    for field in same:
        has, needs = getattr(found, field), getattr(wanted, field)
        if has != needs:
            raise CheckpointError(
                f"network.weights: {loaded.description} has {field} {has}, but network {settings.name} needs {field} "
                f"{needs}: change the one or the other"
            )
    if loaded.in_channels != 3:
        raise CheckpointError(
            f"network.weights: {loaded.description} was trained on images of {loaded.in_channels} channels, and "
            "detectors take colour images of 3"
        )


def _future_labels(loaded: LoadedBackbone, source: str) -> tuple[str, str]:
    """Whether labels of future classes can have been seen, and why."""
    _, _, method = loaded.description.rpartition(", trained with ")
    if not loaded.matched:
        return "no", "its weights are random"
    if source.startswith("torchvision:"):
        return "possible", "torchvision's weights are trained with ImageNet's labels, which name many everyday objects"
    if method in WITHOUT_LABELS:
        return "no", f"{method} uses no labels (if it began from random weights); its images may show future classes"
    if method in WITH_LABELS:
        return "possible", f"{method} is trained with labels, and which classes they name is not known"
    return "not known", "the file does not say how it was trained"
