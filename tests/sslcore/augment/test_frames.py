import pytest
import torch

from sslcore.augment import center_crop_frames, random_crop_frames, shift_frames
from sslcore.augment import frames as frames_module
from sslcore.random import uniform


def stacks(n=64, channels=9, side=20):
    """Every value names its channel and place, so a crop can be located exactly."""
    place = torch.arange(side * side).view(side, side)
    return (place + 1000 * torch.arange(channels)[:, None, None]).expand(n, -1, -1, -1).clone()


def offsets_of(crops, side):
    first = crops[:, 0, 0, 0]
    return torch.stack([first // side, first % side], dim=1)


def test_one_offset_for_all_frames_of_a_stack():
    stack = stacks()
    crops = random_crop_frames(stack, 16, seed=0, step=0, ids=torch.arange(64))
    for i, (top, left) in enumerate(offsets_of(crops, 20).tolist()):
        assert torch.equal(crops[i], stack[i, :, top : top + 16, left : left + 16])


def test_every_offset_is_drawn_equally_often():
    crops = random_crop_frames(stacks(5000, 1, 12), 10, seed=0, step=0, ids=torch.arange(5000))
    counts = torch.bincount(offsets_of(crops, 12) @ torch.tensor([3, 1]), minlength=9)
    assert counts.min() > 5000 / 9 - 5 * (5000 / 9) ** 0.5
    assert counts.max() < 5000 / 9 + 5 * (5000 / 9) ** 0.5


def test_offsets_depend_on_the_sample_and_not_on_the_batch():
    stack, ids = stacks(), torch.arange(64) * 3
    crops = random_crop_frames(stack, 16, seed=1, step=2, ids=ids)
    assert torch.equal(random_crop_frames(stack[5:9], 16, seed=1, step=2, ids=ids[5:9]), crops[5:9])
    for change in ({"seed": 2}, {"step": 3}, {"stream": 1}):
        other = random_crop_frames(stack, 16, **{"seed": 1, "step": 2, "ids": ids, **change})
        assert (offsets_of(other, 20) != offsets_of(crops, 20)).any(dim=1).float().mean() > 0.8


def test_the_crop_of_full_size_is_the_frame():
    stack = stacks(4)
    assert torch.equal(random_crop_frames(stack, 20, seed=0, step=0, ids=torch.arange(4)), stack)


def test_no_stacks():
    none = torch.empty(0, dtype=torch.long)
    assert random_crop_frames(stacks(0), 16, seed=0, step=0, ids=none).shape == (0, 9, 16, 16)
    assert shift_frames(stacks(0), 2, seed=0, step=0, ids=none).shape == (0, 9, 20, 20)


def test_shift_repeats_the_border():
    stack, ids = stacks(), torch.arange(64)
    shifted = shift_frames(stack, 3, seed=0, step=0, ids=ids)
    padded = torch.nn.functional.pad(stack.double(), (3, 3, 3, 3), mode="replicate").long()
    seen = set()
    for i in range(64):
        places = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if torch.equal(shifted[i], padded[i, :, top : top + 20, left : left + 20])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 30
    assert torch.equal(shift_frames(stack, 0, seed=0, step=0, ids=ids), stack)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_types_are_kept(dtype):
    stack = stacks(3).to(dtype)
    assert random_crop_frames(stack, 5, seed=0, step=0, ids=torch.arange(3)).dtype == dtype
    assert shift_frames(stack, 2, seed=0, step=0, ids=torch.arange(3)).dtype == dtype


def test_the_accelerator_form_cuts_the_same(monkeypatch):
    """Windows by index instead of slices; the CPU can run it too."""
    stack, ids = stacks(), torch.arange(64)
    expected = random_crop_frames(stack, 16, seed=0, step=0, ids=ids)
    tops, lefts = (uniform(0, 0, ids, stream=frames_module._STREAM, draws=2) * 5).long().unbind(dim=1)
    assert torch.equal(frames_module._windows(stack, tops, lefts, 16, 16), expected)


def test_centre_crop():
    stack = stacks(2)
    assert torch.equal(center_crop_frames(stack, 16), stack[:, :, 2:18, 2:18])
    assert center_crop_frames(stack[0], 15).shape == (9, 15, 15)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="shorter side, 20, not 21"):
        random_crop_frames(stacks(2), 21, seed=0, step=0, ids=torch.arange(2))
    with pytest.raises(ValueError, match="shorter side, 20, not 0"):
        center_crop_frames(stacks(2), 0)
    with pytest.raises(ValueError, match="pad is a number of pixels"):
        shift_frames(stacks(2), -1, seed=0, step=0, ids=torch.arange(2))
