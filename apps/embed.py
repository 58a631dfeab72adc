"""`surnia embed`: the features of every image in one file, and the images' names in another."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from apps.probing import Images, data_settings, features_of, named_backbone, pick_device, provenance, show
from sslcore.pretrain.data import ImageFiles, NoSuchSplit, open_images
from sslcore.pretrain.probes.features import Features
from sslcore.pretrain.recipe import DataSettings
from sslcore.storage import write_bytes, write_text, write_weights


def run(args: argparse.Namespace) -> int:
    """Embed all splits of the data; row i of the features is line i of the names."""
    pick_device(args.device)
    # As files: an array would have forgotten their names.
    sets = every_split(data_settings(args, hold="files"))
    loaded = named_backbone(args.backbone, sets["train"], seed=args.seed)
    notes = [f"Backbone: {loaded.description}."]
    found = {split: features_of(loaded, images, args, notes, what=f"{split} images") for split, images in sets.items()}

    names = args.out.with_suffix(".csv")
    metadata = {"classes": sets["train"].classes, "source": loaded.description, **provenance(args.command)}
    write_features(args.out, found, metadata)
    write_text(names, listing(found, sets, args.data))
    count = sum(len(part.features) for part in found.values())
    notes += [f"Written to {args.out}, names and classes to {names}."]
    show("Features", ["images", "dim"], [[f"{count:,}", f"{loaded.dim:,}"]], notes)
    return 0


def every_split(settings: DataSettings) -> dict[str, Images]:
    """The splits that there are, each image in one of them."""
    sets: dict[str, Images] = {"train": open_images(settings, "train")}
    others: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    for split in others:
        try:
            images = open_images(settings, split)
        except NoSuchSplit:
            continue
        if not any(_same_files(images, other) for other in sets.values()):  # val/ stands in for a missing test/
            sets[split] = images
    return sets


def _same_files(images: Images, other: Images) -> bool:
    return (
        isinstance(images, ImageFiles)
        and isinstance(other, ImageFiles)
        and images.root.resolve() == other.root.resolve()
    )


def write_features(out: Path, found: dict[str, Features], metadata: dict[str, Any]) -> None:
    """`features` (N, d) float32 and `labels` (N,) int64, -1 without one, as .npz or .safetensors; in both cases with
    `metadata`, plain values for JSON."""
    features = torch.cat([part.features for part in found.values()])
    labels = torch.cat([_labels(part) for part in found.values()])
    if out.suffix == ".npz":
        buffer = io.BytesIO()
        classes, text = np.array(metadata["classes"], dtype=np.str_), np.array(json.dumps(metadata))
        np.savez(buffer, features=features.numpy(), labels=labels.numpy(), classes=classes, metadata=text)
        write_bytes(out, buffer.getvalue())
    else:
        write_weights(out, {"features": features, "labels": labels}, metadata)


def listing(found: dict[str, Features], sets: dict[str, Images], root: Path) -> str:
    """A line for each row: its number, split, class, and the file or the position in the data set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "split", "class", "image"])
    row = 0
    for split, part in found.items():
        images = sets[split]
        for number, label in zip(part.ids.tolist(), _labels(part).tolist(), strict=True):
            writer.writerow([row, split, images.classes[label] if label >= 0 else "", _name(images, number, root)])
            row += 1
    return text.getvalue()


def _name(images: Images, number: int, root: Path) -> str:
    if not isinstance(images, ImageFiles):
        return str(number)
    path = images.root / images.paths[number]
    name = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")  # names need not be UTF-8


def _labels(part: Features) -> torch.Tensor:
    return torch.full((len(part.ids),), -1) if part.labels is None else part.labels
