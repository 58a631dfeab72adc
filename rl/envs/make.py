"""From a name to an environment that an agent can learn from."""

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
from pydantic import ValidationError

from rl.envs.dm_control import DMControl, looks_like_a_task
from rl.envs.frames import RENDERED_SIZE
from rl.envs.monitor import EpisodeSums
from rl.envs.pixel_stack import PixelStack
from rl.envs.registration import register
from rl.envs.rendering import choose_renderer, renderer
from rl.envs.seeding import EpisodeSeeds
from rl.envs.settings import EnvSettings
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Workers = Literal["processes", "here"]


def make_env(env: str | EnvSettings, *, seed: int = 0, index: int = 0, **settings: Any) -> gym.Env:
    """One environment with stacked frames, monitored, whose episodes follow from the seed.

    Args:
        env: a gymnasium id, if need be with the module that registers it ("my_package:Mine-v0"); a task of dm_control
            ("cartpole-swingup"); or all settings.
        seed: the run's seed; episode e starts from f(seed, index, e), see `EpisodeSeeds`.
        index: which of the run's environments this is. Evaluation should take another seed, not just another index.
        settings: fields of `EnvSettings`: stack=3, action_repeat=8, ...

    Returns:
        EpisodeSeeds over stable-baselines3's Monitor over `PixelStack`: observations (stack * c, h, w) uint8.

    Raises:
        ConfigError: no such environment or setting, or a package is missing.
        EnvWorkerError: the environment gives float images.

    Example:
        >>> env = make_env("surnia/PixelReach-v0", seed=1)
        >>> env.observation_space.shape
        (3, 42, 42)
    """
    chosen = _settings(env, settings)
    stacked = PixelStack(_base(chosen), stack=chosen.stack, action_repeat=chosen.action_repeat, size=chosen.size)
    # The sums inside: playing an episode again fills them again too.
    return EpisodeSeeds(EpisodeSums(stacked), seed=seed, index=index)


def make_vec_env(
    env: str | EnvSettings,
    n_envs: int = 1,
    seed: int = 0,
    workers: Workers = "here",
    *,
    watch: dict[str, Any] | None = None,
    **settings: Any,
) -> "VecEnv":
    """n environments with indices 0 to n - 1, as stable-baselines3 steps them.

    Args:
        env, seed, settings: as for `make_env`.
        workers: "here" steps them one after the other in this process, where one that hangs cannot be noticed;
            "processes" gives each its own (`WatchedVecEnv`), worth it where a step takes milliseconds.
        watch: further arguments of `WatchedVecEnv`, as step_seconds.
    """
    from stable_baselines3.common.vec_env import DummyVecEnv

    if n_envs < 1:
        raise ConfigError(f"n_envs must be at least 1, not {n_envs}")
    chosen = _settings(env, settings)
    makers: list[Callable[[], gym.Env]] = [partial(make_env, chosen, seed=seed, index=i) for i in range(n_envs)]
    if workers == "here":
        return DummyVecEnv(makers)
    if workers != "processes":
        raise ConfigError(f"workers must be 'here' or 'processes', not {workers!r}")
    from rl.envs.workers import WatchedVecEnv

    return WatchedVecEnv(makers, names=[f"worker {i} ({chosen.name})" for i in range(n_envs)], **(watch or {}))


def drawn_by(settings: EnvSettings) -> str | None:
    """What MuJoCo draws an environment's pictures with, as a sentence; None if it does not draw them."""
    register()
    return renderer() if looks_like_a_task(settings.name) or _is_of_mujoco(settings.name) else None


def _settings(env: str | EnvSettings, settings: dict[str, Any]) -> EnvSettings:
    # By field: a recipe's settings may know more than one environment needs.
    fields = {name: getattr(env, name, None) for name in EnvSettings.model_fields}
    given = fields if isinstance(env, EnvSettings) else {"name": env}
    try:
        return EnvSettings(**{**given, **settings})
    except ValidationError as error:
        known = list(EnvSettings.model_fields)
        raise ConfigError(*(_problem(found, known) for found in error.errors())) from error


def _problem(found: Any, known: list[str]) -> str:
    where = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        return f"environments have no setting {where!r}{did_you_mean(where, known)}"
    return f"environment setting {where}: {found['msg']}"


def _base(settings: EnvSettings) -> gym.Env:
    if looks_like_a_task(settings.name):
        return _dm_control(settings)
    if settings.camera or settings.fast_render:
        raise ConfigError(f"camera and fast_render are for tasks of dm_control, and {settings.name} is none")
    return _gymnasium(settings)


def _dm_control(settings: EnvSettings) -> gym.Env:
    if settings.options:
        raise ConfigError(f"options are for gymnasium environments; {settings.name} is a task of dm_control")
    size = RENDERED_SIZE if settings.size is None else settings.size
    return DMControl(settings.name, size=size, camera=settings.camera, fast_render=settings.fast_render)


def _gymnasium(settings: EnvSettings) -> gym.Env:
    register()
    module, _, _ = settings.name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)  # which registers the id, as in gymnasium.make
        if _is_of_mujoco(settings.name):
            choose_renderer()
        return _make(settings)
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            said += "; install it, or name its folder in PYTHONPATH"
        raise ConfigError(f"environment {settings.name} could not be made: {said or type(error).__name__}") from error


def _is_of_mujoco(name: str) -> bool:
    spec = gym.registry.get(name.rpartition(":")[2])
    return spec is not None and "gymnasium.envs.mujoco" in str(spec.entry_point)


def _make(settings: EnvSettings) -> gym.Env:
    try:
        with warnings.catch_warnings():
            # One that observes images need not draw; one that does not and cannot is refused by PixelStack.
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes")
            return gym.make(settings.name, render_mode="rgb_array", **settings.options)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        # One that observes images need not know how to draw.
        return gym.make(settings.name, **settings.options)
