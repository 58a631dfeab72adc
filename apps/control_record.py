"""`surnia control record`: a clip of an agent's best episode, and the frames it sees as images."""

import argparse
from contextlib import closing
from pathlib import Path

from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from apps.control_evaluate import check_fits
from apps.control_seeds import seed_runs
from apps.probing import pick_device
from apps.report.control.run import ControlRun
from rl.curl import CURL
from rl.training.agents import make_envs
from rl.training.clips import check_clips, record_clip
from rl.training.evaluation import Act, play, random_actions
from rl.training.frames import record_frames
from rl.training.recipe import ControlRecipe
from rl.training.runner import load_agent


def run(args: argparse.Namespace) -> int:
    """The command."""
    if args.out is not None:
        check_clips(args.out.suffix.removeprefix("."))  # before anything is played
    place = best_run(args.run)
    recipe = ControlRun(place).recipe
    agent = None if args.random else load_agent(place, which=args.which, device=str(pick_device(args.device)))
    seed = recipe.evaluation.seed if args.seed is None else args.seed
    console = Console(soft_wrap=True, highlight=False)
    if args.out is not None:
        said = write_clip(args.out, place, recipe, agent, episodes=args.episodes, seed=seed)
        console.print(f"Wrote {args.out}, {said}", markup=False)
    if args.frames is not None:
        record_frames(recipe.env.one, args.frames, count=args.count, seed=seed, agent=agent, by_reward=args.by_reward)
        console.print(f"Wrote {args.count:,} frames to {args.frames}", markup=False)
    return 0


def best_run(run_dir: Path) -> Path:
    """Of several seeds the one whose last evaluation was best."""
    runs = [run for run in map(ControlRun, seed_runs(run_dir)) if run.scores]
    return max(runs, key=lambda run: run.last.mean).path if runs else run_dir


def write_clip(file: Path, place: Path, recipe: ControlRecipe, agent: CURL | None, *, episodes: int, seed: int) -> str:
    """Play, and write the best episode; returns what came out in words."""
    with closing(make_envs(recipe.env, seed, recipe.evaluation.envs)) as envs:
        if agent is not None:
            check_fits(place, agent, envs)
        played = play(actions(agent, envs, seed), envs, episodes=episodes, seed=seed)
    assert played is not None  # as nothing asked it to stop
    record_clip(recipe.env.one, played.best, file, seed=seed)
    return f"the best of {episodes} episodes: score {played.best.score:.1f}, mean {played.mean:.1f}"


def actions(agent: CURL | None, envs: VecEnv, seed: int) -> Act:
    """What an agent does without exploring; without an agent, actions by lot."""
    if agent is None:
        return random_actions(envs.action_space, seed)
    return lambda observations: agent.predict(observations, deterministic=True)[0]
