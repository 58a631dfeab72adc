"""`surnia control train`: a run from a recipe, one seed or several, its report, and what to type next."""

import sys
import time
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from apps.control_evaluate import random_scores
from apps.control_progress import SeedDisplay
from apps.control_seeds import seed_runs, train_seeds
from apps.measures import duration, memory, time_for
from apps.report.control import REPORT, write_control_report
from apps.report.control.report import lead
from apps.report.control.run import RANDOM, ControlRun
from apps.run_directory import open_run
from rl.envs.make import drawn_by
from rl.training.agents import make_agent, make_envs
from rl.training.encoders import start_encoder
from rl.training.recipe import ControlRecipe
from rl.training.runner import Outcome, choices, control_train
from sslcore.errors import ConfigError
from sslcore.storage import RunDirectory, checkpoint_step, list_checkpoints, write_json
from sslcore.training.resuming import Say

DRY_STEPS = 10


def run(
    recipe: ControlRecipe, *, run_dir: Path, recipe_text: str, command: list[str], resume: bool, dry_run: bool
) -> int:
    """Train in `run_dir`; returns the process's exit code, 128 + n after signal n."""
    if resume:
        refuse_fewer_steps(recipe, run_dir)
    if dry_run:
        return rehearse(recipe, steps_done(run_dir) if resume else [])
    if not resume:
        check(recipe)  # before the directory exists: a start that fails leaves nothing behind
    with open_run(run_dir, recipe=recipe_text, command=command, seed=recipe.seed, resume=resume) as directory:
        if recipe.seeds > 1:
            return several(recipe, directory)
        outcome = one(recipe, directory, resume=resume)
    summarise(outcome, run_dir)
    return outcome.exit_code


def check(recipe: ControlRecipe) -> None:
    """Build everything once: settings that do not go together, packages and memory that are missing are told now."""
    with closing(make_envs(recipe.env, recipe.seed)) as envs:
        agent = make_agent(recipe, envs)
        if recipe.agent.weights:
            start_encoder(agent, recipe.agent.weights)
        envs.reset()  # and draws the first picture


def refuse_fewer_steps(recipe: ControlRecipe, run_dir: Path) -> None:
    """Raises:
    ConfigError: the run, or one of its seeds, is further than the recipe goes: its steps cannot be taken back.
    """
    done = max(steps_done(run_dir))
    if recipe.steps < done:
        raise ConfigError(
            f"steps: {run_dir} has taken {done} environment steps already, and cannot end at {recipe.steps}; give "
            f"{done} or more"
        )


def steps_done(run_dir: Path) -> list[int]:
    """Environment steps that the newest checkpoint of each seed has behind it."""
    kept = [list_checkpoints(place / "checkpoints") for place in seed_runs(run_dir)]
    return [checkpoint_step(each[-1]) or 0 if each else 0 for each in kept]


# --- one seed --------------------------------------------------------------------------------------------------------


def one(recipe: ControlRecipe, directory: RunDirectory, *, resume: bool, say: Say | None = None) -> Outcome:
    """Train one seed in an open run directory, and write its report."""
    say = say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
    if drawn := drawn_by(recipe.env):
        say(drawn)
    keep_random(recipe, directory.path)
    outcome = control_train(recipe, directory, resume=resume, say=say)
    directory.set_status("stopped" if outcome.stopped else "finished")
    if outcome.steps:
        report(directory.path)
    return outcome


def keep_random(recipe: ControlRecipe, run_dir: Path) -> None:
    """Measure what random actions score on the evaluation's episodes, once for a run."""
    if (run_dir / RANDOM).is_file():
        return
    settings = recipe.evaluation
    returns = random_scores(recipe, episodes=settings.episodes, seed=settings.seed)
    write_json(run_dir / RANDOM, {"returns": returns.tolist(), "seed": settings.seed})


def report(run_dir: Path) -> None:
    """`report.html`, if there is anything to report."""
    if any(ControlRun(place).scores for place in seed_runs(run_dir)):
        write_control_report(run_dir)


def summarise(outcome: Outcome, run_dir: Path) -> None:
    """What it scores, and the commands that make sense next."""
    console = Console(soft_wrap=True, highlight=False)
    if outcome.stopped:
        place = f" with a checkpoint at {outcome.checkpoint}" if outcome.checkpoint else ""
        console.print(f"Stopped{place}. Go on with:\n  surnia control resume {run_dir}", markup=False)
        return
    if not outcome.steps:
        console.print("The run was finished already; nothing was left to learn.")
    say_result(console, run_dir)


