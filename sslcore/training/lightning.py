"""How Lightning is used here: its words for precisions, and without its advice."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def is_first_process() -> bool:
    """Before any process group exists: torchrun, Lightning and SLURM all tell the rank in the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Without Lightning's advice about logging intervals, workers and eval mode: those matters are settled here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        # Of 1x1 convolutions whose images come channels last; nothing is to be done about it, and nothing lost.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
