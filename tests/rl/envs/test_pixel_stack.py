import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from rl.envs import PixelReach, PixelStack
from sslcore.errors import ConfigError, EnvWorkerError


class Counting(gym.Env):
    """Shows how many steps were made: every pixel has that value. `wrong` spoils what step 3 gives."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, shape=(8, 6, 1), dtype=np.uint8, length=10, wrong=None, render_mode=None):
        high = 255 if dtype == np.uint8 else 1.0
        self.observation_space = gym.spaces.Box(0, high, shape, dtype)
        self.length, self.wrong, self.render_mode = length, wrong or {}, render_mode
        self.renders = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.seen(), {"asked": options}

    def seen(self):
        return np.full(self.observation_space.shape, self.count, self.observation_space.dtype)

    def step(self, action):
        self.count += 1
        wrong = self.wrong if self.count == 3 else {}
        if "raises" in wrong:
            raise wrong["raises"]
        observation = wrong.get("observation", self.seen())
        return observation, wrong.get("reward", float(self.count)), False, self.count >= self.length, {"own": 1}

    def render(self):
        self.renders += 1
        return self.wrong.get("picture", np.full((20, 40, 3), self.count, np.uint8))


ACTION = np.zeros(1, np.float32)


def test_the_first_frame_is_repeated_and_the_newest_is_last():
    env = PixelStack(Counting(), stack=3)
    first, info = env.reset(options={"a": 1})
    assert first.shape == (3, 8, 6) and not first.any() and info == {"asked": {"a": 1}}
    stacks = [env.step(ACTION)[0] for _ in range(4)]
    assert [stack[:, 0, 0].tolist() for stack in stacks] == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert not first.any(), "an observation that was given away has changed"
    assert not env.reset()[0].any()


def test_channels_of_one_frame_stay_together():
    env = PixelStack(PixelReachInColour(), stack=2)
    assert (env.stack, env.frame_channels, env.action_repeat) == (2, 3, 1)
    env.reset()
    stack = env.step(ACTION)[0]
    assert stack[:, 0, 0].tolist() == [0, 100, 200, 1, 101, 201]


class PixelReachInColour(Counting):
    def __init__(self):
        super().__init__(shape=(8, 6, 3))

    def seen(self):
        return super().seen() + np.array([0, 100, 200], np.uint8)


@pytest.mark.parametrize(
    ("shape", "stacked"), [((8, 6), (2, 8, 6)), ((8, 6, 3), (6, 8, 6)), ((3, 8, 6), (6, 8, 6)), ((4, 8, 8), (8, 8, 8))]
)
def test_every_layout_becomes_channel_first(shape, stacked):
    env = PixelStack(Counting(shape=shape), stack=2)
    assert env.observation_space == gym.spaces.Box(0, 255, stacked, np.uint8)
    assert env.reset()[0].shape == stacked and env.step(ACTION)[0].shape == stacked


def test_a_frame_is_transposed_and_not_reshaped():
    frame = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    inner = Counting(shape=(8, 6, 3))
    inner.seen = lambda: frame
    stack = PixelStack(inner, stack=1).reset()[0]
    assert all(stack[c, y, x] == frame[y, x, c] for c in range(3) for y in range(8) for x in range(6))


def test_repeats_sum_rewards_and_stop_at_the_end():
    env = PixelStack(Counting(length=10), stack=1, action_repeat=4)
    env.reset()
    steps = [env.step(ACTION) for _ in range(3)]
    assert [step[1] for step in steps] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10]
    assert [step[3] for step in steps] == [False, False, True]
    counts = [tuple(step[4][key] for key in ("repeats", "agent_steps", "env_steps")) for step in steps]
    assert counts == [(4, 1, 4), (4, 2, 8), (2, 3, 10)] and steps[0][4]["own"] == 1
    env.reset()
    assert env.step(ACTION)[4]["env_steps"] == 4


def test_a_state_is_seen_through_pictures_of_the_last_repeat_only():
    inner = Counting(shape=(5,), dtype=np.float32, render_mode="rgb_array")
    env = PixelStack(inner, stack=2, action_repeat=4, size=10)
    assert env.reset()[0].shape == (6, 10, 10)
    assert env.step(ACTION)[0][:, 0, 0].tolist() == [0, 0, 0, 4, 4, 4]
    assert inner.renders == 2
    assert PixelStack(inner).observation_space.shape == (9, 100, 100)


def test_resizing_averages_and_keeps_the_channels_apart():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 20:, 1] = 200
    inner = Counting(shape=(5,), dtype=np.float32, render_mode="rgb_array", wrong={"picture": picture})
    frame = PixelStack(inner, stack=1, size=4).reset()[0]
    assert frame[0].max() == frame[2].max() == 0
    assert frame[1, :, 0].max() == 0 and frame[1, :, 3].min() == 200


NAN_STATE = np.array([0, np.nan, 0, 0, 0], np.float32)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"observation": np.zeros((8, 6, 1), np.float32)}, "type float32, but images must be uint8"),
        ({"observation": np.zeros((8, 7, 1), np.uint8)}, r"shape \(8, 7, 1\), but .* was announced"),
        ({"observation": None}, "type object"),
        ({"reward": float("nan")}, "the reward is nan"),
        ({"reward": np.float32("inf")}, "the reward is inf"),
        ({"reward": np.zeros(2)}, "one number, not array"),
        ({"reward": None}, "one number, not None"),
        ({"raises": RuntimeError("the\nrobot fell")}, "step raised RuntimeError: the robot fell"),
    ],
)
def test_what_no_environment_may_return_is_named_with_the_step(wrong, says):
    env = PixelStack(Counting(wrong=wrong), action_repeat=2)
    env.reset()
    env.step(ACTION)
    with pytest.raises(EnvWorkerError, match=f"environment Counting, step [23] of its episode: .*{says}"):
        env.step(ACTION)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"observation": NAN_STATE}, "not finite"),
        ({"picture": np.zeros((20, 40, 3))}, "type float64"),
        ({"picture": None}, "type object"),
        ({"picture": np.zeros((20, 40), np.uint8)}, r"shape \(20, 40\)"),
    ],
)
def test_wrong_states_and_pictures_are_refused(wrong, says):
    env = PixelStack(Counting(shape=(5,), dtype=np.float32, render_mode="rgb_array", wrong=wrong))

    def play():
        env.reset()
        for _ in range(3):
            env.step(ACTION)

    with pytest.raises(EnvWorkerError, match=says):
        play()


def test_float_images_are_refused_at_once():
    with pytest.raises(EnvWorkerError, match="Counting observes images of type float32"):
        PixelStack(Counting(dtype=np.float32))


def test_a_state_without_pictures_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="render_mode='rgb_array'"):
        PixelStack(Counting(shape=(5,), dtype=np.float32))


@pytest.mark.parametrize("argument", ["stack", "action_repeat", "size"])
def test_arguments_below_one_are_refused(argument):
    with pytest.raises(ConfigError, match=f"{argument} must be at least 1, not 0"):
        PixelStack(Counting(), **{argument: 0})


@pytest.mark.filterwarnings("ignore:.*(unwrapped version|render modes).*")
def test_passes_both_checkers():
    sb3_check(PixelStack(PixelReach(), action_repeat=2))
    gymnasium_check(PixelStack(gym.make("surnia/PixelReach-v0"), stack=2, size=40))


def test_the_older_interface_is_recognised():
    inner = Counting()
    inner.step = lambda action: (inner.seen(), 0.0, False, {})
    env = PixelStack(inner)
    env.reset()
    with pytest.raises(EnvWorkerError, match="step must return 5 values"):
        env.step(ACTION)
