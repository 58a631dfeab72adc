"""Images of OpenScenes as its jsons have them: one set of ids for all files, and images that several files list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.data.scenes.catalogue import ArtCatalogue
from detection.data.scenes.coco import entry
from detection.data.scenes.composer import Scene, SceneConfig
from detection.data.scenes.openscenes_tasks import Deal

_STREAM = 3  # of random numbers; 0 to 2 are the splits' scenes


@dataclass(frozen=True)
class Record:
    """One image: COCO's entry for it, for its objects and, in the same form, for its distractors."""

    image: dict[str, Any]
    objects: list[dict[str, Any]]
    distractors: list[dict[str, Any]]


class Records:
    """Gives images, objects and distractors ids that no other of any file has.

    Args:
        art: its classes in their order have the category ids 1, 2, ...
    """

    def __init__(self, art: ArtCatalogue) -> None:
        self._category_ids = {name: k for k, name in enumerate(art.classes, start=1)}
        self._categories = [
            {"id": k, "name": name, "supercategory": art.supercategory(name)} for name, k in self._category_ids.items()
        ]
        self._images = self._objects = self._distractors = 0

    def add(self, scene: Scene, config: SceneConfig) -> Record:
        """The next image."""
        image_id = self._images = self._images + 1
        image = {
            "id": image_id,
            "file_name": f"{config.split}-{image_id:06d}.jpg",
            "width": config.width,
            "height": config.height,
            "background": scene.background,
        }
        objects, distractors = [], []
        for thing in scene.objects:
            self._objects += 1
            assert thing.class_name is not None
            known = {"category_id": self._category_ids[thing.class_name], "iscrowd": 0}
            objects.append({"id": self._objects, "image_id": image_id, **known, **entry(thing)})
            del objects[-1]["group"]  # a matter of the task, and an image may serve several
        for thing in scene.distractors:
            self._distractors += 1
            distractors.append({"id": self._distractors, "image_id": image_id, **entry(thing)})
        return Record(image, objects, distractors)

    def as_coco(self, records: Sequence[Record], part: str, seed: int) -> dict[str, Any]:
        """The json of one part of the benchmark."""
        return {
            "info": {"description": "OpenScenes", "part": part, "seed": seed},
            "images": [record.image for record in records],
            "annotations": [thing for record in records for thing in record.objects],
            "categories": self._categories,
            "distractors": [thing for record in records for thing in record.distractors],
        }


def with_recurring(
    trained: Sequence[Sequence[Record]], deal: Deal, wanted: int, unlabelled: tuple[int, int], seed: int
) -> list[list[Record]]:
    """Each task's images; in front of a later task's own ones `wanted` images of earlier tasks.

    Images recur where they show a class of the later task and a number of other objects in the range `unlabelled`; a
    task for which there are too few has fewer.
    """
    parts = [list(trained[0])]
    for task in range(2, len(trained) + 1):
        ids = {1 + deal.known.index(name) for name in deal.tasks[task - 1]}
        earlier = [record for records in trained[: task - 1] for record in records if _serves(record, ids, unlabelled)]
        rng = np.random.Generator(np.random.PCG64([seed, _STREAM, task]))
        chosen = sorted(rng.permutation(len(earlier))[:wanted].tolist())
        parts.append([*(earlier[k] for k in chosen), *trained[task - 1]])
    return parts


def _serves(record: Record, category_ids: set[int], unlabelled: tuple[int, int]) -> bool:
    labelled = sum(thing["category_id"] in category_ids for thing in record.objects)
    return labelled > 0 and unlabelled[0] <= len(record.objects) - labelled <= unlabelled[1]
