import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.replays import MadeUpEnvs, NaiveReplay, everything, fill, frame_buffer

from rl.replay import FrameReplayBuffer
from sslcore.errors import ConfigError, EnvWorkerError


def picture(*values):
    """A stack of 1 x 2 frames of one value each."""
    return np.array([[[v, v]] for v in values], dtype=np.uint8)


def put(buffer, obs, next_obs, reward=0.0, done=False, info=None):
    buffer.add(obs[None], next_obs[None], np.zeros((1, 2)), np.array([reward]), np.array([done]), [info or {}])


def small(buffer_size=10, stack=2, **options):
    return frame_buffer(buffer_size, (stack, 1, 2), stack, **options)


def assert_equals_the_naive_one(buffer, naive):
    ours, ages = everything(buffer), range(buffer.size())
    wanted = [naive.sample(i, age, buffer.n_steps, buffer.gamma) for i in range(buffer.n_envs) for age in ages]
    obs, action, next_obs, done, reward, discount = map(np.array, zip(*wanted, strict=True))
    assert np.array_equal(ours.observations, obs) and np.array_equal(ours.next_observations, next_obs)
    assert np.array_equal(ours.actions, action) and np.array_equal(ours.dones[:, 0], done)
    np.testing.assert_allclose(ours.rewards[:, 0], reward, rtol=1e-5, atol=1e-6)
    if buffer.n_steps > 1:
        np.testing.assert_allclose(ours.discounts[:, 0], discount, rtol=1e-6)


# --- against buffers of whole observations -----------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_holds_what_a_buffer_of_whole_observations_holds(data):
    def choose(name, strategy):
        return data.draw(strategy, label=name)

    n_envs, stack = choose("n_envs", st.integers(1, 3)), choose("stack", st.integers(1, 4))
    envs = MadeUpEnvs(
        np.random.default_rng(choose("seed", st.integers(0, 2**31))),
        n_envs,
        stack,
        channels=choose("channels", st.integers(1, 2)),
        side=choose("side", st.integers(1, 2)),
        start=choose("start", st.sampled_from(["repeat", "blank", "any"])),
        mean_length=choose("mean length", st.sampled_from([1, 2, 6, 1000])),
        resets=choose("resets", st.sampled_from([0, 0.1])),
    )
    rows = choose("rows", st.integers(1, 12))
    buffer = frame_buffer(rows * n_envs, envs.shape, stack, n_envs, n_steps=choose("n_steps", st.integers(1, 4)))
    naive, terminal_in_infos = NaiveReplay(rows, n_envs), choose("terminal in infos", st.booleans())
    for steps in choose("steps", st.lists(st.integers(1, 15), min_size=1, max_size=3)):
        fill(buffer, envs, steps, naive, terminal_in_infos)
        assert_equals_the_naive_one(buffer, naive)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_holds_what_the_buffers_of_stable_baselines3_hold(n_steps):
    envs = MadeUpEnvs(np.random.default_rng(0), n_envs=1, stack=3)
    ours = frame_buffer(50, envs.shape, 3, n_steps=n_steps, gamma=0.9)
    options = {"n_steps": 3, "gamma": 0.9} if n_steps > 1 else {}
    theirs = (NStepReplayBuffer if n_steps > 1 else ReplayBuffer)(
        50, ours.observation_space, ours.action_space, "cpu", **options
    )
    for _ in range(70):
        step, _ = envs.step()
        ours.add(*step), theirs.add(*step)
    rows = np.arange(50)
    for mine, other in zip(ours.transitions(rows, np.zeros(50, int)), theirs._get_samples(rows), strict=True):
        if other is not None:
            assert mine.dtype == other.dtype and torch.allclose(mine, other, rtol=1e-5, atol=1e-6)
        assert (mine is None) == (other is None)
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())


def test_transitions_are_counted_over_all_environments_as_in_stable_baselines3():
    buffer = frame_buffer(10, n_envs=3)
    assert (buffer.buffer_size, buffer.actions.shape) == (3, (3, 3, 2))


# --- n steps, by hand --------------------------------------------------------------------------------------------


