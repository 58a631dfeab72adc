"""Prototypes that are centroids of spherical k-means.

Li et al., "Prototypical Contrastive Learning of Unsupervised Representations", ICLR 2021 (PCL): the momentum features
of the whole data set are clustered before every epoch. scikit-learn and faiss have k-means too; this one runs where the
features are, shares its work over the processes, and gives every process the same answer to the last bit.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from sslcore.distributed import all_reduce_sum, rank, world_size
from sslcore.losses import concentrations
from sslcore.ops.numerics import unit

_TILE = 1 << 24  # similarities held at a time: 64 MB
_CACHED = 1 << 18  # numbers that are still in the cache when they are used next


class KMeansPrototypes(nn.Module):
    """`count` centroids of unit length, fitted to a whole data set.

    Args:
        count: number of centroids, k.
        dim: length of a feature vector, d.
        seed: chooses the rows that the centroids start from.

    Attributes:
        vectors: (k, d) the centroids, of length 1; zeros before the first fit.
        assignments: (N,) which centroid each row of the fitted features belongs to, -1 for rows that were left out;
            empty before the first fit.
        concentration: (k,) PCL's phi of each cluster, see `sslcore.losses.concentrations`: small for a dense cluster,
            one on average. Ones before the first fit.

    Example:
        >>> prototypes = KMeansPrototypes(count=100, dim=128)
        >>> prototypes.fit(features)                         # (N, 128), row i for image i
        >>> own = prototypes.vectors[prototypes.assignments[ids]]
    """

    vectors: Float[Tensor, "k d"]
    assignments: Int[Tensor, " N"]
    concentration: Float[Tensor, " k"]

    def __init__(self, count: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        if count < 1 or dim < 1:
            raise ValueError(f"count and dim must be at least 1, not {count} and {dim}")
        self.count, self.seed = count, seed
        self.register_buffer("vectors", torch.zeros(count, dim))
        self.register_buffer("assignments", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("concentration", torch.ones(count))

    @torch.no_grad()
    def fit(
        self, features: Float[Tensor, "N d"], *, valid: Bool[Tensor, " N"] | None = None, iterations: int = 20
    ) -> None:
        """Cluster the rows by the angle between them.

        Starts from `count` different rows. A centroid that loses all its rows is put on the row that is farthest from
        its own centroid. With several processes, each must give the same features, all N of them, in the same order;
        each assigns a share of the rows. N x k similarities are never held at once.

        Args:
            features: (N, d) of any length; only their directions count.
            valid: (N,) which rows to cluster; None for all. The others, such as those of images that could not be read,
                are left out, and so are zero rows, which have no direction: they belong to no cluster (assignment -1).
            iterations: most rounds of assigning rows and moving centroids; fewer if no row changes its cluster.

        Raises:
            ValueError: there are fewer rows to cluster than centroids, one of them is not finite, or `valid` is not one
                per row.
        """
        if iterations < 1:
            raise ValueError(f"k-means needs at least one iteration, not {iterations}")
        if valid is not None and valid.shape != features.shape[:1]:
            raise ValueError(f"valid must be one per feature, ({len(features)},), not {tuple(valid.shape)}")
        rows = features.to(self.vectors)
        if valid is not None:
            valid = valid.to(rows.device)
            rows = rows[valid]
        if not rows.isfinite().all():
            raise ValueError("features to be clustered must be finite: the encoder gave NaN or infinity")
        rows = unit(rows)
        directed = rows.any(dim=1)
        if not directed.all():
            rows = rows[directed]
        if len(rows) < self.count:
            raise ValueError(f"{len(rows)} features cannot make {self.count} clusters: ask for fewer clusters")
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))[: self.count]
        self.vectors.copy_(rows[chosen.to(rows.device)])

        nearest, similarity = self._assign(rows)
        for _ in range(iterations):
            self._move_centroids(rows, nearest, similarity)
            before, (nearest, similarity) = nearest, self._assign(rows)
            if torch.equal(before, nearest):
                break
        self.concentration.copy_(concentrations(rows, self.vectors, nearest))
        clustered = directed if valid is None else valid.masked_scatter(valid, directed)
        self.assignments = nearest.new_full((len(features),), -1).masked_scatter_(clustered, nearest)

    def _assign(self, rows: Float[Tensor, "N d"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
        """The most similar centroid of every row, and how similar it is.

        Chunks are dealt out to the processes like cards. Their shape does not depend on how many processes there are,
        because a matrix product may round differently for another shape.
        """
        nearest = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        similarity = rows.new_zeros(len(rows))
        step = max(1, _TILE // self.count)
        for start in range(rank() * step, len(rows), world_size() * step):
            mine = slice(start, start + step)
            similarity[mine], nearest[mine] = (rows[mine] @ self.vectors.T).max(dim=1)
        nearest, similarity = all_reduce_sum(nearest, similarity)
        return nearest, similarity

    def _move_centroids(
        self, rows: Float[Tensor, "N d"], nearest: Int[Tensor, " N"], similarity: Float[Tensor, " N"]
    ) -> None:
        """Put every centroid in the mean direction of its rows, and the empty ones on the worst represented rows."""
        sums = _exact_sums(rows, nearest, self.count).to(rows.dtype)
        # Rows that cancel out have no mean direction: their centroid stays.
        self.vectors.copy_(torch.where(sums.any(dim=1, keepdim=True), normalize(sums, dim=1), self.vectors))
        empty = (_sizes(nearest, self.count) == 0).nonzero()[:, 0]
        if len(empty):
            farthest = similarity.argsort(stable=True)[: len(empty)]
            self.vectors[empty] = rows[farthest]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The number of assignments is that of the data set, which is known only when something is fitted or loaded.
        saved = state_dict.get(prefix + "assignments")
        if saved is not None:
            self.assignments = self.assignments.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"count={self.count}, dim={self.vectors.shape[1]}, seed={self.seed}"


def _sizes(assignments: Int[Tensor, " N"], count: int) -> Int[Tensor, " k"]:
    return assignments.new_zeros(count).index_add_(0, assignments, torch.ones_like(assignments))


def _exact_sums(rows: Float[Tensor, "N d"], assignments: Int[Tensor, " N"], count: int) -> Float[Tensor, "k d"]:
    """Sums of the rows of each cluster in float64. Entries must be in [-1, 1].

    Added up as integers (fixed point), which gives the same bits in any order: atomic additions on a GPU would give
    each process slightly different centroids, and then different assignments.
    """
    # N entries of at most 1 fit with a bit to spare, and a power of two costs float32 no digit.
    scale = 2.0 ** (61 - len(rows).bit_length())
    sums = torch.zeros(count, rows.shape[1], dtype=torch.int64, device=rows.device)
    step = max(1, _CACHED // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        sums.index_add_(0, assignments[part], (rows[part] * scale).long())
    return sums.double() / scale
