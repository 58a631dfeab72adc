"""Where stable-baselines3's logger writes in a run: metrics.jsonl and TensorBoard, both against environment steps."""

import contextlib
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from sslcore.errors import CheckpointError
from sslcore.storage import RunDirectory
from sslcore.storage.messages import explain, show_path
from sslcore.training.finite import check_finite

# What is the same in every line, or another each time that a run is made.
_LEFT_OUT = ("time/", "train/learning_rate")


class RunMetrics(KVWriter):
    """Lines of metrics.jsonl under stable-baselines3's names. A line's "step" is "env_steps".

    Args:
        run: whose.
        action_repeat: environment steps of an agent step, in which the algorithm counts.
    """

    def __init__(self, run: RunDirectory, action_repeat: int) -> None:
        self._run, self._action_repeat = run, action_repeat

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        env_steps = step * self._action_repeat
        values = {key: value for key, value in sorted(key_values.items()) if not key.startswith(_LEFT_OUT)}
        self._run.log_metrics(env_steps, env_steps=env_steps, agent_steps=step, **values)

    def close(self) -> None:
        """Nothing stays open."""


class EnvStepsTensorBoard(TensorBoardOutputFormat):
    """TensorBoard with environment steps as its axis, as in metrics.jsonl and wherever scores are published.

    Args:
        folder: of its files.
        action_repeat: environment steps of an agent step, in which the algorithm counts.
        after: what is there of later environment steps was written before the run was stopped, and does not count.

    Raises:
        CheckpointError: the disk is full, or the operating system refuses otherwise; `write`, too.
    """

    def __init__(self, folder: str, action_repeat: int, *, after: int) -> None:
        self._folder, self._action_repeat = folder, action_repeat
        with self._explained():
            self.writer = SummaryWriter(folder, purge_step=after + 1)
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        with self._explained():
            super().write(key_values, key_excluded, step * self._action_repeat)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What the writer's thread met is raised at its next turn here."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot write {show_path(self._folder)}: {explain(error)}") from error


def run_logger(run: RunDirectory, action_repeat: int, *, after: int) -> Logger:
    """metrics.jsonl and TensorBoard of a run that goes on after so many environment steps."""
    board = EnvStepsTensorBoard(str(run.path / "tensorboard"), action_repeat, after=after)
    return Logger(None, [RunMetrics(run, action_repeat), board])


def check_losses(logger: Logger, env_steps: int) -> None:
    """SurniaError naming the first loss that is not finite."""
    losses = {
        name.removeprefix("train/"): value
        for name, value in logger.name_to_value.items()
        if name.startswith("train/") and isinstance(value, float)
    }
    remedy = "lower agent.learning_rate, or set agent.precision to 32"
    check_finite(losses, f"at environment step {env_steps}", remedy=remedy)
