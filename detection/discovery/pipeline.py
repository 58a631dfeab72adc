"""Unknown objects of a folder, from pictures to something a person can put names to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from detection.discovery.collect import DEFAULT, Predict, Wanted, collect_unknowns
from detection.discovery.grouping import Grouping, group_embeddings
from detection.discovery.naming import NAMES, write_names
from detection.discovery.page import INDEX, write_page
from detection.discovery.records import FoundBy, UnknownObjects
from detection.discovery.sheets import Crops, write_sheets
from detection.structures import UNKNOWN, Detections
from sslcore.errors import DataError
from sslcore.storage import folders
from sslcore.storage.messages import show_path


@dataclass(frozen=True, eq=False)
class Discovery:
    """A folder of grouped unknown objects: what is in it, the page to look at, the file to type names into."""

    folder: Path
    unknowns: UnknownObjects
    grouping: Grouping

    @property
    def index(self) -> Path:
        return self.folder / INDEX

    @property
    def names(self) -> Path:
        return self.folder / NAMES


def discover(
    predict: Predict,
    images: str | Path | Iterable[str | Path],
    folder: str | Path,
    *,
    known: Sequence[str] = (),
    found_by: FoundBy | None = None,
    wanted: Wanted = DEFAULT,
    method: Literal["hdbscan", "kmeans"] = "hdbscan",
    groups: int | None = None,
    min_group: int = 5,
    components: int | None = 32,
    seed: int = 0,
    batch_size: int = 8,
    command: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Discovery:
    """Collect what a detector calls unknown, group it, and write a folder with sheets, a page and names.yaml.

    The folder is there when all of it is, and not before.

    Args:
        predict, images, known, found_by, wanted, batch_size, say, progress: see `collect_unknowns`.
        folder: where to; it must not exist, or be empty.
        method, groups, min_group, components, seed: see `group_embeddings`.
        command: what to run when the names are typed; written into names.yaml and on the page.

    Raises:
        DataError: the folder is taken, there are no pictures, or no unknown object was found in them.
        CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    refuse_taken(folder)
    tally = _Tally(predict)
    unknowns = collect_unknowns(
        tally,
        images,
        known=known,
        found_by=found_by,
        wanted=wanted,
        batch_size=batch_size,
        say=say,
        progress=progress,
    )
    if not len(unknowns):
        raise DataError(tally.why_nothing(wanted))
    grouping = group_embeddings(
        unknowns.embeddings, method=method, groups=groups, min_group=min_group, components=components, seed=seed
    )
    for note in grouping.notes:
        say(note)
    write_discovery(folder, unknowns, grouping, command=command)
    return Discovery(folder, unknowns, grouping)


class _Tally:
    """Passes on what a detector finds, and remembers what it called unknown, wanted or not."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._count, self._score, self._posterior = 0, 0.0, 0.0

    def __call__(self, pictures: list[Image.Image]) -> Sequence[Detections]:
        results = self._predict(pictures)
        for found in results:
            unknown = found[found.labels == UNKNOWN]
            if len(unknown):
                self._count += len(unknown)
                self._score = max(self._score, float(unknown.scores.nan_to_num().max()))
                self._posterior = max(self._posterior, float(unknown.posteriors.nan_to_num().max()))
        return results

    def why_nothing(self, wanted: Wanted) -> str:
        """What is to be said where nothing that was wanted was found."""
        if not self._count:
            return "no unknown object was found: the detector calls nothing in these pictures unknown; give others"
        asked = wanted.posterior > 0
        also = f" and a posterior of at least {wanted.posterior:g}" if asked else ""
        nothing = f"no unknown object was found with a score of at least {wanted.score:g}{also}"
        called = f"of {self._count:,} detection{'s' * (self._count > 1)} called unknown"
        if self._score >= wanted.score and self._posterior >= wanted.posterior:
            return (
                f"{nothing} that is at least {wanted.min_side:g} pixels high and wide, {called}: give larger pictures"
            )
        highest = f", the highest posterior {self._posterior:.2g}" if asked else ""
        return (
            f"{nothing}; {called} the highest score is {self._score:.2g}{highest}: ask for less, or give other pictures"
        )


def write_discovery(folder: Path, unknowns: UnknownObjects, grouping: Grouping, *, command: str | None = None) -> None:
    """Write records, groups, sheets, page and names.yaml. For the arguments and errors see `discover`."""
    refuse_taken(folder)
    crops = Crops(unknowns)
    folders.make_folder(folder.absolute().parent)
    with folders.new_folder(folder) as temporary:
        unknowns.save(temporary)
        grouping.save(temporary)
        sheets = {group.number: write_sheets(temporary, group, crops) for group in grouping.groups}
        write_page(temporary, unknowns, grouping, sheets, crops, command=command)
        write_names(temporary, grouping, sheets, command=command)


def refuse_taken(folder: Path) -> None:
    """DataError if something is there: names may have been typed into it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{show_path(folder)} exists already, and names may have been typed into it; name another folder, or "
            "delete this one"
        )
