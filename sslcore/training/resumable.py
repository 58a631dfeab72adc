"""A Lightning module that continues exactly where it was stopped."""

from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl

from sslcore.training.random_state import random_state, restore_random_state


class ResumableModule(pl.LightningModule):
    """Base of what `Checkpoints` saves: says how long the run is, and keeps the generators' state.

    Attributes:
        description: plain values saved with every checkpoint, so that it can be used without the run.
        accumulate: batches an optimiser step.
    """

    description: dict[str, Any]
    accumulate: int = 1

    def __init__(self) -> None:
        super().__init__()
        self._random_state: dict[str, Any] | None = None

    @property
    @abstractmethod
    def batches(self) -> int:
        """Batches of the whole run."""

    def before_checkpoint(self) -> None:
        """Bring together what the processes hold apart, before the first one writes."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["surnia"] = {**self.description, "step": self.global_step}
        checkpoint["random"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random_state = checkpoint["random"]

    def on_train_start(self) -> None:
        # As late as possible: setting up a resumed run draws random numbers that the first run drew before it began.
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