def three_steps(ending, gamma=0.5):
    """Rewards 1, 2, 4, 8 in a row; `ending` tells how the second transition ends."""
    buffer = small(n_steps=3, gamma=gamma)
    done, info = ending in ("terminal", "time"), {"TimeLimit.truncated": True} if ending == "time" else {}
    put(buffer, picture(1, 1), picture(1, 2), 1)
    put(buffer, picture(1, 2), picture(2, 3), 2, done, info)
    on = ending == "no"
    put(buffer, picture(2, 3) if on else picture(9, 9), picture(3, 4) if on else picture(9, 4), 4)
    put(buffer, picture(3, 4) if on else picture(9, 4), picture(4, 5), 8)
    return buffer.transitions(np.arange(4), np.zeros(4, int))


def test_returns_bootstrap_after_three_steps_or_from_the_newest_transition():
    sample = three_steps("no")
    assert sample.rewards[:, 0].tolist() == [1 + 2 / 2 + 4 / 4, 2 + 4 / 2 + 8 / 4, 4 + 8 / 2, 8]
    assert sample.discounts[:, 0].tolist() == [0.125, 0.125, 0.25, 0.5]
    assert sample.dones[:, 0].tolist() == [0, 0, 0, 0]
    assert sample.next_observations[:, 1, 0, 0].tolist() == [4, 5, 5, 5]


@pytest.mark.parametrize(("ending", "done"), [("terminal", 1), ("time", 0), ("reset by somebody", 0)])
def test_returns_stop_where_the_episode_ends(ending, done):
    sample = three_steps(ending)
    assert sample.rewards[:, 0].tolist() == [1 + 2 / 2, 2, 4 + 8 / 2, 8]
    assert sample.discounts[:, 0].tolist() == [0.25, 0.5, 0.25, 0.5]
    assert sample.dones[:, 0].tolist() == [done, done, 0, 0]
    assert sample.next_observations[:2, :, 0, 0].tolist() == [[2, 3], [2, 3]]


def test_with_one_step_the_algorithms_own_gamma_counts():
    buffer = small(n_steps=1, gamma=0.5)
    put(buffer, picture(1, 1), picture(1, 2))
    assert buffer.sample(3).discounts is None


def test_time_limits_are_terminal_if_one_asks_for_it():
    buffer = small(handle_timeout_termination=False)
    put(buffer, picture(1, 1), picture(1, 2), done=True, info={"TimeLimit.truncated": True})
    assert buffer.sample(1).dones.item() == 1


# --- every frame once --------------------------------------------------------------------------------------------


def test_an_episode_of_n_steps_takes_n_plus_one_frames_and_full_buffers_no_more():
    buffer = small(buffer_size=4)
    for start in range(1, 100, 10):
        put(buffer, picture(start, start), picture(start, start + 1))
        put(buffer, picture(start, start + 1), picture(start + 1, start + 2), done=True)
    # Two episodes of two steps are left. While a third replaces the first, its last stack still has all frames.
    assert np.count_nonzero(buffer.pool.references) == 2 * 3
    assert buffer.pool.used == 3 * 3


def test_memory_is_what_was_announced_and_near_that_of_the_frames():
    buffer = frame_buffer(500, (9, 32, 32), 3)
    frames = 500 * 3 * 32 * 32
    assert buffer.nbytes < 1.06 * frames
    assert f"{buffer.nbytes / 1e6:.2f} MB" in buffer.memory and "500 transitions" in buffer.memory
    envs = MadeUpEnvs(np.random.default_rng(0), 1, 3, channels=3, side=32, values=256, mean_length=1000)
    before = buffer.nbytes
    fill(buffer, envs, 1200)
    assert buffer.nbytes == before


def test_what_it_holds_does_not_change_with_the_arrays_it_was_given():
    buffer, obs, next_obs = small(), picture(1, 1), picture(1, 2)
    put(buffer, obs, next_obs)
    obs[:], next_obs[:] = 7, 7
    put(buffer, picture(1, 2), picture(2, 3))
    assert buffer.transitions(np.arange(2), np.zeros(2, int)).observations[:, :, 0, 0].tolist() == [[1, 1], [1, 2]]
    assert not buffer.ends[0, 0]


