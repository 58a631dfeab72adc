"""A small data set and small recipes, quick enough to train in a test."""

import pytest
import torch

from sslcore.pretrain.data import ImageArray
from sslcore.pretrain.recipe import Recipe

METHODS = {
    "moco": {"name": "moco", "queue": 64, "projector": [16, 8], "momentum": 0.9},
    "simclr": {"name": "simclr", "projector": [16, 8]},
    "supcon": {"name": "supcon", "projector": [16, 8]},
    "byol": {"name": "byol", "projector": [16, 8], "predictor": [16, 8], "momentum": 0.9},
    "swav": {"name": "swav", "prototypes": 12, "projector": [16, 8], "queue": 32, "queue_from_epoch": 1},
    "pcl": {
        "name": "pcl", "queue": 64, "clusters": [4, 6], "projector": [16, 8], "warmup_epochs": 1, "momentum": 0.9,
        "kmeans_iterations": 3,
    },
}  # fmt: skip


def small_recipe(method: str = "simclr", **changes) -> Recipe:
    settings = {**METHODS[method], **changes.pop("method", {})}
    base = {
        "method": settings,
        "backbone": {"name": "tiny", "width": 4},
        "views": [{"count": 2, "size": 16}],
        "optimizer": {"name": "sgd", "lr": 0.05, "lr_batch": 0, "warmup_epochs": 0.5},
        "probe": {"every_epochs": 0},
        "batch_size": 8,
        "epochs": 3,
        "checkpoint_every": 2,
        "seed": 3,
    }
    return Recipe.model_validate({**base, **changes})


@pytest.fixture
def pictures() -> ImageArray:
    """45 pictures of 20 pixels in 3 classes; 5 batches of 8 an epoch and 5 left over."""
    g = torch.Generator().manual_seed(5)
    labels = torch.arange(45) % 3
    base = torch.randint(0, 255, (3, 3, 20, 20), generator=g)
    noise = torch.randint(-60, 60, (45, 3, 20, 20), generator=g)
    return ImageArray((base[labels] + noise).clamp(0, 255).to(torch.uint8), labels, ["a", "b", "c"])
