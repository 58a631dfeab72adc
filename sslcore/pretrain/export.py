"""Backbones in the form that others load, checked in the target before the file is published.

The file is written to a scratch folder, loaded back as its users will, and run beside the original on the same images;
only when every weight found its place and the outputs are equal to the last bit is that very file put where it belongs.
Both sides run without gradients on the CPU: there detectron2's frozen batch norm calls the same operation as
torchvision's (with gradients it multiplies by a rounded inverse deviation: about a millionth of the largest output
off).
"""

import importlib.util
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from sslcore.backbones.detectron2_files import detectron2_name, read_detectron2
from sslcore.backbones.loading import LoadedBackbone, load_backbone
from sslcore.errors import CheckpointError
from sslcore.storage import read_weights, write_bytes, write_weights

Target = Literal["torchvision", "detectron2"]
SUFFIXES = {"torchvision": ".safetensors", "detectron2": ".pkl"}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it loads.

    Attributes:
        path: the file.
        to: the target.
        matched: names of the target's weights that the file filled.
        unmatched: names that only one side has; empty, for otherwise nothing is published.
        max_difference: largest absolute difference of any output; 0.0, for the same reason.
        checked_by: what loaded the file and what was compared, in words.
        usage: how to load it, in lines to copy.
    """

    path: Path
    to: Target
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    max_difference: float
    checked_by: str
    usage: str


def export_backbone(source: str | Path | LoadedBackbone, to: Target, out: str | Path) -> ExportReport:
    """Write a ResNet for another library and prove that it computes the same there.

    Args:
        source: what `load_backbone` takes, or what it returned.
        to: `"torchvision"`: safetensors under torchvision's names, without a classifier, with a description from which
            `load_backbone` rebuilds the network; compared are pooled features. `"detectron2"`: its own pickled form
            under its names; compared are the maps res2 to res5, in detectron2 if it is installed, else in torchvision
            after mapping the names back.
        out: the file, `*.safetensors` or `*.pkl`; replaced if it exists.

    Raises:
        CheckpointError: the network has no counterpart in the target, a weight is unmatched, or an output differs.
    """
    loaded = source if isinstance(source, LoadedBackbone) else load_backbone(source)
    out = Path(out)
    _check(loaded, to, out)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / out.name
        if to == "torchvision":
            write_weights(file, loaded.backbone.state_dict(), loaded.metadata())
            checked = _check_torchvision(file, loaded)
            usage = _torchvision_usage(out, loaded)
        else:
            file.write_bytes(_detectron2_bytes(loaded))
            checked = _check_detectron2(file, loaded)
            usage = _detectron2_usage(out, loaded)
        matched, unmatched, difference, words = checked
        if unmatched:
            raise CheckpointError(
                f"{len(unmatched)} weights do not match in {to} ({', '.join(unmatched)}), {len(matched)} do: "
                f"nothing was written to {out}; install versions of {to} and Surnia that belong together"
            )
        if difference != 0:
            raise CheckpointError(
                f"the exported backbone computes something else in {to}: largest difference {difference:.3g}, {words}; "
                f"nothing was written to {out}"
            )
        write_bytes(out, file.read_bytes())
    return ExportReport(out, to, matched, unmatched, difference, words, usage)


Checked = tuple[tuple[str, ...], tuple[str, ...], float, str]
"""Matched and unmatched names, largest difference, and what was compared."""


def _check(loaded: LoadedBackbone, to: str, out: Path) -> None:
    if to not in SUFFIXES:
        raise CheckpointError(f"there is no export to {to!r}: choose one of {', '.join(SUFFIXES)}")
    if out.suffix != SUFFIXES[to]:
        raise CheckpointError(f"{to} wants a name that ends in {SUFFIXES[to]}, not {out.name!r}")
    settings = loaded.settings
    if settings is None or not settings.name.startswith("resnet"):
        raise CheckpointError(
            f"{loaded.description} has no counterpart in {to}: resnet18, resnet34 and resnet50 can be exported"
        )
    if to == "detectron2" and settings.stem != "imagenet":
        raise CheckpointError(
            f"{loaded.description} has a stem for small images, which detectron2's ResNet lacks: pretrain with "
            "backbone.stem imagenet for detection"
        )
    if to == "detectron2" and loaded.in_channels != 3:
        raise CheckpointError(
            f"{loaded.description} takes {loaded.in_channels} channels, and detectron2's detectors take 3: pretrain on "
            "colour images for detection"
        )


def _images(loaded: LoadedBackbone) -> Tensor:
    """Two images of noise, normalised as if they were pictures; large enough for five halvings."""
    side = max(64, min(loaded.size, 224))
    return torch.randn(2, loaded.in_channels, side, side, generator=torch.Generator().manual_seed(0))


def _largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """nan counts as a difference, and so does another shape."""
    differences = [
        (a - b).abs().max().item() if a.shape == b.shape else float("inf") for a, b in zip(ours, theirs, strict=True)
    ]
    return float("nan") if any(d != d for d in differences) else max(differences)


# --- torchvision ---------------------------------------------------------------------------------------------------


def torchvision_resnet(loaded: LoadedBackbone) -> nn.Module:
    """torchvision's own network of that name with fresh weights; its classifier is gone, and its first layers are
    changed if images are small or not of three channels."""
    assert loaded.settings is not None
    network = torchvision.models.get_model(loaded.settings.name, weights=None)
    network.fc = nn.Identity()
    if loaded.settings.stem == "small":
        network.conv1 = nn.Conv2d(loaded.in_channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif loaded.in_channels != 3:
        network.conv1 = nn.Conv2d(loaded.in_channels, 64, 7, stride=2, padding=3, bias=False)
    return network.eval()


@torch.inference_mode()
def _check_torchvision(file: Path, loaded: LoadedBackbone) -> Checked:
    network, tensors = torchvision_resnet(loaded), read_weights(file)
    matched, unmatched = _fit(network, tensors)
    images = _images(loaded)
    difference = _largest_difference([loaded.backbone.eval()(images)], [network(images)])
    name = loaded.settings.name if loaded.settings else ""
    return matched, unmatched, difference, f"torchvision's {name} loaded the file; pooled features compared"


def _fit(network: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load what fits; names that matched, and names that only one side has or that differ in shape."""
    wanted = network.state_dict()
    matched = tuple(key for key in wanted if key in tensors and tensors[key].shape == wanted[key].shape)
    unmatched = tuple(sorted({*wanted, *tensors} - set(matched)))
    network.load_state_dict({key: tensors[key] for key in matched}, strict=False)
    return matched, unmatched


