"""Replay buffer for stacked frames: every frame once, stacks by index.

A buffer of observations keeps each frame of a stack of k up to 2 k times, k in `obs` and k in `next_obs`. Here a
transition is k + 1 numbers of frames. What stable-baselines3 expects of a `ReplayBuffer` holds.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rl.replay import inputs, memory, saving
from rl.replay.frames import FramePool
from sslcore.errors import ConfigError

__all__ = ["FrameReplayBuffer"]

_log = logging.getLogger(__name__)


class FrameReplayBuffer(ReplayBuffer):
    """Replay of stacked uint8 frames, each frame stored once.

    Args:
        buffer_size: transitions over all environments.
        observation_space: Box of uint8, (stack * channels, height, width), oldest frame first, as of `PixelStack`.
        action_space: as in stable-baselines3.
        device: where samples go.
        n_envs: environments that are stepped together.
        optimize_memory_usage: must be False: it is stable-baselines3's way to save the half of what is saved here.
        handle_timeout_termination: whether an episode that only ran out of time bootstraps from its last observation
            (`infos[i]["TimeLimit.truncated"]`).
        stack: frames in an observation, k; None takes the attribute `stack` of the space, if it has one.
        n_steps: transitions whose rewards are summed. With 1 the sample's `discounts` are None, and the algorithm
            uses its own gamma, as with stable-baselines3's buffers.
        gamma: discount inside of the n steps; must be the algorithm's.
        storage_device: where frames are kept. None takes the GPU that samples go to if more than a third of what is
            free there is left, else the CPU.
        expected: transitions over all environments that will come, if that is known. Memory is asked for, and taken,
            for no more of them; should more come, it grows.
        seed: of the draws; None takes one from numpy's global state, which the algorithm's `seed` has set.

    Attributes:
        buffer_size: transitions of each environment (stable-baselines3's convention), R.
        actions, rewards, dones, timeouts: (R, n_envs, ...) as in stable-baselines3.
        ends: (R, n_envs) whether the episode does not go on with the next row: done, or reset by somebody in between.
        generator: what draws.
        memory: a sentence that says how much memory the buffer takes and where.

    Raises:
        ConfigError: the observations are not stacks of uint8 frames, an option does not apply, or the memory is too
            small; nothing has been allocated then.

    Example:
        >>> box = spaces.Box(0, 255, (9, 100, 100), np.uint8)
        >>> buffer = FrameReplayBuffer(1000, box, spaces.Box(-1, 1, (2,)), device="cpu", stack=3)
        >>> buffer.nbytes / (1000 * 3 * 100 * 100) < 1.05
        True
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        stack: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        storage_device: torch.device | str | None = None,
        expected: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.stack = inputs.checked_stack(observation_space, stack)
        inputs.check_options(buffer_size, n_envs, n_steps, gamma, optimize_memory_usage, expected)
        # ReplayBuffer's own constructor would allocate whole observations.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps, self.gamma = n_steps, gamma
        self.frame_shape = (self.obs_shape[0] // self.stack, *self.obs_shape[1:])

        action_type = np.dtype(self._maybe_cast_dtype(action_space.dtype))
        held = self.buffer_size * n_envs if expected is None else min(self.buffer_size * n_envs, expected)
        needed = memory.required_bytes(
            held,
            self.obs_shape,
            stack=self.stack,
            action_bytes=self.action_dim * action_type.itemsize,
            n_envs=n_envs,
        )
        storage = str(storage_device or memory.choose_storage(needed, str(self.device)))
        self.memory = memory.check_fits(needed, storage, buffer_size=held, frame=self.frame_shape)
        _log.info(self.memory)

        rows = (self.buffer_size, n_envs)
        capacity = memory.frame_capacity(held, n_envs, self.stack)
        self.pool = FramePool(capacity, self.frame_shape, storage)
        self.places = np.zeros((*rows, self.stack + 1), dtype=np.int32)
        self.actions = np.zeros((*rows, self.action_dim), dtype=action_type)
        self.rewards = np.zeros(rows, dtype=np.float32)
        self.dones = np.zeros(rows, dtype=np.float32)
        self.timeouts = np.zeros(rows, dtype=np.float32)
        self.ends = np.zeros(rows, dtype=bool)
        self._newest = np.zeros((n_envs, *self.obs_shape), dtype=np.uint8)  # what the last transitions led to
        self._saved: dict[int, saving.SavedChunk] = {}
        self.generator = np.random.default_rng(int(np.random.randint(2**31)) if seed is None else seed)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored (on the CPU the system hands them out only as frames arrive)."""
        tables = self.places, self.actions, self.rewards, self.dones, self.timeouts, self.ends, self._newest
        return self.pool.nbytes + sum(table.nbytes for table in tables)

    def reset(self) -> None:
        """Forgets all transitions. The generator goes on."""
        super().reset()
        self.pool.clear()
        self.ends[:] = False
        self._saved.clear()

    # --- storing -------------------------------------------------------------------------------------------------

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores one transition of every environment, or none.

        Args:
            obs, next_obs: (n_envs, stack * channels, height, width) uint8. Where an episode ends, `next_obs` may be its
                last observation or the first one of the next episode, if `infos` has the last as
                "terminal_observation". An `obs` that is not the `next_obs` before it begins an episode.
            action: (n_envs, ...).
            reward, done: (n_envs,).
            infos: one dictionary an environment, with "TimeLimit.truncated" where the time ran out.

        Raises:
            ConfigError: observations are not stacks of which each shares all frames but one with the next.
            EnvWorkerError: a reward is not finite, or an observation is no uint8 image of the right shape.
        """
        shape = (self.n_envs, *self.obs_shape)
        obs = inputs.images(obs, shape)
        next_obs = inputs.images(inputs.last_observations(next_obs, done, infos), shape)
        inputs.check_overlap(obs, next_obs, self.stack)
        reward, done = inputs.rewards(reward), np.asarray(done, dtype=bool).reshape(self.n_envs)
        action = np.asarray(action).reshape(self.n_envs, self.action_dim)
        timeouts = [self.handle_timeout_termination and info.get("TimeLimit.truncated", False) for info in infos]
        self.pool.reserve(self.n_envs * (self.stack + 1))

        row = self.pos
        places = self._place(obs, next_obs)
        self.pool.hold(places)
        if self.full:
            self.pool.release(self.places[row])
        self.places[row] = places
        self.actions[row], self.rewards[row] = action, reward
        self.dones[row], self.timeouts[row], self.ends[row] = done, timeouts, done
        self._newest[:] = next_obs
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def _place(self, obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        """(n_envs, stack + 1) where the frames lie: those of `obs`, and the newest of `next_obs`, now put there."""
        before = self.pos - 1
        places = np.empty((self.n_envs, self.stack + 1), dtype=np.int32)
        for i in range(self.n_envs):
            if self.size() and np.array_equal(obs[i], self._newest[i]):
                places[i, :-1] = self.places[before, i, 1:]
            else:
                self.ends[before, i] = self.size() > 0  # if it was not done, somebody has reset the environment
                places[i, :-1] = self._place_first(self._frames_of(obs[i]))
            places[i, -1] = self.pool.put(self._frames_of(next_obs[i])[-1])
        return places

    def _place_first(self, frames: np.ndarray) -> list[int]:
        """Places of an episode's first stack, which commonly is its first frame k times, or after k - 1 blank ones."""
        places = [self.pool.put(frames[0])]
        for older, frame in itertools.pairwise(frames):
            places.append(places[-1] if np.array_equal(older, frame) else self.pool.put(frame))
        return places

    def _frames_of(self, observation: np.ndarray) -> np.ndarray:
        return observation.reshape(self.stack, *self.frame_shape)

    # --- sampling ------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draws transitions uniformly, with replacement.

        Args:
            batch_size: how many, B.
            env: if given, normalises rewards.

        Returns:
            On the buffer's device: observations and next_observations (B, stack * channels, height, width) uint8,
            actions (B, ...), dones, rewards and, with `n_steps` above 1, discounts (B, 1) float32. Next observation and
            done are those at the end of the n steps, fewer if the episode ends or the newest transition is reached;
            discounts are gamma to the number of steps. Running out of time is no done.

        Raises:
            ValueError: there is nothing to draw from.
        """
        if self.size() == 0:
            raise ValueError("the replay buffer is empty; add transitions before sampling")
        return self._get_samples(self.generator.integers(self.size(), size=batch_size), env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        return self.transitions(batch_inds, self.generator.integers(self.n_envs, size=len(batch_inds)), env)

    def transitions(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The transitions of (B,) rows and (B,) environments; see `sample`."""
        if env is not None and env.norm_obs:
            raise ConfigError("pixels are scaled by the encoder; give VecNormalize norm_obs=False")
        lengths, returns = self._returns(rows, envs, env)
        discounts = self._to_device((self.gamma ** lengths[:, None]).astype(np.float32)) if self.n_steps > 1 else None
        last = (rows + lengths - 1) % self.buffer_size
        done = self.dones[last, envs] * (1 - self.timeouts[last, envs])
        return ReplayBufferSamples(
            observations=self._stacks(self.places[rows, envs, :-1]),
            actions=self._to_device(self.actions[rows, envs]),
            next_observations=self._stacks(self.places[last, envs, 1:]),
            dones=self._to_device(done[:, None]),
            rewards=self._to_device(returns[:, None]),
            discounts=discounts,
        )

    def _returns(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[np.ndarray, np.ndarray]:
        """Steps that are summed and their discounted rewards, (B,) each."""
        path = (rows[:, None] + np.arange(self.n_steps)) % self.buffer_size  # (B, n)
        newest = (self.pos - 1) % self.buffer_size
        last = self.ends[path, envs[:, None]] | (path == newest)
        lengths = np.where(last.any(axis=1), last.argmax(axis=1), self.n_steps - 1) + 1
        steps = np.arange(self.n_steps)
        weights = np.where(steps < lengths[:, None], self.gamma**steps, 0.0)
        rewards = self._normalize_reward(self.rewards[path, envs[:, None]], env)
        return lengths, (rewards * weights).sum(axis=1).astype(np.float32)

    def _stacks(self, places: np.ndarray) -> Tensor:
        return self.pool.gather(places, self.device).reshape(len(places), *self.obs_shape)

    def _to_device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    # --- files ---------------------------------------------------------------------------------------------------

    def save_to(self, folder: str | Path) -> Path:
        """Writes the whole state to a folder of its own; see `rl.replay.saving.save`."""
        return saving.save(self, Path(folder))

    def restore_from(self, folder: str | Path) -> None:
        """Continues from a folder of `save_to`; see `rl.replay.saving.restore`."""
        saving.restore(self, Path(folder))
