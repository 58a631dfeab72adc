"""What a replay buffer is given, checked before any of it is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sslcore.errors import ConfigError, EnvWorkerError


def checked_stack(space: spaces.Space, stack: int | None) -> int:
    """How many frames an observation of the space is.

    Raises:
        ConfigError: the space is not one of stacked uint8 frames, or nothing says how many.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        raise ConfigError(
            f"a FrameReplayBuffer stores stacks of uint8 frames, (stack * channels, height, width), not {space}; "
            "wrap the environment in rl.PixelStack, or use stable-baselines3's ReplayBuffer"
        )
    stack = getattr(space, "stack", None) if stack is None else stack
    if stack is None:
        raise ConfigError(
            f"nothing says how many frames the {space.shape[0]} channels of an observation are; "
            "give stack=, in replay_buffer_kwargs if an algorithm makes the buffer"
        )
    if stack < 1 or space.shape[0] % stack:
        raise ConfigError(
            f"an observation of {space.shape[0]} channels is not a stack of {stack} frames; "
            "give stack= the number of frames that the environment stacks"
        )
    return int(stack)


def check_options(
    buffer_size: int, n_envs: int, n_steps: int, gamma: float, optimize_memory_usage: bool, expected: int | None
) -> None:
    """Raises a ConfigError for what makes no sense."""
    counts = {"buffer_size": buffer_size, "n_envs": n_envs, "n_steps": n_steps, "expected": expected}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma must be in [0, 1], not {gamma}")
    if optimize_memory_usage:
        raise ConfigError("a FrameReplayBuffer stores every frame once already; leave optimize_memory_usage False")


def images(observations: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The observations, if they are uint8 of that shape; else an EnvWorkerError."""
    observations = np.asarray(observations)
    if observations.dtype != np.uint8 or observations.shape != shape:
        raise EnvWorkerError(
            f"the environments gave observations of {observations.dtype}, {observations.shape}, not of uint8, {shape}; "
            "make them return what their observation space says"
        )
    return observations


def rewards(reward: np.ndarray) -> np.ndarray:
    """(n_envs,) float32, if they are finite; else an EnvWorkerError."""
    reward = np.asarray(reward, dtype=np.float32).reshape(-1)
    if not np.isfinite(reward).all():
        i = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise EnvWorkerError(f"environment {i} gave the reward {reward[i]}; its rewards must be finite")
    return reward


def last_observations(next_obs: np.ndarray, done: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """`next_obs` with the last observation of each episode that has ended, where the VecEnv has put the next one's."""
    last = [info.get("terminal_observation") if over else None for over, info in zip(done, infos, strict=True)]
    if all(observation is None for observation in last):
        return next_obs
    return np.stack([np.asarray(new if old is None else old) for new, old in zip(next_obs, last, strict=True)])


def check_overlap(obs: np.ndarray, next_obs: np.ndarray, stack: int) -> None:
    """Raises a ConfigError unless every next observation is the one before it, moved on by one frame.

    Args:
        obs, next_obs: (n_envs, stack * channels, height, width).
        stack: frames in an observation, the oldest first.
    """
    channels = obs.shape[1] // stack
    for i in range(len(obs)):
        if not np.array_equal(obs[i, channels:], next_obs[i, : obs.shape[1] - channels]):
            raise ConfigError(
                f"the observations of environment {i} are not stacks of {stack} frames of which each step drops the "
                "oldest, the first, and adds one; stack the frames with rl.PixelStack, give the replay buffer the "
                "stack that the environment has, and let the VecEnv report terminal observations"
            )
