"""What a run uses of the machine it is on."""

import os
from typing import Literal

import torch

from sslcore.errors import ConfigError


def pick_device(name: str, *, setting: str = "device: ") -> torch.device:
    """The device that a person names.

    Args:
        name: auto, the GPU if there is one; or as torch calls it.
        setting: what begins the sentence about one that is not there.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device, gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"{setting}there is no {name} here ({gpus} CUDA devices); use auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"{setting}there is no mps here; use auto or cpu")
    return device


def device_here() -> torch.device:
    """Where this process trains; each of several on a machine has a GPU of its own."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def processes_here(devices: int | Literal["auto"]) -> int:
    """Processes on this machine, by a recipe's `devices`."""
    if devices != "auto":
        return devices
    return torch.cuda.device_count() if torch.cuda.is_available() else 1
