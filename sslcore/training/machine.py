"""What a run uses of the machine it is on."""

import os
from typing import Literal

import torch


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
