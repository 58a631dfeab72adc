"""What the model of the task before calls known in the training images of a task: its classes are unlabelled there now.

Found once for each image, before the detector grows, and not batch by batch with a frozen copy: an image comes up in
several epochs, so this is the cheaper way; no second detector need be kept; and what is found in an image does not
depend on the batch it came up in, nor on where a run was resumed. A mirrored image gets the mirrored boxes.
"""

from typing import Any

import torch
from torch import Tensor

from detection.structures import FIRST_KNOWN
from detection.training.layout import Layout
from detection.training.processes import agreed, everybodys
from detection.training.reading import Reader
from detection.training.recipe import DetectionRecipe
from detection.training.samples import Plan, TrainingSet
from sslcore.distributed import rank, world_size

_FILE = "previous.json"


@torch.no_grad()
def previous_boxes(
    engine: Any,
    images: TrainingSet,
    plan: Plan,
    layout: Layout,
    task: int,
    *,
    recipe: DetectionRecipe,
    device: torch.device,
) -> list[Tensor]:
    """(q, 4) boxes of each image, in its pixels; of images that no batch shows, none.

    Args:
        engine: the detector after the task before, its decision fitted.
        images, plan: of the stage.
        layout: keeps what was found.
        task: that is about to be learnt.
        recipe: batch size and workers.
        device: where the engine is.
    """
    used = sorted({number for step in range(plan.steps) for number in plan.batch(step)})
    kept = agreed(layout.read(task, _FILE))
    if kept is None or kept["images"] != len(images) or {int(number) for number in kept["boxes"]} != set(used):
        kept = {"images": len(images), "boxes": _look(engine, images, used, recipe, device)}
        layout.write(task, _FILE, kept, compact=True)
    none = torch.zeros(0, 4)
    found = {int(number): torch.tensor(boxes).reshape(-1, 4) for number, boxes in kept["boxes"].items()}
    return [found.get(number, none) for number in range(len(images))]


def _look(
    engine: Any, images: TrainingSet, used: list[int], recipe: DetectionRecipe, device: torch.device
) -> dict[str, list[list[float]]]:
    mine = used[rank() :: world_size()]
    jobs = [mine[first : first + recipe.batch_size] for first in range(0, len(mine), recipe.batch_size)]
    reader = Reader(images.files(), workers=recipe.data.workers, keep=False)
    found = []
    for job, read in zip(jobs, reader.read(jobs), strict=True):
        batch = [image.to(device).float().div_(255) for image in read]
        for number, detections in zip(job, engine.predict(batch), strict=True):
            found.append((number, detections.boxes[detections.labels >= FIRST_KNOWN].tolist()))
    return {str(number): boxes for part in everybodys(found) for number, boxes in part}
