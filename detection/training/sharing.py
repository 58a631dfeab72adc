"""Looking at images that are not trained on: divided among processes, shown to a person, ended when asked to stop."""

from typing import Any

import torch

from detection.training.inference import Interrupted
from detection.training.previous import Look
from detection.training.processes import everybodys, highest
from detection.training.recipe import DetectionRecipe
from sslcore.distributed import rank, world_size
from sslcore.storage import StopSignals
from sslcore.training.display import Display


class Stopped(Exception):
    """A signal asked to stop; `exit_code` is what a shell expects."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def share(
    what: str, count: int, look: Look, *, recipe: DetectionRecipe, device: torch.device, quiet: bool
) -> list[Any]:
    """Every process looks at its share of so many images; what all of them found, in every process.

    Args:
        what: is going on, for the display.
        count: images.
        look: gets the numbers of a process's share, and how to read them (see `image_batches`).
        recipe: batch size and workers.
        device: where the detector is.
        quiet: no display.

    Raises:
        Stopped: a signal asked one of the processes to stop.
    """
    reading: dict[str, Any] = {"batch_size": recipe.batch_size, "workers": recipe.data.workers}
    reading["device"] = device
    numbers = list(range(rank(), count, world_size()))
    display = None if quiet or rank() else Display(len(numbers), done=0, what=what)
    if display:
        reading["progress"] = lambda done, total: display.update(done, what)
    with StopSignals() as signals:
        try:
            found = look(numbers, {**reading, "stop": lambda: signals.received is not None})
        except Interrupted:
            found = None
        finally:
            if display:
                display.close()
        parts = [part for parts in everybodys([found]) for part in parts]
    # After the block: a signal that came when nobody looked for it any more would be lost else.
    if code := highest(signals.exit_code):
        raise Stopped(code)
    return parts
