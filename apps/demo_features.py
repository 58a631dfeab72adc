"""What the demo's backbone has learnt: its features beside raw pixels and the network that training started from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detection.data.scenes import CropSet
from sslcore.nn import build_backbone
from sslcore.pretrain.data import ImageArray, iterate_eval
from sslcore.pretrain.probes.features import embed
from sslcore.pretrain.probes.knn import knn_accuracy
from sslcore.pretrain.probes.linear import linear_probe
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import Outcome

NEIGHBOURS = 20  # that vote
PENALTIES = (1.0, 0.1, 0.01, 1e-3)  # the full search would take longer than the demo has


@dataclass
class Scores:
    """What one kind of features is worth on crops of drawings and photographs that were never trained on."""

    name: str
    knn: float
    linear: float
    train: Tensor
    test: Tensor


def as_array(crops: CropSet) -> ImageArray:
    return ImageArray(
        images=torch.from_numpy(crops.images),
        labels=torch.from_numpy(crops.labels),
        classes=crops.classes,
        name="crops",
    )


def evaluate(outcome: Outcome, train: ImageArray, test: ImageArray, recipe: Recipe) -> list[Scores]:
    """kNN and linear accuracy of three kinds of features; the random network is the one that training started from."""
    torch.manual_seed(recipe.seed)
    untrained = build_backbone(
        recipe.backbone.name, stem=recipe.backbone.stem, width=recipe.backbone.width, in_channels=train.channels
    )
    networks = {
        "raw pixels": nn.Flatten(),
        "random network": untrained,
        f"pretrained ({recipe.method.name})": outcome.module.method.encoder,
    }
    scores = []
    for name, network in networks.items():
        train_features, train_labels = features_of(network, train, outcome)
        test_features, test_labels = features_of(network, test, outcome)
        split = (train_features, train_labels, test_features, test_labels)
        knn = knn_accuracy(*split, k=NEIGHBOURS, temperature=0.07, classes=len(train.classes))
        linear = linear_probe(*split, classes=len(train.classes), seed=recipe.seed, penalties=PENALTIES, iterations=100)
        scores.append(Scores(name, knn, linear.top1, train_features, test_features))
    return scores


def features_of(network: nn.Module, images: ImageArray, outcome: Outcome) -> tuple[Tensor, Tensor]:
    view, device = outcome.module.eval_view, next(outcome.module.parameters()).device
    features, labels, _ = embed(network.to(device), iterate_eval(images, view, batch_size=500, device=device), device)
    assert labels is not None  # crops have them
    return features, labels
