"""Small recipes of every method, quick enough to train in a test."""

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


def small_recipe(name: str = "simclr", **changes) -> Recipe:
    settings = {**METHODS[name], **changes.pop("method", {})}
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
