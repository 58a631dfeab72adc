"""What is not finite is never saved: the checkpoint before it is worth more. Needs no Lightning."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sslcore.errors import SurniaError

NEVER_SAVED = "what is not finite is never saved as a checkpoint"
"""Says why the checkpoints that there are can be gone on from."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether the floating-point tensors among these, all on one device, are finite; waits for the device once."""
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors if tensor.is_floating_point()])
    return bool(torch.stack(norms).isfinite().all())


def check_finite(values: Mapping[str, float], when: str, *, remedy: str) -> None:
    """Whether measurements are numbers.

    Args:
        values: by name.
        when: they were measured, "at step 7".
        remedy: what to do if one is not finite.

    Raises:
        SurniaError: names the first that is not.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise SurniaError(f"{name} is {value} {when}: {remedy} ({NEVER_SAVED})")
