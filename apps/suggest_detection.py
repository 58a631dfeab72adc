"""A recipe of open-world detection that fits annotated images and this machine: rules of thumb."""

import os
from pathlib import Path
from typing import Any

from apps.annotations import Annotated
from apps.folder_check import Finding
from apps.recipe_text import flow
from apps.suggest import Machine, one_line
from detection.training.recipe import DetectionRecipe
from sslcore.errors import DataError

_LARGEST_ON_CPU = 160


def suggest_detection(finding: Finding, tasks_file: str | None, machine: Machine) -> str:
    """A recipe as YAML text.

    Args:
        finding: what the folder holds; annotated.
        tasks_file: a task file, or the name of a shipped one; OpenScenes need none.
        machine: what it is to run on.

    Raises:
        DataError: training, validation or test annotations are missing.
    """
    annotated = finding.annotated
    assert annotated is not None
    values = {
        "data": _data(annotated, tasks_file, machine),
        "network": _network(finding, machine),
        **_schedule(machine),
        "precision": "bf16" if machine.gpus and machine.bf16 else "32",
    }
    DetectionRecipe.model_validate(values)
    images = sum(len(annotated.sets[role].images) for role in annotated.train)
    device = f"{machine.gpus} GPU(s)" if machine.gpus else machine.cpu
    head = [
        f"# {one_line(annotated.title)}: {images:,} training images, shorter side {finding.side} pixels in the middle.",
        f"# For {device}. A beginning, not an optimum: rules of thumb for network, sizes and lengths.",
        "# For less forgetting of earlier tasks and more unknown objects found, give network.weights a backbone that",
        "# surnia pretrain made from the same images. surnia detect train --help-fields lists every setting.",
    ]
    return "\n".join([*head, *(f"{key}: {flow(value)}" for key, value in values.items())]) + "\n"


def _data(annotated: Annotated, tasks_file: str | None, machine: Machine) -> dict[str, Any]:
    folder = annotated.folder.absolute()
    workers = min(8, machine.cores) if machine.gpus else 0
    if annotated.scenes:
        return {"name": "openscenes", "path": str(folder), "workers": workers}
    missing = [role for role in ("train", "val", "test") if not any(r.startswith(role) for r in annotated.files)]
    if missing:
        there = ", ".join(path.name for path in annotated.files.values()) or "none"
        raise DataError(
            f"a detection recipe needs annotations of training, validation and test images, and {annotated.folder} has "
            f"none for {' and '.join(missing)} (found: {there}); add a file named {missing[0]}, with images of its own"
        )
    assert tasks_file is not None
    # That of all pictures, or around the folders that the splits have each of their own.
    folders = {annotations.folder for annotations in annotated.sets.values()}
    pictures = folders.pop() if len(folders) == 1 else None
    files = {role: str(path.absolute()) for role, path in annotated.files.items()}
    shipped = not Path(tasks_file).exists()
    return {
        "name": "coco",
        "tasks": tasks_file if shipped else os.path.abspath(tasks_file),
        "train": [files[role] for role in annotated.train],
        "val": files["val"],
        "test": files["test"],
        "images": str((pictures or folder).absolute()),
        "workers": workers,
    }


def _network(finding: Finding, machine: Machine) -> dict[str, Any]:
    side = max(32, finding.side)
    longer = max(max(size) / min(size) for size in finding.sizes) if finding.sizes else 1.0
    if not machine.gpus:
        least = min(side, _LARGEST_ON_CPU)
        return {
            "name": "tiny",
            "width": 16,
            "pyramid": 64,
            "representation": 256,
            "min_size": least,
            "max_size": round(least * min(longer, 2)),
            "anchors": [_even(least * share) for share in (0.1, 0.2, 0.4)],
            "proposals_train": 300,
            "proposals_test": 300,
        }
    if side <= 400:
        return {
            "name": "resnet18_fpn",
            "pyramid": 128,
            "representation": 512,
            "min_size": side,
            "max_size": round(side * min(longer, 2)),
            "anchors": [_even(side * share) for share in (0.075, 0.15, 0.3, 0.6)],
        }
    return {"name": "resnet50_fpn", "frozen_stages": 0}


def _even(length: float) -> int:
    return max(4, 2 * round(length / 2))


def _schedule(machine: Machine) -> dict[str, Any]:
    replay = {"policy": "random", "per_class": 50, "share": 0.375}
    if not machine.gpus:
        return {
            "first": {"steps": 1000, "lr": 0.02, "warmup": 50},
            "later": {"steps": 300, "lr": 0.02, "warmup": 20},
            "finetune": {"steps": 120, "lr": 0.01, "warmup": 10},
            "replay": replay,
            "batch_size": 8,
            "regions": 64,
        }
    return {
        "first": {"steps": 18000, "lr": 0.02, "warmup": 500},
        "later": {"steps": 12000, "lr": 0.02, "warmup": 200},
        "finetune": {"steps": 3000, "lr": 0.01, "warmup": 100},
        "replay": replay,
        "batch_size": 16,
    }
