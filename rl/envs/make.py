"""From a name to an environment that an agent can learn from."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym

from rl.envs.monitor import EpisodeSums
from rl.envs.pixel_stack import PixelStack
from rl.envs.registration import register
from rl.envs.seeding import EpisodeSeeds
from rl.envs.settings import EnvSettings
from sslcore.errors import ConfigError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Workers = Literal["processes", "here"]


def make_env(env: str | EnvSettings, *, seed: int = 0, index: int = 0, **settings: Any) -> gym.Env:
    """One environment with stacked frames, monitored, whose episodes follow from the seed.

    Args:
        env: a name, or all settings.
        seed: the run's seed; episode e starts from f(seed, index, e), see `EpisodeSeeds`.
        index: which of the run's environments this is. Evaluation should take another seed, not just another index.
        settings: fields of `EnvSettings`, if `env` is a name: stack=3, action_repeat=8, ...

    Raises:
        ConfigError: no such environment or setting, or a package is missing.

    Example:
        >>> env = make_env("surnia/PixelReach-v0", seed=1)
        >>> env.observation_space.shape
        (3, 42, 42)
    """
    chosen = _settings(env, settings)
    stacked = PixelStack(_base(chosen), stack=chosen.stack, action_repeat=chosen.action_repeat, size=chosen.size)
    # The sums inside: playing an episode again fills its sums again too.
    return EpisodeSeeds(EpisodeSums(stacked), seed=seed, index=index)


def make_vec_env(
    env: str | EnvSettings,
    n_envs: int = 1,
    seed: int = 0,
    workers: Workers = "here",
    **settings: Any,
) -> "VecEnv":
    """n environments as stable-baselines3 steps them, with indices 0 to n - 1."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    chosen = _settings(env, settings)
    makers = [partial(make_env, chosen, seed=seed, index=i) for i in range(n_envs)]
    return DummyVecEnv(makers)


def _settings(env: str | EnvSettings, settings: dict[str, Any]) -> EnvSettings:
    if isinstance(env, EnvSettings):
        return env.model_copy(update=settings)
    return EnvSettings(name=env, **settings)


def _base(settings: EnvSettings) -> gym.Env:
    register()
    try:
        return gym.make(settings.name, render_mode="rgb_array", **settings.options)
    except gym.error.Error as error:
        raise ConfigError(f"environment {settings.name}: {error}") from error
