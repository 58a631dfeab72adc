"""What training, inference and everything after them ask of a detector, whichever library its network is from."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detection.engines.backbone_weights import BackboneReport
from detection.engines.images import ImageBatch, ImageTransform
from detection.engines.settings import NetworkSettings
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import RegionPredictor
from detection.openworld.sampling import RegionSample
from detection.structures import Detections, Regions, Target
from sslcore.errors import ConfigError


@dataclass
class StepOutput:
    """What one training step gives.

    Attributes:
        losses: scalars to be added up: `"objectness"` and `"proposal_boxes"` of the first stage, `"classification"`,
            `"boxes"` and `"clustering"` of the second. Their means over processes are those of the whole batch.
        to_remember: (n, d) detached region features and (n,) labels, for `OpenWorldHead.remember` after the optimiser's
            step.
        samples: the regions of each image that the second stage was trained on, in the network's pixels.
        scales: pixels of the network's image in one of the image given, across and down, of each image.
    """

    losses: dict[str, Tensor]
    to_remember: tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]
    samples: list[RegionSample]
    scales: list[tuple[float, float]]


class OpenWorldEngine(nn.Module):
    """A detector: a library's network with an open-world head.

    Which statistics batch norms use follows the module's mode in `losses`; everything that only looks (`regions`,
    `predict`) runs in evaluation mode and without gradients, and leaves the mode as it was.

    Attributes:
        head: the open-world parts.
        predictor: logits and box deltas of a region; it grows with the classes.
        report: where the backbone's weights come from.
        transform: images to what the network takes.
    """

    head: OpenWorldHead
    predictor: RegionPredictor
    report: BackboneReport
    transform: ImageTransform

    @abstractmethod
    def losses(
        self,
        images: Sequence[Float[Tensor, "3 h w"]],
        targets: Sequence[Target],
        *,
        step: int,
        progress: float,
        previous: Sequence[Float[Tensor, "q 4"]] | None = None,
    ) -> StepOutput:
        """The losses of one batch; every process must call it with as many images.

        Args:
            images: with values in [0, 1], not normalised.
            targets: one an image, in pixels of the images given.
            step: of the run or stage; with the targets' keys it determines what the second stage samples.
            progress: share of the stage that is done, 0 to 1.
            previous: boxes of each image that the previous task's model calls known, in pixels of the images given.

        Raises:
            ValueError: an image that is none (see `ImageTransform`), or not one target an image.
        """

    @abstractmethod
    def look(self, images: Sequence[Float[Tensor, "3 h w"]]) -> tuple[list[Regions], ImageBatch]:
        """The regions of at least one image, and the images as the network got them. Leaves the module's mode alone."""

    def regions(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Regions]:
        """What the network says of the proposals of each image, undecided, in the network's pixels (see `scales`).

        Raises:
            ValueError: an image that is none, see `ImageTransform`.
        """
        return self.look(images)[0] if len(images) else []

    def predict(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[Detections]:
        """What is found in each image, in its own pixels; nothing for no image.

        Raises:
            ValueError: an image that is none, see `ImageTransform`.
        """
        if not len(images):
            return []
        regions, batch = self.look(images)
        found = self.head.decide(regions)
        for i, detections in enumerate(found):
            detections.boxes = batch.to_original(detections.boxes, i)
        return [detections[_have_area(detections.boxes)] for detections in found]

    def scales(self, images: Sequence[Float[Tensor, "3 h w"]]) -> list[tuple[float, float]]:
        """Pixels of the network's image in one of the image given, across and down, of each image."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return [(w_to / w, h_to / h) for (h, w), (h_to, w_to) in zip(sizes, map(self.transform.resized, sizes))]

    def grow(self, names: Sequence[str]) -> None:
        """Room for new classes; old weights are kept. Make the optimiser after it: layers have new parameters."""
        self.head.grow(names)
        self.predictor.grow(len(names))


def check_width(network: NetworkSettings, head: OpenWorldHead) -> None:
    """ConfigError if a network embeds regions in other lengths than its open-world head takes."""
    if head.dim != network.representation:
        raise ConfigError(
            f"network.representation is {network.representation}, but the open-world head was made for embeddings of "
            f"{head.dim}: make both alike"
        )


def _have_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


@contextmanager
def looking(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and afterwards the mode that was, also where parts had different ones."""
    before = [part for part in module.modules() if part.training]
    for part in before:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in before:
            part.training = True
