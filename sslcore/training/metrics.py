"""Measurements on their way to the metrics file and to TensorBoard."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from sslcore.storage import RunDirectory


def log(
    trainer: pl.Trainer,
    run: RunDirectory | None,
    step: int,
    columns: Mapping[str, Any] | None = None,
    /,
    **values: float,
) -> None:
    """One line of the metrics file, and the same for TensorBoard without `columns`, which say where a line belongs."""
    if run is not None and trainer.is_global_zero:
        run.log_metrics(step, **(columns or {}), **values)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)
