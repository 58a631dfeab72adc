import contextlib

import numpy as np
import pytest
from support.agents import tiny_agent

from rl.envs import EnvSettings, make_env, make_vec_env
from rl.training.evaluation import PlayedEpisodes, evaluate_agent, play, random_returns
from sslcore.errors import ConfigError

SETTINGS = EnvSettings(options={"size": 16}, stack=2, action_repeat=2)
LENGTH = 20  # 40 steps of the environment


class Steering:
    """Not an agent but what has `predict`: always the same push."""

    def predict(self, observations, deterministic=False):
        assert deterministic
        return np.tile(np.array([0.3, -0.2], np.float32), (len(observations), 1)), None


def by_hand(index, numbers, seed):
    """Returns of `Steering` on the episodes of one environment."""
    with contextlib.closing(make_env(SETTINGS, seed=seed + index, index=index)) as env:
        found = []
        for _ in range(numbers):
            env.reset()
            found.append(sum(env.step(np.array([0.3, -0.2], np.float32))[1] for _ in range(LENGTH)))
        return found


def test_returns_are_those_of_whole_episodes():
    with contextlib.closing(make_vec_env(SETTINGS, 2)) as envs:
        found = evaluate_agent(Steering(), envs, episodes=5, seed=4)
    assert found.returns.tolist() == by_hand(0, 3, 4) + by_hand(1, 2, 4)
    assert [(e.env, e.number) for e in found.episodes] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert all(e.actions.shape == (LENGTH, 2) for e in found.episodes)
    assert found.mean == found.returns.mean() and found.std == found.returns.std()
    assert found.best.score == found.returns.max()


def test_the_same_episodes_whatever_was_played_before():
    agent = tiny_agent(make_env(SETTINGS))
    with contextlib.closing(make_vec_env(SETTINGS)) as envs:
        first = evaluate_agent(agent, envs, episodes=3, seed=9)
        evaluate_agent(agent, envs, episodes=2, seed=10)
        again = evaluate_agent(agent, envs, episodes=3, seed=9)
    for one, other in zip(first.episodes, again.episodes, strict=True):
        assert one.score == other.score and np.array_equal(one.actions, other.actions)


def test_evaluation_draws_nothing_that_learning_draws():
    agent = tiny_agent(make_env(SETTINGS))
    before = agent.policy.noise.get_state().clone(), agent.action_space.np_random.bit_generator.state
    with contextlib.closing(make_vec_env(SETTINGS)) as envs:
        evaluate_agent(agent, envs, episodes=1, seed=0)
        random_returns(envs, episodes=1, seed=0)
    assert agent.policy.noise.get_state().equal(before[0])
    assert agent.action_space.np_random.bit_generator.state == before[1]


def test_random_actions_score_little_and_always_the_same():
    with contextlib.closing(make_vec_env(SETTINGS)) as envs:
        found = random_returns(envs, episodes=20, seed=1)
        assert np.array_equal(found, random_returns(envs, episodes=20, seed=1))
    assert 0 < found.mean() < 10


def test_it_can_be_broken_off_and_asked_for_nonsense():
    with contextlib.closing(make_vec_env(SETTINGS)) as envs:
        asked = []
        assert (
            play(
                lambda obs: np.zeros((1, 2)), envs, episodes=2, seed=0, stop=lambda: asked.append(1) or len(asked) > 30
            )
            is None
        )
        assert len(asked) == 31
        with pytest.raises(ConfigError, match="at least one episode"):
            evaluate_agent(Steering(), envs, episodes=0, seed=0)


def test_the_best_episode_is_the_first_of_the_best():
    with contextlib.closing(make_vec_env(SETTINGS)) as envs:
        episodes = play(lambda obs: np.zeros((1, 2)), envs, episodes=1, seed=0).episodes
    from dataclasses import replace

    made = tuple(replace(episodes[0], number=i, score=score) for i, score in enumerate([1.0, 3.0, 3.0]))
    assert PlayedEpisodes(made).best.number == 1
