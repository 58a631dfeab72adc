"""Several seeds' progress for a person: a bar for each; without a terminal, a line when one ends."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apps.control_seeds import Seed
from rl.training.learning_curve import scores_in
from rl.training.recipe import ControlRecipe
from sslcore.storage import read_metrics


class SeedDisplay:
    """Give `look` to `train_seeds`.

    Args:
        recipe: of all seeds.
    """

    def __init__(self, recipe: ControlRecipe) -> None:
        self._steps = recipe.steps
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"), TimeElapsedColumn(), console=self._console,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._tasks = [self._bar.add_task(f"seed {recipe.seed + i}", total=self._steps, text="", start=False)
                       for i in range(recipe.seeds)]  # fmt: skip
        self._told: set[int] = set()
        self._sizes: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def look(self, seeds: Sequence[Seed]) -> None:
        """Show how far they have come."""
        for i, seed in enumerate(seeds):
            self._look(i, seed)

    def _look(self, i: int, seed: Seed) -> None:
        file = seed.folder / "metrics.jsonl"
        if file.is_file() and file.stat().st_size != self._sizes.get(i):
            self._sizes[i] = file.stat().st_size
            lines = read_metrics(seed.folder)
            scores = scores_in(lines)
            text = f"last evaluation {scores[-1].mean:.1f}" if scores else ""
            self._bar.start_task(self._tasks[i])
            self._bar.update(self._tasks[i], completed=lines[-1]["step"] if lines else 0, text=text)
        if seed.exit_code is not None and i not in self._told:
            self._told.add(i)
            if self._bar.disable:
                how = "failed" if seed.failed else "finished"
                self._console.print(f"seed {seed.recipe.seed} {how}", markup=False)
