"""What `evaluate` and `embed` share: the backbone that the command line names, and features of images."""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from apps.recipe_files import shipped
from apps.recipes import load
from sslcore.backbones.loading import LoadedBackbone, load_backbone, random_backbone
from sslcore.pretrain.data import ImageArray, ImageFiles, iterate_eval
from sslcore.pretrain.probes.features import Features, embed
from sslcore.pretrain.recipe import DataSettings, Recipe
from sslcore.storage import surroundings
from sslcore.training import machine

Images = ImageArray | ImageFiles
RANDOM = "random:"
FEW_FILES = 500
"""So many files are read in this process: starting others would take longer."""

pick_device = partial(machine.pick_device, setting="command line: --device  ")
"""The device that `--device` names; ConfigError if there is no such one here."""


def data_settings(args: argparse.Namespace, **more: Any) -> DataSettings:
    """The recipe's group `data` for a command's --data and --kind."""
    return DataSettings(path=str(args.data), kind=args.kind, workers=min(4, os.cpu_count() or 1), **more)


def named_backbone(name: str, images: Images, *, seed: int) -> LoadedBackbone:
    """The backbone that a command line names.

    `random:RECIPE` is the untrained network of a recipe, fed with these images' statistics; `pixels` are as large as
    these images, but at most 64 pixels a side. Everything else is `load_backbone`'s.
    """
    if name == "pixels":
        return load_backbone(name, in_channels=images.channels, size=_side(images))
    recipe = name.removeprefix(RANDOM)
    if name.startswith(RANDOM) and (recipe in shipped() or Path(recipe).suffix in (".yaml", ".yml")):
        settings = load(recipe, [], Recipe).recipe
        return random_backbone(
            settings.backbone,
            in_channels=images.channels,
            mean=images.mean,
            std=images.std,
            size=settings.views[0].size,
            seed=seed,
        )
    return load_backbone(name, seed=seed)


def _side(images: Images) -> int:
    return min(64, *images.images.shape[2:]) if isinstance(images, ImageArray) else 32


def features_of(
    loaded: LoadedBackbone,
    images: Images,
    args: argparse.Namespace,
    notes: list[str],
    *,
    what: str,
    keep_on: str = "cpu",
) -> Features:
    """Features of all images that can be read; `notes` gets a sentence about the others."""
    bad: list[tuple[str, str]] = []
    device = pick_device(args.device)
    batches = iterate_eval(
        images, loaded.eval_view(), args.batch_size, device=device, workers=workers_for(images), bad=bad
    )
    found = embed(
        loaded.backbone, _shown(batches, math.ceil(len(images) / args.batch_size), what), device, keep_on=keep_on
    )
    if bad:
        notes.append(f"{len(bad)} images could not be read and are left out, the first is {bad[0][0]} ({bad[0][1]})")
    return found


def workers_for(images: Images) -> int:
    """Processes that read the files of a set."""
    return 0 if isinstance(images, ImageArray) or len(images) < FEW_FILES else min(4, os.cpu_count() or 1)


def _shown(batches: Iterator[Any], count: int, what: str) -> Iterator[Any]:
    """The same batches, with a progress bar where somebody looks."""
    console = Console(stderr=True)
    yield from track(batches, what, total=count, console=console, transient=True, disable=not console.is_terminal)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """A table, and what has to be known to read it."""
    console = Console()
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """How a result came about, for its file: command line, versions, git revision of Surnia."""
    around = surroundings()
    return {"command": list(command), "versions": around["versions"], "git": around["git"]}


def percent(value: float) -> str:
    """.8473 as 84.73 %."""
    return f"{100 * value:.2f} %"
