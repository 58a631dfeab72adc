"""A ring of past feature vectors: negatives, neighbours, or a store per class.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, section 3.2 (the queue), and
Joseph et al., "Towards Open World Object Detection", CVPR 2021, section 4.1 (a store of fixed length per class).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_rows

from sslcore.distributed import all_gather_rows, world_size


class FeatureQueue(nn.Module):
    """The newest `size` feature vectors, or the newest `size` of every class.

    Push after the optimiser step: a queue written before the loss holds the batch's own keys as negatives, and one
    written between forward and backward breaks autograd. Nothing is copied but the new rows and nothing is read back
    to the host, so that a push costs microseconds and can be captured in a CUDA graph.

    Args:
        size: rows kept, K; with `groups`, rows kept for each class.
        dim: length of a feature vector, d.
        groups: number of classes, C, each with a ring of its own; None for a single ring.
        normalize: scale rows to length 1 on push (in at least float32, whatever the storage).
        dtype: floating type of the storage.
        gather: with several processes, push the rows of all of them, in rank order, so that all keep the same queue.
            Every process must push equally many rows. False: each process keeps a queue of its own.
        seed: of the random vectors a single ring starts with. They do not depend on torch's generator, so that all
            processes start alike.

    Attributes:
        features: (K, d), or (C, K, d) with `groups`; the storage itself, not a copy. A single ring starts as random
            unit vectors, so that a contrastive loss is ln(K + 1) at chance from the first step; rings of classes
            start as zeros.
        pointer: () or (C,) the slot that the next row goes to.
        count: () or (C,) rows pushed so far, at most K. See also `filled` and `labels`.

    Example:
        >>> queue = FeatureQueue(size=4, dim=2)
        >>> queue.push(torch.tensor([[3.0, 4.0]]))
        >>> queue.features[0], queue.filled.tolist()
        (tensor([0.6000, 0.8000]), [True, False, False, False])
    """

    features: Float[Tensor, "*C K d"]
    pointer: Int[Tensor, " *C"]
    count: Int[Tensor, " *C"]
    row_labels: Int[Tensor, " K"]

    def __init__(
        self,
        size: int,
        dim: int,
        groups: int | None = None,
        *,
        normalize: bool = True,
        dtype: torch.dtype = torch.float32,
        gather: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if size < 1 or dim < 1 or (groups is not None and groups < 1):
            raise ValueError(f"size, dim and groups of a queue must be at least 1, not {size}, {dim} and {groups}")
        if not dtype.is_floating_point:
            raise ValueError(f"a queue stores floating-point features, not {dtype}")
        self.size, self.dim, self.groups = size, dim, groups
        self.normalize, self.gather = normalize, gather
        if groups is None:
            random = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
            self.register_buffer("features", unit_rows(random, dim=1).to(dtype))
            self.register_buffer("row_labels", torch.full((size,), -1))
        else:
            self.register_buffer("features", torch.zeros(groups, size, dim, dtype=dtype))
        rings = () if groups is None else (groups,)
        self.register_buffer("pointer", torch.zeros(rings, dtype=torch.int64))
        self.register_buffer("count", torch.zeros(rings, dtype=torch.int64))

    @property
    def filled(self) -> Bool[Tensor, "*C K"]:
        """(K,) or (C, K): which rows have been pushed; the others still hold what the queue started with."""
        return torch.arange(self.size, device=self.count.device) < self.count[..., None]

    @property
    def labels(self) -> Int[Tensor, "*C K"]:
        """(K,) or (C, K): the label each row was pushed with; -1 where there is none.

        For a single ring labels are whatever the caller gave: classes, or image numbers that keep an image's older
        keys from being its negatives. With `groups`, `means.update(queue.features.flatten(0, 1),
        queue.labels.flatten())` renews `ClassMeans` from the whole store.
        """
        if self.groups is None:
            return self.row_labels
        classes = torch.arange(self.groups, device=self.count.device)[:, None]
        return torch.where(self.filled, classes, -1)

    @torch.no_grad()
    def push(self, x: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None) -> None:
        """Write rows over the oldest ones.

        Args:
            x: (n, d) feature vectors. n need not divide the size: writing wraps around.
            labels: (n,) kept beside the rows of a single ring; required with `groups`, where they choose the ring.
                There, rows with a negative label are left out, and of a class with more than K rows in the batch the
                last K are kept.

        Raises:
            ValueError: the rows of all processes do not fit a single ring; labels are missing; or, where the queue
                is on the CPU, a label is not below `groups` (on a GPU that is a device-side assertion, since telling
                it apart would wait for the device).
        """
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = (unit_rows(rows, dim=1) if self.normalize else rows).to(self.features)
        labels = None if labels is None else labels.to(self.pointer)
        if self.gather and world_size() > 1:
            rows = all_gather_rows(rows)
            labels = None if labels is None else all_gather_rows(labels)
        if len(rows) == 0:
            return
        if self.groups is None:
            self._push_in_order(rows, labels)
        elif labels is None:
            raise ValueError("a queue with groups needs the label of every row: call push(x, labels)")
        else:
            self._push_by_class(rows, labels, self.groups)

    def _push_in_order(self, rows: Tensor, labels: Tensor | None) -> None:
        if len(rows) > self.size:
            raise ValueError(
                f"a push of {len(rows)} rows (over all processes) does not fit a queue of {self.size}: "
                "make the queue larger or the batch smaller"
            )
        slots = (self.pointer + torch.arange(len(rows), device=rows.device)) % self.size
        self.features.index_copy_(0, slots, rows)
        if labels is None:
            self.row_labels.index_fill_(0, slots, -1)
        else:
            self.row_labels.index_copy_(0, slots, labels)
        self.pointer.add_(len(rows)).remainder_(self.size)
        self.count.add_(len(rows)).clamp_(max=self.size)

    def _push_by_class(self, rows: Tensor, labels: Tensor, groups: int) -> None:
        if labels.device.type == "cpu" and int(labels.max()) >= groups:
            raise ValueError(f"label {int(labels.max())} does not fit a queue with {groups} groups (0 to {groups - 1})")
        rank, counts = _rank_within_label(labels, groups)
        own = labels.clamp(min=0)
        keep = (labels >= 0) & (rank >= counts[own] - self.size)
        slots = own * self.size + (self.pointer[own] + rank) % self.size

        # Selecting the kept rows would wait for the device to know how many there are. Instead the others repeat the
        # write of one kept row, which changes nothing; if none is kept, the one slot written gets its old row back.
        one = keep.to(torch.uint8).argmax(dim=0, keepdim=True)
        source = torch.where(keep, torch.arange(len(rows), device=rows.device), one)
        slots, slot = slots[source], slots[one]
        storage = self.features.view(-1, self.dim)
        before = storage[slot]
        storage.index_copy_(0, slots, rows[source])
        storage.index_copy_(0, slot, torch.where(keep.any(), storage[slot], before))
        self.pointer.add_(counts).remainder_(self.size)
        self.count.add_(counts).clamp_(max=self.size)

    def extra_repr(self) -> str:
        groups = "" if self.groups is None else f", groups={self.groups}"
        return f"size={self.size}, dim={self.dim}{groups}"


def _rank_within_label(labels: Int[Tensor, " n"], groups: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " C"]]:
    """How many earlier rows have the same label, for every row; and the number of rows of each of `groups` labels."""
    boxes = labels.clamp(min=-1) + 1  # box 0 takes all negative labels
    counts = boxes.new_zeros(groups + 1).index_add_(0, boxes, torch.ones_like(boxes))
    order = boxes.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(boxes)
    rank[order] = torch.arange(len(boxes), device=boxes.device) - starts[boxes[order]]
    return rank, counts[1:]
