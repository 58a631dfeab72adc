"""The pictures that a command is given: files and folders, which may overlap or have names in common."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslcore.storage import list_images

Images = list[tuple[Path, str]]
"""Files, and the names they go by."""


@dataclass(frozen=True)
class Given:
    """A file as it was given.

    Attributes:
        path: of the file, or of a link to it.
        folder: where it was found: a folder that was given, or the one around it.
    """

    path: Path
    folder: Path

    @property
    def file(self) -> str:
        """The file itself, wherever links lead."""
        return os.path.realpath(self.path)

    @property
    def below(self) -> tuple[str, ...]:
        """The parts of the path below the folder."""
        return self.path.relative_to(self.folder).parts

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of the whole path, without the root and any `..`: no name may lead out of the folder it is used in."""
        upwards = ".." in self.folder.parts
        return ((self.folder.resolve() if upwards else self.folder.absolute()) / Path(*self.below)).parts[1:]


def list_given(places: Sequence[Path]) -> list[Given]:
    """Every image file that is given, or lies in a folder that is, as often as it is.

    Raises:
        DataError: a folder holds none.
    """
    found = list[Given]()
    for place in places:
        if place.is_dir():
            found += [Given(path, place) for path in list_images(place)]
        else:
            found.append(Given(place, place.parent))
    return found


def find_images(given: Sequence[Given]) -> Images:
    """Image files, each once however often it is given (which is said), and names for them that differ."""
    once = dict[str, Given]()
    for each in given:
        once.setdefault(each.file, each)
    tell_repeated(len(given) - len(once))
    kept = list(once.values())
    return [(each.path, name) for each, name in zip(kept, names_of(kept), strict=True)]


def tell_repeated(count: int) -> None:
    """So many had been given before, under this or another path."""
    if count:
        again = "1 image was given again and is" if count == 1 else f"{count:,} images were given again and are"
        print(f"note: {again} not looked at twice", file=sys.stderr)


def names_of(given: Sequence[Given]) -> list[str]:
    """Paths below the folder that each was found in; as many folders above it are named as make these differ."""
    whole = [each.parts for each in given]
    lengths = [len(each.below) for each in given]
    while True:
        names = ["/".join(parts[-length:]) for parts, length in zip(whole, lengths, strict=True)]
        bearers = Counter(names)
        longer = [
            min(length + (bearers[name] > 1), len(parts))
            for parts, length, name in zip(whole, lengths, names, strict=True)
        ]
        if longer == lengths:
            return names
        lengths = longer
