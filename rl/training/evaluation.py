"""How good an agent is, in an environment of its own and always on the same episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sslcore.errors import ConfigError

Act = Callable[[np.ndarray], np.ndarray]
"""(n, c, h, w) observations to (n, A) actions."""


@dataclass(frozen=True)
class Episode:
    """One that has been played to its end; with the environment's seed, `actions` play it again.

    Attributes:
        env: index of its environment.
        number: how many this environment had played before it.
        score: sum of its rewards.
        actions: (steps, A).
    """

    env: int
    number: int
    score: float
    actions: np.ndarray


@dataclass(frozen=True)
class PlayedEpisodes:
    """What came of an evaluation.

    Attributes:
        episodes: in the order of environment and number.
    """

    episodes: tuple[Episode, ...]

    @property
    def returns(self) -> np.ndarray:
        """(episodes,) sums of rewards."""
        return np.array([episode.score for episode in self.episodes])

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Over the episodes, not an error of the mean."""
        return float(self.returns.std())

    @property
    def quartiles(self) -> tuple[float, float]:
        """What the returns of the middle half of the episodes lie between."""
        low, high = np.quantile(self.returns, (0.25, 0.75))
        return float(low), float(high)

    @property
    def best(self) -> Episode:
        """The one of the highest return, the first of several."""
        return self.episodes[int(self.returns.argmax())]


def evaluate_agent(
    agent: Any, envs: VecEnv, *, episodes: int, seed: int, stop: Callable[[], bool] = lambda: False
) -> PlayedEpisodes | None:
    """Play whole episodes with the agent's most likely actions.

    Args:
        agent: whatever has stable-baselines3's `predict`.
        envs: from `rl.make_vec_env`; not those that the agent learns in, whose episodes would be cut off. Environment i
            plays its share of the episodes, which follow from seed, i and their number.
        episodes: how many in all.
        seed: of the episodes: the same seed and number of environments give the same ones.
        stop: asked after every step; when it is true, None is returned.

    Raises:
        EnvWorkerError: an environment failed.
    """
    return play(lambda obs: agent.predict(obs, deterministic=True)[0], envs, episodes=episodes, seed=seed, stop=stop)


def random_actions(space: spaces.Space, seed: int) -> Act:
    """Actions by lot, uniform over a Box, one for each observation."""
    assert isinstance(space, spaces.Box)
    draw, low, high = np.random.default_rng(seed), space.low, space.high
    return lambda observations: draw.uniform(low, high, (len(observations), *low.shape))


def random_returns(envs: VecEnv, *, episodes: int, seed: int) -> np.ndarray:
    """(episodes,) returns of `random_actions`, on the episodes that `evaluate_agent` plays."""
    played = play(random_actions(envs.action_space, seed), envs, episodes=episodes, seed=seed)
    assert played is not None
    return played.returns


def play(
    act: Act, envs: VecEnv, *, episodes: int, seed: int, stop: Callable[[], bool] = lambda: False
) -> PlayedEpisodes | None:
    """Play whole episodes; see `evaluate_agent`."""
    if episodes < 1:
        raise ConfigError(f"at least one episode must be played, not {episodes}")
    # Shares are fixed beforehand: taking whichever end first would favour short episodes.
    shares = [(episodes + envs.num_envs - 1 - i) // envs.num_envs for i in range(envs.num_envs)]
    tables = [_Table(i) for i in range(envs.num_envs)]
    envs.seed(seed)
    observations = envs.reset()
    while any(len(table.episodes) < share for table, share in zip(tables, shares, strict=True)):
        if stop():
            return None
        actions = np.asarray(act(np.asarray(observations)), dtype=np.float32)
        observations, rewards, dones, _ = envs.step(actions)
        for table, action, reward, done in zip(tables, actions, rewards, dones, strict=True):
            table.add(action, float(reward), bool(done))
    found = (episode for table, share in zip(tables, shares, strict=True) for episode in table.episodes[:share])
    return PlayedEpisodes(tuple(found))


class _Table:
    """Episodes of one environment."""

    def __init__(self, env: int) -> None:
        self.env = env
        self.episodes: list[Episode] = []
        self._actions: list[np.ndarray] = []
        self._score = 0.0

    def add(self, action: np.ndarray, reward: float, done: bool) -> None:
        self._actions.append(action.copy())
        self._score += reward
        if done:
            self.episodes.append(Episode(self.env, len(self.episodes), self._score, np.stack(self._actions)))
            self._actions, self._score = [], 0.0
