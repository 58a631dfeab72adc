import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check

from rl.envs import EpisodeSeeds, PixelReach, PixelStack, episode_seed, make_env
from sslcore.errors import CheckpointError


class Asked(gym.Env):
    """Remembers the seeds it was reset from; its observation is the last of them."""

    observation_space = gym.spaces.Box(0, 2**31, (1,), np.int64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.seeds, self.length = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        return np.array([seed]), {}

    def step(self, action):
        return np.array([self.seeds[-1]]), float(action[0]), False, True, {}


def play(env, actions):
    return [env.step(action)[0] for action in actions]


def some_actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)


def test_each_episode_has_a_seed_of_its_own():
    seeds = {episode_seed(s, i, e) for s in range(4) for i in range(4) for e in range(40)}
    assert len(seeds) == 4 * 4 * 40 and all(0 <= seed < 2**31 for seed in seeds)


def test_resets_follow_the_formula():
    env = EpisodeSeeds(Asked(), seed=5, index=2)
    for _ in range(3):
        env.reset()
    assert env.unwrapped.seeds == [episode_seed(5, 2, e) for e in range(3)]


def test_a_seed_given_to_reset_begins_anew():
    env = EpisodeSeeds(Asked(), seed=5)
    env.reset(), env.reset(), env.reset(seed=9), env.reset()
    assert env.unwrapped.seeds[2:] == [episode_seed(9, 0, 0), episode_seed(9, 0, 1)]


@pytest.mark.parametrize("steps", [0, 1, 17, 40])
def test_a_restored_environment_goes_on_alike(steps):
    env = make_env("surnia/PixelReach-v0", seed=3, index=1)
    for _ in range(2):
        env.reset()
        play(env, some_actions(40))
    seen = env.reset()[0]
    for action in some_actions(steps, seed=1):
        seen = env.step(action)[0]

    # Another environment, one that has been used, from the state as a file holds it.
    copy = make_env("surnia/PixelReach-v0", seed=77)
    copy.reset(), play(copy, some_actions(3))
    np.testing.assert_array_equal(copy.restore(json.loads(json.dumps(env.state()))), seen)
    assert copy.state() == env.state()

    for action in some_actions(40 - steps, seed=2):
        ours, theirs = env.step(action), copy.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:4]
        assert ours[4].get("episode", {}).get("r") == theirs[4].get("episode", {}).get("r")
    np.testing.assert_array_equal(env.reset()[0], copy.reset()[0])


def test_a_state_before_the_first_episode():
    env, copy = make_env("surnia/PixelReach-v0", seed=3), make_env("surnia/PixelReach-v0", seed=4)
    assert copy.restore(env.state()) is None
    np.testing.assert_array_equal(env.reset()[0], copy.reset()[0])


def test_actions_are_copied():
    env, action = EpisodeSeeds(PixelReach(), seed=0), np.ones(2, np.float32)
    env.reset()
    env.step(action)
    action[:] = 0
    assert env.state()["actions"] == [[1.0, 1.0]]


def test_an_action_of_another_type_is_done_as_it_will_be_repeated():
    env = EpisodeSeeds(PixelStack(PixelReach()), seed=0)
    env.reset()
    fine = np.array([1 / 3, -1 / 7])  # float64: not a float32
    last = play(env, [fine] * 30)[-1]
    np.testing.assert_array_equal(EpisodeSeeds(PixelStack(PixelReach()), seed=0).restore(env.state()), last)


class Forgetful(PixelReach):
    """Does not follow from its seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


def test_an_episode_that_comes_out_differently_is_told():
    env = EpisodeSeeds(Forgetful(), seed=0)
    env.reset(), play(env, some_actions(3))
    state = env.state()
    with pytest.raises(CheckpointError, match="its 3 actions were played again"):
        env.restore(state)
    with pytest.warns(UserWarning, match="came out differently"):
        assert env.restore(state, strict=False).shape == (42, 42, 1)


@pytest.mark.parametrize("damage", [{"episode": None}, {"actions": "abc"}, {"actions": 3}, {"seed": "x"}])
def test_a_damaged_state_is_refused(damage):
    env = EpisodeSeeds(PixelReach(), seed=0)
    env.reset()
    with pytest.raises(CheckpointError, match="state of environment 0 is damaged"):
        env.restore({**env.state(), **damage})


def test_passes_gymnasiums_checker():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gymnasium_check(EpisodeSeeds(PixelStack(gym.make("surnia/PixelReach-v0")), seed=1))
