"""A recipe that fits a folder of images and this machine: rules of thumb, said in the recipe's comments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.folder_check import Finding
from apps.recipe_text import flow
from sslcore.errors import DataError
from sslcore.pretrain.recipe import DataSettings, Recipe

FEWEST = 16
"""Images below which nothing is suggested."""
BAD_IMAGES = DataSettings().bad_images
"""Broken images that a recipe allows without saying so."""


@dataclass(frozen=True)
class Machine:
    """What matters about the machine: GPUs, whether they compute in bfloat16, CPU cores."""

    gpus: int
    bf16: bool
    cores: int

    @property
    def cpu(self) -> str:
        """In words."""
        return f"a CPU with {self.cores} core{'s' * (self.cores != 1)}"


def suggest(finding: Finding, machine: Machine) -> str:
    """A recipe as YAML text.

    Raises:
        DataError: too few images to learn from.
    """
    if finding.images < FEWEST:
        raise DataError(
            f"{finding.path} has {finding.images} usable images, and pretraining needs {FEWEST} at the very least (and "
            "thousands to be worth it); add images"
        )
    view, held = _sizes(finding, machine)
    batch, processes = _batch(finding.images, machine.gpus)
    epochs = _epochs(finding.images, batch, machine)
    values: dict[str, Any] = {
        "method": _method(finding.images, batch, processes, machine),
        "backbone": _backbone(finding.images, view, machine),
        "data": _data(finding, held, machine),
        "views": [_view(view, finding.grey)],
        "optimizer": _optimizer(epochs, machine),
        "probe": {"every_epochs": max(1, epochs // 10)} if finding.classes else {"every_epochs": 0},
        "epochs": epochs,
        "batch_size": batch,
        "precision": "bf16" if machine.gpus and machine.bf16 else "32",
        **({"devices": processes} if processes < machine.gpus else {}),
    }
    Recipe.model_validate(values)
    device = f"{processes} GPU(s)" if machine.gpus else machine.cpu
    head = [
        f"# {one_line(finding.title)}: {finding.images:,} images, shorter side {finding.side} pixels in the middle.",
        f"# For {device}. A beginning, not an optimum: rules of thumb for method, sizes and length.",
        "# `surnia pretrain --help-fields` lists every setting.",
    ]
    return "\n".join([*head, *_lines(values)]) + "\n"


def one_line(text: str) -> str:
    """A comment's text: file names may hold line breaks, and what follows one would be read as YAML."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _sizes(finding: Finding, machine: Machine) -> tuple[int, int | None]:
    """Side of a view, and the side that images are held at in memory (None: as they are)."""
    side = finding.side
    if side <= 40:
        return max(8, side // 4 * 4) if side < 32 else 32, None
    if side <= 72:
        return 64 if side >= 64 else 48 if side >= 48 else 32, None
    if not machine.gpus:
        return 64, 96 if side > 96 else None
    return (96, None) if side <= 128 else (224, None)


def _batch(images: int, gpus: int) -> tuple[int, int]:
    """Images a step, about a power of two up to 256 that leaves at least four steps an epoch; and the processes that
    share it equally: one for each GPU, or one alone where a share would have fewer than 16 images."""
    batch = max(4, 2 ** min(8, (images // 4).bit_length() - 1))
    if gpus < 2 or batch < 16 * gpus:
        return batch, 1
    return batch // gpus * gpus, gpus


def _epochs(images: int, batch: int, machine: Machine) -> int:
    steps = 40_000 if machine.gpus else 2_000
    return max(1, min(1000, round(steps * batch / images)))


def _method(images: int, batch: int, processes: int, machine: Machine) -> dict[str, Any]:
    projector = [2048, 128] if machine.gpus else [256, 128]
    # With fewer than two parts of four images a share, batch norm would tell MoCo's queries their keys.
    splits = next((n for n in (8, 4, 2) if batch // processes % n == 0 and batch // processes // n >= 4), 1)
    if batch >= 128 or splits == 1:
        return {"name": "simclr", "temperature": 0.2, "projector": projector}
    # Too few negatives in a small batch: take them from a queue.
    queue = max(batch, min(4096, 2 ** ((images // 2).bit_length() - 1)))
    return {
        "name": "moco",
        "temperature": 0.2,
        "momentum": 0.99,
        "queue": queue,
        "projector": projector,
        "norm_splits": splits,
    }


def _backbone(images: int, view: int, machine: Machine) -> dict[str, Any]:
    if not machine.gpus:
        return {"name": "tiny", "width": 32}
    name = "resnet50" if images >= 200_000 or view >= 224 else "resnet18"
    return {"name": name, "stem": "small" if view <= 64 else "imagenet"}


def _data(finding: Finding, held: int | None, machine: Machine) -> dict[str, Any]:
    size = {"size": held} if held else {}
    allowed = {"bad_images": finding.broken_at_most} if finding.broken_at_most > BAD_IMAGES else {}
    path = str(finding.path.absolute())
    return {"kind": finding.kind, "path": path, **size, "workers": min(8, machine.cores), **allowed}


def _view(size: int, grey: bool) -> dict[str, Any]:
    colour = {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0} if grey else {"saturation": 0.4, "hue": 0.1}
    blur = {"blur": 0.5} if size >= 96 else {}
    return {"count": 2, "size": size, "scale": [0.2, 1.0], "brightness": 0.4, "contrast": 0.4, **colour, **blur}


def _optimizer(epochs: int, machine: Machine) -> dict[str, Any]:
    rate = 0.12 if machine.gpus else 0.3
    warmup = min(10.0, epochs / 10)
    return {"name": "sgd", "lr": rate, "lr_batch": 256, "weight_decay": 1e-4, "warmup_epochs": warmup}


def _lines(values: dict[str, Any]) -> list[str]:
    out = []
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            out += [f"{key}:", *(f"  - {flow(item)}" for item in value)]
        else:
            out.append(f"{key}: {flow(value)}")
    return out


def write(text: str, file: Path) -> None:
    """Write a recipe; an existing file is never overwritten.

    Raises:
        DataError: the file exists.
    """
    from sslcore.storage.files import write_text

    if file.exists():
        raise DataError(f"{file} exists already and is never overwritten; give another name to --write-recipe")
    write_text(file, text)
