import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from rl.envs import EnvSettings, EpisodeSeeds, episode_seed, make_env, make_vec_env
from rl.envs.dm_control import looks_like_a_task
from rl.envs.make import drawn_by
from sslcore.errors import ConfigError


def test_by_name_or_by_settings():
    by_name = make_env("surnia/PixelReach-v0", stack=2, action_repeat=2, size=36, options={"size": 60})
    settings = EnvSettings(name="surnia/PixelReach-v0", stack=2, action_repeat=2, size=36, options={"size": 60})
    by_settings = make_env(settings)
    assert by_name.observation_space.shape == by_settings.observation_space.shape == (2, 36, 36)
    np.testing.assert_array_equal(by_name.reset()[0], by_settings.reset()[0])
    assert by_name.get_wrapper_attr("action_repeat") == 2 and isinstance(by_name, EpisodeSeeds)
    assert make_env(settings, stack=1).observation_space.shape == (1, 36, 36)


def test_settings_that_know_more_will_do():
    class Recipe(EnvSettings):
        n_envs: int = 4

    assert make_env(Recipe(stack=2)).observation_space.shape == (2, 42, 42)


def test_seed_and_index_reach_the_environment():
    env = make_env("surnia/PixelReach-v0", seed=8, index=3)
    bare = gym.make("surnia/PixelReach-v0")
    for episode in range(2):
        frame = bare.reset(seed=episode_seed(8, 3, episode))[0][..., 0]
        np.testing.assert_array_equal(env.reset()[0][2], frame)


def test_environments_of_a_vector_differ():
    first = make_vec_env("surnia/PixelReach-v0", 3, seed=1).reset()
    assert len({frame.tobytes() for frame in first}) == 3


def test_the_last_info_holds_the_episodes_sums():
    env = make_env("surnia/PixelReach-v0", action_repeat=8)
    env.reset()
    infos = [env.step(env.action_space.sample())[4] for _ in range(5)]
    assert infos[-1]["episode"]["l"] == 5 and infos[-1]["env_steps"] == 40
    assert not any("episode" in info for info in infos[:-1])


def test_the_whole_passes_both_checkers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sb3_check(make_env("surnia/PixelReach-v0"))
        gymnasium_check(make_env("surnia/PixelReach-v0"))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("surnia/PixelReach-v7", {}, "surnia/PixelReach-v7 could not be made: .*v0"),
        ("Nothing-v0", {}, "Nothing-v0 could not be made"),
        ("not_here:Mine-v0", {}, "No module named 'not_here'; install it, or name its folder in PYTHONPATH"),
        ("surnia/PixelReach-v0", {"stak": 2}, "no setting 'stak'; did you mean 'stack'"),
        ("surnia/PixelReach-v0", {"stack": 0}, "environment setting stack: .*greater than or equal to 1"),
        ("surnia/PixelReach-v0", {"fast_render": True}, "for tasks of dm_control"),
        ("surnia/PixelReach-v0", {"options": {"sise": 3}}, "could not be made: .*sise"),
    ],
)
def test_what_cannot_be_made_is_said(name, settings, says):
    with pytest.raises(ConfigError, match=says):
        make_env(name, **settings)


def test_an_environment_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_environments.py").write_text(
        "from gymnasium import register\n"
        "from rl.envs import PixelReach\n"
        "class Mine(PixelReach):\n"
        "    metadata = {'render_modes': []}\n"
        "register(id='Mine-v0', entry_point=Mine)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it cannot draw is of no importance, as it observes images
        assert make_env("my_environments:Mine-v0", size=20).observation_space.shape == (3, 20, 20)
    assert make_env("rl.envs.pixel_reach:surnia/PixelReach-v0").observation_space.shape == (3, 42, 42)
    with pytest.raises(ConfigError, match="No module named 'my_envs'"):
        make_env("my_envs:Mine-v0")


def test_what_mujoco_draws_is_told():
    assert drawn_by(EnvSettings(name="surnia/PixelReach-v0")) is None is drawn_by(EnvSettings(name="Nothing-v0"))
    for name in ("cartpole-swingup", "Reacher-v5"):
        assert "MuJoCo" in drawn_by(EnvSettings(name=name))


def test_wrong_numbers_and_kinds_of_workers():
    with pytest.raises(ConfigError, match="n_envs must be at least 1"):
        make_vec_env("surnia/PixelReach-v0", 0)
    with pytest.raises(ConfigError, match="'threads'"):
        make_vec_env("surnia/PixelReach-v0", workers="threads")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("cartpole-swingup", True),
        ("ball_in_cup-catch", True),
        ("CartPole-v1", False),
        ("surnia/PixelReach-v0", False),
        ("rl.envs:surnia/PixelReach-v0", False),
        ("reach-v12", False),
        ("walker", False),
    ],
)
def test_which_names_are_tasks_of_dm_control(name, task):
    assert looks_like_a_task(name) is task


def test_settings_can_be_read_without_anything_heavy():
    code = (
        "import sys, rl.envs.settings\n"
        "print([name for name in ('torch', 'numpy', 'gymnasium', 'stable_baselines3') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
