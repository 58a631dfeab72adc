"""Exemplars of earlier tasks: which instances are kept, and the file that says so.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.4: a balanced set of exemplars is kept,
and the detector is fine-tuned on it after each task.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.data.annotations import AnnotationSet, Indices, LabeledSet
from detection.structures import FIRST_KNOWN
from sslcore.errors import DataError
from sslcore.random import uniform
from sslcore.storage import write_json

ImageId = int | str

_STREAM = 102  # of the keyed random numbers


@dataclass(frozen=True)
class Exemplar:
    """One annotated object: its image's id and its own, as the annotation file has them."""

    image: ImageId
    box: int


@dataclass(frozen=True)
class Manifest:
    """The exemplars of some classes.

    Attributes:
        exemplars: by name of the class, in the order of the labels; a class may have fewer than were wanted.
        per_class: how many were wanted.
        policy, seed: how they were chosen.
    """

    exemplars: Mapping[str, tuple[Exemplar, ...]]
    per_class: int
    policy: str
    seed: int

    @property
    def short(self) -> dict[str, int]:
        """Classes with fewer exemplars than were wanted, and how many they have."""
        return {name: len(found) for name, found in self.exemplars.items() if len(found) < self.per_class}

    def rows_in(self, annotations: AnnotationSet) -> Indices:
        """Boxes of a set that are exemplars, ascending; those of other sets are passed over."""
        wanted = {(exemplar.image, exemplar.box) for found in self.exemplars.values() for exemplar in found}
        ids = [image.id for image in annotations.images]
        pairs = zip(annotations.box_image.tolist(), annotations.box_ids.tolist())
        rows = [row for row, (image, box) in enumerate(pairs) if (ids[image], box) in wanted]
        return np.asarray(rows, dtype=np.int64)

    def merged(self, later: "Manifest") -> "Manifest":
        """Exemplars of both, those of the later task behind.

        Raises:
            ValueError: a class is in both.
        """
        twice = sorted(set(self.exemplars) & set(later.exemplars))
        if twice:
            raise ValueError(f"exemplars of {', '.join(twice)} are in both manifests: a class belongs to one task")
        return Manifest({**self.exemplars, **later.exemplars}, later.per_class, later.policy, later.seed)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        classes = {
            name: [{"image": exemplar.image, "box": exemplar.box} for exemplar in found]
            for name, found in self.exemplars.items()
        }
        write_json(path, {"policy": self.policy, "seed": self.seed, "per_class": self.per_class, "classes": classes})

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or is no manifest.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            exemplars = {
                str(name): tuple(Exemplar(row["image"], int(row["box"])) for row in rows)
                for name, rows in values["classes"].items()
            }
            return cls(exemplars, int(values["per_class"]), str(values["policy"]), int(values["seed"]))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): choose the exemplars again") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no manifest of exemplars: choose the exemplars again") from error


def choose_exemplars(policy: str, labeled: LabeledSet, *, per_class: int, seed: int) -> Manifest:
    """Exemplars of the known classes that a set labels, by a policy of `POLICIES`.

    Counted in instances. Ignored boxes (crowds, difficult objects) are no exemplars, nor are classes of other tasks,
    which the labels of a task's training set do not have. A class with too few instances gives all it has.

    Raises:
        ValueError: the policy is not known, or `per_class` is not positive.
    """
    if policy not in POLICIES:
        raise ValueError(f"exemplars are chosen by {', '.join(POLICIES)}, not {policy!r}")
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, not {per_class}")
    annotations = labeled.annotations
    exemplars = {}
    for label in range(FIRST_KNOWN, len(labeled.names)):
        boxes = np.flatnonzero((labeled.labels == label) & ~labeled.ignore)
        if len(boxes) == 0:
            continue
        chosen = POLICIES[policy](labeled, boxes, per_class, seed)
        exemplars[labeled.names[label]] = tuple(
            Exemplar(annotations.images[labeled.box_image[box]].id, int(annotations.box_ids[labeled.rows[box]]))
            for box in chosen.tolist()
        )
    return Manifest(exemplars, per_class, policy, seed)


def at_random(labeled: LabeledSet, boxes: Indices, count: int, seed: int) -> Indices:
    """Any of them, as a function of (seed, box id): neither the file's order nor other classes change the choice."""
    ids = torch.from_numpy(labeled.annotations.box_ids[labeled.rows[boxes]])
    order = uniform(seed, 0, ids, stream=_STREAM, draws=1)[:, 0].argsort(stable=True)
    return np.sort(boxes[order[:count].numpy()])


Policy = Callable[[LabeledSet, Indices, int, int], Indices]

POLICIES: dict[str, Policy] = {"random": at_random}
"""policy(set, boxes of one class in it, how many, seed) -> at most so many of these boxes."""
