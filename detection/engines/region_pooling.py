"""A grid of features for each region, from the pyramid's level that suits its size.

He et al., "Mask R-CNN", ICCV 2017, section 3 (RoIAlign), and Lin et al., "Feature Pyramid Networks", CVPR 2017,
equation 1 (which level). Values are those of torchvision's `MultiScaleRoIAlign`, which does the work on a GPU. Its CPU
kernel computes the weights of every point once per channel and scatters the gradient number by number: a third of a
training step of a small detector. Bilinear pooling is a weighted sum of rows, so that on a CPU a vectorised embedding
bag takes its place.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper


class RegionPool(nn.Module):
    """Maps and boxes to (n, c, side, side).

    Args:
        names: of the maps that regions are pooled from, finest first.
        strides: of these maps, each twice the one before it.
        side: bins of a region across and down.
        points: points a bin across and down, whose bilinear values are averaged.
        canonical: side in pixels from which on regions are pooled from the third map (or the last, if there are fewer).
    """

    def __init__(
        self, names: Sequence[str], strides: Sequence[int], *, side: int, points: int, canonical: float
    ) -> None:
        super().__init__()
        self.names, self.strides, self.side, self.points = tuple(names), tuple(strides), side, points
        level = strides[min(2, len(strides) - 1)].bit_length() - 1
        self.torchvisions = MultiScaleRoIAlign(list(names), side, points)
        # Set here, because it would guess them from the first batch for good, and wrongly from a very thin image.
        self.torchvisions.scales = [1 / stride for stride in strides]
        self.torchvisions.map_levels = initLevelMapper(
            strides[0].bit_length() - 1, strides[-1].bit_length() - 1, canonical_scale=canonical, canonical_level=level
        )  # type: ignore[arg-type]

    def forward(self, maps: "OrderedDict[str, Tensor]", boxes: list[Float[Tensor, "r 4"]]) -> Float[Tensor, "n c s s"]:
        """Regions of all images, one after the other.

        Args:
            maps: name to (images, c, h, w); others than those of `names` are not looked at.
            boxes: (r_i, 4) of each image, in pixels of the padded batch.
        """
        used = [maps[name] for name in self.names]
        if used[0].device.type != "cpu":
            return self.torchvisions(maps, boxes, [(0, 0)] * len(boxes))
        counts = torch.tensor([len(b) for b in boxes])
        image = torch.arange(len(boxes)).repeat_interleave(counts)
        level = self.torchvisions.map_levels(boxes)  # type: ignore[misc]
        rows, weights = self._rows(used, torch.cat(boxes), image, level)
        table = torch.cat([m.float().permute(0, 2, 3, 1).flatten(0, 2) for m in used])
        bags = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        return bags.view(len(image), self.side**2, table.shape[1]).transpose(1, 2).unflatten(2, (self.side, self.side))

    @torch.no_grad()
    def _rows(
        self, maps: list[Tensor], boxes: Tensor, image: Tensor, level: Tensor
    ) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Which positions of the maps, all in one row, each bin is a weighted sum of."""
        sizes = torch.tensor([m.shape[2:] for m in maps])
        positions = torch.tensor([0] + [m.shape[0] * m.shape[2] * m.shape[3] for m in maps[:-1]]).cumsum(0)
        height, width = sizes[level].unbind(1)
        scaled = boxes * torch.tensor(self.torchvisions.scales)[level][:, None]
        low, extent = scaled[:, :2], (scaled[:, 2:] - scaled[:, :2]).clamp(min=1)
        x, of_x = self._along(low[:, 0], extent[:, 0], width)
        y, of_y = self._along(low[:, 1], extent[:, 1], height)
        first = positions[level] + image * height * width
        down = first[:, None, None] + y * width[:, None, None]
        rows = down[:, :, None, :, None] + x[:, None, :, None, :]
        weights = of_y[:, :, None, :, None] * of_x[:, None, :, None, :]
        each = (2 * self.points) ** 2
        return rows.reshape(-1, each), weights.reshape(-1, each)

    def _along(self, low: Tensor, extent: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """(n, side, 2 * points) coordinates along one axis and their weights, which add up to 1 in each bin."""
        count = self.side * self.points
        at = low[:, None] + (torch.arange(count) + 0.5) / count * extent[:, None]
        last = size[:, None] - 1
        inside = (at >= -1) & (at <= last + 1)
        at = torch.minimum(at.clamp(min=0), last.to(at))
        below = at.floor()
        part = at - below
        below = below.long()
        weights = torch.stack([1 - part, part], dim=2) * inside[:, :, None] / self.points
        corners = torch.stack([below, torch.minimum(below + 1, last)], dim=2)
        return corners.view(-1, self.side, 2 * self.points), weights.view(-1, self.side, 2 * self.points)
