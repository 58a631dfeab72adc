"""Contrastive clustering of region features: towards the prototype of their own class, away from the others.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.1 and algorithm 1.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detection.openworld.counting import mean_count, packed, unpacked
from detection.openworld.settings import ClusteringSettings
from detection.structures import BACKGROUND, UNKNOWN
from sslcore.distributed import is_distributed
from sslcore.losses import hinge_clustering, prototype_nce
from sslcore.memory import ClassMeans, FeatureQueue

_ORE_HINGE = 2.0  # the original's hinge, whatever its margin, which became the order of the norm


class PrototypeClustering(nn.Module):
    """A ring of the newest features of each class, their means as prototypes, and the loss against these.

    Clusters are unknown and the known classes; background has none (ORE's text; its code has one, and so has
    `compat="ore"`). Features are pushed after each step. When the share `start` of a stage's steps is done, each class
    with features gets their mean as its prototype and the loss begins; every `refresh` steps from then on prototypes
    move towards the means of the rings with `momentum`. A new stage starts over, with the rings and prototypes of the
    stage before until then. A class that has had no feature has no prototype, and neither attracts nor repels.

    With several processes all push the rows of all, in rank order, and keep the same rings and prototypes: those of one
    process if rank r holds the r-th contiguous slice of the batch.

    Args:
        known: number of known classes, K.
        dim: length of a feature, d.
        settings: see `ClusteringSettings`.

    Attributes:
        store: `FeatureQueue` of each cluster; for InfoNCE, which compares directions, of unit features.
        prototypes: `ClassMeans` of each cluster.
    """

    def __init__(self, known: int, dim: int, settings: ClusteringSettings) -> None:
        super().__init__()
        self.settings, self.known, self.dim = settings, known, dim
        self.store, self.prototypes = self._memory()
        self._step, self._progress, self._started = 0, 0.0, False

    @property
    def first(self) -> int:
        """Label of the first cluster: unknown, or background as in the original's code."""
        return BACKGROUND if self.settings.compat == "ore" else UNKNOWN

    @property
    def active(self) -> bool:
        """Whether the loss has begun in this stage."""
        return self._started

    def _memory(self) -> tuple[FeatureQueue, ClassMeans]:
        clusters = UNKNOWN + 1 - self.first + self.known
        normalize = self.settings.loss == "infonce" and self.settings.compat is None
        store = FeatureQueue(self.settings.store, self.dim, clusters, normalize=normalize)
        return store, ClassMeans(clusters, self.dim, momentum=self.settings.momentum)

    def at(self, step: int, progress: float) -> None:
        """Tell where in the stage the coming step is: its number, and the share of the stage that is done.

        Raises:
            ValueError: progress is not in [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is the share of a stage that is done and must be in [0, 1], not {progress}")
        if progress < self._progress or progress < self.settings.start:
            self._started = False  # a new stage
        self._step, self._progress = step, progress

    def loss(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The loss, not weighted yet; 0, and no work, before its start.

        Mean over the rows with a cluster, of all processes.
        """
        if not self._started or self.settings.loss == "none":
            return features.new_zeros((), dtype=torch.float32)
        vectors, seen = self.prototypes.vectors, self.prototypes.seen
        clusters = self._clusters(labels)
        if self.settings.compat == "ore":
            return ore_loss(features, labels, vectors, order=self.settings.margin)
        features, clusters = _rows_that_count(features, clusters, clusters >= 0)
        if self.settings.loss == "hinge":
            return hinge_clustering(features, clusters, vectors, margin=self.settings.margin, valid=seen)
        return prototype_nce(features, clusters, vectors, temperature=self.settings.temperature, valid=seen)

    @torch.no_grad()
    def remember(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Push features and, if it is time, renew the prototypes. Call after the optimiser step, on all processes."""
        if self.settings.loss == "none":
            return
        rows, clusters = self._newest(features.detach(), self._clusters(labels))
        self.store.push(rows, clusters)
        starting = not self._started
        if self._progress < self.settings.start or not (starting or self._step % self.settings.refresh == 0):
            return
        # A stage starts with the means as they are now: at a momentum of 0.99 the prototypes of the stage before, made
        # by another network, would outlast it.
        self.prototypes.momentum = 0.0 if starting else self.settings.momentum
        self.prototypes.update(self.store.features.flatten(0, 1), self.store.labels.flatten())
        self._started = True

    def grow(self, classes: int) -> None:
        """Room for new classes; rings and prototypes of the old ones stay."""
        old = {name: getattr(self, name).state_dict() for name in ("store", "prototypes")}
        device = self.prototypes.vectors.device
        self.known += classes
        store, prototypes = self._memory()
        self.store, self.prototypes = store.to(device), prototypes.to(device)
        for name, values in old.items():
            for buffer, value in values.items():
                getattr(getattr(self, name), buffer)[: len(value)] = value

    def _clusters(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """(n,) index of each row's cluster; negative where it has none."""
        return torch.where(labels >= self.first, labels - self.first, -1)

    def _newest(self, rows: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """What can outlast this push: of each cluster its last rows, as many as a ring holds.

        Always as many rows, with cluster -1 where there are fewer: processes exchange equal numbers, and most of the
        regions, which are background, stay at home.
        """
        count = len(self.prototypes.vectors) * self.settings.store
        if len(rows) <= count:
            if not is_distributed():
                return rows, clusters
            missing = count - len(rows)
            return nn.functional.pad(rows, (0, 0, 0, missing)), nn.functional.pad(clusters, (0, missing), value=-1)
        later = _later_of_same(clusters, len(self.prototypes.vectors))
        keep = (clusters >= 0) & (later < self.settings.store)
        if not is_distributed() and rows.device.type == "cpu":
            return _rows_that_count(rows, clusters, keep)
        chosen = (~keep).to(torch.uint8).sort(stable=True).indices[:count]
        return rows[chosen], torch.where(keep, clusters, -1)[chosen]

    def get_extra_state(self) -> Tensor:
        return packed({"step": self._step, "progress": self._progress, "started": self._started})

    def set_extra_state(self, state: Any) -> None:
        values = unpacked(state)
        self._step, self._progress, self._started = values["step"], values["progress"], values["started"]

    def extra_repr(self) -> str:
        return f"loss={self.settings.loss!r}, known={self.known}, compat={self.settings.compat!r}"


def _rows_that_count(
    features: Float[Tensor, "n d"], clusters: Int[Tensor, " n"], rows: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "m d"], Int[Tensor, " m"]]:
    """On the CPU the rows that count alone: most regions are background. A GPU would have to be waited for to know how
    many there are, and is given all."""
    if rows.device.type != "cpu":
        return features, clusters
    chosen = rows.nonzero()[:, 0]
    return features.index_select(0, chosen), clusters[chosen]


def _later_of_same(clusters: Int[Tensor, " n"], count: int) -> Int[Tensor, " n"]:
    """How many later rows have the same cluster, for every row; meaningless for rows without one."""
    order = clusters.clamp(min=-1).argsort(stable=True)
    ends = torch.searchsorted(clusters[order], torch.arange(count, device=clusters.device), right=True)
    later = torch.empty_like(clusters)
    later[order] = ends[clusters[order].clamp(min=0)] - 1 - torch.arange(len(clusters), device=clusters.device)
    return later


def ore_loss(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    prototypes: Float[Tensor, "c d"],
    *,
    order: float,
) -> Float[Tensor, ""]:
    """The loss of the original's code: Minkowski distances of order `order` (its "margin") with a hinge of 2.

    Mean over the regions that are no background and over all clusters, so that each own cluster weighs 1 / c; clusters
    of classes that were never seen, zero vectors, repel like the others. Slow: there is no matrix product for this
    distance.

    Args:
        features: (n, d).
        labels: (n,) in the label space; background and rows labelled negative have no loss.
        prototypes: (c, d) of background, unknown and the known classes.
        order: p of the Minkowski distance.
    """
    rows = labels > BACKGROUND
    objects, own = features[rows].float(), labels[rows]
    distances = torch.cdist(objects, prototypes.to(objects), p=order)
    is_own = own[:, None] == torch.arange(len(prototypes), device=own.device)
    total = torch.where(is_own, distances, (_ORE_HINGE - distances).clamp(min=0)).sum()
    return total / (mean_count(rows.sum()) * len(prototypes))
