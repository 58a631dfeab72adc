import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from rl.envs import PixelReach
from rl.envs.pixel_reach import DRAG, PUSH, REACH, START_SPEED, STEPS
from rl.envs.steering import steer


def score(policy, episodes=40):
    """Mean return of a policy that is given the environment."""
    env, returns = PixelReach(size=16), []
    for seed in range(episodes):
        env.reset(seed=seed)
        returns.append(sum(env.step(policy(env))[1] for _ in range(STEPS)))
    return np.mean(returns)


def placed(position, velocity, target, size=42):
    env = PixelReach(size=size)
    env.reset(seed=0)
    env.position, env.velocity, env.target = (np.array(x, float) for x in (position, velocity, target))
    return env


def test_a_step_by_hand():
    env = placed([0.4, 0.5], [0.01, 0.02], [0.5, 0.5])
    _, reward, terminated, truncated, info = env.step(np.array([1.0, -0.5]))
    velocity = [0.01 * (1 - DRAG) + PUSH, 0.02 * (1 - DRAG) - 0.5 * PUSH]
    np.testing.assert_allclose(env.velocity, velocity)
    np.testing.assert_allclose(env.position, [0.4 + velocity[0], 0.5 + velocity[1]])
    assert info["distance"] == pytest.approx(np.hypot(0.1 - velocity[0], velocity[1]))
    assert info["distance"] < REACH and reward == 1.0
    assert not terminated and not truncated


def test_no_reward_beyond_reach_and_larger_actions_are_clipped():
    env, same = placed([0.2, 0.2], [0, 0], [0.8, 0.8]), placed([0.2, 0.2], [0, 0], [0.8, 0.8])
    assert env.step(np.array([9.0, 1.0]))[1] == 0.0
    same.step(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(env.position, same.position)


def test_walls_send_the_dot_back_without_loss():
    env = placed([0.99, 0.02], [0.05, -0.05], [0.5, 0.5])
    env.step(np.zeros(2))
    speed = 0.05 * (1 - DRAG)
    np.testing.assert_allclose(env.position, [2 - (0.99 + speed), -(0.02 - speed)])
    np.testing.assert_allclose(env.velocity, [-speed, speed])


def test_truncates_after_forty_steps_and_never_terminates():
    env = PixelReach()
    env.reset(seed=1)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(STEPS)]
    assert ends == [(False, False)] * (STEPS - 1) + [(False, True)]


def test_everything_follows_from_the_seed():
    def episode(env, seed):
        rng = np.random.default_rng(0)
        frames = [env.reset(seed=seed)[0]]
        return np.stack(frames + [env.step(rng.uniform(-1, 1, 2))[0] for _ in range(STEPS)])

    used = PixelReach()
    first = episode(used, 7)
    assert not np.array_equal(first, episode(used, 8))
    np.testing.assert_array_equal(first, episode(used, 7))
    np.testing.assert_array_equal(first, episode(PixelReach(), 7))


def test_who_knows_the_velocity_solves_it_and_chance_does_not():
    rng = np.random.default_rng(0)
    assert score(lambda env: rng.uniform(-1, 1, 2)) < 5
    assert score(steer) > 35


def test_one_frame_does_not_tell_the_velocity():
    left, right = placed([0.5, 0.5], [-0.05, 0], [0.3, 0.5]), placed([0.5, 0.5], [0.05, 0], [0.3, 0.5])
    np.testing.assert_array_equal(left._observe(), right._observe())
    # The frames that follow do.
    assert not np.array_equal(left.step(np.zeros(2))[0], right.step(np.zeros(2))[0])


@pytest.mark.parametrize("gain", [0.02, 0.1, 0.3, 1.0])
def test_steering_by_position_alone_goes_far_past_the_target(gain):
    assert score(lambda env: steer(env, gain, 0.0)) < 22


