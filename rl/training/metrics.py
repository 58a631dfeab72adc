"""Where stable-baselines3's logger writes in a run."""

import math
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from sslcore.errors import SurniaError
from sslcore.storage import RunDirectory

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


def run_logger(run: RunDirectory, action_repeat: int) -> Logger:
    """metrics.jsonl and TensorBoard, whose steps are the agent's as everywhere in stable-baselines3."""
    return Logger(None, [RunMetrics(run, action_repeat), TensorBoardOutputFormat(str(run.path / "tensorboard"))])


def check_losses(logger: Logger, env_steps: int) -> None:
    """SurniaError naming the first loss that is not finite."""
    for name, value in logger.name_to_value.items():
        if name.startswith("train/") and isinstance(value, float) and not math.isfinite(value):
            raise SurniaError(
                f"{name.removeprefix('train/')} is {value} at environment step {env_steps}: lower agent.learning_rate, "
                "or set agent.precision to 32 (what is not finite is never saved as a checkpoint)"
            )
