"""`control_train`: from a recipe to a run directory with an agent, and everything measured on it."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rl.curl import CURL
from rl.training import checkpoints, encoders
from rl.training.agents import make_agent, make_envs
from rl.training.best import BEST
from rl.training.checkpoints import AgentCheckpoints, Progress
from rl.training.clips import check_clips
from rl.training.learner import AGENT, Learner, results
from rl.training.recipe import ControlRecipe
from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage import RunDirectory, StopSignals
from sslcore.storage.messages import show_path
from sslcore.training.display import Display
from sslcore.training.resuming import Say


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        agent: as it is at the end, without its environments.
        stopped: a signal ended the run early.
        exit_code: what a shell expects: 0, or 128 plus the signal's number.
        env_steps: where the run stands.
        steps: environment steps done in this process.
        results: the content of results.json.
        checkpoint: the newest one.
    """

    agent: CURL = field(repr=False)
    stopped: bool
    exit_code: int
    env_steps: int
    steps: int
    results: dict[str, Any]
    checkpoint: Path | None


def control_train(
    recipe: ControlRecipe,
    run: RunDirectory,
    *,
    resume: bool = False,
    quiet: bool = False,
    say: Say | None = None,
) -> Outcome:
    """Train the agent of one seed.

    The run directory then holds, beside what every run does: agent.zip, the agent at the end, and best.zip, the one of
    the best evaluation, both for `CURL.load`; best.gif or best.mp4; results.json; replay/ with the checkpoints' replay
    buffers, and best/ with what was the best at each; in run.json, under "chosen", what `auto` came to.

    Args:
        recipe: see `rl.training.recipe`; of one seed (`for_each_seed`).
        run: where it is written.
        resume: go on where `run` was left, exactly.
        quiet: no progress display.
        say: gets the sentences that a person should read; None prints them to stderr.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    say = say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
    if recipe.seeds > 1:
        raise ConfigError("seeds: a run has one agent; train each of for_each_seed() in a run of its own")
    if recipe.evaluation.clip != "none":
        check_clips(recipe.evaluation.clip)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with contextlib.ExitStack() as stack:
        envs = stack.enter_context(contextlib.closing(make_envs(recipe.env, recipe.seed)))
        settings = recipe.evaluation
        eval_envs = stack.enter_context(contextlib.closing(make_envs(recipe.env, settings.seed, settings.envs)))
        agent = make_agent(recipe, envs)
        say(agent.replay_buffer.memory)  # type: ignore[union-attr]
        kept = AgentCheckpoints(run, keep=recipe.keep_checkpoints)
        progress = _begin(recipe, run, agent, kept, resume=resume, say=say)
        _note_choices(recipe, run, agent, say)
        signals = stack.enter_context(StopSignals(quiet=quiet))
        show = stack.enter_context(_display(recipe, progress, quiet=quiet))
        learner = Learner(
            recipe,
            run,
            agent,
            eval_envs,
            kept,
            progress,
            wants_to_stop=lambda: signals.received is not None,
            show=show,
        )
        reached = learner.learn()
    return Outcome(
        agent,
        stopped=not reached,
        exit_code=0 if reached else signals.exit_code,
        env_steps=learner.progress.env_steps,
        steps=learner.progress.env_steps - progress.env_steps,
        results=results(recipe, learner.progress, complete=reached),
        checkpoint=kept.newest,
    )


def _begin(
    recipe: ControlRecipe, run: RunDirectory, agent: CURL, kept: AgentCheckpoints, *, resume: bool, say: Say
) -> Progress:
    progress = kept.resume(agent, say) if resume else None
    if progress is not None:
        return progress
    run.rewind_metrics(checkpoints.NOTHING_DONE)
    if recipe.agent.weights:
        say(f"the encoder starts from {encoders.start_encoder(agent, recipe.agent.weights).description}")
    return Progress()


def _note_choices(recipe: ControlRecipe, run: RunDirectory, agent: CURL, say: Say) -> None:
    """What `auto` came to: on another machine, the same recipe may give other numbers."""
    chosen = choices(agent)
    run.note(chosen=chosen)
    if recipe.agent.precision == "auto":
        say(f"precision {chosen['precision']} on {chosen['device']}, as agent.precision auto chose here")


def choices(agent: CURL) -> dict[str, str]:
    """Where an agent computes, and in which precision: in a run's run.json under "chosen"."""
    return {"device": str(agent.device), "precision": "bf16" if agent.bf16 else "32"}


@contextlib.contextmanager
def _display(recipe: ControlRecipe, progress: Progress, *, quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda steps, text: None
        return
    display = Display(recipe.steps, done=progress.env_steps, what=f"learning {recipe.env.name}")
    try:
        yield display.update
    finally:
        display.close()


def load_agent(path: str | Path, *, which: str = "best", device: str = "auto") -> CURL:
    """The agent of a run directory, or of an archive, for acting; without environment.

    Args:
        path: a run directory, or what `CURL.save` wrote.
        which: of a run, "best": the one of the best evaluation; "last": the newest.
        device: where to.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return CURL.load(path, device=device)
    if which not in ("best", "last"):
        raise ConfigError(f"an agent is the best or the last of its run, not {which!r}")
    kinds = {"best": BEST, "last": AGENT}
    archive = path / kinds.pop(which)
    if not archive.is_file():
        raise CheckpointError(
            f"{show_path(path)} has no {archive.name}: give the directory of a control run, or resume this one "
            "until it has been evaluated"
        )
    try:
        return CURL.load(archive, device=device)
    except CheckpointError as error:
        [(other, name)] = kinds.items()
        if not (path / name).is_file():
            raise
        raise CheckpointError(f"{error}; the run's {name} may be whole: --which {other} takes it") from error
