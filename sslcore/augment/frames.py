"""Random crop and random shift of frame stacks, for agents that act on pixels.

One offset serves all channels of a sample: the frames of a stack must move together, or the motion between them, which
is why they are stacked, is lost.
"""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from sslcore.random import uniform

_STREAM = 1 << 32  # away from the views' streams


def random_crop_frames(
    frames: Shaped[Tensor, "n c h w"], size: int, *, seed: int, step: int, ids: Int[Tensor, " n"], stream: int = 0
) -> Shaped[Tensor, "n c {size} {size}"]:
    """CURL's random crop (Laskin et al., ICML 2020).

    Args:
        frames: (n, c, h, w) of any type; c holds the stacked frames.
        size: side of the crop in pixels, at most h and w.
        seed, step, ids: what the offsets are a function of (`sslcore.random.uniform`).
        stream: another number gives independent offsets (anchor, positive, next observation).

    Returns:
        (n, c, size, size) of the same type. All h - size + 1 offsets are drawn; the original leaves out the last.
    """
    height, width = frames.shape[-2:]
    _check_size(size, height, width)
    down, right = uniform(seed, step, ids.to(frames.device), stream=_STREAM + stream, draws=2).unbind(dim=1)
    return _cut(frames, (down * (height - size + 1)).long(), (right * (width - size + 1)).long(), size, size)


def shift_frames(
    frames: Shaped[Tensor, "n c h w"], pad: int, *, seed: int, step: int, ids: Int[Tensor, " n"], stream: int = 0
) -> Shaped[Tensor, "n c h w"]:
    """DrQ's random shift (Kostrikov et al., ICLR 2021): repeat the border `pad` times, then crop the old size.

    Args as for `random_crop_frames`. Shifts are whole pixels from -pad to pad in either direction.
    """
    if pad < 0:
        raise ValueError(f"pad is a number of pixels and must not be negative, as {pad} is")
    height, width = frames.shape[-2:]
    rows = torch.arange(-pad, height + pad, device=frames.device).clamp(0, height - 1)
    columns = torch.arange(-pad, width + pad, device=frames.device).clamp(0, width - 1)
    padded = frames.index_select(2, rows).index_select(3, columns)
    offsets = uniform(seed, step, ids.to(frames.device), stream=_STREAM + stream, draws=2) * (2 * pad + 1)
    down, right = offsets.long().unbind(dim=1)
    return _cut(padded, down, right, height, width)


def center_crop_frames(frames: Shaped[Tensor, "*n c h w"], size: int) -> Shaped[Tensor, "*n c {size} {size}"]:
    """The crop for acting and evaluation: offset (h - size) // 2, (w - size) // 2. A view, nothing is copied."""
    height, width = frames.shape[-2:]
    _check_size(size, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return frames[..., top : top + size, left : left + size]


def _cut(frames: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """frames[i, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width] for every sample i."""
    if frames.device.type == "cpu":
        # Slices copy whole rows; indexing windows copies value by value.
        cut = [
            stack[:, top : top + height, left : left + width]
            for stack, top, left in zip(frames, tops.tolist(), lefts.tolist(), strict=True)
        ]
        return torch.stack(cut) if cut else frames.new_empty(0, frames.shape[1], height, width)
    return _windows(frames, tops, lefts, height, width)


def _windows(frames: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    windows = frames.unfold(2, height, 1).unfold(3, width, 1)  # (n, c, offsets, offsets, height, width), no copy
    samples = torch.arange(len(frames), device=frames.device)
    return windows[samples, :, tops, lefts]


def _check_size(size: int, height: int, width: int) -> None:
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size must be from 1 to the frames' shorter side, {min(height, width)}, not {size}")
