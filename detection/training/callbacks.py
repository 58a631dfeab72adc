"""What watches a stage: progress for a person, metrics for a file, and the purity of pseudo-labels."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from detection.openworld.purity import KINDS, purity, purity_counts, shares
from detection.openworld.sampling import filled_up
from detection.training.augmenting import flip_boxes
from detection.training.batches import Batch
from detection.training.truth import Truth
from sslcore.distributed import all_reduce_sum, rank
from sslcore.errors import SurniaError
from sslcore.storage import RunDirectory
from sslcore.training.finite import NEVER_SAVED
from sslcore.training.meter import LossMeter


class Meter(LossMeter):
    """Of one stage; in the metrics its steps go on from those of the stages before.

    Attributes:
        seconds: spent on this stage's steps, in all the sessions that worked on it.
    """

    remedy = "lower the stage's lr, lengthen its warmup, or use precision 32"

    def __init__(
        self, run: RunDirectory | None, purity: "PurityWatch | None", *, every: int = 20, quiet: bool = False
    ) -> None:
        super().__init__(run, every=every, quiet=quiet)
        self.purity = purity
        self.seconds = 0.0
        self._lap = 0.0

    def length(self, module: Any) -> int:
        return module.batches

    def done(self, trainer: pl.Trainer, module: Any, batch: Batch) -> int:
        return batch.step + 1

    def step(self, module: Any, done: int) -> int:
        return module.place.offset + done

    def epoch(self, module: Any, batch: Batch) -> float:
        return (batch.step + 1) / module.batches

    def label(self, module: Any, epoch: float | None) -> str:
        return module.place.name

    def columns(self, module: Any) -> dict[str, Any]:
        return {"task": module.place.task, "stage": module.place.stage}

    def extra(self, module: Any, batch: Batch) -> dict[str, float]:
        return self.purity.window() if self.purity is not None else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._lap = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds, self._lap = self.seconds + now - self._lap, now
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "terms": self.terms, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.terms = {name: [(int(step), value) for step, value in pairs] for name, pairs in state["terms"].items()}
        self.seconds = state["seconds"]


def not_finite(what: str, module: Any, step: int) -> SurniaError:
    """The error for a stage that has diverged, by whatever showed it first.

    Args:
        what: is not finite, in the plural.
        module: the stage.
        step: of the stage in which it was noticed, from 1.
    """
    return SurniaError(f"{what} are not finite in {module.place.name}, step {step}: {Meter.remedy} ({NEVER_SAVED})")


class PurityWatch(pl.Callback):
    """Counts what lies under the pseudo-unknowns, and under as many proposals chosen at random among the same.

    Attributes:
        totals: (2, 5) counts of the stage in this process, up to the current window: of pseudo-unknowns and of random
            proposals, by `KINDS`.
    """

    def __init__(self, truth: Truth, start: float) -> None:
        self.truth = truth
        self.start = start  # share of the stage after which labelling begins
        self.totals = torch.zeros(2, len(KINDS), dtype=torch.int64)
        self._window = torch.zeros_like(self.totals)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.totals, self._window = self.totals.to(pl_module.device), self._window.to(pl_module.device)
        pl_module.watchers.append(lambda batch, output: self._look(pl_module, batch, output))

    def _look(self, module: Any, batch: Batch, output: Any) -> None:
        if batch.step / module.batches >= self.start:
            self.count(batch, output)

    @torch.no_grad()
    def count(self, batch: Batch, output: Any) -> None:
        """Adds what lies under a step's regions, in images that there is something to judge by; reads nothing back from
        the device.

        Args:
            batch: the step's.
            output: of the engine's losses; of it `samples` and `scales`.
        """
        judged = [i for i, target in enumerate(batch.targets) if self.truth.judges(target.key)]
        if not judged:
            return
        truth = [self.truth.of(batch.targets[i].key) for i in judged]
        boxes, kinds = filled_up([boxes for boxes, _ in truth]), filled_up([kinds for _, kinds in truth])
        widths = torch.tensor([batch.images[i].shape[-1] for i in judged])[:, None]
        mirrored = torch.tensor([batch.mirrored[i] for i in judged])[:, None, None]
        boxes = torch.where(mirrored, flip_boxes(boxes, widths), boxes)
        boxes *= torch.tensor([[*output.scales[i], *output.scales[i]] for i in judged])[:, None]
        counts = purity_counts([output.samples[i] for i in judged], boxes, kinds)
        self._window = self._window.to(counts.device) + counts

    def window(self) -> dict[str, float]:
        """Shares since the last call, of all processes; nothing if no label was given."""
        self.totals += self._window
        chosen, random = (shares(counts) for counts in all_reduce_sum(self._window)[0].cpu())
        self._window = torch.zeros_like(self._window)
        named = {"purity": chosen["unknown"], "purity_of_random": random["unknown"], "pseudo_on_old": chosen["old"]}
        return {name: value for name, value in named.items() if value is not None}

    def totalled(self) -> dict[str, Any]:
        """What `purity` says of the whole stage; every process must call this."""
        return purity(all_reduce_sum(self.totals + self._window)[0].cpu())

    def state_dict(self) -> dict[str, Any]:
        # Every process is asked; what is kept is the first one's, and is given to it alone.
        totals, window = all_reduce_sum(self.totals, self._window)
        return {"totals": totals.clone(), "window": window.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if rank() == 0:
            self.totals, self._window = state["totals"], state["window"]


def stage_record(train: dict[str, Any]) -> dict[str, Any]:
    """What results say of a stage, from the state in its last checkpoint."""
    states = train["callbacks"]
    meter, watched = states[Meter.__qualname__], states.get(PurityWatch.__qualname__)
    return {
        "seconds": meter["seconds"],
        "purity": purity(watched["totals"] + watched["window"]) if watched else None,
        "loss": {name: pairs[-1][1] for name, pairs in meter["terms"].items()},
    }
