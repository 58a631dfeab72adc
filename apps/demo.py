"""`surnia demo`: a backbone from unlabelled pictures, a detector on it that flags what it does not know, an agent."""

import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apps import demo_detection as detection
from apps.demo_control import Acting, add_control, score_table
from apps.demo_features import Scores, as_array, evaluate
from apps.demo_page import add_commands, add_detection, next_commands, pretraining_page
from apps.recipe_files import shipped_file
from apps.recipes import load_recipe
from apps.report.detection import write_detection_report
from apps.run_directory import open_run
from detection.data.scenes import cache_folder, make_crops
from sslcore.errors import ConfigError
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import pretrain
from sslcore.storage import RunDirectory, read_run

TRAIN, TEST = 12_000, 2_500
STAGES = 9


class Stopped(Exception):
    """A signal ended a stage; `exit_code` is what a shell expects."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def run(
    run_dir: Path,
    *,
    command: list[str],
    seed: int = 0,
    steps: int | None = None,
    threads: int | None = None,
    resume: bool = False,
) -> int:
    """The demo from beginning to end; returns the process's exit code.

    Args:
        run_dir: of the pretraining; in it are the detector's run, `detection`, its unknown objects, `unknowns`, and the
            agent's run, `control`.
        command: the command line.
        seed: of pictures, weights and views.
        steps: of pretraining; the detector's and the agent's change in proportion. None: the recipes'.
        threads: CPU threads; None: as many as there are idle cores.
        resume: go on where `run_dir` was left.
    """
    try:
        Demo(run_dir, command=command, seed=seed, steps=steps, threads=threads, resume=resume).go()
    except Stopped as stopped:
        Console().print(how_to_go_on(run_dir), soft_wrap=True, highlight=False)
        return stopped.exit_code
    except KeyboardInterrupt:
        Console().print(f"\n{how_to_go_on(run_dir)}", soft_wrap=True, highlight=False)
        return 130
    return 0


def how_to_go_on(run_dir: Path) -> str:
    """What to type after the demo was interrupted."""
    if not (run_dir / "recipe.yaml").exists():
        return "Stopped before anything was trained; `surnia demo` starts anew."
    return f"Stopped. What was done so far is in {run_dir}. Go on with:\n  surnia demo --resume {run_dir}"


class Demo:
    """The stages one after the other. For the arguments see `run`."""

    def __init__(
        self, run_dir: Path, *, command: list[str], seed: int, steps: int | None, threads: int | None, resume: bool
    ) -> None:
        self.run_dir, self.command, self.resume = run_dir, command, resume
        self.threads = threads or idle_cores()
        self.began, self.console, self.stage = time.perf_counter(), Console(), 0
        if resume:
            self.recipe, self.text = self._begun()
        else:
            changes = [f"--seed={seed}", f"--threads={self.threads}", *([f"--max_steps={steps}"] if steps else [])]
            self.recipe, self.text = load_recipe(str(shipped_file("demo")), Recipe, changes)
        self.seed = self.recipe.seed

    def _begun(self) -> tuple[Recipe, str]:
        """The recipe of the demo that is continued."""
        facts = read_run(self.run_dir) if (self.run_dir / "run.json").exists() else {}
        if facts.get("command", [])[1:2] != ["demo"]:
            raise ConfigError(f"command line: --resume  {self.run_dir} is not a demo; give the directory of one")
        return load_recipe(str(self.run_dir / "recipe.yaml"), Recipe, [f"--threads={self.threads}"])

    def go(self) -> None:
        """Everything; raises Stopped if a signal asked for it."""
        self._say(f"composing crops: drawings on photographs (kept in {cache_folder()})")
        train, test = make_crops("train", TRAIN, seed=self.seed), make_crops("test", TEST, seed=self.seed)
        images, held_out = as_array(train), as_array(test)
        with open_run(
            self.run_dir, recipe=self.text, command=self.command, seed=self.seed, resume=self.resume, quiet=True
        ) as directory:
            threads = f"{self.threads} CPU thread{'s' * (self.threads > 1)}"
            self._say(
                f"pretraining a small backbone on {len(train.images):,} crops, without their labels, on {threads}"
            )
            outcome = pretrain(self.recipe, directory, images=images, probe_images=held_out, resume=self.resume)
            self._check(outcome.stopped, outcome.exit_code, directory)
            self._say("evaluating: raw pixels, the random network, the pretrained network")
            scores = evaluate(outcome, images, held_out, self.recipe)
            page = pretraining_page(self.run_dir, self.recipe, outcome, scores, train, test, self.command)
            page.write(self.run_dir / "report.html")
            found = self._detect(directory)
            acted = self._act(directory)
            self._say("writing the report")
            write_detection_report(found.run_dir, data=found.data)
            add_detection(page, found)
            add_control(page, acted)
            add_commands(page, self.run_dir)
            page.write(self.run_dir / "report.html")
            directory.set_status("finished")
        self._show(scores, found, acted)

    def _detect(self, directory: RunDirectory) -> detection.Found:
        """The detector's half of the demo."""
        self._say("composing scenes: OpenScenes, objects of four tasks and of none")
        learning = detection.Learning(self.run_dir, seed=self.seed, threads=self.threads, share=self._share)
        self._say(f"learning task 1: {', '.join(learning.data.tasks.current(1))}")
        self._check(*learning.learn(1), directory)
        self._say("looking for unknown objects and grouping them")
        groups = learning.find_groups()
        self._say(f"learning task 2: {', '.join(learning.data.tasks.current(2))}")
        self._check(*learning.learn(2), directory)
        return detection.Found(learning.run_dir, learning.data, groups)

    def _act(self, directory: RunDirectory) -> Path:
        """The agent's part; returns its run."""
        acting = Acting(self.run_dir, seed=self.seed, threads=self.threads, share=self._share)
        self._say("learning to act: an agent steers a dot, from pictures and reward alone")
        self._check(*acting.learn(), directory)
        return acting.run_dir

    @property
    def _share(self) -> float:
        """Of the shipped recipes' steps."""
        shipped = load_recipe(str(shipped_file("demo")), Recipe)[0].max_steps or 1
        return (self.recipe.max_steps or shipped) / shipped

    def _say(self, what: str) -> None:
        self.stage += 1
        self.console.print(f"[bold]{self.stage}/{STAGES}[/] {what}", soft_wrap=True, highlight=False)

    def _check(self, stopped: bool, exit_code: int, directory: RunDirectory) -> None:
        if stopped:
            directory.set_status("stopped")
            raise Stopped(exit_code)

    def _show(self, scores: list[Scores], found: detection.Found, acted: Path) -> None:
        """Three short tables, where everything is, and what to type next."""
        table = Table(title="Accuracy on held-out crops", title_justify="left")
        table.add_column("features")
        table.add_column("kNN", justify="right")
        table.add_column("linear", justify="right")
        for s in scores:
            table.add_row(s.name, f"{s.knn:.3f}", f"{s.linear:.3f}")
        self.console.print(table)
        self.console.print(detector_table(found.results))
        self.console.print(score_table(acted))
        minutes = (time.perf_counter() - self.began) / 60
        said = f"Report: {self.run_dir / 'report.html'}   ({minutes:.1f} minutes)\n\nWith your own pictures:"
        self.console.print(f"{said}\n{next_commands(self.run_dir)}", soft_wrap=True, highlight=False)


def detector_table(results: dict[str, Any]) -> Table:
    """What the detector came to, narrow enough for any terminal."""
    table = Table(title="The detector on test scenes, in percent", title_justify="left")
    table.add_column("having learnt")
    for name in ("mAP task 1", "mAP task 2", "U-Recall@10", "U-AP"):
        table.add_column(name, justify="right")
    for task, of in zip(results["by_task"], results["forgetting"]["strict"]["map_by_task"], strict=True):
        values = (*of, *[None] * (2 - len(of)), task["strict"]["u_recall_10"], task["strict"]["u_ap"])
        known = "task 1" if len(of) == 1 else f"tasks 1 and {len(of)}"
        table.add_row(known, *("–" if value is None else f"{100 * value:.1f}" for value in values))
    return table


def idle_cores(seconds: float = 0.5) -> int:
    """Cores that nothing else uses just now: threads that have to wait for each other take ten times as long."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not Path("/proc/stat").exists():
        return cores
    before = _idle_time()
    time.sleep(seconds)
    idle = (_idle_time() - before) / os.sysconf("SC_CLK_TCK") / seconds
    return min(cores, max(1, round(idle)))


def _idle_time() -> int:
    """Of all cores together, in ticks of the kernel's clock."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[4])
