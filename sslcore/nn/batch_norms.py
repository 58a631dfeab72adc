"""Putting other batch norms in the place of a network's own."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = TypeVar("Norm", bound=_BatchNorm)


def replace_batch_norms(module: nn.Module, make: Callable[[nn.Module], _BatchNorm | None]) -> nn.Module:
    """Every module that `make` gives another one for becomes that one, in place.

    Returns:
        the module, or its replacement. Parameters remain the same objects, so that an optimiser that has them already
        goes on working.
    """
    new = make(module)
    if new is not None:
        return new
    for name, child in module.named_children():
        setattr(module, name, replace_batch_norms(child, make))
    return module


def taken_over(norm: _BatchNorm, new: Norm) -> Norm:
    """`new` with the weights, the statistics and the mode of another batch norm of the same settings."""
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)
