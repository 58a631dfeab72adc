"""Tasks of the dm_control suite (Tassa et al., "DeepMind Control Suite", 2018) as gymnasium environments."""

import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np

from rl.envs.doctor import WORKING_PAIR
from rl.envs.rendering import choose_renderer, chosen_by_the_user
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError

_UNBOUNDED = 1e10  # what MuJoCo writes for a control without limits


class DMControl(gym.Env[np.ndarray, np.ndarray]):
    """One task: flat float32 state as observation, pictures by `render()`, actions in [-1, 1].

    `PixelStack` turns the pictures into observations, and with action repeat draws only the last of each. The time
    limit (1000 steps in most tasks) is a truncation; the suite's rare other ends are terminations. An episode follows
    from the seed of `reset`.

    Args:
        task: domain and task, as "cartpole-swingup" or "ball_in_cup-catch"; - and _ are the same.
        size: side of the pictures in pixels.
        camera: which of the task's cameras.
        fast_render: no shadows and no anti-aliasing. Drawing in software is then several times faster, but the pictures
            differ, and so scores are not strictly those of others.
        render_mode: "rgb_array", or None: no picture is ever drawn and no OpenGL needed.

    Raises:
        ConfigError: no such task or camera; dm_control or a renderer is missing, or dm_control and mujoco do not fit.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        size: int = 100,
        camera: int = 0,
        fast_render: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        suite = _suite(draws=render_mode is not None)
        domain, name = _find_task(task, suite.ALL_TASKS)
        self.name, self.size, self.camera, self.render_mode = f"{domain}-{name}", size, camera, render_mode
        self._random = np.random.RandomState()
        try:
            self._env = suite.load(domain, name, task_kwargs={"random": self._random})
        except Exception as error:  # the newest mujoco can be imported and fails only here
            raise _unusable(error) from error
        model = self._env.physics.model
        if not 0 <= camera < model.ncam:
            raise ConfigError(f"{self.name} has cameras 0 to {model.ncam - 1}, not {camera}")
        if fast_render:
            # Before the first picture: the drawing context copies them.
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        self._low, self._high = _action_range(self._env.action_spec(), self.name)
        self.action_space = gym.spaces.Box(-1.0, 1.0, self._low.shape, np.float32)
        length = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
        # Pictures a second of the simulated time.
        self.metadata = {**self.metadata, "render_fps": round(1 / self._env.control_timestep())}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            # In place: the task holds this generator.
            self._random.seed(int(self.np_random.integers(1 << 32)))
        return _flat(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1) / 2
        time_step = self._env.step(self._low + share * (self._high - self._low))
        # dm_env ends an episode with discount 0 where nothing can follow, and keeps it at 1 when time is up.
        terminated = time_step.last() and time_step.discount == 0
        truncated = time_step.last() and not terminated
        return _flat(time_step.observation), float(time_step.reward), bool(terminated), bool(truncated), {}

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return self._env.physics.render(self.size, self.size, camera_id=self.camera)

    def close(self) -> None:
        # Otherwise the drawing thread complains while Python ends.
        self._env.physics.free()


def looks_like_a_task(name: str) -> bool:
    """Whether a name is meant for dm_control: "cartpole-swingup" is, gymnasium's "CartPole-v1" is not."""
    return "-" in name and name == name.lower() and not set(name) & set("/:") and not _is_version(name)


def _is_version(name: str) -> bool:
    """gymnasium ids end in -v0 or the like."""
    end = name.rpartition("-")[2]
    return end[:1] == "v" and end[1:].isdigit()


def _suite(*, draws: bool) -> Any:
    try:
        # Even for one that is never drawn: dm_control decides when it is imported, for the whole process.
        choose_renderer()
    except ConfigError:
        if draws:
            raise
    try:
        from dm_control import _render, suite
    except ImportError as error:
        raise ConfigError(
            f"tasks of dm_control need the extra dmc: pip install 'surnia[dmc]' ({WORKING_PAIR}); importing it said: "
            f"{_said(error)}"
        ) from error
    except Exception as error:
        raise _unusable(error) from error
    if draws and sys.platform.startswith("linux"):
        _check_not_for_a_screen(_render.BACKEND)
    return suite


def _unusable(error: Exception) -> ConfigError:
    given = chosen_by_the_user()
    other = "" if given is None else f"; or unset MUJOCO_GL, which is {given}, and Surnia chooses"
    return ConfigError(
        f"dm_control cannot be used as installed ({_said(error)}): pip install {WORKING_PAIR}, a pair that works{other}"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_not_for_a_screen(backend: str | None) -> None:
    """Who imports dm_control before us lets it choose, and it prefers a window."""
    if backend == "glfw" and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        raise ConfigError(
            "dm_control was imported before Surnia could choose how it draws, and waits for a screen where there is "
            "none: set MUJOCO_GL to egl or osmesa before Python starts"
        )


def _find_task(wanted: str, tasks: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    known = {f"{domain}-{name}": (domain, name) for domain, name in tasks}
    for spelled, task in known.items():
        if spelled.replace("_", "-") == wanted.replace("_", "-"):
            return task
    raise ConfigError(f"dm_control's suite has no task {wanted!r}{did_you_mean(wanted, list(known))}")


def _action_range(spec: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.broadcast_to(np.asarray(end, np.float64), spec.shape) for end in (spec.minimum, spec.maximum))
    if not max(np.abs(low).max(), np.abs(high).max()) < _UNBOUNDED:
        raise ConfigError(f"{name} takes actions without bounds, which cannot be scaled to [-1, 1]")
    return low, high


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)
