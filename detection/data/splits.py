"""Pictures that return in another split. Those of one task may return in the training images of another."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os.path import normpath
from typing import Any

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.pictures import Contents, Places, Shape
from detection.data.problems import Problems, shown

_TESTED_ON = (
    ": the decision would be fitted on what it is tested on; give other validation images, or set decision.fit to none"
)


def is_train(role: str) -> bool:
    """Whether a role is that of training images, of one task or of all."""
    return role == "train" or role.startswith("train_")


def find_shared(sets: Mapping[str, AnnotationSet], problems: Problems, *, fits: bool) -> None:
    """Tell of files that are in two splits, by whatever name, links followed; see `validate` for what is fatal."""
    for one, other in _pairs(sets):
        both = sorted(one.index_of.keys() & other.index_of.keys())
        verdict = "" if one.trains or other.trains else _TESTED_ON if fits else "; nothing is fitted on them"
        problems.add_each(
            other.annotations.source,
            [(other.image(place), one.image(place)) for place in both],
            _shared(f"is among the images of {one.role} ({one.annotations.source}) too", verdict),
            fatal=one.trains or other.trains or fits,
            kind=f"images shared by {one.role} and {other.role}",
        )


def _shared(says: str, verdict: str) -> Callable[[Any], tuple[Any, str]]:
    def describe(pair: tuple[ImageRecord, ImageRecord]) -> tuple[int | str, str]:
        image, theirs = pair
        name = "" if normpath(theirs.file_name) == normpath(image.file_name) else f", as {theirs.file_name}"
        return image.id, f"image {shown(image.id)}, {image.file_name}, {says}{name}{verdict}"

    return describe


def find_copies(sets: Mapping[str, AnnotationSet], problems: Problems) -> None:
    """Tell of files in one split with the content of a file in another; only those that may have it are read.

    Never fatal: they may belong to a published protocol.
    """
    for one, other in _pairs(sets):
        copies = [
            (image, one.image(twin))
            for place, image in other.images()
            if place not in one.index_of and (twin := one.twin(place, image)) is not None
        ]
        problems.add_each(
            other.annotations.source,
            copies,
            _copied(f"among the images of {one.role} ({one.annotations.source}); leave one of them out"),
            fatal=False,
            kind=f"images with the content of images of {one.role}",
        )


def _copied(says: str) -> Callable[[Any], tuple[Any, str]]:
    def describe(pair: tuple[ImageRecord, ImageRecord]) -> tuple[int | str, str]:
        image, theirs = pair
        said = f"image {shown(image.id)}, {image.file_name}, has the same content as {theirs.file_name} {says}"
        return image.id, said

    return describe


@dataclass(frozen=True, eq=False)
class _Split:
    """The images of a role; `places` and `contents` are those of all roles."""

    role: str
    annotations: AnnotationSet
    places: Places
    contents: Contents

    @property
    def trains(self) -> bool:
        return is_train(self.role)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The images by where their files really are."""
        return {self.places.of(self.annotations.path(i)): i for i in range(len(self.annotations.images))}

    def image(self, place: str) -> ImageRecord:
        return self.annotations.images[self.index_of[place]]

    def images(self) -> Iterator[tuple[str, ImageRecord]]:
        return ((place, self.annotations.images[index]) for place, index in self.index_of.items())

    @cached_property
    def _by_shape(self) -> dict[Shape, list[str]]:
        found = dict[Shape, list[str]]()
        for place, image in self.images():
            shape = self.contents.shape(place, image)
            if shape is not None:
                found.setdefault(shape, []).append(place)
        return found

    def twin(self, place: str, image: ImageRecord) -> str | None:
        """A file of this split with the content of another file."""
        shape = self.contents.shape(place, image)
        alike = self._by_shape.get(shape, []) if shape is not None else []
        sha256 = self.contents.sha256(place) if alike else None
        return next((twin for twin in alike if sha256 is not None and self.contents.sha256(twin) == sha256), None)


def _pairs(sets: Mapping[str, AnnotationSet]) -> Iterator[tuple[_Split, _Split]]:
    """Splits that must not share images, the first one first."""
    places, contents = Places(), Contents()
    splits = [_Split(role, annotations, places, contents) for role, annotations in sets.items()]
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            if not (one.trains and other.trains):
                yield one, other
