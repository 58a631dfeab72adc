"""What the losses share: temperatures, and what is similar to what."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sslcore.distributed import all_reduce_sum, is_distributed, world_size
from sslcore.ops.numerics import Scalar, as_scale, unit, widened

# "cosine", "dot", or a module or function: similarity(queries (n, d), keys (m, d)) -> (n, m). With a method
# project(queries) -> (n, d), such that similarity(q, k) = project(q) @ k.T, the matrix is never formed.
Similarity = str | Callable[[Tensor, Tensor], Tensor]


def inverse(temperature: Scalar) -> Float[Tensor, ""]:
    """1 / temperature, the factor of every similarity.

    Raises:
        ValueError: the temperature is not positive (a learned one is not looked at: that would wait for the device).
    """
    if isinstance(temperature, Tensor):
        return temperature.reciprocal()
    if not temperature > 0:
        raise ValueError(f"temperature divides the similarities and must be positive, not {temperature}")
    return as_scale(1 / temperature)


def projected(query: Tensor, similarity: Similarity) -> Tensor | None:
    """Queries whose dot product with the keys (unit keys for "cosine") is the similarity; None if there are none.

    Raises:
        ValueError: the similarity is neither "cosine" nor "dot" nor callable.
    """
    if similarity == "cosine":
        return unit(query)
    if similarity == "dot":
        return widened(query)
    project: Any = getattr(similarity, "project", None)
    if project is not None:
        return widened(project(query))
    if not callable(similarity):
        raise ValueError(f'similarity is "cosine", "dot" or a module such as nn.Bilinear, not {similarity!r}')
    return None


def check_prototypes(features: Tensor, prototypes: Tensor) -> None:
    """Raise a ValueError unless features are (n, d) and prototypes (k, d) with the same d."""
    if features.dim() != 2 or prototypes.dim() != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            "features (n, d) need prototypes (k, d) of the same d, "
            f"not {tuple(features.shape)} and {tuple(prototypes.shape)}"
        )


def check_labelled(features: Tensor, labels: Tensor, prototypes: Tensor, valid: Tensor | None) -> None:
    """Raise a ValueError unless features (n, d) have labels (n,) of prototypes (k, d), of which valid (k,) count."""
    check_prototypes(features, prototypes)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be one per feature, ({len(features)},), not {tuple(labels.shape)}")
    if valid is not None and valid.shape != prototypes.shape[:1]:
        raise ValueError(f"valid must be one per prototype, ({len(prototypes)},), not {tuple(valid.shape)}")
    if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= len(prototypes):
        raise ValueError(f"label {int(labels.max())} has no prototype: there are {len(prototypes)}")


def mean_rows(counts: Tensor, dtype: torch.dtype, gather: bool) -> Tensor:
    """Rows (n,) that count, a process; the smallest number that is no zero where there are none."""
    count = counts.sum().to(dtype)
    if gather and is_distributed():
        count = all_reduce_sum(count)[0] / world_size()
    return count.clamp(min=1 / world_size())


def check_same_shape(**tensors: Tensor) -> None:
    """Raise a ValueError naming the arguments unless all have one and the same (n, d) shape."""
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        named = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must have the same shape (n, d), not {named}")
