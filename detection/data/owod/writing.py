"""The files of a built benchmark, in a folder that is not there yet."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from detection.data.annotations import AnnotationSet, Indices
from detection.data.coco_text import coco_text
from detection.data.problems import shown
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage import files, folders
from sslcore.storage.messages import show_path

MANIFEST, TASKS, PICTURES, PUBLISHED = "manifest.json", "tasks.yaml", "images", "as_published"
_SHOWN = 3


class Writer:
    """Writes into a temporary folder.

    Args:
        folder: will be committed by whoever made it.
        pictures: folders of pictures by the name they get; None: they are neither looked for nor linked to.

    Attributes:
        images: how many each annotation file has.
        hashes: SHA-256 (hex) of each file.
    """

    def __init__(self, folder: Path, pictures: dict[str, Path] | None) -> None:
        self.folder, self.pictures = folder, pictures
        self.images = dict[str, int]()
        self.hashes = dict[str, str]()
        self._listings = dict[Path, set[str]]()

    def annotations(self, name: str, pool: AnnotationSet, images: Indices) -> None:
        """A COCO json of some of the images.

        Raises:
            DataError: there are none, or their pictures are missing.
        """
        if not len(images):
            raise DataError(f"no image is left for {name}.json; give the folders as they were released")
        chosen = pool.select(images)
        if self.pictures is not None:
            self._look_for(chosen, self.pictures)
        self._write(f"{name}.json", coco_text(chosen))
        self.images[name] = len(images)

    def lines(self, name: str, pool: AnnotationSet, images: Indices) -> None:
        """A list of images as it was released: names without folder and suffix, as often as they are listed."""
        self._write(f"{name}.txt", [("\n".join(stems(pool, images)) + "\n").encode()])

    def finish(self, tasks: TaskSet, about: dict[str, Any]) -> None:
        """Links to the pictures, the task file and the manifest."""
        if self.pictures is not None:
            folders.make_folder(self.folder / PICTURES)
            for name, target in self.pictures.items():
                folders.link_folder(self.folder / PICTURES / name, target.resolve())
        tasks.save(self.folder / TASKS)
        files.write_json(self.folder / MANIFEST, {**about, "sha256": self.hashes})

    def _write(self, name: str, chunks: Any) -> None:
        folders.make_folder((self.folder / name).parent)
        self.hashes[name] = files.write_new(self.folder / name, chunks).sha256

    def _look_for(self, chosen: AnnotationSet, pictures: dict[str, Path]) -> None:
        for part, names in _by_part(chosen).items():
            folder = pictures[part]
            if folder not in self._listings:
                self._listings[folder] = set(os.listdir(folder))  # much quicker than asking for each file
            missing = sorted(names - self._listings[folder])
            if missing:
                some = ", ".join(shown(name) for name in missing[:_SHOWN])
                raise DataError(
                    f"{len(missing):,} of {len(names):,} pictures are not in {show_path(folder)} ({some}"
                    f"{', ...' if len(missing) > _SHOWN else ''}); unpack its archive again, or add --no-pictures"
                )


def stems(pool: AnnotationSet, images: Indices) -> list[str]:
    """What released lists call images."""
    return [PurePosixPath(pool.images[i].file_name).stem for i in images.tolist()]


def _by_part(chosen: AnnotationSet) -> dict[str, set[str]]:
    names = dict[str, set[str]]()
    for image in chosen.images:
        part, _, name = image.file_name.partition("/")
        names.setdefault(part, set()).add(name)
    return names
