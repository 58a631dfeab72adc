"""The labelled images that an evaluation learns from, and those that it is scored on."""

from dataclasses import dataclass
from pathlib import Path

from sslcore.errors import DataError
from sslcore.pretrain.data import ImageArray, ImageFiles, open_images, recognise
from sslcore.pretrain.data.folder import open_folder
from sslcore.pretrain.probes.subsets import held_out
from sslcore.pretrain.recipe import DataSettings

Images = ImageArray | ImageFiles
SHARE = 0.2
"""Of an undivided folder, the share of each class that is scored on."""


@dataclass(frozen=True)
class Splits:
    """Two sets of labelled images without a common one.

    Attributes:
        train, test: the images; labels of both count in `train.classes`.
        note: how they came about, in words, for whoever reads the numbers.
    """

    train: Images
    test: Images
    note: str

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.train.classes


def open_splits(settings: DataSettings, *, seed: int = 0) -> Splits:
    """The data set's own training and test images; an undivided folder is divided by class with a seed.

    Raises:
        DataError: there is nothing, or it has no labels.
    """
    train = open_images(settings, "train")
    if train.labels is None:
        raise DataError(
            f"{train.name} has no labels, and an evaluation needs them: put the images of each class in a folder of "
            "their own"
        )
    train = train.labelled()
    if is_undivided(settings):
        keep, held = held_out(train.labels, SHARE, seed=seed)  # type: ignore[arg-type]
        note = f"{train.name} is undivided: scored on {SHARE:.0%} of each class (seed {seed}), learned from the rest"
        return Splits(train.subset(keep), train.subset(held), note)
    test = open_images(settings, "test")
    if test.labels is None:
        raise DataError(f"{test.name} has no labels, though {train.name} has: use the same class folders in both")
    return Splits(train, test.labelled(), f"learned from {train.name}, scored on {test.name}")


def is_undivided(settings: DataSettings) -> bool:
    """Whether this is a folder without train/ and test/ of its own."""
    if not settings.path or settings.kind not in ("auto", "folder"):
        return False
    path = Path(settings.path).expanduser()
    if settings.kind == "auto" and recognise(path) != "folder":
        return False
    return open_folder(path, "train").root == path
