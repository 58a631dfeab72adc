"""Fine-tuning: a backbone and a linear layer trained together on few or all labels.

With 1 % or 10 % of the labels this is the semi-supervised protocol of Henaff et al. (2020) and Chen et al. (SimCLR,
2020, section 6); with all it asks what pretraining is worth as an initialisation. Plain SGD with a cosine schedule,
crops and flips; nothing is chosen by the test images.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslcore.augment import RandomView, ViewSpec
from sslcore.backbones.loading import LoadedBackbone
from sslcore.backbones.views import MatchingRandomView
from sslcore.errors import DataError, SurniaError
from sslcore.pretrain.data import ImageArray, ImageFiles, RawBatch, TrainLoader, iterate_eval
from sslcore.pretrain.probes.accuracy import topk_accuracy
from sslcore.pretrain.probes.features import embed
from sslcore.pretrain.probes.subsets import balanced_share

Images = ImageArray | ImageFiles
HEAD_RATE = 10.0
"""The new linear layer learns this much faster than the backbone, which has already learned something."""
STEPS_AN_EPOCH = 8
"""At least: few labels are divided into smaller batches, so that an epoch is not a single step."""


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning came to. Accuracies are in [0, 1], of the test images after the last epoch."""

    top1: float
    top5: float
    fraction: float
    labels: int
    """Training images that were used."""
    epochs: int
    train_loss: float
    """Mean over the last epoch."""
    test_samples: int


def finetune(
    loaded: LoadedBackbone,
    train: Images,
    test: Images,
    *,
    fraction: float,
    epochs: int = 20,
    lr: float = 0.02,
    batch_size: int = 256,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> FinetuneResult:
    """Train a copy of the backbone with a linear layer on a share of the labels, and score it on the test images.

    The shares of one seed are nested and balanced by class (`balanced_share`). The loaded backbone is not changed.

    Args:
        loaded: the backbone with its preprocessing.
        train, test: labelled images; labels of both count in `train.classes`.
        fraction: share of the training labels, in (0, 1].
        epochs: passes over that share.
        lr: the backbone's learning rate for a batch of `batch_size`; the linear layer's is ten times that, and both
            shrink in proportion where few labels make smaller batches.
        batch_size: images a step; fewer where the share has less than eight such batches.
        weight_decay: of all weights but the biases and normalisations.
        seed: of the share, the order, the crops and the linear layer.
        device: where it runs.
        workers: processes that read files.

    Raises:
        DataError: fewer than two labelled images. SurniaError: the loss is no longer finite.
    """
    if train.labels is None or test.labels is None:
        raise DataError("fine-tuning needs labels: put the images of each class in a folder of their own")
    share = train.subset(balanced_share(train.labels, fraction, seed=seed))
    if len(share) < 2:
        raise DataError(f"{fraction:.0%} of the labels of {train.name} are {len(share)} images: take a larger share")
    batch = min(batch_size, max(2, len(share) // STEPS_AN_EPOCH))
    network = _with_head(loaded, len(train.classes), seed).to(device)
    view = _view(loaded)
    loader = TrainLoader(share, batch_size=batch, views=[view], seed=seed, device=device, workers=workers)
    loss = _train(network, loader, view, epochs, lr * batch / batch_size, weight_decay)
    batches = iterate_eval(test, loaded.eval_view(), batch_size, device=device, workers=workers)
    scored = embed(network, batches, device)
    assert scored.labels is not None
    top1, top5 = topk_accuracy(scored.features, scored.labels, (1, 5))
    return FinetuneResult(top1, top5, fraction, len(share), epochs, loss, len(scored.features))


def _with_head(loaded: LoadedBackbone, classes: int, seed: int) -> nn.Sequential:
    """A copy of the backbone, and a linear layer that starts near zero."""
    head = torch.nn.utils.skip_init(nn.Linear, loaded.dim, classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return nn.Sequential(copy.deepcopy(loaded.backbone), head)


def _view(loaded: LoadedBackbone) -> MatchingRandomView:
    """Crops and flips: with labels, stronger changes would only cost information."""
    spec = ViewSpec(size=loaded.size, scale=(0.3, 1.0), flip=0.5, jitter=0.0, grayscale=0.0)
    return MatchingRandomView(spec, loaded.mean, loaded.std)


def _train(
    network: nn.Sequential, loader: TrainLoader, view: RandomView, epochs: int, lr: float, weight_decay: float
) -> float:
    """Mean loss of the last epoch. SGD with Nesterov momentum; a short linear warm-up, then a cosine to zero."""
    optimizer = torch.optim.SGD(_groups(network, lr, weight_decay), momentum=0.9, nesterov=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = epochs * len(loader)
    warmup = max(1, steps // 20)
    total, mean = torch.zeros((), device=loader.device), math.nan
    network.train()
    try:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            total.zero_()
            for batch in loader:
                factor = min((batch.step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * batch.step / steps)))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimizer.zero_grad()
                assert batch.labels is not None
                loss = F.cross_entropy(network(_images(batch, view, loader.order.seed)), batch.labels)
                loss.backward()
                optimizer.step()
                total += loss.detach()
            mean = float(total) / len(loader)
            if not math.isfinite(mean):
                raise SurniaError(f"fine-tuning diverged in epoch {epoch + 1} (loss {mean}): lower the learning rate")
    finally:
        loader.close()
    return mean


def _images(batch: RawBatch, view: RandomView, seed: int) -> Tensor:
    """The batch's only view, finished on the device."""
    if batch.images is not None:
        return view(batch.images, seed=seed, step=batch.step, ids=batch.ids, view=0)
    assert batch.crops is not None
    return view.finish(batch.crops[0], seed=seed, step=batch.step, ids=batch.ids, view=0)


def _groups(network: nn.Sequential, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters of backbone and head; biases and normalisations without weight decay."""
    groups = []
    for part, rate in zip(network, (lr, lr * HEAD_RATE), strict=True):
        for matrices in (True, False):
            parameters = [p for p in part.parameters() if p.requires_grad and (p.ndim > 1) == matrices]
            groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay if matrices else 0.0})
    return groups
