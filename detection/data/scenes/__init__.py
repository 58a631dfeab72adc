"""Scenes made from real parts: drawings with transparent backgrounds pasted on photographs.

    >>> from detection.data.scenes import make_crops
    >>> make_crops("train", 12_000, seed=0).images.shape  # doctest: +SKIP
    (12000, 3, 48, 48)

Names are imported when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.data.scenes.backgrounds import Photograph, Photographs
    from detection.data.scenes.cache import cache_folder
    from detection.data.scenes.catalogue import ArtCatalogue, Drawing
    from detection.data.scenes.coco import SceneSet, compose_scenes, render_scenes
    from detection.data.scenes.composer import ObjectGroup, Scene, SceneComposer, SceneConfig
    from detection.data.scenes.crops import BACKGROUND, CropSet, make_crops, write_crop_folder

_HOMES = {
    "ArtCatalogue": "catalogue",
    "BACKGROUND": "crops",
    "CropSet": "crops",
    "Drawing": "catalogue",
    "ObjectGroup": "composer",
    "Photograph": "backgrounds",
    "Photographs": "backgrounds",
    "Scene": "composer",
    "SceneComposer": "composer",
    "SceneConfig": "composer",
    "SceneSet": "coco",
    "cache_folder": "cache",
    "compose_scenes": "coco",
    "make_crops": "crops",
    "render_scenes": "coco",
    "write_crop_folder": "crops",
}

__all__ = [
    "BACKGROUND",
    "ArtCatalogue",
    "CropSet",
    "Drawing",
    "ObjectGroup",
    "Photograph",
    "Photographs",
    "Scene",
    "SceneComposer",
    "SceneConfig",
    "SceneSet",
    "cache_folder",
    "compose_scenes",
    "make_crops",
    "render_scenes",
    "write_crop_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
