"""Random changes of training images on the device they are on: flip and colour, a function of (seed, step, key)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.structures import Target
from detection.training.recipe import AugmentSettings
from sslcore.augment import adjust_colour_, adjust_hue_
from sslcore.random import uniform

_STREAM = 0xA06  # apart from those that sample regions


def flips(settings: AugmentSettings, keys: Sequence[int], *, seed: int, step: int) -> list[bool]:
    """Which of the images are mirrored; on the host, so that nothing is read back from a device."""
    draws = uniform(seed, step, torch.tensor(list(keys), dtype=torch.int64), stream=_STREAM, draws=1)
    return (draws[:, 0] < settings.flip).tolist()


def flip_boxes(boxes: Tensor, width: int | Tensor) -> Tensor:
    """(..., 4) boxes of the mirrored image; its width, or one for each of several images' rows."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


@torch.no_grad()
def augment(
    images: Sequence[Tensor], targets: Sequence[Target], settings: AugmentSettings, *, seed: int, step: int
) -> tuple[list[Tensor], list[Target], list[bool]]:
    """Images of any sizes, changed at random.

    Args:
        images: (3, h, w) uint8.
        targets: one an image.
        settings: how much.
        seed, step: of the stage; with each target's key they determine everything.

    Returns:
        (3, h, w) float32 in [0, 1], the targets that fit them, and which were mirrored.
    """
    keys = [target.key for target in targets]
    mirrored = flips(settings, keys, seed=seed, step=step)
    out: list[Tensor] = [torch.empty(0)] * len(images)
    for which in _same_size(images):
        batch = torch.stack([images[i].flip(-1) if mirrored[i] else images[i] for i in which]).float()
        _change_colour_(batch, settings, [keys[i] for i in which], seed=seed, step=step)
        for i, image in zip(which, batch.unbind(), strict=True):
            out[i] = image
    changed = [
        Target(flip_boxes(t.boxes, image.shape[-1]), t.labels, t.ignore, t.key) if flipped else t
        for t, image, flipped in zip(targets, images, mirrored, strict=True)
    ]
    return out, changed, mirrored


def _same_size(images: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(i)
    return list(groups.values())


def _change_colour_(batch: Tensor, settings: AugmentSettings, keys: list[int], *, seed: int, step: int) -> None:
    """From [0, 255] to [0, 1] in place, changed on the way."""
    strengths = (settings.brightness, settings.contrast, settings.saturation)
    if not any(strengths) and not settings.hue:
        batch.div_(255)
        return
    draws = uniform(seed, step, torch.tensor(keys, dtype=torch.int64), stream=_STREAM, draws=5)[:, 1:]
    draws = draws.to(batch.device, non_blocking=True)
    factors = []
    for strength, draw in zip(strengths, draws.unbind(dim=1), strict=False):
        low = max(0.0, 1 - strength)
        factors.append(low + (1 + strength - low) * draw)
    adjust_colour_(batch, *factors, peak=255.0)
    if settings.hue:
        adjust_hue_(batch, settings.hue * (2 * draws[:, 3] - 1))
