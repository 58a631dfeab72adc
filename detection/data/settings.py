"""Where images and annotations come from. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from sslcore.settings import Settings, Whole


class OpenScenesData(Settings):
    """The offline benchmark: scenes composed from drawings and photographs."""

    name: Literal["openscenes"] = "openscenes"
    variant: Literal["M", "S"] = "M"
    """M: every task mixes super-categories; S: a super-category belongs to one task, the stress test."""
    size: Literal["tiny", "small", "large"] = "small"
    """How many scenes, and how large; `tiny` is to try things out."""
    seed: Whole = 0
    """Of the scenes."""
    path: str | None = None
    """Folder of a set made before; null composes it once and keeps it in the cache."""
    sprites: str | None = None
    """Your own cut-outs in place of the demo's art: a folder of class folders with transparent PNGs."""
    backgrounds: str | None = None
    """Your own photographs."""
    workers: Whole = 2
    """Processes that read images; 0: the training process itself."""


class CocoData(Settings):
    """COCO-style annotations and a task file."""

    name: Literal["coco"] = "coco"
    tasks: str
    """YAML file: name, tasks (lists of class names), perhaps unknown_id and aliases."""
    train: list[str]
    """Annotation files of the training images: one for each task, or one for all."""
    val: str
    """Annotation file of the images that the decision is fitted on; none of them among training or test images."""
    test: str
    """Annotation file of the test images, completely annotated."""
    images: str
    """Folder that the file names are relative to, or the one around it; VOC's lists know theirs."""
    workers: Whole = 4
    """Processes that read images; 0: the training process itself."""


DataSettings = Annotated[OpenScenesData | CocoData, Field(discriminator="name")]
