"""Spaces, schedules, action noise and classes as plain JSON values, and back: what archives store instead of pickles.

Only the kinds listed here are made again. Nothing is looked up by a name that the file gives.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.noise import VectorizedActionNoise as Vectorized
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sslcore.errors import CheckpointError

_ORNSTEIN_UHLENBECK = {"mean": "_mu", "sigma": "_sigma", "theta": "_theta", "dt": "_dt"}


def describe(value: Any, name: str = "the agent", *, progress: float = 1.0) -> Any:
    """A JSON value from which `restore` makes an equal one.

    Args:
        value: None, booleans, numbers, text, lists, tuples and dicts of them; a Box; a schedule of stable-baselines3;
            its two kinds of action noise; a replay buffer class; a TrainFreq. Of a schedule that is a function of the
            user's own its name is kept, and its value now.
        name: for the error.
        progress: share of the training that remains, what schedules are functions of.

    Raises:
        CheckpointError: something else; the sentence says how to save without it.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, TrainFreq):
        return {"train_freq": [value.frequency, value.unit.value]}
    if isinstance(value, list | tuple):
        values = [describe(v, name) for v in value]
        return {"tuple": values} if isinstance(value, tuple) else values
    if isinstance(value, Mapping):
        return {"dict": {str(k): describe(v, f"{name}[{k!r}]") for k, v in value.items()}}
    if isinstance(value, spaces.Box):
        bounds = {"low": _short(value.low), "high": _short(value.high)}
        return {"box": {"shape": list(value.shape), "dtype": str(value.dtype), **bounds}}
    if isinstance(value, ActionNoise):
        return _describe_noise(value, name)
    if isinstance(value, type) and issubclass(value, ReplayBuffer):
        return {"replay_buffer_class": value.__name__}
    if callable(value) and not isinstance(value, type):
        return _describe_schedule(value, progress)
    raise CheckpointError(
        f"{name} is a {type(value).__qualname__}, which an archive does not store: save without it, "
        f"save(..., exclude=[{name!r}]), and give it again to load"
    )


def restore(value: Any) -> Any:
    """What `describe` was given.

    Raises:
        CheckpointError: `describe` did not make this.
        LookupError, TypeError, ValueError: the same, from within; `archive.reading` makes sentences of them.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [restore(v) for v in value]
    if isinstance(value, dict) and len(value) == 1:
        [(kind, content)] = value.items()
        if kind in _KINDS:
            return _KINDS[kind](content)
    raise CheckpointError(f"the archive describes something that Surnia does not know: {json.dumps(value)[:100]}")


# --- one by one --------------------------------------------------------------------------------------------------


def _short(bound: np.ndarray) -> Any:
    """One number where all are equal: the bounds of images are long."""
    if bound.size and (bound == bound.flat[0]).all():
        return describe(bound.flat[0])
    return describe(bound.tolist())


def _restore_box(content: dict[str, Any]) -> spaces.Box:
    shape, dtype = tuple(int(n) for n in content["shape"]), np.dtype(content["dtype"])
    low, high = (np.broadcast_to(np.asarray(restore(content[k]), dtype), shape).copy() for k in ("low", "high"))
    return spaces.Box(low, high, shape, dtype.type)  # type: ignore[arg-type]


def _describe_schedule(value: Callable[[float], float], progress: float) -> Any:
    if isinstance(value, FloatSchedule):
        return _describe_schedule(value.value_schedule, progress)
    if isinstance(value, ConstantSchedule):
        return float(value.val)
    if isinstance(value, LinearSchedule):
        return {"linear_schedule": [float(value.start), float(value.end), float(value.end_fraction)]}
    return {"function": [getattr(value, "__qualname__", type(value).__qualname__), float(value(progress))]}


def _restore_function(content: list[Any]) -> float:
    name, rate = content
    warnings.warn(
        f"the archive was saved with the schedule {str(name)[:80]!r}, a function, which is not stored: the rate stays "
        f"at {float(rate):g}, its value then, unless you give load(..., learning_rate=...)",
        stacklevel=2,
    )
    return float(rate)


def _describe_noise(noise: ActionNoise, name: str) -> Any:
    if isinstance(noise, Vectorized):
        return {"noise of each env": [noise.n_envs, _describe_noise(noise.base_noise, name)]}
    if type(noise) is NormalActionNoise:
        return {"normal noise": {"mean": noise._mu.tolist(), "sigma": noise._sigma.tolist(), **_dtype(noise)}}
    if type(noise) is OrnsteinUhlenbeckActionNoise:
        values = {key: np.asarray(getattr(noise, place)).tolist() for key, place in _ORNSTEIN_UHLENBECK.items()}
        initial = None if noise.initial_noise is None else np.asarray(noise.initial_noise).tolist()
        return {"Ornstein-Uhlenbeck noise": {**values, "initial": initial, **_dtype(noise)}}
    raise CheckpointError(
        f"{name} is a {type(noise).__qualname__}, which an archive does not store: save without it, "
        f"save(..., exclude=[{name!r}]), and give it again to load"
    )


def _dtype(noise: NormalActionNoise | OrnsteinUhlenbeckActionNoise) -> dict[str, str]:
    return {"dtype": str(np.dtype(noise._dtype))}


def _restore_normal(content: dict[str, Any]) -> NormalActionNoise:
    return NormalActionNoise(np.array(content["mean"]), np.array(content["sigma"]), np.dtype(content["dtype"]))


def _restore_ornstein_uhlenbeck(content: dict[str, Any]) -> OrnsteinUhlenbeckActionNoise:
    initial = None if content["initial"] is None else np.array(content["initial"])
    return OrnsteinUhlenbeckActionNoise(
        np.array(content["mean"]), np.array(content["sigma"]), float(content["theta"]), float(content["dt"]), initial,
        np.dtype(content["dtype"]),
    )  # fmt: skip


def _restore_buffer_class(name: str) -> type[ReplayBuffer] | None:
    from rl.replay.buffer import FrameReplayBuffer

    known = {kind.__name__: kind for kind in (FrameReplayBuffer, ReplayBuffer, NStepReplayBuffer)}
    if name not in known:
        warnings.warn(
            f"the archive was saved with the replay buffer class {name[:80]!r}, which is not stored: FrameReplayBuffer "
            "is used unless you give load(..., replay_buffer_class=...)",
            stacklevel=2,
        )
    return known.get(name)


_KINDS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": lambda content: tuple(restore(v) for v in content),
    "dict": lambda content: {k: restore(v) for k, v in content.items()},
    "train_freq": lambda content: TrainFreq(int(content[0]), TrainFrequencyUnit(content[1])),
    "box": _restore_box,
    "linear_schedule": lambda content: LinearSchedule(*map(float, content)),
    "function": _restore_function,
    "normal noise": _restore_normal,
    "Ornstein-Uhlenbeck noise": _restore_ornstein_uhlenbeck,
    "noise of each env": lambda content: Vectorized(restore(content[1]), int(content[0])),
    "replay_buffer_class": _restore_buffer_class,
}
