"""A folder of OpenScenes as it lies on disk: opened, checked against its manifest, and how to make it anew."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.scenes.cache import MANIFEST, Differences, differences, read_manifest
from detection.tasks import TaskSet
from sslcore.errors import DataError

TASKS = "tasks.yaml"


@dataclass(frozen=True)
class OpenScenes:
    """A folder of scenes with its tasks and its manifest."""

    folder: Path
    tasks: TaskSet
    manifest: dict[str, Any]

    @property
    def images(self) -> Path:
        """The folder that file names in the jsons are relative to."""
        return self.folder / "images"

    def train(self, task: int) -> Path:
        """COCO json of a task's training images; tasks count from 1."""
        if not 1 <= task <= self.tasks.count:
            raise ValueError(f"task is between 1 and {self.tasks.count}, not {task}")
        return self.folder / f"train_{task}.json"

    @property
    def val(self) -> Path:
        """COCO json of the validation images, which serve all tasks."""
        return self.folder / "val.json"

    @property
    def test(self) -> Path:
        """COCO json of the test images, which serve all tasks."""
        return self.folder / "test.json"


def open_openscenes(folder: str | Path) -> OpenScenes:
    """A folder that `make_openscenes` made. Raises DataError if it is none, or if a file in it was changed."""
    root = Path(folder)
    if not (root / MANIFEST).is_file():
        command = shlex.join(["surnia", "detect", "data", "openscenes", "--out", str(root)])
        raise DataError(f"{root} holds no OpenScenes: make it with `{command}`")
    manifest = read_manifest(root)
    if manifest is None:
        raise changed(root)
    if "openscenes" not in manifest["request"]:
        raise DataError(f"{root} holds other scenes, not OpenScenes: name another folder")
    return OpenScenes(root, TaskSet.from_file(root / TASKS), manifest)


def changed(folder: Path) -> DataError:
    """The error for OpenScenes whose files are not those of their manifest: which, and what makes them as they were."""
    found = differences(folder)
    said = f"{folder} is not as it was made: {_in_words(found)}"
    if not found.changed and not found.missing:
        return DataError(f"{said}; nothing else is wrong, so take out what was added")
    remedy = "delete the folder, and make it anew with: "
    command = ["surnia", "detect", "data", "openscenes", "--out", str(folder)]
    if not found.manifest:
        return DataError(f"{said}; {remedy}{shlex.join(command)} and the options that it was made with")
    options, unknown = _options(found.manifest)
    return DataError(f"{said}; {remedy}{shlex.join([*command, *options])}{unknown}")


def origin(sprites: object, backgrounds: object) -> dict[str, str | None] | None:
    """What a manifest says of where art and photographs came from; None if they were no folders.

    It is no part of the request: the same art elsewhere gives the same scenes.
    """
    given = {"sprites": sprites, "backgrounds": backgrounds}
    if not all(source is None or isinstance(source, str | Path) for source in given.values()):
        return None
    return {name: None if source is None else str(Path(str(source)).absolute()) for name, source in given.items()}


def _in_words(found: Differences) -> str:
    said = [f"{name} was {how}" for how, names in found.by_kind().items() for name in names]
    return ", ".join(said[:3]) + (f", and {len(said) - 3} more" if len(said) > 3 else "")


def _options(manifest: Mapping[str, Any]) -> tuple[list[str], str]:
    """Options of `surnia detect data openscenes` that a folder was made with, and what is not known of them."""
    request, sources = manifest["request"], manifest.get("origin")
    options = ["--variant", request["openscenes"], "--size", request["size"], "--seed", str(request["seed"])]
    if sources is None:
        art = "--sprites and --backgrounds" if request["own_art"] else "--backgrounds"
        return options, f" and the {art} that it was made with, if any"
    given = {name: place for name, place in sources.items() if place is not None}
    return [*options, *(word for name, place in given.items() for word in (f"--{name}", place))], ""
