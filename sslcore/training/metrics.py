"""Measurements on their way to the metrics file and to TensorBoard."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from sslcore.errors import SurniaError
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


def check_finite(values: dict[str, float], updates: int, epoch: float, *, remedy: str) -> None:
    """SurniaError naming the first value that is not finite, and `remedy`."""
    bad = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise SurniaError(
            f"{bad[0]} is {values[bad[0]]} before step {updates} (epoch {epoch:.1f}): {remedy} "
            "(what is not finite is never saved as a checkpoint)"
        )
