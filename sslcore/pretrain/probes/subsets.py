"""Seeded subsets of a labelled set: few labels, and held-out parts."""

import torch
from jaxtyping import Int
from torch import Tensor


def per_class(labels: Int[Tensor, " N"], count: int, *, seed: int) -> Int[Tensor, " m"]:
    """Rows of `count` samples of each class, ascending.

    Subsets of one seed are nested, the smaller in the larger: each class is shuffled once and its first samples are
    taken. A class with fewer samples gives all it has.

    Args:
        labels: (N,) classes; those below 0 are unlabelled and never taken.
        count: samples of each class.
        seed: another seed, another subset.

    Raises:
        ValueError: count below 1, or no labelled sample.
    """
    if count < 1:
        raise ValueError(f"count is the number of samples of each class and must be at least 1, not {count}")
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    return torch.cat([order[shuffled == c][:count] for c in _classes(labels)]).sort().values


def balanced_share(labels: Int[Tensor, " N"], fraction: float, *, seed: int) -> Int[Tensor, " m"]:
    """Rows of a share of the labelled samples with equally many of each class, ascending; nested as `per_class`.

    At least one sample of each class; where a small class has fewer than its part, the subset is smaller than asked
    for. A fraction of 1 takes everything, balanced or not.

    Raises:
        ValueError: fraction outside (0, 1], or no labelled sample.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is a share of the labels in (0, 1], not {fraction}")
    labelled = (labels.cpu() >= 0).nonzero()[:, 0]
    classes = len(_classes(labels))
    if fraction == 1:
        return labelled
    return per_class(labels, max(1, round(fraction * len(labelled) / classes)), seed=seed)


def _classes(labels: Tensor) -> Tensor:
    present = labels[labels >= 0].unique().cpu()
    if len(present) == 0:
        raise ValueError("there is no labelled sample to choose from")
    return present


def held_out(labels: Int[Tensor, " N"], share: float, *, seed: int) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Rows to keep and rows to hold out: of each class its `share`, rounded, but never all; both ascending.

    Raises:
        ValueError: share outside (0, 1), or no class has two samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled, out = labels[order], []
    for c in labels.unique():
        mine = order[shuffled == c]
        out.append(mine[: min(max(1, round(share * len(mine))), len(mine) - 1)])
    held = torch.cat(out).sort().values if out else order[:0]
    if len(held) == 0:
        raise ValueError("nothing can be held out: no class has two samples")
    keep = torch.ones(len(labels), dtype=torch.bool)
    keep[held] = False
    return keep.nonzero()[:, 0], held
