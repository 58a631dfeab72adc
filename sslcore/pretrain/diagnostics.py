"""Is this run learning at all? Numbers to watch while a method trains, and what they mean in words.

Two failures are common and easily missed because the run goes on without an error: the loss stays at the value that
embeddings without information would give, or the embeddings collapse to a point or to a few directions. Both are told
here. Their absence is no praise: RankMe and uniformity do not follow accuracy closely, a method without negatives can
lower its loss without learning, and only a probe on labels says how useful the features are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")

PATIENCE = 3
"""Epochs in a row that a sign must show: at the start of training each of them is normal."""
AT_CHANCE = 0.01
"""A loss counts as at chance from this share below it. Runs that are stuck sit within a few thousandths (reports of
SwAV's 8.006 = ln(3000), of SimCLR's 6.24 = ln(512)); small runs that learned had moved 10 % away
early on."""
COLLAPSED_STD = 0.1
"""Embeddings count as collapsed when their std is below this share of 1/sqrt(d). Embeddings spread over the sphere
have 1."""
COLLAPSED_RANK = 0.02
"""... or when RankMe is below this share of min(n, d), or below 2: almost everything lies along a line. A rule of
thumb, set low on purpose: useful embeddings differ widely above it."""


@torch.no_grad()
def embedding_std(embeddings: Float[Tensor, "n d"]) -> float:
    """Standard deviation of l2-normalised embeddings, averaged over dimensions.

    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, section 4.1: 1/sqrt(d) for directions
    spread evenly over the sphere, 0 when all embeddings are one. It does not see a collapse to few directions; RankMe
    does.
    """
    return F.normalize(embeddings.float(), dim=1).std(0, correction=0).mean().item()


@torch.no_grad()
def rank_me(embeddings: Float[Tensor, "n d"], *, eps: float = 1e-7) -> float:
    """Effective number of directions that embeddings use, between 1 and min(n, d).

    Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank", ICML 2023, equation 1: the exponential of the entropy of the singular values, which are scaled to sum to 1.
    The embeddings are not centred. The published numbers use 25 600 of them; from fewer it comes out smaller, so
    compare only readings from equally many.
    """
    values = torch.linalg.svdvals(embeddings.float())
    share = values / values.sum().clamp(min=eps) + eps
    return (-(share * share.log()).sum()).exp().item()


@torch.no_grad()
def alignment(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, alpha: float = 2.0) -> float:
    """Mean distance between the normalised embeddings of two views of an image, to the power alpha; 0 is perfect.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, section 4.1. Two independent directions in many dimensions have about 2 (alpha = 2).
    """
    a, b = F.normalize(view_a.float(), dim=1), F.normalize(view_b.float(), dim=1)
    return (a - b).norm(dim=1).pow(alpha).mean().item()


@torch.no_grad()
def uniformity(embeddings: Float[Tensor, "n d"], *, t: float = 2.0, chunk: int = 2048) -> float:
    """Logarithm of the mean Gaussian potential exp(-t |x - y|^2) over all pairs of different rows, normalised; 0 at
    worst.

    Wang and Isola (see `alignment`), section 4.1: lower is more even; about -2t in many dimensions at best. Memory is
    chunk * n floats.

    Raises:
        ValueError: fewer than two embeddings, which make no pair.
    """
    n = len(embeddings)
    if n < 2:
        raise ValueError("uniformity compares pairs: it needs at least two embeddings")
    x = F.normalize(embeddings.float(), dim=1)
    total = x.new_zeros((), dtype=torch.float64)
    for at in range(0, n, chunk):
        part = x[at : at + chunk]
        # |x - y|^2 = 2 - 2 x.y, rounded below 0 for equal rows.
        potentials = (-2 * t * (1 - part @ x.T)).clamp(max=0).exp()
        potentials.diagonal(at).zero_()
        total += potentials.sum(dtype=torch.float64)
    return (total / (n * (n - 1))).log().item()


@dataclass(frozen=True)
class Health:
    """What `measure_health` reads off a batch; each number is explained at the function of its name."""

    samples: int
    dim: int
    """Length d of an embedding."""
    std: float
    embedding_rank: float
    """RankMe of the embeddings, which the loss compares."""
    rank_me: float
    """RankMe of the backbone's features, which the probes and the exported backbone use."""
    alignment: float
    uniformity: float

    @property
    def spread(self) -> float:
        """std as a share of 1/sqrt(d)."""
        return self.std * math.sqrt(self.dim)

    def as_dict(self) -> dict[str, float]:
        """Names and numbers for a metrics file."""
        return {
            "embedding_std": self.std,
            "embedding_spread": self.spread,
            "embedding_rank": self.embedding_rank,
            "rank_me": self.rank_me,
            "alignment": self.alignment,
            "uniformity": self.uniformity,
        }


