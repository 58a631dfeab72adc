"""The order of training images: a function of (seed, epoch) and nothing else.

Epoch e visits the images in the order perm = permutation(seed, e, N). Global batch b is perm[b*B : (b+1)*B], and rank r
of W takes its r-th contiguous slice of B/W: any number of processes, and of reading workers, trains on the same
batches. What does not fill a batch at an epoch's end waits for another epoch's order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sslcore.random import permutation


@dataclass(frozen=True)
class SampleOrder:
    """Which images make up which batch: a pure function, asked alike by the training process and by reading workers.

    Attributes:
        images: N, images in the set.
        batch: B, images in a global batch, at most N and a multiple of `world`.
        seed: the run's seed.
        rank, world: which of how many processes this is.
    """

    images: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.images // self.batch

    def epoch(self, epoch: int) -> Tensor:
        """(N,) the order of all images in this epoch."""
        return permutation(self.seed, epoch, self.images)

    def slots(self, index: int) -> range:
        """Positions in the epoch's order that batch `index` takes for this rank."""
        share = self.batch // self.world
        start = index * self.batch + self.rank * share
        return range(start, start + share)

    def stand_ins(self, index: int, position: int) -> Iterator[int]:
        """Positions to try, in this order, when the image at `position` of batch `index` cannot be read.

        They begin at the same place of the following batch and leave out this batch, in which the same image a second
        time would be a negative of itself; only a set of a single batch leaves no choice.
        """
        start, others = index * self.batch, self.images - self.batch
        if others == 0:
            yield from ((position + k) % self.images for k in range(1, self.images))
        else:
            within = position - start
            yield from ((start + self.batch + (within + k) % others) % self.images for k in range(others))
