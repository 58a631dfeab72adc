"""Class prototypes: one running mean per class.

Joseph et al., "Towards Open World Object Detection", CVPR 2021, section 4.1 (contrastive clustering): every known
class is represented by the mean of its feature vectors, renewed with momentum as training moves the features.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sslcore.distributed import all_reduce_sum


class ClassMeans(nn.Module):
    """Means of feature vectors by class, renewed with momentum.

    Args:
        classes: number of classes, C.
        dim: length of a feature vector, d.
        momentum: weight of the old mean, in [0, 1); 0 keeps only the newest batch.

    Attributes:
        vectors: (C, d) the means; rows of classes never seen are zero.
        seen: (C,) whether a class has had a feature vector yet. Losses must leave out the others:
            a zero row would attract or repel like a real prototype.

    Example:
        >>> means = ClassMeans(classes=3, dim=2, momentum=0.9)
        >>> means.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([2, 2]))
        >>> means.vectors[2], means.seen.tolist()
        (tensor([2., 0.]), [False, False, True])
    """

    vectors: Float[Tensor, "C d"]
    seen: Bool[Tensor, " C"]

    def __init__(self, classes: int, dim: int, *, momentum: float) -> None:
        super().__init__()
        if classes < 1 or dim < 1:
            raise ValueError(f"classes and dim must be at least 1, not {classes} and {dim}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is the weight of the old mean and must be in [0, 1), not {momentum}")
        self.momentum = momentum
        self.register_buffer("vectors", torch.zeros(classes, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Move the mean of every class in the batch towards the batch's mean of that class.

        Classes absent from the batch stay as they are, and rows with a negative label count for nothing. With several
        processes each sees the sums over all batches, so that all keep the same means. No value is read back to the
        host.

        Raises:
            ValueError: on the CPU, a label is not below the number of classes (on a GPU: a device-side assertion).
        """
        classes = len(self.vectors)
        if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= classes:
            raise ValueError(f"label {int(labels.max())} has no mean: there are {classes} classes (0 to {classes - 1})")
        rows = labels.clamp(min=-1) + 1  # row 0 collects what has no class
        sums = self.vectors.new_zeros(classes + 1, self.vectors.shape[1])
        sums = sums.index_add_(0, rows, features.to(sums.dtype))[1:]
        counts = sums.new_zeros(classes + 1).index_add_(0, rows, sums.new_ones(len(rows)))[1:]
        sums, counts = all_reduce_sum(sums, counts)

        present = counts > 0
        batch_means = sums / counts.clamp(min=1)[:, None]
        # A class met for the first time starts at its batch mean: there is no old mean to weigh.
        keep = torch.where(self.seen, self.momentum, 0.0)[:, None]
        renewed = keep * self.vectors + (1 - keep) * batch_means

        self.vectors.copy_(torch.where(present[:, None], renewed, self.vectors))
        self.seen.logical_or_(present)

    def extra_repr(self) -> str:
        classes, dim = self.vectors.shape
        return f"classes={classes}, dim={dim}, momentum={self.momentum}"