def measure_health(
    *, features: Float[Tensor, "n f"], view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"]
) -> Health:
    """All readings of a batch; from a few hundred images they are steady.

    Costs two singular value decompositions and an n x n product, which is little once an epoch. Values that are not
    finite give nan throughout, which `verdict` puts in words.

    Args:
        features: (n, f) features of the backbone.
        view_a, view_b: (n, d) embeddings of two views of the same images, the ones that the loss compares.
    """
    samples, dim = view_a.shape
    if not all(torch.isfinite(x).all() for x in (features, view_a, view_b)):
        return Health(samples, dim, math.nan, math.nan, math.nan, math.nan, math.nan)
    return Health(
        samples,
        dim,
        std=embedding_std(view_a),
        embedding_rank=rank_me(view_a),
        rank_me=rank_me(features),
        alignment=alignment(view_a, view_b),
        uniformity=uniformity(view_a) if samples > 1 else math.nan,
    )


_CURES_CHANCE = {
    "simclr": "a lower learning rate or a longer warm-up, a temperature of .1 to .5, weaker views",
    "supcon": "a lower learning rate or a longer warm-up, a temperature of .1, and a look at the labels",
    "moco": "a momentum of .99 to .999 (.9 and below fails), a lower learning rate, a shorter queue, another "
    "temperature (.07 to .2)",
    "pcl": "a momentum of .99 to .999 (.9 and below fails), a lower learning rate, fewer clusters",
    "swav": "a smaller epsilon (.05 to .03), fewer prototypes (well below the number of images), prototypes frozen for "
    "longer, a lower learning rate, a queue where the batch is smaller than the number of prototypes",
}
_CURES_CHANCE_ANY = "a lower learning rate or a longer warm-up, another temperature, weaker views"
_CURES_COLLAPSE = {
    "byol": "a momentum closer to 1 at the start (.99 to .996), a lower learning rate, batch norm in projector and "
    "predictor",
    "swav": "a smaller epsilon (.05 to .03), more Sinkhorn iterations, fewer prototypes, a lower learning rate",
    "moco": "a momentum of .99 or more, a lower learning rate, batch norm statistics that do not give the key away "
    "(norm_splits)",
}
_CURES_COLLAPSE_ANY = "a lower learning rate, less weight decay, batch norm in the projector, a lower temperature"


class Sign(NamedTuple):
    """Something that is wrong with a run: what kind of thing, the same from epoch to epoch, and a sentence about it."""

    kind: str
    sentence: str


