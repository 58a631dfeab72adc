"""Checkpoints of a learning agent, from which it goes on exactly.

    my-run/
        checkpoints/step-00010000/   weights, optimisers, generators, episodes under way (sslcore.storage.checkpoint)
        replay/step-00010000/        the replay buffer of that moment (rl.replay.saving); frames that did not change
                                     are hard links to the checkpoint's before
        best/step-00010000/          the best agent so far and its clip (rl.training.best)

The last two are written first, and the replay is read again, so that a checkpoint that is there is complete. Only then
are older ones deleted. Steps are the environment's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl.curl import CURL
from rl.replay import saving
from rl.replay.buffer import FrameReplayBuffer
from rl.training import encoders
from rl.training.best import BestFiles
from sslcore.errors import CheckpointError
from sslcore.storage import (
    RunDirectory,
    folders,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    set_aside_after,
    step_folder,
    verify_checkpoint,
)
from sslcore.storage.messages import show_path
from sslcore.training.finite import all_finite
from sslcore.training.random_state import random_state, restore_random_state
from sslcore.training.resuming import Say, resume_point

NOTHING_DONE = -1  # even step 0 has its evaluation


class Progress(NamedTuple):
    """What a run knows beside the agent.

    Attributes:
        env_steps: environment steps taken.
        events_until: evaluations and metrics up to this step are done.
        best: highest mean score of an evaluation so far; None before the first.
        last: mean score of the last evaluation.
        returns: of its episodes.
    """

    env_steps: int = 0
    events_until: int = NOTHING_DONE
    best: float | None = None
    last: float | None = None
    returns: Sequence[float] = ()


class AgentCheckpoints:
    """Those of one run.

    Args:
        run: where they are.
        keep: how many of the newest stay.
    """

    def __init__(self, run: RunDirectory, *, keep: int) -> None:
        self._run, self._keep = run, keep
        self._replays, self._best = run.path / "replay", BestFiles(run.path)
        self.newest: Path | None = None

    def save(self, agent: CURL, progress: Progress) -> Path:
        """Write a checkpoint, then delete old ones.

        Raises:
            CheckpointError: it cannot be written, as on a full disk, or its weights are not finite; those before it are
                as they were.
        """
        step = progress.env_steps
        state = agent.state()
        model = state.pop("policy")
        if not all_finite(model.values()):
            raise CheckpointError(
                f"the agent's weights are not finite any more at environment step {step}, which is never saved as a "
                "checkpoint; lower agent.learning_rate, or set agent.precision to 32"
            )
        place = step_folder(self._run.checkpoints, step)
        _replay_of(agent).save_to(self._replays / place.name)
        self._best.save(place.name)
        assert agent.env is not None
        train = {
            "agent": state,
            "envs": agent.env.env_method("state"),
            "progress": progress._asdict(),
            "random": random_state(),
        }
        about = {**encoders.description(agent), "step": step, "device": agent.device.type}
        self.newest = save_checkpoint(place, model=model, train=train, info=about)
        self._prune()
        return self.newest

    def _prune(self) -> None:
        prune_checkpoints(self._run.checkpoints, self._keep)
        kept = {path.name for path in list_checkpoints(self._run.checkpoints)}
        for path in [*list_checkpoints(self._replays), *list_checkpoints(self._best.folder)]:
            if path.name not in kept:
                folders.remove_folder(path)

    def resume(self, agent: CURL, say: Say) -> Progress | None:
        """Bring a new agent and its environments to where the newest sound checkpoint was.

        Args:
            agent: of the recipe that the run began with.
            say: gets a sentence for each checkpoint that is passed over, and one that says where the run goes on.

        Returns:
            Where the run stands; None if it was ended before its first checkpoint.

        Raises:
            CheckpointError: there are checkpoints, but none is sound; or they are of another agent.
        """
        for folder in (self._replays, self._best.folder):
            for sentence in folders.sweep_temporaries(folder):
                say(sentence)
        found = resume_point(self._run.checkpoints, say, verify=self._verify, unit="environment step")
        if found is None:
            self._best.restore(None)
            return None
        loaded = load_checkpoint(found, agent.device)
        try:
            train = loaded.train
            same_device = loaded.info["device"] == agent.device.type
            progress, states = Progress(**train["progress"]), train["envs"]
            state, drawn = {**train["agent"], "policy": loaded.model}, train["random"]
        except (LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{show_path(found)} is not the checkpoint of an agent; give its own run") from error
        agent.continue_from(state, str(found), same_device=same_device)
        _replay_of(agent).restore_from(self._replays / found.name)
        _restore_envs(agent, states, found)
        set_aside_after(self._run.checkpoints, progress.env_steps)
        self._run.rewind_metrics(progress.events_until)
        if not self._restore_best(found, say):
            progress = progress._replace(best=None)
        # Last: all of the above may have drawn.
        restore_random_state(drawn)
        self.newest = found
        return progress

    def _verify(self, checkpoint: Path) -> None:
        """CheckpointError if a checkpoint, or what belongs to it, is not whole."""
        verify_checkpoint(checkpoint)
        saving.verify(self._replays / checkpoint.name)

    def _restore_best(self, checkpoint: Path, say: Say) -> bool:
        """Have the best agent of a checkpoint again; False, said in words, if it is lost: that is no reason to stop."""
        try:
            self._best.verify(checkpoint.name)
        except CheckpointError as error:
            say(f"the best agent of {checkpoint.name} is lost ({error}); the next evaluation begins a new comparison")
            return False
        self._best.restore(checkpoint.name)
        return True


def _replay_of(agent: CURL) -> FrameReplayBuffer:
    assert isinstance(agent.replay_buffer, FrameReplayBuffer)
    return agent.replay_buffer


def _restore_envs(agent: CURL, states: Any, place: Path) -> None:
    envs = agent.env
    assert envs is not None
    if type(states) is not list or len(states) != envs.num_envs:
        raise CheckpointError(
            f"{show_path(place)} is of a run with another number of environments; give env.n_envs as it was"
        )
    for i, state in enumerate(states):
        envs.env_method("restore", state, indices=i)
