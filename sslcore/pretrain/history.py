"""What a run has measured so far, read from its metrics file: whole, however often the run was stopped and resumed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslcore.storage import read_metrics

NOT_TERMS = {"learning_rate", "images_per_second"}


@dataclass
class History:
    """Series of (x, value) pairs.

    Attributes:
        terms: the loss and its terms by name, over optimiser steps.
        knn: accuracy of the probe, over epochs.
        health: the diagnostics by name, over epochs.
    """

    terms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    knn: list[tuple[float, float]] = field(default_factory=list)
    health: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimiser steps behind the newest loss."""
        return int(self.terms["loss"][-1][0]) if self.terms.get("loss") else 0


def read_history(run: Path) -> History:
    """The history of a run directory; empty before anything was measured. Raises CheckpointError as `read_metrics`."""
    history = History()
    for line in read_metrics(run):
        values: dict[str, Any] = {key: line[key] for key in line if key not in {"step", "time", "epoch"}}
        if "knn_accuracy" in values:
            history.knn.append((line["epoch"], values["knn_accuracy"]))
        elif "embedding_std" in values:
            for name, value in values.items():
                history.health.setdefault(name, []).append((line["epoch"], value))
        else:
            for name in values.keys() - NOT_TERMS:
                history.terms.setdefault(name, []).append((line["step"], values[name]))
    return history