def verdict(
    history: Sequence[Health],
    terms: Mapping[str, Sequence[float]],
    *,
    chance: Mapping[str, float],
    epoch: float,
    method: str = "",
    patience: int = PATIENCE,
) -> list[Sign]:
    """What is wrong with a run, one `Sign` for each that has shown for `patience` epochs; empty when none has.

    What is not finite is told at once. The thresholds are `AT_CHANCE`, `COLLAPSED_STD` and `COLLAPSED_RANK`.

    Args:
        history: readings of the epochs seen so far, one an epoch, oldest first.
        terms: for each term of the loss, its values over the same epochs, evenly spaced, oldest first.
        chance: for terms that have one, the value of embeddings without information (`Method.chance`): ln(K + 1) with K
            negatives, ln(2n - 1) for NT-Xent, ln(prototypes) for SwAV.
        epoch: epochs done since the beginning; more than `history` holds where a run was resumed.
        method: the method's name, for cures that fit.
        patience: epochs in a row.
    """
    if broken := _not_finite(history, terms):
        return broken
    epochs_seen = min(float(len(history)), epoch)
    stuck = [
        sign
        for name, value in chance.items()
        for sign in _at_chance(name, terms.get(name, ()), epochs_seen, value, method, patience)
    ]
    return [*stuck, *_collapsed(history, method, patience)]


def _not_finite(history: Sequence[Health], terms: Mapping[str, Sequence[float]]) -> list[Sign]:
    cures = "a lower learning rate, a longer warm-up, precision 32 in place of 16"
    for name, values in terms.items():
        if values and not math.isfinite(values[-1]):
            sentence = f"the {_called(name)} is {values[-1]}: the run has diverged; usual cures: {cures}"
            return [Sign("diverged", sentence)]
    if history and not math.isfinite(history[-1].std):
        sentence = f"the embeddings hold nan or infinite values: the run has diverged; usual cures: {cures}"
        return [Sign("diverged", sentence)]
    return []


def _at_chance(
    name: str, values: Sequence[float], epochs_seen: float, chance: float, method: str, patience: int
) -> list[Sign]:
    if not values:
        return []
    share = _in_a_row(values, lambda value: value > (1 - AT_CHANCE) * chance) / len(values)
    epochs = round(share * epochs_seen, 1)
    if epochs < patience:
        return []
    where = "above" if values[-1] > (1 + AT_CHANCE) * chance else "at"
    sentence = (
        f"the {_called(name)} has stayed {where} chance ({values[-1]:.2f} of {chance:.2f} = "
        f"ln({round(math.exp(chance))})) for {epochs:g} epochs: the embeddings do not tell images apart; "
        f"usual cures: {_CURES_CHANCE.get(method, _CURES_CHANCE_ANY)}"
    )
    return [Sign(f"{name} at chance", sentence)]


def _called(term: str) -> str:
    return term if term == "loss" else f"{term} loss"


def _collapsed(history: Sequence[Health], method: str, patience: int) -> list[Sign]:
    cures = _CURES_COLLAPSE.get(method, _CURES_COLLAPSE_ANY)
    epochs = _in_a_row(history, _is_a_point)
    if epochs >= patience:
        std, dim = history[-1].std, history[-1].dim
        sentence = (
            f"the embeddings have collapsed to a point: std {std:.2g} where {1 / math.sqrt(dim):.2g} = 1/sqrt({dim}) "
            f"would be an even spread, for {epochs} epochs; usual cures: {cures}"
        )
        return [Sign("collapsed to a point", sentence)]
    epochs = _in_a_row(history, _is_a_line)
    if epochs >= patience:
        rank, most = history[-1].embedding_rank, min(history[-1].samples, history[-1].dim)
        sentence = (
            f"the embeddings have collapsed to few directions: RankMe {rank:.1f} of at most {most}, "
            f"for {epochs} epochs; usual cures: {cures}"
        )
        return [Sign("collapsed to few directions", sentence)]
    return []


def _is_a_point(health: Health) -> bool:
    return health.spread < COLLAPSED_STD


def _is_a_line(health: Health) -> bool:
    return health.embedding_rank < max(2.0, COLLAPSED_RANK * min(health.samples, health.dim))


def _in_a_row(values: Sequence[T], sign: Callable[[T], bool]) -> int:
    """How many values, up to the newest, show a sign without a break."""
    count = 0
    for value in reversed(values):
        if not sign(value):
            break
        count += 1
    return count
