"""Optimisers of pretraining and their one schedule: linear warm-up, then a cosine, step by step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sslcore.pretrain.recipe import OptimizerSettings


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: SGD whose step in every tensor is proportional to the tensor's own norm.

    You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, with the weight decay inside the
    gradient, and the momentum after the scaling, as SimCLR, BYOL and SwAV use it.

    Args:
        params: parameters or groups; a group with `adapt=False` is plain SGD (biases and normalisation, by custom).
        lr: learning rate.
        momentum: weight of the old step.
        weight_decay: added to the gradient as `weight_decay * weight`.
        trust: the step's norm is `lr * trust` times the weight's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(weights, group)
        return loss

    def _step_group(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in weights if p.grad is not None]  # all of them have one
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            rates = self._trust_ratios(weights, grads, group["trust"])
            grads = [g * rate for g, rate in zip(grads, rates, strict=True)]

        buffers = []
        for weight, grad in zip(weights, grads, strict=True):
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    @staticmethod
    def _trust_ratios(weights: list[Tensor], grads: list[Tensor], trust: float) -> Tensor:
        """One factor a tensor, on the device: `trust * |w| / |g|`, and 1 where either norm is 0 (there is no ratio)."""
        weight_norms = torch.stack(torch._foreach_norm(weights))
        grad_norms = torch.stack(torch._foreach_norm(grads))
        ratios = trust * weight_norms / grad_norms.clamp_min(torch.finfo(grad_norms.dtype).tiny)
        return torch.where((weight_norms > 0) & (grad_norms > 0), ratios, 1.0)


def build_optimizer(model: nn.Module, settings: OptimizerSettings, lr: float) -> Optimizer:
    """The optimiser of a recipe for all parameters of `model` that are trained, at rate `lr` (already scaled)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if settings.exclude_norm_and_bias:
        # Biases, and the scales of normalisation layers, are the tensors with one dimension.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    else:
        groups = [{"params": trained}]

    if settings.name == "lars":
        if settings.exclude_norm_and_bias:
            groups[1]["adapt"] = False
        return LARS(groups, lr, momentum=settings.momentum, weight_decay=settings.weight_decay, trust=settings.trust)
    if settings.name == "adamw":
        return AdamW(groups, lr, betas=settings.betas, weight_decay=settings.weight_decay)
    return SGD(groups, lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def warmup_cosine(step: int, *, warmup: int, total: int, final: float) -> float:
    """Factor on the learning rate before optimiser step `step`, counted from 0.

    Rises linearly over the first `warmup` steps (the first is 1/warmup of the rate, not 0), then falls along half a
    cosine to `final` at step `total`.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def build_schedule(
    optimizer: Optimizer, settings: OptimizerSettings, *, steps_per_epoch: float, total: int
) -> LambdaLR:
    """`warmup_cosine` over the optimiser steps of a run."""
    warmup = min(total, round(settings.warmup_epochs * steps_per_epoch))
    final = settings.final_lr / settings.lr
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup=warmup, total=total, final=final))
