"""What happens between the steps of a learning agent: evaluation, metrics, checkpoints, stopping."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from rl.curl import CURL
from rl.training.best import keep_best
from rl.training.checkpoints import AgentCheckpoints, Progress
from rl.training.evaluation import evaluate_agent
from rl.training.metrics import check_losses, run_logger
from rl.training.recipe import ControlRecipe
from sslcore.storage import RunDirectory, files

AGENT, RESULTS = "agent.zip", "results.json"


class Learner:
    """An agent on its way through a recipe.

    All is done where stable-baselines3 begins to collect: there the last transition is in the replay and learned from,
    so that nothing is half done. (A callback's `on_step` comes before the transition is stored.)

    Args:
        recipe: see `rl.training.recipe`.
        run: where it is written.
        agent: with its environments.
        eval_envs: those that it is evaluated in.
        checkpoints: of the run.
        progress: where it stands.
        wants_to_stop: asked after every step.
        show: gets environment steps and a few words.
    """

    def __init__(
        self,
        recipe: ControlRecipe,
        run: RunDirectory,
        agent: CURL,
        eval_envs: VecEnv,
        checkpoints: AgentCheckpoints,
        progress: Progress,
        *,
        wants_to_stop: Callable[[], bool],
        show: Callable[[int, str], None],
    ) -> None:
        self.recipe, self.run, self.agent, self.eval_envs = recipe, run, agent, eval_envs
        self.checkpoints, self.progress = checkpoints, progress
        self._wants_to_stop, self._show = wants_to_stop, show
        self._saved_at = progress.env_steps
        agent.set_logger(run_logger(run, recipe.env.action_repeat, after=progress.events_until))

    def learn(self) -> bool:
        """Go on to the recipe's end; whether it was reached."""
        # An environment step or so may be too many: all environments step together.
        left = self.recipe.agent_steps - self.agent.num_timesteps
        try:
            if left > 0:
                callback = _BetweenSteps(self.between_steps)
                self.agent.learn(left, callback, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            self.between_steps(last=True)
        except _Stopped:
            return False
        return True

    def between_steps(self, *, last: bool = False) -> None:
        """Whatever is due; raises `_Stopped` if the run is to end here."""
        now = self.agent.num_timesteps * self.recipe.env.action_repeat
        self.progress = self.progress._replace(env_steps=now)
        done = self._events(now, last)
        self._show(now, self._words())  # afterwards: the last words of a run are of its last evaluation
        stopping = not done or (self._wants_to_stop() and not last)
        if stopping or last:
            self._write_agent(complete=not stopping)
        if stopping or last or _due(self.recipe.checkpoint_every, now, self._saved_at):
            self._save(now)
        if stopping:
            raise _Stopped

    def _events(self, now: int, last: bool) -> bool:
        """Evaluation and metrics, each once a step; False if they were broken off and are to be made up for."""
        before, evaluation = self.progress.events_until, self.recipe.evaluation
        if now <= before:
            return True
        evaluate = last or _due(evaluation.every, now, before)
        if evaluate and not self._evaluate(now):
            return False
        if evaluate or _due(self.recipe.log_every, now, before):
            self._log(now)
        self.progress = self.progress._replace(events_until=now)
        return True

    def _evaluate(self, now: int) -> bool:
        settings = self.recipe.evaluation
        found = evaluate_agent(
            self.agent, self.eval_envs, episodes=settings.episodes, seed=settings.seed, stop=self._wants_to_stop
        )
        if found is None:
            return False
        best = self.progress.best
        if best is None or found.mean > best:
            best = found.mean
            keep_best(self.run.path, self.agent, self.recipe, found)
        self.progress = self.progress._replace(last=found.mean, best=best, returns=found.returns.tolist())
        logger = self.agent.logger
        logger.record("eval/mean_reward", found.mean)
        logger.record("eval/std_reward", found.std)
        for name, quartile in zip(("lower", "upper"), found.quartiles, strict=True):
            logger.record(f"eval/{name}_quartile", quartile)
        logger.record("eval/best_mean_reward", best)
        return True

    def _log(self, now: int) -> None:
        logger = self.agent.logger  # which brings the losses over from the device
        logger.record("train/n_updates", self.agent._n_updates)
        check_losses(logger, now)
        self.agent.dump_logs()

    def _write_agent(self, *, complete: bool) -> None:
        self.agent.save(self.run.path / AGENT)
        files.write_json(self.run.path / RESULTS, results(self.recipe, self.progress, complete=complete))

    def _save(self, now: int) -> None:
        self.checkpoints.save(self.agent, self.progress)
        self._saved_at = now

    def _words(self) -> str:
        scores = [("last evaluation", self.progress.last), ("best", self.progress.best)]
        return "  ".join(f"{name} {score:.1f}" for name, score in scores if score is not None)


def results(recipe: ControlRecipe, progress: Progress, *, complete: bool) -> dict[str, Any]:
    """The content of results.json: the last evaluation, and the best one's mean."""
    return {
        "env": recipe.env.name,
        "seed": recipe.seed,
        "complete": complete,
        "env_steps": progress.env_steps,
        "agent_steps": progress.env_steps // recipe.env.action_repeat,
        "score": progress.last,
        "best_score": progress.best,
        "returns": list(progress.returns),
    }


def _due(every: int, now: int, before: int) -> bool:
    """Whether a multiple of `every` lies after `before`, up to now. All environments step together, perhaps over it."""
    return every > 0 and now // every > before // every


class _Stopped(Exception):
    """Leaves `learn`."""


class _BetweenSteps(BaseCallback):
    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def _on_rollout_start(self) -> None:
        self._call()

    def _on_step(self) -> bool:
        return True