def test_a_sample_is_a_copy():
    buffer = small()
    put(buffer, picture(1, 1), picture(1, 2))
    buffer.sample(1).observations.zero_()
    assert buffer.sample(1).observations.flatten().tolist() == [1, 1, 1, 1]


def test_reset_forgets_all_but_the_generator():
    buffer = small()
    put(buffer, picture(1, 1), picture(1, 2))
    buffer.reset()
    assert (buffer.size(), buffer.pool.used, buffer.pool.references.sum()) == (0, 0, 0)
    put(buffer, picture(1, 2), picture(2, 3))
    assert buffer.sample(1).observations[0, :, 0, 0].tolist() == [1, 2]


# --- drawing -----------------------------------------------------------------------------------------------------


def drawn(buffer, n=4000):
    sample = buffer.sample(n)
    return np.bincount(sample.rewards[:, 0].long().numpy(), minlength=6) / n


def test_all_transitions_of_all_environments_are_drawn_alike():
    buffer = frame_buffer(6, (2, 1, 2), 2, n_envs=2)
    for t in range(3):
        obs = np.stack([picture(t, t)] * 2)
        buffer.add(obs, obs, np.zeros((2, 2)), np.array([2 * t, 2 * t + 1]), np.array([True, True]), [{}, {}])
    np.testing.assert_allclose(drawn(buffer), 1 / 6, atol=0.03)


def test_draws_depend_on_the_seed_alone_not_on_numpys_global_state():
    def draws(seed):
        buffer = frame_buffer(20, (1, 2, 2), 1, seed=seed)
        fill(buffer, MadeUpEnvs(np.random.default_rng(0), 1, 1), 20)
        np.random.rand()
        return buffer.sample(8).rewards.flatten().tolist()

    assert draws(3) == draws(3) != draws(4)


def test_without_a_seed_numpys_global_state_gives_one_which_the_algorithm_seeds():
    np.random.seed(5)
    first = small(seed=None).generator.integers(1000, size=5)
    np.random.seed(5)
    assert np.array_equal(first, small(seed=None).generator.integers(1000, size=5))
    assert not np.array_equal(first, small(seed=None).generator.integers(1000, size=5))


def test_discrete_actions_keep_their_type():
    buffer = frame_buffer(4, (1, 1, 1), 1, action=spaces.Discrete(5))
    obs = np.zeros((1, 1, 1, 1), np.uint8)
    buffer.add(obs, obs, np.array([3]), np.zeros(1), np.zeros(1, bool), [{}])
    assert buffer.sample(2).actions.tolist() == [[3], [3]]
    assert buffer.sample(2).actions.dtype == torch.int64


def test_rewards_are_normalised_one_by_one_and_images_never():
    buffer = small(n_steps=2, gamma=1.0)
    put(buffer, picture(1, 1), picture(1, 2), 3)
    put(buffer, picture(1, 2), picture(2, 3), 50, done=True)
    venv = DummyVecEnv([Numbers])
    normalise = VecNormalize(venv, norm_obs=False, clip_reward=10)
    normalise.ret_rms.var = np.array(1.0)
    sample = buffer.transitions(np.array([0]), np.array([0]), normalise)
    assert sample.rewards.item() == pytest.approx(13, rel=1e-4)  # 3 and 50, clipped to 10
    with pytest.raises(ConfigError, match="norm_obs=False"):
        buffer.sample(1, VecNormalize(venv))


class Numbers(gymnasium.Env):
    """Frames that show the time as their brightness, stacked by two; out of time after 7 steps; reward 1."""

    observation_space = spaces.Box(0, 255, (2, 36, 36), np.uint8)
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._look(), {}

    def step(self, action):
        self.time += 1
        return self._look(), 1.0, False, self.time == 7, {}

    def _look(self):
        return np.stack([np.full((36, 36), max(t, 0), np.uint8) for t in (self.time - 1, self.time)])


# --- refusals ----------------------------------------------------------------------------------------------------


