"""The processes of a run, brought together before anything is decided, so that all of them decide alike."""

import subprocess
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from detection.engines.libraries import missing_library
from detection.training.recipe import DetectionRecipe
from sslcore.distributed import world_size
from sslcore.errors import ConfigError
from sslcore.training.lightning import silenced
from sslcore.training.machine import processes_here
from sslcore.training.trainer import make_trainer, started_by


def check_machine(recipe: DetectionRecipe) -> None:
    """ConfigError if recipe and machine do not fit; all problems at once."""
    problems = [missing] if (missing := missing_library(recipe.engine)) else []
    if recipe.precision == "16" and not torch.cuda.is_available():
        problems.append("precision: 16 needs a CUDA GPU, and there is none here; use bf16 or 32")
    processes = processes_here(recipe.devices) * recipe.nodes
    if recipe.batch_size % processes:
        problems.append(f"batch_size: {recipe.batch_size} does not divide among {processes} processes")
    if problems:
        raise ConfigError(*problems)


def build_trainer(recipe: DetectionRecipe, callbacks: list[pl.Callback], logger: Any = False) -> pl.Trainer:
    """The trainer of one stage."""
    several = processes_here(recipe.devices) * recipe.nodes > 1
    return make_trainer(
        callbacks,
        devices=recipe.devices,
        nodes=recipe.nodes,
        precision=recipe.precision,
        logger=logger,
        clip_norm=recipe.clip_norm,
        # Else a process's few images would be normalised among themselves.
        sync_batchnorm=several and recipe.network.norm == "batch",
    )


def bring_together(recipe: DetectionRecipe) -> list[subprocess.Popen[bytes]]:
    """Starts the other processes if nobody did, and forms the group that all stages use.

    Lightning would do both only when the first stage trains; a resumed run may have to evaluate first.

    Returns:
        The processes that were started here.
    """
    if processes_here(recipe.devices) * recipe.nodes == 1 or dist.is_initialized():
        return []
    with silenced():
        trainer = build_trainer(recipe, [])
        strategy: Any = trainer.strategy
        strategy.launcher.launch(lambda: None)
        strategy.setup_environment()
    return started_by(trainer)


def agreed(value: Any) -> Any:
    """What the first process has, in every process: a plain value."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def highest(code: int) -> int:
    """The highest of all processes' exit codes, in every process."""
    return max(part for parts in everybodys([code]) for part in parts)


def everybodys(values: list[Any]) -> list[list[Any]]:
    """The list of each process, in rank order, in every process."""
    if world_size() == 1:
        return [values]
    lists: list[list[Any]] = [[] for _ in range(world_size())]
    dist.all_gather_object(lists, values)
    return lists
