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
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            logger.setLevel(level)