def test_frames_that_do_not_follow_each_other_are_refused_and_nothing_is_stored():
    buffer = frame_buffer(10, (2, 1, 2), 2, n_envs=2)
    good, bad = (picture(1, 2), picture(2, 3)), (picture(1, 2), picture(3, 1))  # the second has the newest frame first
    obs, next_obs = np.stack([good[0], bad[0]]), np.stack([good[1], bad[1]])
    with pytest.raises(ConfigError, match="environment 1 are not stacks of 2 frames"):
        buffer.add(obs, next_obs, np.zeros((2, 2)), np.zeros(2), np.zeros(2, bool), [{}, {}])
    assert buffer.size() == 0 and buffer.pool.used == 0


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused(reward):
    buffer = small()
    with pytest.raises(EnvWorkerError, match="environment 0 gave the reward"):
        put(buffer, picture(1, 1), picture(1, 2), reward)
    assert buffer.size() == 0


@pytest.mark.parametrize("wrong", [picture(1, 1).astype(np.float32), picture(1, 1, 1)])
def test_observations_of_another_type_or_shape_are_refused(wrong):
    with pytest.raises(EnvWorkerError, match="gave observations of"):
        put(small(), wrong, wrong)


def test_a_transition_that_is_not_whole_leaves_nothing_behind():
    buffer = small()
    with pytest.raises(ValueError):
        buffer.add(picture(1, 1)[None], picture(1, 2)[None], np.zeros(3), np.zeros(1), np.zeros(1, bool), [{}])
    assert buffer.size() == 0 and buffer.pool.used == 0


def test_drawing_from_an_empty_buffer_is_refused():
    with pytest.raises(ValueError, match="empty"):
        small().sample(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stack": None}, "nothing says how many frames the 2 channels"),
        ({"stack": 4}, "2 channels is not a stack of 4"),
        ({"stack": 0}, "not a stack of 0"),
        ({"optimize_memory_usage": True}, "once already"),
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"gamma": 1.5}, "gamma"),
    ],
)
def test_options_that_do_not_apply_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        frame_buffer(**{"buffer_size": 10, "shape": (2, 1, 2), "stack": 2, **options})


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (3, 8, 8), np.float32), spaces.Box(0, 255, (8,), np.uint8)])
def test_observations_that_are_no_images_are_refused(space):
    with pytest.raises(ConfigError, match="stacks of uint8 frames"):
        FrameReplayBuffer(10, space, spaces.Box(-1, 1, (1,)), stack=1)


def test_the_space_may_tell_the_stack():
    space = spaces.Box(0, 255, (4, 2, 2), np.uint8)
    space.stack = 2
    assert FrameReplayBuffer(10, space, spaces.Box(-1, 1, (1,)), "cpu").frame_shape == (2, 2, 2)


# --- in stable-baselines3 ----------------------------------------------------------------------------------------


def test_sac_of_stable_baselines3_learns_from_it(tmp_path):
    """Two environments; `learn` twice, of which the second resets the environments in mid-episode."""
    model = SAC(
        "CnnPolicy",
        DummyVecEnv([Numbers, Numbers]),
        replay_buffer_class=FrameReplayBuffer,
        replay_buffer_kwargs={"stack": 2},
        buffer_size=80,
        learning_starts=35,
        batch_size=4,
        train_freq=5,
        gradient_steps=1,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}, "net_arch": [8]},
        device="cpu",
        seed=0,
    )
    model.learn(20), model.learn(40)
    buffer = model.replay_buffer
    sample = everything(buffer)
    pixels = sample.next_observations[:, :, 0, 0].long()
    assert set((pixels[:, 1] - pixels[:, 0]).tolist()) == {1}
    assert pixels.max() == 7 and not sample.dones.any()  # the last observation, not the next episode's first
    # 10 steps (7 + 3) and 20 (7 + 7 + 6): the second of these was not done, but `learn` began anew.
    assert np.flatnonzero(buffer.ends[:, 0]).tolist() == [6, 9, 16, 23]
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert torch.equal(everything(model.replay_buffer).observations, sample.observations)
