"""A small data set, quick enough to train on in a test."""

import pytest
import torch

from sslcore.pretrain.data import ImageArray


@pytest.fixture
def pictures() -> ImageArray:
    """45 pictures of 20 pixels in 3 classes; 5 batches of 8 an epoch and 5 left over."""
    g = torch.Generator().manual_seed(5)
    labels = torch.arange(45) % 3
    base = torch.randint(0, 255, (3, 3, 20, 20), generator=g)
    noise = torch.randint(-60, 60, (45, 3, 20, 20), generator=g)
    images = (base[labels] + noise).clamp(0, 255).to(torch.uint8)
    return ImageArray(images=images, labels=labels, classes=["a", "b", "c"])
