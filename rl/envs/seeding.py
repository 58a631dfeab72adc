"""Episodes that can be played again: each starts from a seed of its own, and its actions are remembered.

What a simulator holds inside cannot be saved in general. An episode that follows from its seed and its actions can be
played again instead, which is all that an exact resume needs.
"""

import warnings
import zlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from sslcore.errors import CheckpointError
from sslcore.random import hash_seed

_BITS = 31  # what every simulator takes as a seed; dm_control's numpy.random.RandomState takes 32


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Seed of one episode: 31 bits, a function of the run's seed, the environment's index and the episode's number."""
    return hash_seed(seed, env, episode) >> (63 - _BITS)


class EpisodeSeeds(gym.Wrapper, RecordConstructorArgs):
    """Reset episode e of environment i from `episode_seed(seed, i, e)`, and remember the actions since.

    `reset(seed=s)` makes s the run's seed and starts at episode 0 again, as gymnasium's users expect of a seed.

    Args:
        env: an environment that follows from the seed of its reset.
        seed: the run's seed.
        index: which of the run's environments this is, i.
    """

    def __init__(self, env: gym.Env, *, seed: int, index: int = 0) -> None:
        RecordConstructorArgs.__init__(self, seed=seed, index=index)
        gym.Wrapper.__init__(self, env)
        self._seed, self._index = seed, index
        self._episode = -1  # none has begun
        self._actions: list[Any] = []
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self._seed, self._episode = seed, -1
        return self._begin(self._episode + 1, options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        # A copy, as the caller may write its next action into the same array, and of the type that `restore` will give.
        action = np.array(action, self.action_space.dtype)
        result = self.env.step(action)
        self._actions.append(action)
        self._last = result[0]
        return result

    def state(self) -> dict[str, Any]:
        """Where this environment stands, as plain numbers and lists (JSON): seed, index, episode, actions.

        "checksum" is that of the last observation, by which `restore` knows whether it got there again.
        """
        return {
            "seed": self._seed,
            "index": self._index,
            "episode": self._episode,
            "actions": [action.tolist() for action in self._actions],
            "checksum": _checksum(self._last),
        }

    def restore(self, state: dict[str, Any], *, strict: bool = True) -> Any:
        """Play the unfinished episode of `state` again.

        Args:
            state: what `state()` gave, perhaps after a way through JSON.
            strict: what to do if the last observation differs from the remembered one, as other hardware or another
                version of the simulator may cause: an error, or (False) a warning.

        Returns:
            The observation the agent sees next; None if no episode had begun.

        Raises:
            CheckpointError: the state is damaged, or the episode came out differently.
        """
        try:
            self._seed, self._index, episode = int(state["seed"]), int(state["index"]), int(state["episode"])
            actions = [np.asarray(action, self.action_space.dtype) for action in state["actions"]]
            checksum = state["checksum"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the saved state of environment {self._index} is damaged: {error!r}") from error
        self._episode, self._actions, self._last = episode, [], None
        if episode < 0:
            return None
        self._begin(episode, None)
        for action in actions:
            self.step(action)
        if _checksum(self._last) != checksum:
            sentence = (
                f"episode {episode} of environment {self._index} came out differently when its {len(actions)} actions "
                "were played again, so the run cannot go on exactly as before: another simulator, driver or machine?"
            )
            if strict:
                raise CheckpointError(sentence)
            warnings.warn(sentence, stacklevel=2)
        return self._last

    def _begin(self, episode: int, options: dict[str, Any] | None) -> tuple[Any, dict]:
        self._episode, self._actions = episode, []
        observation, info = self.env.reset(seed=episode_seed(self._seed, self._index, episode), options=options)
        self._last = observation
        return observation, info


def _checksum(observation: Any) -> int | None:
    """Of the bytes of an array; None for what is not one."""
    return zlib.crc32(np.ascontiguousarray(observation).tobytes()) if isinstance(observation, np.ndarray) else None
