"""Any backbone for evaluation and export, whoever trained it, together with the preprocessing that it expects.

Weights are untrusted: what a file says of itself is checked, the network is laid out without memory first, and nothing
is allocated for it unless names and shapes fit.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from sslcore.augment import EvalView
from sslcore.augment.normalise import IMAGENET_MEAN, IMAGENET_STD
from sslcore.backbones.description import Description, validated
from sslcore.backbones.foreign_names import as_torchvision, first_channels, some, which_resnet
from sslcore.backbones.other_networks import Pixels, TorchvisionBackbone
from sslcore.backbones.views import MatchingEvalView
from sslcore.errors import CheckpointError
from sslcore.nn import build_backbone
from sslcore.settings import BackboneSettings
from sslcore.storage import newest_checkpoint, read_metadata, read_weights

OURS = ("resnet18", "resnet34", "resnet50")
"""torchvision's networks that `build_backbone` builds itself."""


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone and how to use it.

    Attributes:
        backbone: (n, c, s, s) normalised images to (n, d) features; `backbone.dim` is d.
        mean, std: per channel, of pixel values in [0, 1].
        size: side of the images that it was trained on.
        in_channels: c.
        description: where it comes from, in words.
        matched: names of its weights that were found in the source.
        unmatched: names in the source that are not the backbone's: heads, momentum encoders and the like.
        settings: what `build_backbone` needs, or None for networks that it does not build.
        stack: frames that the channels are of.
    """

    backbone: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    in_channels: int
    description: str
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    settings: BackboneSettings | None = None
    stack: int = 1

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.backbone.dim)  # type: ignore[arg-type]

    def metadata(self) -> dict[str, Any]:
        """Plain values for `Description`. Raises CheckpointError for a network that Surnia cannot rebuild."""
        if self.settings is None:
            raise CheckpointError(f"{self.description} is not a network that Surnia builds, so it cannot describe it")
        return {
            "backbone": self.settings.model_dump(mode="json"),
            "in_channels": self.in_channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "size": self.size,
            "stack": self.stack,
        }

    def eval_view(self) -> EvalView:
        """The centre crop and normalisation that evaluation shows it; takes grey and colour images.

        Raises:
            CheckpointError: it takes frame stacks, not images of one or three channels.
        """
        if self.stack > 1:
            raise CheckpointError(
                f"{self.description} takes stacks of {self.stack} frames, so it cannot be shown images: write the "
                "agent's encoder for single frames with surnia control export first"
            )
        if self.in_channels not in (1, 3):
            raise CheckpointError(f"{self.description} takes {self.in_channels} channels, so it cannot be shown images")
        return MatchingEvalView(size=self.size, mean=self.mean, std=self.std, resize=eval_resize(self.size))


def eval_resize(size: int) -> int:
    """Short side before the centre crop: 256 for 224 as everyone does; small images are shown whole."""
    return round(size * 256 / 224) if size >= 96 else size


def load_backbone(
    source: str | Path,
    *,
    architecture: BackboneSettings | None = None,
    in_channels: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> LoadedBackbone:
    """A backbone on the CPU, in evaluation mode.

    Args:
        source: one of

            * a run directory (its newest sound checkpoint) or a single checkpoint folder;
            * a `.safetensors` file that Surnia exported;
            * a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file of a ResNet from elsewhere: torchvision's names behind
              any prefix (MoCo's `module.encoder_q.`, lightly's and solo-learn's `backbone.`), or numbered as in
              `nn.Sequential(*resnet.children())`; which ResNet it is follows from the names and shapes;
            * `torchvision:NAME`, an untrained network of torchvision, or `torchvision:NAME=FILE` with weights;
            * `random:SOURCE`, the same network as `SOURCE` with fresh random weights: the baseline of a trained one;
            * `pixels`, no network at all.
        architecture: which backbone a foreign file holds, where it cannot be told from the names (`tiny`).
        in_channels: colour channels for `pixels` and `torchvision:...` (default 3); files know theirs.
        size: side of the images; default what the source says, else 224, or 32 for `pixels` and small-image stems.
        seed: of random weights.

    Raises:
        CheckpointError: there is no such source, it is damaged, or its weights do not fit; names what matched and what
            did not.
    """
    text = str(source)
    if text == "pixels":
        loaded = _pixels(in_channels or 3, size or 32)
    elif text.startswith("random:"):
        like = load_backbone(text.removeprefix("random:"), architecture=architecture, in_channels=in_channels)
        loaded = _fresh(like, seed)
    elif text.startswith("torchvision:"):
        loaded = _torchvision(text.removeprefix("torchvision:"), in_channels or 3, seed)
    else:
        loaded = _from_disk(Path(source), architecture)
    loaded.backbone.eval()
    if size is not None and size != loaded.size:
        if loaded.backbone.name == "pixel_encoder":
            raise CheckpointError(f"{loaded.description} works for images of {loaded.size} pixels only, not {size}")
        loaded = replace(loaded, size=size)
    return loaded


# --- sources -------------------------------------------------------------------------------------------------------


def _pixels(channels: int, size: int) -> LoadedBackbone:
    zeros, ones, words = (0.0,) * channels, (1.0,) * channels, f"raw pixels, {channels} x {size} x {size}"
    return LoadedBackbone(Pixels(channels, size), zeros, ones, size, channels, words)


def random_backbone(
    settings: BackboneSettings,
    *,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    seed: int = 0,
) -> LoadedBackbone:
    """An untrained backbone; the global random state is left alone.

    Args:
        settings: which; `settings.weights` is not followed.
        in_channels: colour channels of its images.
        mean, std: per channel, of pixel values in [0, 1].
        size: side of its images.
        seed: of the weights.

    Raises:
        CheckpointError: the settings do not fit each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(settings, in_channels, size).eval()
    words = f"{settings.name} with random weights (seed {seed})"
    settings = settings.model_copy(update={"weights": None})
    return LoadedBackbone(network, tuple(mean), tuple(std), size, in_channels, words, settings=settings)


def _fresh(like: LoadedBackbone, seed: int) -> LoadedBackbone:
    """Random weights in the place of the loaded ones."""
    if isinstance(like.backbone, Pixels):
        raise CheckpointError(
            "pixels have no weights to draw at random: name a run, a file or torchvision:NAME instead"
        )
    if like.settings is None:
        return _torchvision(str(like.backbone.name), like.in_channels, seed)
    return random_backbone(
        like.settings, in_channels=like.in_channels, mean=like.mean, std=like.std, size=like.size, seed=seed
    )


def _torchvision(name: str, in_channels: int, seed: int) -> LoadedBackbone:
    name, _, file = name.partition("=")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise CheckpointError(
            f"torchvision has no classification network {name!r}; it has {some(known, 6)} "
            f"({len(known)} in torchvision.models.list_models())"
        )
    mean, std = _imagenet_statistics(in_channels)
    if name in OURS:
        settings = BackboneSettings(name=name)  # type: ignore[arg-type]
        loaded = random_backbone(settings, in_channels=in_channels, mean=mean, std=std, size=224, seed=seed)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TorchvisionBackbone(name, in_channels)
        words = f"torchvision's {name} with random weights (seed {seed})"
        loaded = LoadedBackbone(network, mean, std, 224, in_channels, words)
    if not file:
        return loaded
    tensors = read_weights(file)
    matched, unmatched = _fill(loaded.backbone, tensors, tensors, Path(file))
    described = f"torchvision's {name} with the weights of {file}"
    return replace(loaded, description=described, matched=matched, unmatched=unmatched)


def _from_disk(path: Path, architecture: BackboneSettings | None) -> LoadedBackbone:
    if not path.exists():
        raise CheckpointError(
            f"there is no {path}: give a run directory, a checkpoint, a weight file, torchvision:NAME or pixels"
        )
    if path.is_dir():
        path = _checkpoint_of(path)
    everything, values = read_weights(path), read_metadata(path)
    if not values and not path.is_dir():
        return _foreign(everything, architecture, path)
    description = validated(values, path)
    prefix = description.prefix
    tensors = {name.removeprefix(prefix): t for name, t in everything.items() if name.startswith(prefix)}
    return _described(description, tensors or everything, everything, path)


def _checkpoint_of(path: Path) -> Path:
    """The newest sound checkpoint of a run directory or of the folder of its checkpoints; or the checkpoint it is."""
    for folder in (path / "checkpoints", path):
        skipped: list[str] = []
        found = newest_checkpoint(folder, report=skipped.append)
        if found is not None:
            for sentence in skipped:
                warnings.warn(f"{sentence}; {found.name} is used", stacklevel=2)
            return found
        if skipped:
            raise CheckpointError(f"{folder} holds no checkpoint that can be read: {'; '.join(skipped)}")
    if (path / "recipe.yaml").is_file():
        raise CheckpointError(
            f"the run {path} holds no checkpoint of a backbone: resume it if it was stopped before its first, or give "
            "another run of surnia pretrain"
        )
    return path


def _described(
    description: Description, tensors: Mapping[str, Tensor], everything: Mapping[str, Tensor], path: Path
) -> LoadedBackbone:
    """What says itself how it is to be built."""
    with torch.device("meta"):
        network = _build(description.backbone, description.in_channels, description.size)
    matched, unmatched = _fill(network, tensors, everything, path, description.prefix)
    trained = f", trained with {description.method}" if description.method else ""
    return LoadedBackbone(
        network,
        description.mean,
        description.std,
        description.size,
        description.in_channels,
        f"{description.backbone.name} of {path}{trained}",
        matched,
        unmatched,
        # Where these weights once came from is of no use to whoever rebuilds the network.
        description.backbone.model_copy(update={"weights": None}),
        description.stack,
    )


def _foreign(tensors: dict[str, Tensor], architecture: BackboneSettings | None, path: Path) -> LoadedBackbone:
    """What has to be recognised by its names and shapes."""
    prefix, renamed = "", tensors
    if architecture is None or architecture.name.startswith("resnet"):
        prefix, renamed = as_torchvision(tensors, path)
    in_channels = first_channels(renamed)
    name = architecture.name if architecture else which_resnet(renamed, path)
    if architecture is None and name in OURS:
        stem = "small" if renamed["conv1.weight"].shape[-1] == 3 else "imagenet"
        architecture = BackboneSettings(name=name, stem=stem)  # type: ignore[arg-type]
    size = _usual_size(architecture)
    with torch.device("meta"):
        network = _build(architecture, in_channels, size) if architecture else TorchvisionBackbone(name, in_channels)
    matched, unmatched = _fill(network, renamed, tensors, path, prefix)
    mean, std = _imagenet_statistics(in_channels)
    words = f"{name} of {path}" + (f" (names behind {prefix!r})" if prefix else "")
    return LoadedBackbone(network, mean, std, size, in_channels, words, matched, unmatched, architecture)


def _usual_size(settings: BackboneSettings | None) -> int:
    """Side of the images that such a network is usually trained on, for files that do not tell."""
    if settings is None:
        return 224
    if settings.name == "pixel_encoder":
        return 84
    return 32 if settings.name == "tiny" or settings.stem == "small" else 224


def _imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's mean and deviation, averaged over colours for other than three channels."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


# --- networks ------------------------------------------------------------------------------------------------------


def _build(settings: BackboneSettings, in_channels: int, size: int) -> nn.Module:
    try:
        return build_backbone(
            settings.name,
            stem=settings.stem,
            width=settings.width,
            layers=settings.layers,
            features=settings.features,
            in_channels=in_channels,
            size=size,
        )
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"cannot build a {settings.name} as described: {error}") from error


