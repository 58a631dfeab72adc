"""Random numbers of an agent's own for stable-baselines3's action noise, which draws from numpy's global generator."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise

from sslcore.random import hash_seed

_NOISE = 3  # the stream of random numbers


class NoiseDraws:
    """While noise is drawn, numpy's global generator is in a state of the agent's own, which can be saved.

    Noise then neither hangs on what else draws from the global generator, nor changes it.
    """

    def __init__(self) -> None:
        self._own: Any = np.random.RandomState().get_state()

    def seed(self, seed: int) -> None:
        """Begin anew, as a function of the run's seed."""
        self._own = np.random.RandomState(hash_seed(seed, _NOISE) % 2**32).get_state()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within, noise may be drawn."""
        others = np.random.get_state()
        np.random.set_state(self._own)
        try:
            yield
        finally:
            self._own = np.random.get_state()
            np.random.set_state(others)

    def state(self, noise: ActionNoise) -> dict[str, Any]:
        """What `restore` needs, of the generator and of noise that hangs on its last value (Ornstein-Uhlenbeck)."""
        return {"generator": self._own, "last": [getattr(one, "noise_prev", None) for one in _each(noise)]}

    def restore(self, noise: ActionNoise | None, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; noise of another kind or for other environments begins anew."""
        self._own = tuple(state["generator"])
        ours = _each(noise)
        if len(ours) == len(state["last"]):
            for one, last in zip(ours, state["last"], strict=True):
                if hasattr(one, "noise_prev") and last is not None:
                    one.noise_prev = np.array(last)


def _each(noise: ActionNoise | None) -> list[Any]:
    """The noise of each environment."""
    if noise is None:
        return []
    return noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
