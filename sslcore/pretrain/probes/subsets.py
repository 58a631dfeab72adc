"""Seeded subsets of a labelled set: few labels, and held-out parts."""

import torch
from jaxtyping import Int
from torch import Tensor


def class_balanced(
    labels: Int[Tensor, " N"], *, fraction: float | None = None, per_class: int | None = None, seed: int
) -> Int[Tensor, " m"]:
    """Rows of a subset with equally many samples of each class, ascending.

    Subsets of one seed are nested: the 1 % are among the 10 %, because each class is shuffled once and its first
    samples are taken. A class with fewer samples than its share gives all it has, so that the subset can be smaller
    than asked for.

    Args:
        labels: (N,) classes; those below 0 are unlabelled and never taken.
        fraction: share of the labelled samples, in (0, 1]; at least one sample of each class. 1 takes everything.
        per_class: or the number of samples of each class.
        seed: another seed, another subset.

    Raises:
        ValueError: neither or both of `fraction` and `per_class`, or values out of range, or no labelled sample.
    """
    if (fraction is None) == (per_class is None):
        raise ValueError("give either fraction or per_class")
    labels = labels.cpu()
    present = labels[labels >= 0].unique()
    if len(present) == 0:
        raise ValueError("there is no labelled sample to choose from")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is a share of the labels in (0, 1], not {fraction}")
        if fraction == 1:
            return (labels >= 0).nonzero()[:, 0]
        per_class = max(1, round(fraction * int((labels >= 0).sum()) / len(present)))
    if per_class is None or per_class < 1:
        raise ValueError(f"per_class must be at least 1, not {per_class}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    return torch.cat([order[shuffled == c][:per_class] for c in present]).sort().values


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
