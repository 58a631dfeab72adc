"""Prototypes that are weights, trained by the optimiser.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020 (SwAV),
section 3.1: K trainable vectors on the unit sphere, held still at first.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


class LearnedPrototypes(nn.Module):
    """`count` trainable unit vectors.

    Args:
        count: number of prototypes, K.
        dim: length of a feature vector, d.

    Attributes:
        weight: (K, d) the parameter; starts as random directions of length 1.

    Example:
        >>> prototypes = LearnedPrototypes(count=3000, dim=128)
        >>> scores = features @ prototypes.vectors.T
        >>> loss.backward(); prototypes.freeze_gradients_(); optimizer.step(); prototypes.normalize_()
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        if count < 1 or dim < 1:
            raise ValueError(f"count and dim must be at least 1, not {count} and {dim}")
        self.weight = nn.Parameter(normalize(torch.randn(count, dim), dim=1))

    @property
    def vectors(self) -> Float[Tensor, "K d"]:
        """(K, d) the prototypes with length 1, differentiable in `weight`: gradients only turn them."""
        return normalize(self.weight, dim=1)

    @torch.no_grad()
    def normalize_(self) -> None:
        """Bring the weights back to length 1. Call it after every optimiser step: the longer a weight, the less a
        step turns it, so that without this the prototypes slow down as they grow."""
        self.weight.copy_(normalize(self.weight, dim=1))

    def freeze_gradients_(self) -> None:
        """Keep the next optimiser step from moving the prototypes. Call it between backward and step.

        The gradient is dropped, not zeroed: an optimiser passes over a parameter without one, while a zero gradient
        still lets momentum and weight decay move it.
        """
        self.weight.grad = None

    def extra_repr(self) -> str:
        count, dim = self.weight.shape
        return f"count={count}, dim={dim}"
