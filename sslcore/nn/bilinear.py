"""Similarity with a learned matrix between query and key.

van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation (3); Laskin et al.,
"CURL", ICML 2020, section 4.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sslcore.ops.numerics import widened


class Bilinear(nn.Module):
    """similarity(q, k) = q^T W k, in float32 also for half precision input and under autocast, as all scores are.

    W starts uniform in [0, 1), as in CURL's code. Its mean part, half the product of the two vectors' sums, vanishes
    for features that end in a fresh layer norm (their sum is zero), as CURL's do; for others it dominates at first.

    Args:
        dim: length of queries and keys, d.

    Attributes:
        weight: (d, d) the matrix W.

    Example:
        >>> logits = Bilinear(50)(query, key)           # CURL: the diagonal holds the positives
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        self.weight = nn.Parameter(torch.rand(dim, dim))

    def project(self, query: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """(n, d) queries to (n, d) rows q W, whose dot products with keys are the similarities."""
        return _product(query, self.weight)

    def forward(self, query: Float[Tensor, "n d"], key: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """(n, d) queries and (m, d) keys to (n, m) similarities."""
        return _product(self.project(query), key.T)

    def extra_repr(self) -> str:
        return f"dim={len(self.weight)}"


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return widened(a) @ widened(b)
