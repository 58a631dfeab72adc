"""Normalisers that count over all processes, and plain values inside a state dict."""

import json
from typing import Any

import torch
from torch import Tensor

from sslcore.losses.common import mean_rows


def mean_count(count: Tensor) -> Tensor:
    """What to divide a sum over this process's rows by, so that the mean over processes is the mean over all rows.

    Args:
        count: () rows that count in this process, on any device; every process must call this equally often.

    Returns:
        () float32 rows a process; where no process has any, the smallest that is no zero, so that 0 stays 0.
    """
    return mean_rows(count.reshape(1), torch.float32, gather=True)


_BLOCK = 1 << 14
"""Bytes that packed values are filled up to multiples of."""


def packed(value: Any) -> Tensor:
    """Plain values as bytes, because a checkpoint's state dict holds nothing but tensors.

    Filled up with blanks: detectron2's checkpointer drops, with no more than a warning, what has another shape than the
    model's own, as a fitted decision would have beside one that is not fitted yet.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    text = text.ljust(-(-len(text) // _BLOCK) * _BLOCK)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def unpacked(state: Tensor) -> Any:
    """What `packed` was given."""
    return json.loads(state.cpu().numpy().tobytes())