def test_differences_of_frames_are_enough():
    """The centre of the bright dot in two frames, as a stack holds them, steers as well as the state does."""

    def centres(frame):
        # The target is dimmer than the threshold; the dot's soft edge over it is not quite, hence the margin.
        weights = np.clip(frame[..., 0].astype(float) - 115, 0, None)
        ys, xs = np.mgrid[: len(weights), : len(weights)] + 0.5
        return np.array([(weights * xs).sum(), (weights * ys).sum()]) / weights.sum()

    returns = []
    for seed in range(20):
        env = PixelReach()
        before = after = env.reset(seed=seed)[0]
        total, truncated = 0.0, False
        while not truncated:
            scale = env.size * (1 - 2 / 7)
            position = (centres(after) - env.size / 7) / scale
            velocity = (centres(after) - centres(before)) / scale
            action = np.clip((0.3 * (env.target - position) - 0.5 * velocity) / PUSH, -1, 1)
            before = after
            after, reward, _, truncated, _ = env.step(action)
            total += reward
        returns.append(total)
    assert np.mean(returns) > 30


def test_the_picture_shows_where_things_are():
    env = placed([0.25, 0.75], [0, 0], [0.75, 0.25])
    frame = env._observe()[..., 0]
    assert frame.shape == (42, 42) and frame.dtype == np.uint8
    border, inner = 6, 30  # 42 / 7 and the rest
    dot, target = (border + inner // 4, border + 3 * inner // 4), (border + 3 * inner // 4, border + inner // 4)
    assert frame[dot[1], dot[0]] == 255 and frame[target[1], target[0]] == 110
    assert frame[0].max() == 0 and frame[21, 21] == 0
    # As many target pixels as a disc of radius 0.12 x 30 has.
    assert (frame[:21] / 110).sum() == pytest.approx(np.pi * (REACH * inner) ** 2, rel=0.02)


def test_a_motion_by_a_tenth_of_a_pixel_is_seen():
    here, there = placed([0.5, 0.5], [0, 0], [0.2, 0.2]), placed([0.5 + 0.1 / 30, 0.5], [0, 0], [0.2, 0.2])
    assert not np.array_equal(here._observe(), there._observe())


@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_every_crop_of_36_pixels_keeps_the_dot_in_view(corner):
    frame = placed(corner, [0, 0], [0.5, 0.5])._observe()[..., 0]
    for top in (0, 6):
        for left in (0, 6):
            assert (frame[top : top + 36, left : left + 36] > 110).any()


def test_starts_in_motion():
    env = PixelReach()
    for seed in range(5):
        env.reset(seed=seed)
        assert np.linalg.norm(env.velocity) == pytest.approx(START_SPEED)


def test_renders_in_colour_or_not_at_all():
    env = PixelReach(render_mode="rgb_array", render_size=64)
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3) and env.render().dtype == np.uint8
    assert PixelReach().render() is None


@pytest.mark.parametrize("arguments", [{"size": 8}, {"render_size": 3}, {"render_mode": "human"}])
def test_refuses_what_it_cannot_do(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PixelReach(**arguments)


@pytest.mark.filterwarnings("ignore:.*render modes.*")
def test_passes_both_checkers():
    sb3_check(PixelReach())
    gymnasium_check(PixelReach(render_mode="rgb_array"))


def test_gymnasium_finds_it_by_its_id():
    assert gym.make("surnia/PixelReach-v0", size=28).observation_space.shape == (28, 28, 1)
    assert isinstance(gym.make("rl.envs.pixel_reach:surnia/PixelReach-v0").unwrapped, PixelReach)


@pytest.mark.parametrize("first", ["import gymnasium", "import rl.envs; import gymnasium"])
def test_a_process_that_knows_nothing_finds_it_by_the_module_in_its_id(first):
    """As one that stable-baselines3 spawns: gymnasium 1 has no entry points that would tell it the id."""
    code = f"{first}; print(type(gymnasium.make('rl.envs.pixel_reach:surnia/PixelReach-v0').unwrapped).__name__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("PixelReach\n", "")
