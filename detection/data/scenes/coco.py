"""Sets of scenes as COCO-style folders, or in memory.

A folder holds `images/`, `annotations.json` and `manifest.json` (what was asked for, SHA-256 of every file, one hash
over all). Beside COCO's own keys the annotations say which drawing an object is, how much of it is visible and where
the whole of it lies; distractors stand under `distractors`, outside `annotations`, where readers of COCO files do not
look.
"""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from detection.data.scenes.backgrounds import Photographs
from detection.data.scenes.cache import build_folder, cache_folder, read_manifest
from detection.data.scenes.catalogue import ArtCatalogue
from detection.data.scenes.composer import Placed, Scene, SceneComposer, SceneConfig
from sslcore.errors import DataError

ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class SceneSet:
    """A folder of scenes: `folder/images/*`, `annotations` (a COCO json) and `manifest` as it was written."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def annotations(self) -> Path:
        return self.folder / ANNOTATIONS

    def read(self) -> dict[str, Any]:
        """The annotations."""
        return json.loads(self.annotations.read_text(encoding="utf-8"))


def compose_scenes(
    config: SceneConfig,
    count: int,
    seed: int,
    *,
    folder: str | Path | None = None,
    sprites: str | Path | ArtCatalogue | None = None,
    backgrounds: str | Path | Photographs | None = None,
    form: Literal["jpeg", "png"] = "jpeg",
    workers: int = 1,
) -> SceneSet:
    """Compose `count` scenes into a folder; the same request finds them there again.

    Args:
        config: what the scenes look like.
        seed: together with `config`, art and photographs decides every pixel.
        folder: where; None keeps them in `cache_folder()` under a key of the request.
        sprites, backgrounds: folders, or a catalogue and Photographs; None takes the demo's.
        form: "jpeg" keeps each image as it was compressed by the composer; "png" holds the same pixels.
        workers: processes; with more than one, the calling script needs the usual `if __name__ == "__main__":`.

    Raises DataError if art or photographs are missing, or the folder holds something else.
    """
    if count < 1 or workers < 1 or form not in ("jpeg", "png"):
        raise ValueError(f"count and workers are at least 1 and form is jpeg or png, not {count}, {workers}, {form!r}")
    composer = _composer(config, seed, sprites, backgrounds)
    request = {"key": composer.key, "count": count, "form": form, "config": config.as_dict(), "seed": seed}
    request = json.loads(json.dumps(request))  # as it reads back: tuples become lists
    target = (
        Path(folder) if folder else cache_folder() / "scenes" / f"{config.split}-{count}-{composer.key[:16]}-{form}"
    )
    manifest = read_manifest(target)
    if manifest is not None and manifest["request"] == request:
        return SceneSet(target, manifest)
    if folder and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} already holds something else: name a new folder, or delete this one")

    def build(temporary: Path) -> None:
        (temporary / "images").mkdir()
        annotations = Annotations(composer, "jpg" if form == "jpeg" else "png")
        for index, scene in enumerate(compose_in_order([composer], [(0, k) for k in range(count)], workers)):
            path = temporary / "images" / annotations.add(index, scene)
            if form == "jpeg":
                path.write_bytes(scene.jpeg)
            else:
                Image.fromarray(scene.image).save(path, compress_level=3)
        (temporary / ANNOTATIONS).write_text(json.dumps(annotations.as_coco()), encoding="utf-8")

    return SceneSet(target, build_folder(target, request, build))


def render_scenes(
    config: SceneConfig,
    count: int,
    seed: int,
    *,
    sprites: str | Path | ArtCatalogue | None = None,
    backgrounds: str | Path | Photographs | None = None,
    workers: int = 1,
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """The same scenes in memory: images uint8 (N, 3, h, w) and the annotations `compose_scenes` would write."""
    composer = _composer(config, seed, sprites, backgrounds)
    images = np.empty((count, 3, config.height, config.width), dtype=np.uint8)
    annotations = Annotations(composer, "jpg")
    for index, scene in enumerate(compose_in_order([composer], [(0, k) for k in range(count)], workers)):
        images[index] = scene.image.transpose(2, 0, 1)
        annotations.add(index, scene)
    return images, annotations.as_coco()


class Annotations:
    """Collects the annotations of scenes into one COCO-style dictionary.

    Category ids count from 1 over all classes of the catalogue, not only those that occur, so that they are the same in
    every set made from it.
    """

    def __init__(self, composer: SceneComposer, suffix: str) -> None:
        art, config = composer.art, composer.config
        self._config, self._suffix = config, suffix
        self._ids = {name: k for k, name in enumerate(art.classes, start=1)}
        self._coco: dict[str, Any] = {
            "info": {"description": "Surnia scenes", "split": config.split, "seed": composer.seed, "key": composer.key},
            "images": [],
            "annotations": [],
            "categories": [
                {"id": k, "name": name, "supercategory": art.supercategory(name)} for name, k in self._ids.items()
            ],
            "distractors": [],
        }

    def add(self, index: int, scene: Scene) -> str:
        """Add scene `index` (image id `index` + 1); returns its file's name."""
        name = f"{self._config.split}-{index:06d}.{self._suffix}"
        self._coco["images"].append(
            {
                "id": index + 1,
                "file_name": name,
                "width": self._config.width,
                "height": self._config.height,
                "background": scene.background,
            }
        )
        for key, things in (("annotations", scene.objects), ("distractors", scene.distractors)):
            for thing in things:
                known = {} if thing.class_name is None else {"category_id": self._ids[thing.class_name], "iscrowd": 0}
                number = len(self._coco[key]) + 1
                self._coco[key].append({"id": number, "image_id": index + 1, **known, **entry(thing)})
        return name

    def as_coco(self) -> dict[str, Any]:
        return self._coco


def entry(thing: Placed) -> dict[str, Any]:
    """What the annotations say of an object or distractor, but its numbers."""
    origin = {"group": thing.group} if thing.class_name is not None else {"photograph": thing.group}
    return {
        "bbox": list(thing.bbox),
        "area": thing.area,
        "visible": thing.visible,
        "full_bbox": list(thing.full_bbox),
        "truncated": thing.truncated,
        "drawing": thing.drawing,
        **origin,
    }


def _composer(
    config: SceneConfig,
    seed: int,
    sprites: str | Path | ArtCatalogue | None,
    backgrounds: str | Path | Photographs | None,
) -> SceneComposer:
    return SceneComposer(config, ArtCatalogue.open(sprites), Photographs.open(backgrounds), seed)


def compose_in_order(
    composers: Sequence[SceneComposer], jobs: Sequence[tuple[int, int]], workers: int
) -> Iterator[Scene]:
    """The scenes of jobs (which composer, which scene) in their order, by this process or by several."""
    if workers == 1:
        yield from (composers[which].scene(index) for which, index in jobs)
        return
    # Spawned, not forked: the caller may hold threads (torch's), which a fork would copy in the middle of their work.
    context = multiprocessing.get_context("spawn")
    # A composer holds images that cannot be sent; each process makes its own from the parts, art and photographs once.
    states = [(c.config, c.art, c.photographs, c.seed) for c in composers]
    with ProcessPoolExecutor(workers, context, _start_worker, (states,)) as pool:
        yield from pool.map(_scene_in_worker, jobs, chunksize=16)


_worker: list[SceneComposer] = []


def _start_worker(states: Sequence[tuple[SceneConfig, ArtCatalogue, Photographs, int]]) -> None:
    _worker[:] = [SceneComposer(*state) for state in states]


def _scene_in_worker(job: tuple[int, int]) -> Scene:
    which, index = job
    return _worker[which].scene(index)
