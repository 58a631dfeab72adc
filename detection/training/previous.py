"""What a model surely calls known in images where known objects may be unlabelled: nothing unknown.

In the training images of a task these are objects of the classes before, and the model is that of the task before. In
exemplars' images they are those of other tasks, but only if the images were annotated with the classes of one task;
before fine-tuning the model is the one that was trained just now.

Found once for each image, before the detector changes, and not batch by batch with a frozen copy: an image comes up in
several epochs, so this is the cheaper way; no second detector need be kept; and what is found in an image does not
depend on the batch it came up in, nor on where a run was resumed. A mirrored image gets the mirrored boxes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detection.structures import FIRST_KNOWN
from detection.training.inference import image_batches
from detection.training.layout import Layout
from detection.training.module import Place
from detection.training.processes import agreed
from detection.training.samples import Plan, TrainingSet

Look = Callable[[list[int], dict[str, Any]], Any]
Share = Callable[[int, Look], list[Any]]
"""share(count, look): every process looks at its share of the numbers below `count`; what all of them found."""


@torch.no_grad()
def previous_boxes(
    engine: Any, images: TrainingSet, plan: Plan, layout: Layout, place: Place, *, least: float, share: Share
) -> list[Tensor]:
    """(q, 4) boxes of each image, in its pixels; of images that no batch shows, and of those where everything known is
    labelled, none.

    Args:
        engine: the detector before the stage, and before it grows.
        images, plan: of the stage.
        layout: keeps what was found.
        place: the stage.
        least: score of a detection that counts; those below the decision's floor are not there to count.
        share: divides the work among processes.
    """
    found = [torch.zeros(0, 4)] * len(images)
    shown = {number for step in range(plan.steps) for number in plan.batch(step)}
    numbers = sorted(number for number in shown if images.is_partial(number))
    if not numbers:
        return found
    name = f"previous_{place.stage}.json"
    kept = agreed(layout.read(place.task, name))
    if kept is None or kept.get("least") != least or {int(number) for number in kept["boxes"]} != set(numbers):
        files = [(images.path(number), images.size(number)) for number in numbers]

        def look(some: list[int], reading: dict[str, Any]) -> dict[str, list[list[float]]]:
            boxes = {}
            for job, batch in image_batches(files, some, **reading):
                for number, detections in zip(job, engine.predict(batch), strict=True):
                    known = (detections.labels >= FIRST_KNOWN) & (detections.scores >= least)
                    boxes[str(numbers[number])] = detections.boxes[known].tolist()
            return boxes

        kept = {"least": least, "boxes": {}}
        for part in share(len(numbers), look):
            kept["boxes"] |= part
        layout.write(place.task, name, kept, compact=True)
    for number, boxes in kept["boxes"].items():
        found[int(number)] = torch.tensor(boxes).reshape(-1, 4)
    return found
