"""`surnia control evaluate`: an agent, or random actions, on fixed episodes."""

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from apps.control_seeds import seed_runs
from apps.probing import pick_device, provenance
from apps.report.control.run import ControlRun
from rl.training.agents import make_envs
from rl.training.evaluation import evaluate_agent, random_returns
from rl.training.recipe import ControlRecipe
from rl.training.runner import load_agent
from rl.training.statistics import interquartile_mean
from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage import write_json

WHICH = {"best": "The agent of the best evaluation", "last": "The newest agent"}


def run(args: argparse.Namespace) -> int:
    """The command: a table, and JSON where --json says."""
    places = seed_runs(args.run)
    recipe = ControlRun(args.run).recipe
    episodes = args.episodes or recipe.evaluation.episodes
    seed = recipe.evaluation.seed if args.seed is None else args.seed
    if args.seed is not None and args.seed in range(recipe.seed, recipe.seed + recipe.seeds):
        raise ConfigError(
            f"command line: --seed  {seed} is what the agent was trained with, on these very episodes; take another"
        )
    if args.random:
        found = {"random actions": random_scores(recipe, episodes=episodes, seed=seed)}
    else:
        given = {"which": args.which, "device": args.device, "episodes": episodes, "seed": seed}
        found = {place.name: agent_scores(place, recipe, **given) for place in places}
    if args.json is not None:
        returns = {name: values.tolist() for name, values in found.items()}
        about = {"run": str(args.run), "env": recipe.env.name, "episodes": episodes, "seed": seed}
        means = {name: float(values.mean()) for name, values in found.items()}
        write_json(args.json, {"means": means, "returns": returns, **about, **provenance(args.command)})
    show(found, args.json, title="" if args.random else WHICH[args.which])
    return 0


def agent_scores(
    place: Path, recipe: ControlRecipe, *, which: str, device: str, episodes: int, seed: int
) -> np.ndarray:
    """(episodes,) returns of the agent of a run."""
    agent = load_agent(place, which=which, device=str(pick_device(device)))
    with closing(make_envs(recipe.env, seed, recipe.evaluation.envs)) as envs:
        check_fits(place, agent, envs)
        played = evaluate_agent(agent, envs, episodes=episodes, seed=seed)
    assert played is not None  # as nothing asked it to stop
    return played.returns


def check_fits(place: Path, agent: object, envs: object) -> None:
    """Raise a CheckpointError if the environment shows something else than the agent has learned from."""
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(agent, name).shape, getattr(envs, name).shape
        if theirs != ours:
            raise CheckpointError(
                f"the agent of {place} was trained on {name.replace('_', ' ')}s of shape {theirs}, and its recipe's "
                f"environment has {ours}; restore agent and recipe of the same run"
            )


def random_scores(recipe: ControlRecipe, *, episodes: int, seed: int) -> np.ndarray:
    """(episodes,) returns of actions by lot, on the episodes that evaluations play."""
    with closing(make_envs(recipe.env, seed, recipe.evaluation.envs)) as envs:
        return random_returns(envs, episodes=episodes, seed=seed)


def show(found: dict[str, np.ndarray], file: Path | None, *, title: str) -> None:
    """A row for each agent; of several their interquartile mean."""
    table = Table(title=title or None, title_justify="left")
    for name in ("", "mean score", "deviation", "lowest", "highest", "episodes"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in found.items():
        figures = (values.mean(), values.std(), values.min(), values.max())
        table.add_row(name, *(f"{value:.1f}" for value in figures), str(len(values)))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    if len(found) > 1:
        means = np.array([values.mean() for values in found.values()])
        summary = interquartile_mean(means)
        said = f"interquartile mean of {len(found)} seeds {summary.value:.1f}"
        console.print(f"{said}, 95 % bootstrap interval {summary.low:.1f} to {summary.high:.1f}")
    if file is not None:
        console.print(f"Wrote {file}", markup=False)
