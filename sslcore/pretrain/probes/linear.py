"""Linear probe: multinomial logistic regression on frozen features.

The usual question to a representation is whether the classes can be told apart by hyperplanes. Protocols differ: SGD
with a learning rate picked by hand, or a convex solver with the penalty picked on held-out data (Kornblith et al., "Do
Better ImageNet Models Transfer Better?", CVPR 2019, appendix A.4). The second leaves nothing to tune by looking at the
test set and is the default here; the first is there to compare with published protocols.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslcore.pretrain.probes.accuracy import topk_accuracy
from sslcore.pretrain.probes.subsets import held_out, per_class

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class LinearModel:
    """Standardisation and hyperplanes: scores(x) = ((x - mean) / std) W^T + b."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """Class scores (logits), on the model's device."""
        standard = (features.to(self.weight.device).float() - self.mean) / self.std
        return standard @ self.weight.T + self.bias


@dataclass(frozen=True)
class LinearResult:
    """What a linear probe found. Accuracies are in [0, 1] and of the test features unless named otherwise."""

    top1: float
    top5: float
    penalty: float
    """The L2 penalty used; chosen on held-out training features where several were offered."""
    held_out_top1: float | None
    """Accuracy on the held-out training features at that penalty; None where nothing had to be chosen."""
    train_samples: int
    test_samples: int
    solver: str
    model: LinearModel


def linear_probe(
    train: Float[Tensor, "N d"],
    train_labels: Int[Tensor, " N"],
    test: Float[Tensor, "n d"],
    test_labels: Int[Tensor, " n"],
    *,
    classes: int,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
    validation: float = 0.2,
    iterations: int = 300,
    shots: int | None = None,
) -> LinearResult:
    """Fit logistic regression on the training features and score it on the test features.

    Minimises mean cross-entropy + penalty / 2 * ||W||^2 over standardised features by full-batch L-BFGS (the bias is
    not penalised). The penalty is chosen on `validation` of the training features, from strong to weak, each started
    from the last solution; the search ends once accuracy has fallen twice, and a tie goes to the stronger. The test
    features are touched once, after everything is fixed. Runs on the device of `train`.

    Args:
        train, test: (N, d), (n, d) features.
        train_labels, test_labels: classes in [0, C).
        classes: C.
        seed: of the held-out part.
        penalties: candidates; with a single one nothing is held out.
        validation: share of every class that is held out to choose.
        iterations: most L-BFGS iterations for one fit.
        shots: few-shot probe: learn from only so many training features of each class, drawn with the seed.

    Raises:
        ValueError: an empty set, features that are not finite, or labels outside [0, C).
    """
    if shots is not None:
        rows = per_class(train_labels, shots, seed=seed)
        train, train_labels = train[rows.to(train.device)], train_labels[rows.to(train_labels.device)]
    _check(train, train_labels, classes)
    _check(test, test_labels, classes)
    model = _standardiser(train, classes)
    features, labels = _standard(train, model), train_labels.to(train.device).long()
    candidates, best = sorted(penalties, reverse=True), None
    if len(candidates) > 1 and int(torch.bincount(labels).max()) > 1:
        penalty, best = _choose_penalty(
            features, labels, model, candidates, held_out(labels, validation, seed=seed), iterations
        )
    else:
        penalty = candidates[len(candidates) // 2]
    fitted = _lbfgs(features, labels, model, penalty, iterations)
    return _result(fitted, test, test_labels, penalty, best, len(train), "lbfgs")


def linear_probe_sgd(
    train: Float[Tensor, "N d"],
    train_labels: Int[Tensor, " N"],
    test: Float[Tensor, "n d"],
    test_labels: Int[Tensor, " n"],
    *,
    classes: int,
    epochs: int,
    lr: float,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> LinearResult:
    """The same probe trained as most papers do: SGD with a cosine schedule on features, here without augmentation.

    Nothing is chosen: `lr`, `epochs` and `weight_decay` are the caller's, who should not choose them by the test
    accuracy. Arguments and errors as `linear_probe`.
    """
    _check(train, train_labels, classes)
    _check(test, test_labels, classes)
    model = _standardiser(train, classes)
    features, labels = _standard(train, model), train_labels.to(train.device).long()
    parameters = [model.weight.requires_grad_(), model.bias.requires_grad_()]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps, step = epochs * math.ceil(len(train) / batch_size), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).to(train.device).split(batch_size):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            F.cross_entropy(F.linear(features[rows], *parameters), labels[rows]).backward()
            optimizer.step()
            step += 1
    fitted = LinearModel(model.mean, model.std, model.weight.detach(), model.bias.detach())
    return _result(fitted, test, test_labels, weight_decay, None, len(train), "sgd")


def _choose_penalty(
    features: Tensor,
    labels: Tensor,
    start: LinearModel,
    candidates: Sequence[float],
    parts: tuple[Tensor, Tensor],
    iterations: int,
) -> tuple[float, float]:
    """The candidate with the best held-out accuracy, and that accuracy."""
    keep, held = (rows.to(features.device) for rows in parts)
    model, best, chosen, falls, last = start, -1.0, candidates[0], 0, -1.0
    for penalty in candidates:
        model = _lbfgs(features[keep], labels[keep], model, penalty, iterations)
        accuracy = topk_accuracy(F.linear(features[held], model.weight, model.bias), labels[held], (1,))[0]
        if accuracy > best:
            best, chosen = accuracy, penalty
        # Weaker penalties are slower to fit: when accuracy keeps falling there is nothing left to find.
        falls = falls + 1 if accuracy < last else 0
        last = accuracy
        if falls == 2:
            break
    return chosen, best


def _lbfgs(features: Tensor, labels: Tensor, start: LinearModel, penalty: float, iterations: int) -> LinearModel:
    """The minimiser of mean cross-entropy + penalty / 2 * ||W||^2, searched from `start`."""
    weight = start.weight.clone().requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return LinearModel(start.mean, start.std, weight.detach(), bias.detach())


def _standardiser(features: Tensor, classes: int) -> LinearModel:
    """Zero hyperplanes over features brought to mean 0 and variance 1, dimension by dimension."""
    features = features.float()
    std = features.std(0, correction=0)
    # A dimension that never varies (a dead unit) carries nothing; dividing by its rounding noise would invent a
    # feature.
    dead = std <= 1e-6 * features.abs().amax(0).clamp(min=1e-12)
    return LinearModel(
        mean=features.mean(0),
        std=torch.where(dead, torch.inf, std),
        weight=features.new_zeros(classes, features.shape[1]),
        bias=features.new_zeros(classes),
    )


def _standard(features: Tensor, model: LinearModel) -> Tensor:
    return (features.float() - model.mean) / model.std


def _check(features: Tensor, labels: Tensor, classes: int) -> None:
    if len(features) == 0:
        raise ValueError("a linear probe needs at least one labelled feature in each of the two sets")
    if not torch.isfinite(features).all():
        raise ValueError("features hold nan or infinite values: the backbone has diverged")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes}); these reach from {low} to {high}")


def _result(
    model: LinearModel,
    test: Tensor,
    test_labels: Tensor,
    penalty: float,
    held_out_top1: float | None,
    train_samples: int,
    solver: str,
) -> LinearResult:
    top1, top5 = topk_accuracy(model.scores(test), test_labels, (1, 5))
    return LinearResult(top1, top5, penalty, held_out_top1, train_samples, len(test), solver, model)