def say_result(console: Console, run_dir: Path) -> None:
    """The score in a sentence, where the report is, what to type next."""
    runs = [run for run in map(ControlRun, seed_runs(run_dir)) if run.scores]
    if runs:
        console.print(lead(runs), markup=False)
        console.print(f"Report: {run_dir / REPORT}", markup=False)
    console.print("Next:", *(f"  {line}" for line in next_commands(run_dir)), sep="\n", markup=False)


def next_commands(run_dir: Path) -> list[str]:
    """What a finished run is good for."""
    return [
        f"surnia control evaluate {run_dir} --episodes 50",
        f"surnia control record {run_dir} --out clip.gif",
        f"surnia control resume {run_dir} --steps {2 * ControlRun(run_dir).recipe.steps}",
    ]


# --- several seeds ---------------------------------------------------------------------------------------------------


def several(recipe: ControlRecipe, directory: RunDirectory) -> int:
    """Train each seed in a process of its own, and write the common report; returns the exit code."""
    console = Console(soft_wrap=True, highlight=False)
    with SeedDisplay(recipe) as display:
        seeds, exit_code = train_seeds(recipe, directory.path, display.look)
    failed = [seed for seed in seeds if seed.failed and exit_code == 1]
    directory.set_status("finished" if exit_code == 0 else "failed" if failed else "stopped")
    report(directory.path)
    for seed in failed:
        print(f"seed {seed.recipe.seed} failed, see {seed.log}:\n{seed.last_words()}", file=sys.stderr)
    if exit_code:
        console.print(f"Go on with:\n  surnia control resume {directory.path}", markup=False)
    else:
        say_result(console, directory.path)
    return exit_code


# --- dry run ---------------------------------------------------------------------------------------------------------


def rehearse(recipe: ControlRecipe, done_by_seed: list[int]) -> int:
    """`--dry-run`: build everything, learn for a few steps, say what the whole run would take, or the rest of one that
    goes on after so many environment steps of each seed. Writes nothing."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    begin = 2 * recipe.env.n_envs
    short = recipe.model_copy(update={"agent": recipe.agent.model_copy(update={"learning_starts": begin})})
    with closing(make_envs(recipe.env, recipe.seed)) as envs:
        agent = make_agent(short, envs)
        if recipe.agent.weights:
            start_encoder(agent, recipe.agent.weights)
        agent.learn(begin + DRY_STEPS * recipe.env.n_envs)  # the first updates take longer than others
        began = time.perf_counter()
        agent.learn(DRY_STEPS * recipe.env.n_envs, reset_num_timesteps=False)
        seconds = (time.perf_counter() - began) / (DRY_STEPS * recipe.env.n_envs)
        shape = envs.observation_space.shape

    table = Table(title="Dry run: nothing was written", show_header=False, title_justify="left")
    env = recipe.env
    table.add_row("environment", f"{env.name}, {env.n_envs} of it, action repeat {env.action_repeat}")
    seen = f"of which the networks see {agent.image_size} x {agent.image_size}"
    table.add_row("observations", f"{' x '.join(map(str, shape or ()))}, {seen}")
    if drawn := drawn_by(env):
        table.add_row("pictures", drawn)
    table.add_row("parameters", f"{sum(p.numel() for p in agent.policy.parameters() if p.requires_grad):,}")
    table.add_row("device", f"{agent.device}, precision {choices(agent)['precision']}")
    table.add_row("replay", agent.replay_buffer.memory)  # type: ignore[union-attr]
    table.add_row("memory", memory())
    done = sum(done_by_seed) // recipe.seeds
    left = max(0, recipe.agent_steps - done // env.action_repeat)
    each = "" if recipe.seeds == 1 else f" each of {recipe.seeds} seeds, {recipe.parallel} at a time"
    table.add_row("steps", f"{recipe.steps:,} of the environment, {recipe.agent_steps:,} of the agent")
    if done:
        average = "" if recipe.seeds == 1 else " on average"
        table.add_row("steps left", f"{recipe.steps - done:,} of the environment, {left:,} of the agent{average}")
    table.add_row("time of an agent step", f"about {seconds:.2g} s, with its update")
    table.add_row(time_for(done), f"about {duration(seconds * left)}{each}, evaluations not counted")
    Console().print(table)
    return 0
