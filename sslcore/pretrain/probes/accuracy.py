"""Share of samples whose class is among the best-scored ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def topk_accuracy(scores: Float[Tensor, "n C"], labels: Int[Tensor, " n"], ks: Sequence[int] = (1, 5)) -> list[float]:
    """Top-k accuracies in [0, 1], one for each k.

    A sample counts as right when fewer than k classes score higher than its own class, or equally high at a smaller
    index; the result therefore does not depend on how a sort orders ties. A class with score -inf never counts as
    found: kNN marks so the classes that got no vote. With k >= C every class with a finite score is found.

    Args:
        scores: (n, C) higher is better.
        labels: (n,) true classes in [0, C).
        ks: sizes of the list in which the true class is searched.

    Raises:
        ValueError: there is no sample to count.
    """
    if len(labels) == 0:
        raise ValueError("accuracy needs at least one labelled sample; this set is empty")
    labels = labels.to(scores.device)
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device)[None] < labels[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(1)
    found = own[:, 0] > -torch.inf
    # Counted in integers: exact for any number of samples, and there are devices without float64.
    return [((rank < k) & found).sum().item() / len(labels) for k in ks]
