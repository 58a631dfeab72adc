"""Frames of any environment as one stack of channel-first images, with action repeat.

The stack shows motion (Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015); the layout
(k * c, h, w), newest frame last, and the summed reward of repeated actions are CURL's (Laskin et al., ICML 2020).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rl.envs.frames import FrameSource, env_name
from sslcore.errors import ConfigError, EnvWorkerError


class PixelStack(gym.Wrapper, RecordConstructorArgs):
    """Observations become (k * c, h, w) uint8: the last k frames of c channels, oldest first; k copies after a reset.

    Frames come from the environment's own observations if these are uint8 images of the form (h, w), (h, w, c) or
    (c, h, w), and from `render()` in the mode "rgb_array" otherwise: then only the picture after the last repeat is
    rendered.

    Every step adds to `info`: "repeats", how many steps of the environment this one took; "agent_steps" and
    "env_steps", both counted from the episode's start.

    Args:
        env: the environment; with state observations it must have been made with render_mode="rgb_array".
        stack: frames in an observation, k.
        action_repeat: how often each action is done. Rewards are summed; the end of the episode ends the repeats.
        size: side of the frames in pixels; None keeps the size of image observations and gives 100 to pictures.

    Attributes:
        stack, action_repeat: as given.
        frame_channels: c.

    Raises:
        ConfigError: the environment gives no images and renders none, or an argument is out of range.
        EnvWorkerError: the environment raised, or gave float or wrongly shaped images or numbers that are not finite.
            The message names the environment and the step.
    """

    def __init__(self, env: gym.Env, *, stack: int = 3, action_repeat: int = 1, size: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, stack=stack, action_repeat=action_repeat, size=size)
        gym.Wrapper.__init__(self, env)
        for name, value in (("stack", stack), ("action_repeat", action_repeat), ("size", 1 if size is None else size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        self.stack, self.action_repeat = stack, action_repeat
        self._source = FrameSource(env, size)
        self.frame_channels, height, width = self._source.shape
        shape = (stack * self.frame_channels, height, width)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self._name = env_name(env)
        self._frames = np.zeros(shape, np.uint8)
        self._agent_steps = self._env_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._agent_steps = self._env_steps = 0
        observation, info = self._call("reset", 2, seed=seed, options=options)
        self._check(observation, 0.0)
        self._frames = np.tile(self._frame(observation), (self.stack, 1, 1))
        return self._frames, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        total, repeats, ended = 0.0, 0, False
        while repeats < self.action_repeat and not ended:
            observation, reward, terminated, truncated, info = self._call("step", 5, action)
            repeats += 1
            self._env_steps += 1
            self._check(observation, reward)
            total += float(reward)
            ended = terminated or truncated
        self._agent_steps += 1
        # A new array each time: who keeps an observation must not see it change.
        self._frames = np.concatenate([self._frames[self.frame_channels :], self._frame(observation)])
        counts = {"repeats": repeats, "agent_steps": self._agent_steps, "env_steps": self._env_steps}
        return self._frames, total, bool(terminated), bool(truncated), {**info, **counts}

    # --- what environments do wrong ----------------------------------------------------------------------------------

    def _frame(self, observation: Any) -> np.ndarray:
        try:
            return self._source.frame(observation)
        except ValueError as error:
            raise EnvWorkerError(f"{self._where()}: {error}") from error
        except Exception as error:
            raise EnvWorkerError(f"{self._where()}: rendering raised {_said(error)}") from error

    def _call(self, method: str, values: int, *args: Any, **kwargs: Any) -> tuple:
        try:
            result = getattr(self.env, method)(*args, **kwargs)
        except EnvWorkerError:
            raise
        except Exception as error:
            raise EnvWorkerError(f"{self._where()}: {method} raised {_said(error)}") from error
        if not isinstance(result, tuple) or len(result) != values:
            raise EnvWorkerError(
                f"{self._where()}: {method} must return {values} values as in gymnasium; is the environment written "
                "for the older gym?"
            )
        return result

    def _check(self, observation: Any, reward: Any) -> None:
        """Also within repeats: what is wrong there has gone wrong already."""
        try:
            self._source.check(observation)
            _check_reward(reward)
        except ValueError as error:
            raise EnvWorkerError(f"{self._where()}: {error}") from error

    def _where(self) -> str:
        return f"environment {self._name}, step {self._env_steps} of its episode"


def _check_reward(reward: Any) -> None:
    value = np.asarray(reward)
    if value.ndim or value.dtype.kind not in "biuf":
        raise ValueError(f"the reward must be one number, not {reward!r}")
    if not np.isfinite(value):
        raise ValueError(f"the reward is {float(value)}, from which nothing can be learned")


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
