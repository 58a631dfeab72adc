import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dm_control", reason="the extra dmc is not installed")

from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from rl.envs import DMControl, make_env
from rl.envs.doctor import try_dm_control
from rl.envs.rendering import choose_renderer
from sslcore.errors import ConfigError


@pytest.fixture(scope="module")
def draws():
    try:
        choose_renderer()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def cartpole():
    env = DMControl("cartpole-swingup", render_mode=None)
    yield env
    env.close()


def roll(env, seed, steps=20):
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=seed)[0]]
    return np.stack(seen + [env.step(rng.uniform(-1, 1, env.action_space.shape))[0] for _ in range(steps)])


def test_torch_can_be_used_after_the_environment_was_made(draws):
    """Of which the process died: Mesa draws with one LLVM, and triton, which torch's optimisers import, has another."""
    program = (
        "from rl.envs import make_env; make_env('cartpole-balance', size=16).reset(); "
        "import torch; torch.optim.Adam([torch.zeros(1)]); print('alive')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "alive"), ran.stderr


def test_the_time_limit_is_a_truncation(cartpole):
    cartpole.reset(seed=0)
    ends = [cartpole.step(np.zeros(1))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]


def test_everything_follows_from_the_seed(cartpole):
    first = roll(cartpole, 5)
    assert not np.array_equal(first, roll(cartpole, 6))
    np.testing.assert_array_equal(first, roll(cartpole, 5))
    other = DMControl("cartpole-swingup", render_mode=None)
    np.testing.assert_array_equal(first, roll(other, 5))
    other.close()


def test_actions_are_scaled_to_the_tasks_range():
    env = DMControl("cartpole-swingup", render_mode=None)
    env._low, env._high = np.array([-0.2]), np.array([0.6])
    taken = []
    env._env.step = lambda action: taken.append(float(action[0])) or env._env.reset()
    env.reset(seed=0)
    for action in (-1.0, 0.0, 0.5, 1.0, 7.0):
        with pytest.raises(TypeError):  # the reward of a first time step is None
            env.step(np.array([action]))
    np.testing.assert_allclose(taken, [-0.2, 0.2, 0.4, 0.6, 0.6])
    env.close()


def test_the_state_is_flat():
    env = DMControl("reacher-easy", render_mode=None)
    assert env.observation_space.shape == (6,) and env.action_space.shape == (2,)  # position 2, to_target 2, velocity 2
    assert env.reset(seed=0)[0].dtype == np.float32 and env.render() is None
    env.close()


@pytest.mark.parametrize("name", ["ball-in-cup-catch", "ball_in_cup-catch", "ball-in_cup-catch"])
def test_strokes_and_underscores_are_the_same(name):
    env = DMControl(name, render_mode=None)
    assert env.name == "ball_in_cup-catch"
    env.close()


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("cartpole-swing", {}, "no task 'cartpole-swing'; did you mean 'cartpole-swingup'"),
        ("cartpole-swingup", {"camera": 9}, "cameras 0 to 1, not 9"),
        ("lqr-lqr_2_1", {}, "actions without bounds"),
    ],
)
def test_what_does_not_exist_is_said(task, arguments, says):
    with pytest.raises(ConfigError, match=says):
        DMControl(task, render_mode=None, **arguments)


def test_a_mujoco_that_does_not_fit_is_told_with_the_pair_that_does(monkeypatch):
    """With mujoco 4.0.0, dm_control 1.0.50 is imported and fails when it loads a task."""

    def load(*task, **arguments):
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr("dm_control.suite.load", load)
    with pytest.raises(ConfigError, match=r"\('MjModel' .*\): pip install dm-control==1\.0\.50 mujoco==3\.17\.0"):
        DMControl("cartpole-swingup", render_mode=None)


def test_doctor_finds_that_the_installed_ones_fit(draws):
    assert try_dm_control() == "loads a task and draws it"


def test_one_that_others_imported_to_draw_in_a_window(monkeypatch):
    import dm_control

    monkeypatch.setattr(dm_control._render, "BACKEND", "glfw")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", "")
    with pytest.raises(ConfigError, match="set MUJOCO_GL to egl or osmesa"):
        DMControl("cartpole-swingup")
    monkeypatch.setenv("DISPLAY", ":0")
    DMControl("cartpole-swingup").close()


@pytest.mark.filterwarnings("ignore")
def test_passes_both_checkers(cartpole):
    sb3_check(cartpole)
    gymnasium_check(cartpole, skip_render_check=True)


@pytest.mark.usefixtures("draws")
def test_pictures_are_stacked_and_an_episode_can_be_played_again():
    env = make_env("cartpole-swingup", seed=1, size=36, action_repeat=8, fast_render=True)
    seen = env.reset()[0]
    assert seen.shape == (9, 36, 36) and len({plane.tobytes() for plane in seen.reshape(3, -1)}) == 1
    for _ in range(3):
        seen, reward, _, _, info = env.step(np.ones(1, np.float32))
    assert info["env_steps"] == 24 and reward > 0 and seen[-3:].std() > 0
    copy = make_env("cartpole-swingup", seed=2, size=36, action_repeat=8, fast_render=True)
    np.testing.assert_array_equal(copy.restore(env.state()), seen)
    env.close(), copy.close()
