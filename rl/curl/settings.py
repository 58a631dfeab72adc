"""The settings of CURL: which of its attributes they are, and what they may be."""

import math
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from sslcore.errors import ConfigError

SETTINGS = (
    "learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "encoder_tau", "gamma", "train_freq",
    "gradient_steps", "action_noise", "replay_buffer_class", "replay_buffer_kwargs", "n_steps", "ent_coef",
    "ent_coef_lr", "target_update_interval", "actor_update_interval", "target_entropy", "aux", "augmentation", "update",
    "image_size", "shift_pad", "precision", "_stats_window_size", "tensorboard_log", "policy_kwargs", "verbose", "seed",
)  # fmt: skip
"""The attributes that an archive stores as hyper-parameters."""

WEIGHTS_HANG_ON = ("aux", "update", "image_size", "policy_kwargs")
"""Those that cannot change with the weights kept: networks or optimisers would be others."""

_CHOICES = {
    "aux": ("curl", "none"),
    "augmentation": ("crop", "shift", "none"),
    "update": ("fused", "faithful"),
    "precision": ("auto", "32", "bf16"),
}
_AT_LEAST_ONE = ("batch_size", "target_update_interval", "actor_update_interval", "n_steps")
_WEIGHTS = ("tau", "encoder_tau")


def check_settings(settings: Mapping[str, Any], observation_space: spaces.Space) -> None:
    """Raise one ConfigError with a sentence for every setting that cannot be meant."""
    problems = []
    for name, choices in _CHOICES.items():
        if settings[name] not in choices:
            listed = ", ".join(f'"{choice}"' for choice in choices)
            problems.append(f"{name} must be one of {listed}, not {settings[name]!r}")
    for name in _AT_LEAST_ONE:
        if settings[name] < 1:
            problems.append(f"{name} must be at least 1, not {settings[name]}")
    for name in _WEIGHTS:
        if not 0 < settings[name] <= 1:
            problems.append(f"{name} is the weight of the new in a moving average, above 0 and at most 1, not "
                            f"{settings[name]}")  # fmt: skip
    if settings["shift_pad"] < 0:
        problems.append(f"shift_pad is a number of pixels and must not be negative, as {settings['shift_pad']} is")
    if settings["aux"] == "curl" and settings["batch_size"] == 1:
        problems.append('aux="curl" takes its negatives from the batch, which batch_size=1 leaves without any')
    if "image_size" in settings["policy_kwargs"]:
        problems.append("policy_kwargs: image_size is an argument of CURL itself")
    problems += _crop_without_room(settings, observation_space)
    if problems:
        raise ConfigError(*problems)


def _crop_without_room(settings: Mapping[str, Any], space: spaces.Space) -> list[str]:
    size, shape = settings["image_size"], space.shape or ()
    if settings["augmentation"] != "crop" or len(shape) != 3 or max(shape[1:]) != size:
        return []
    return [
        f'augmentation="crop" finds no room in frames of {shape[1]} x {shape[2]} with image_size={size}, and would '
        f'do nothing: take image_size={round(0.84 * size)}, or larger frames, or augmentation="shift" or "none"'
    ]


def initial_ent_coef(ent_coef: str | float) -> tuple[float, bool]:
    """The entropy coefficient to start with, and whether it is learned: "auto", "auto_0.1" or a number.

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    learned = isinstance(ent_coef, str) and ent_coef.startswith("auto")
    try:
        value = float(str(ent_coef).removeprefix("auto").removeprefix("_") or 1) if learned else float(ent_coef)
    except ValueError:
        value = math.nan
    if not (value > 0 if learned else value >= 0):
        raise ConfigError(
            f'ent_coef is "auto", "auto_" with a positive number to start from, or a number, not {ent_coef!r}'
        )
    return value, learned
