import pytest
import torch

from rl.curl.augmenting import Augmenting

FRAMES = torch.arange(2 * 16 * 16, dtype=torch.uint8).reshape(1, 2, 16, 16).repeat(40, 1, 1, 1)


def windows(size):
    """All crops of a frame stack, as tuples."""
    offsets = range(16 - size + 1)
    return {_key(FRAMES[0, :, i : i + size, j : j + size]) for i in offsets for j in offsets}


def _key(frames):
    return tuple(frames.flatten().tolist())


def views(augmentation, size=12, *, pad=2, seed=0, step=0, contrast=True):
    return Augmenting(augmentation, size, pad=pad, seed=seed, contrast=contrast)(FRAMES, FRAMES, step)


def test_crops_are_windows_of_the_frames_with_offsets_of_their_own():
    made = views("crop")
    assert all({_key(frames) for frames in view} <= windows(12) for view in made)
    assert len({_key(f) for f in made.anchor}) > 10
    assert not torch.equal(made.anchor, made.positive) and not torch.equal(made.anchor, made.next)


def test_none_is_the_centre_for_all_views():
    for view in views("none"):
        assert torch.equal(view, FRAMES[:, :, 2:14, 2:14])


def test_shift_moves_the_centre_by_at_most_the_pad():
    centre, made = FRAMES[:, :, 2:14, 2:14], views("shift")
    assert made.anchor.shape == centre.shape and torch.equal(views("shift", pad=0).anchor, centre)
    inner = {_key(centre[0, :, 2 + i : 10 + i, 2 + j : 10 + j]) for i in range(-2, 3) for j in range(-2, 3)}
    assert {_key(f) for f in made.anchor[:, :, 2:10, 2:10]} <= inner
    assert not torch.equal(made.anchor, made.positive)


@pytest.mark.parametrize("augmentation", ["crop", "shift"])
def test_views_are_a_function_of_seed_and_step(augmentation):
    first = views(augmentation, seed=1, step=5)
    for ours, again in zip(first, views(augmentation, seed=1, step=5), strict=True):
        assert torch.equal(ours, again)
    assert not torch.equal(first.anchor, views(augmentation, seed=1, step=6).anchor)
    assert not torch.equal(first.anchor, views(augmentation, seed=2, step=5).anchor)


def test_without_contrast_there_is_no_positive_and_the_others_are_the_same():
    without, with_it = views("crop", contrast=False), views("crop")
    assert without.positive is None and torch.equal(without.anchor, with_it.anchor)
    assert torch.equal(without.next, with_it.next)