def _torchvision_usage(out: Path, loaded: LoadedBackbone) -> str:
    assert loaded.settings is not None
    lines = [
        "import torch, torchvision",
        "from safetensors.torch import load_file",
        f"network = torchvision.models.{loaded.settings.name}()",
        "network.fc = torch.nn.Identity()",
    ]
    if loaded.settings.stem == "small":
        lines.append(f"network.conv1 = torch.nn.Conv2d({loaded.in_channels}, 64, 3, padding=1, bias=False)")
        lines.append("network.maxpool = torch.nn.Identity()")
    elif loaded.in_channels != 3:
        lines.append(f"network.conv1 = torch.nn.Conv2d({loaded.in_channels}, 64, 7, stride=2, padding=3, bias=False)")
    lines.append(f"network.load_state_dict(load_file({str(out)!r}))")
    lines.append(f"# images in [0, 1], normalised by mean {_listed(loaded.mean)} and std {_listed(loaded.std)}")
    return "\n".join(lines)


def _listed(values: tuple[float, ...], scale: float = 1.0) -> str:
    return "[" + ", ".join(f"{scale * v:.4g}" for v in values) + "]"


# --- detectron2 ----------------------------------------------------------------------------------------------------


def _detectron2_weights(loaded: LoadedBackbone) -> dict[str, Tensor]:
    """Under detectron2's names. Its frozen batch norm has no counter of batches, and its live one starts a new one."""
    state = loaded.backbone.state_dict()
    return {detectron2_name(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _detectron2_bytes(loaded: LoadedBackbone) -> bytes:
    """detectron2's form: a pickled dictionary of arrays.

    Its loader then finds the place by the ends of names, so that the same file serves a bare ResNet (`res2...`), one
    below a feature pyramid (`backbone.bottom_up.res2...`) and a C4 head (`roi_heads.res5...`).
    """
    arrays = {name: tensor.cpu().numpy() for name, tensor in _detectron2_weights(loaded).items()}
    # Protocol 4: protocol 5 pickles arrays by a function that older numpy lacks.
    return pickle.dumps({"model": arrays, "__author__": "Surnia", "matching_heuristics": True}, protocol=4)


def has_detectron2() -> bool:
    """Whether detectron2 can be imported here."""
    return importlib.util.find_spec("detectron2") is not None


def _check_detectron2(file: Path, loaded: LoadedBackbone) -> Checked:
    return _check_in_detectron2(file, loaded) if has_detectron2() else _check_mapped_back(file, loaded)


def _check_in_detectron2(file: Path, loaded: LoadedBackbone) -> Checked:
    """detectron2's checkpointer loads the file into its ResNet, where a detector with a feature pyramid keeps it."""
    try:
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.modeling.backbone.resnet import BasicStem, ResNet
    except ImportError as error:
        raise CheckpointError(
            f"detectron2 is installed but cannot be imported ({error}): repair it, or uninstall it to skip its check"
        ) from error
    assert loaded.settings is not None
    depth = int(loaded.settings.name.removeprefix("resnet"))
    options: dict[str, Any] = {"norm": "FrozenBN"} | ({"stride_in_1x1": False} if depth >= 50 else {})
    names = ["res2", "res3", "res4", "res5"]
    resnet = ResNet(BasicStem(norm="FrozenBN"), ResNet.make_default_stages(depth, **options), out_features=names).eval()
    _spoil(resnet)
    holder = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": resnet})})
    DetectionCheckpointer(holder).load(str(file))

    found, wanted = resnet.state_dict(), _detectron2_weights(loaded)
    matched = tuple(key for key in found if key in wanted and torch.equal(found[key], wanted[key].cpu()))
    unmatched = tuple(sorted({*found, *wanted} - set(matched)))
    images = _images(loaded)
    with torch.no_grad():
        maps = resnet(images)
        difference = _largest_difference(_maps(loaded, images), [maps[name] for name in names])
    words = "detectron2 itself loaded the file into its ResNet with frozen batch norm; maps res2 to res5 compared"
    return matched, unmatched, difference, words


def _spoil(network: nn.Module) -> None:
    """Fill all weights with nan: one that is not loaded cannot pass for one that is."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))


def _check_mapped_back(file: Path, loaded: LoadedBackbone) -> Checked:
    """Without detectron2: read the file, undo the names, and run torchvision's network on it."""
    arrays, _ = read_detectron2(file)
    network = torchvision_resnet(loaded)
    names = {detectron2_name(key): key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    unmatched = tuple(sorted({*names} ^ {*arrays}))
    matched = tuple(name for name in names if name in arrays)
    _spoil(network)
    network.load_state_dict({names[name]: arrays[name] for name in matched}, strict=False)
    images = _images(loaded)
    theirs = []
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))  # type: ignore[operator]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)  # type: ignore[operator]
            theirs.append(x)
    difference = _largest_difference(_maps(loaded, images), theirs)
    words = (
        "detectron2 is not installed: the file was read back, its names mapped to torchvision's, and maps res2 to res5 "
        "compared there"
    )
    return matched, unmatched, difference, words


@torch.no_grad()
def _maps(loaded: LoadedBackbone, images: Tensor) -> list[Tensor]:
    return loaded.backbone.eval().feature_maps(images)  # type: ignore[operator]


def _detectron2_usage(out: Path, loaded: LoadedBackbone) -> str:
    assert loaded.settings is not None
    depth = int(loaded.settings.name.removeprefix("resnet"))
    lines = [
        "MODEL:",
        f"  WEIGHTS: {str(out.absolute())!r}",
        f"  PIXEL_MEAN: {_listed(loaded.mean, 255)}",
        f"  PIXEL_STD: {_listed(loaded.std, 255)}",
        "  RESNETS:",
        f"    DEPTH: {depth}",
        "    STRIDE_IN_1X1: False",
        *(["    RES2_OUT_CHANNELS: 64"] if depth < 50 else []),
        "INPUT:",
        '  FORMAT: "RGB"',
    ]
    return "\n".join(lines)
