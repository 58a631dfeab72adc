"""What the model of the task before calls known in the training images of a task: its classes are unlabelled there now.

Found once for each image, before the detector grows, and not batch by batch with a frozen copy: an image comes up in
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
from detection.training.processes import agreed
from detection.training.samples import Plan, TrainingSet

_FILE = "previous.json"

Look = Callable[[list[int], dict[str, Any]], Any]
Share = Callable[[int, Look], list[Any]]
"""share(count, look): every process looks at its share of the numbers below `count`; what all of them found."""


@torch.no_grad()
def previous_boxes(
    engine: Any, images: TrainingSet, plan: Plan, layout: Layout, task: int, *, least: float, share: Share
) -> list[Tensor]:
    """(q, 4) boxes of each image, in its pixels; of images that no batch shows, and of exemplars' images, none.

    Args:
        engine: the detector after the task before, its decision fitted.
        images, plan: of the stage. The first set is the task's own; in the others, of exemplars, all that is known is
            labelled.
        layout: keeps what was found.
        task: that is about to be learnt.
        least: score of a detection that counts.
        share: divides the work among processes.
    """
    own = len(images.sets[0])
    used = sorted({number for step in range(plan.steps) for number in plan.batch(step) if number < own})
    kept = agreed(layout.read(task, _FILE))
    if kept is None or kept["images"] != len(images) or {int(number) for number in kept["boxes"]} != set(used):
        files = [(images.path(number), images.size(number)) for number in used]

        def look(numbers: list[int], reading: dict[str, Any]) -> dict[str, list[list[float]]]:
            found = {}
            for job, batch in image_batches(files, numbers, **reading):
                for place, detections in zip(job, engine.predict(batch), strict=True):
                    known = (detections.labels >= FIRST_KNOWN) & (detections.scores >= least)
                    found[str(used[place])] = detections.boxes[known].tolist()
            return found

        kept = {"images": len(images), "boxes": {}}
        for part in share(len(used), look):
            kept["boxes"] |= part
        layout.write(task, _FILE, kept, compact=True)
    none = torch.zeros(0, 4)
    found = {int(number): torch.tensor(boxes).reshape(-1, 4) for number, boxes in kept["boxes"].items()}
    return [found.get(number, none) for number in range(len(images))]