def _fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    everything: Mapping[str, Tensor],
    where: Path,
    prefix: str = "",
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put weights into a network; names that matched, and names of `everything` that found no place.

    Args:
        network: possibly without memory yet (on the meta device).
        tensors: weights under the network's names.
        everything: all that the source held, under its own names.
        where: the source, for messages.
        prefix: what stood before the network's names.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """
    wanted = network.state_dict()
    # A counter that only averaging without momentum reads; old files lack it.
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in tensors and key not in counters]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or wrong:
        count = len(wanted) - len(counters)
        parts = [f"{count - len(missing) - len(wrong)} of {count} weights match"]
        if missing:
            parts.append(f"{len(missing)} are missing ({some(missing)})")
        if wrong:
            key = wrong[0]
            shapes = f"{key} is {tuple(tensors[key].shape)}, wanted {tuple(wanted[key].shape)}"
            parts.append(f"{len(wrong)} have another shape ({shapes})")
        rest = [key for key in everything if key.removeprefix(prefix) not in wanted]
        if rest:
            parts.append(f"{len(rest)} in the file are not its own ({some(rest)})")
        raise CheckpointError(f"{where} does not fit {network.name}: {', '.join(parts)}")
    found = {key: tensors[key].detach().to(wanted[key].dtype).clone() for key in wanted if key in tensors}
    network.load_state_dict({**counters, **found}, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_()
    used = {id(tensors[key]) for key in wanted if key in tensors}
    return tuple(found), tuple(key for key, value in everything.items() if id(value) not in used)
