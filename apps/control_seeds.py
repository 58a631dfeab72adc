"""Several seeds of one recipe: each is a run of its own, in a process of its own, in a folder of the common run."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.recipe_text import dump
from rl.training.recipe import ControlRecipe
from sslcore.storage import StopSignals, read_metrics, read_run
from sslcore.storage.files import write_text
from sslcore.storage.folders import make_folder

FOLDER = "seeds"
POLL = 0.5
"""Seconds between looks at the processes."""
LAST_LINES = 3
"""Of what a failed process said."""
_PR_SET_PDEATHSIG = 1

Look = Callable[["Sequence[Seed]"], None]


def seed_runs(run_dir: Path) -> list[Path]:
    """The runs of the seeds in a run directory, by seed; the run itself if it has but one."""
    found = [place for place in (run_dir / FOLDER).glob("seed-*") if (place / "recipe.yaml").is_file()]
    return sorted(found, key=lambda place: int(place.name.rpartition("-")[2])) or [run_dir]


@dataclass
class Seed:
    """One of the runs.

    Attributes:
        recipe: the common one with this seed alone.
        folder: its run directory; a log of what its process says is beside it.
        exit_code: of its process once it has ended; 0 if it was finished before.
    """

    recipe: ControlRecipe
    folder: Path
    exit_code: int | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def failed(self) -> bool:
        return self.exit_code not in (None, 0)

    @property
    def begun(self) -> bool:
        return (self.folder / "recipe.yaml").is_file()

    @property
    def finished(self) -> bool:
        """Whether it has been trained for as many steps as are wanted now."""
        if not self.begun or read_run(self.folder).get("status") != "finished":
            return False
        return any(line["step"] >= self.recipe.steps for line in read_metrics(self.folder))

    def begin(self) -> None:
        """Start the process that trains it, or goes on with it."""
        make_folder(self.folder.parent)
        recipe = self.folder.with_suffix(".yaml")
        write_text(recipe, dump(self.recipe))
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches it once, from us, and not a second time from the terminal.
            self.process = subprocess.Popen(
                training_command(recipe, self.folder, resume=self.begun), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip

    def last_words(self) -> str:
        """The end of what its process said."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:])
        return ""


def training_command(recipe: Path, folder: Path, *, resume: bool) -> list[str]:
    """What trains one seed."""
    # -P: what happens to lie in the working directory is not imported.
    python = [sys.executable, "-P", "-m", "apps.cli"]
    return [*python, "control", "train", str(recipe), "--resume" if resume else "--run", str(folder)]


def train_seeds(recipe: ControlRecipe, run_dir: Path, look: Look, *, poll: float = POLL) -> tuple[list[Seed], int]:
    """Train all seeds of a recipe, `recipe.parallel` at a time; one that fails does not stop the others.

    Args:
        recipe: with `seeds` above 1.
        run_dir: the common directory; finished seeds in it are left alone, begun ones continued.
        look: called again and again with all of them.
        poll: seconds between looks.

    Returns:
        The seeds, and the exit code: 128 + n after signal n, 1 if one of them failed.
    """
    each = with_threads(recipe).for_each_seed()
    seeds = [Seed(one, run_dir / FOLDER / f"seed-{one.seed}") for one in each]
    with StopSignals() as stop:
        try:
            _run(seeds, recipe.parallel, stop, look, poll)
        finally:
            for seed in seeds:  # after a second Ctrl-C, or an error of ours
                if seed.process is not None and seed.process.poll() is None:
                    seed.process.kill()
    return seeds, stop.exit_code or int(any(seed.failed for seed in seeds))


def with_threads(recipe: ControlRecipe) -> ControlRecipe:
    """The recipe with as many CPU threads as fit beside each other: those that fight for a core take far longer."""
    if recipe.threads:
        return recipe
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return recipe.model_copy(update={"threads": max(1, cores // min(recipe.parallel, recipe.seeds))})


def _run(seeds: Sequence[Seed], parallel: int, stop: StopSignals, look: Look, poll: float) -> None:
    for seed in seeds:
        seed.exit_code = 0 if seed.finished else None
    waiting, running = [seed for seed in seeds if seed.exit_code is None], list[Seed]()
    told = False
    while running or (waiting and not stop.received):
        while waiting and len(running) < parallel and not stop.received:
            running.append(waiting.pop(0))
            running[-1].begin()
        if stop.received and not told:
            told = True
            for seed in running:
                _process(seed).send_signal(signal.SIGTERM)
        for seed in running:
            seed.exit_code = _process(seed).poll()
        running = [seed for seed in running if seed.exit_code is None]
        look(seeds)
        if running:
            time.sleep(poll)


def _process(seed: Seed) -> "subprocess.Popen[bytes]":
    assert seed.process is not None
    return seed.process


def _end_with_parent() -> None:
    """In the child: when whoever started it is killed, the kernel asks it to stop, and it leaves a checkpoint."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
