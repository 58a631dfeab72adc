"""The views of a batch that CURL learns from.

Laskin et al., ICML 2020, section 4.3 (random crop, the same for all frames of a stack); Kostrikov et al., "Image
Augmentation Is All You Need" (DrQ), ICLR 2021 (random shift).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from sslcore.augment import center_crop_frames, random_crop_frames, shift_frames

Augmentation = Literal["crop", "shift", "none"]
_ANCHOR, _POSITIVE, _NEXT = 0, 1, 2  # streams of random numbers


class Views(NamedTuple):
    """Frames (n, c, size, size) of one batch.

    Attributes:
        anchor: of the observations; what SAC learns from, and the query.
        next: of the next observations.
        positive: of the observations once more, with offsets of their own: the key. None without contrastive loss.
    """

    anchor: UInt8[Tensor, "n c s s"]
    next: UInt8[Tensor, "n c s s"]
    positive: UInt8[Tensor, "n c s s"] | None


class Augmenting:
    """Makes the views of a batch, a function of the seed, the number of the update and the place in the batch.

    Args:
        augmentation: "crop" at random places; "shift" of the centre; "none" for the centre as it is.
        size: side of the views; the networks are the same whatever the augmentation.
        pad: pixels that "shift" moves at most.
        seed: of the offsets.
        contrast: whether a positive is wanted.
    """

    def __init__(self, augmentation: Augmentation, size: int, *, pad: int, seed: int, contrast: bool) -> None:
        self.augmentation, self.size, self.pad, self.seed, self.contrast = augmentation, size, pad, seed, contrast

    def __call__(self, obs: UInt8[Tensor, "n c h w"], next_obs: UInt8[Tensor, "n c h w"], step: int) -> Views:
        """Views of (n, c, h, w) observations and next observations."""
        positive = self._view(obs, step, _POSITIVE) if self.contrast else None
        return Views(self._view(obs, step, _ANCHOR), self._view(next_obs, step, _NEXT), positive)

    def _view(self, frames: Tensor, step: int, stream: int) -> Tensor:
        ids = torch.arange(len(frames), device=frames.device)
        if self.augmentation == "crop":
            return random_crop_frames(frames, self.size, seed=self.seed, step=step, ids=ids, stream=stream)
        centre = center_crop_frames(frames, self.size)
        if self.augmentation == "shift":
            return shift_frames(centre, self.pad, seed=self.seed, step=step, ids=ids, stream=stream)
        return centre
