"""Scenes made from real parts: drawings with transparent backgrounds pasted on photographs.

    >>> from detection.data.scenes import make_crops
    >>> make_crops("train", 12_000, seed=0).images.shape  # doctest: +SKIP
    (12000, 3, 48, 48)

Names are imported when they are first used: importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from sslcore._lazy import attach

if TYPE_CHECKING:
    from detection.data.scenes.backgrounds import Photograph, Photographs
    from detection.data.scenes.cache import cache_folder
    from detection.data.scenes.catalogue import ArtCatalogue, Drawing
    from detection.data.scenes.coco import SceneSet, compose_scenes, render_scenes
    from detection.data.scenes.composer import ObjectGroup, Scene, SceneComposer, SceneConfig
    from detection.data.scenes.crops import BACKGROUND, CropSet, make_crops, write_crop_folder
    from detection.data.scenes.openscenes import make_openscenes
    from detection.data.scenes.openscenes_folder import OpenScenes, open_openscenes
    from detection.data.scenes.openscenes_statistics import describe

_HOME = {
    "backgrounds": ("Photograph", "Photographs"),
    "cache": ("cache_folder",),
    "catalogue": ("ArtCatalogue", "Drawing"),
    "coco": ("SceneSet", "compose_scenes", "render_scenes"),
    "composer": ("ObjectGroup", "Scene", "SceneComposer", "SceneConfig"),
    "crops": ("BACKGROUND", "CropSet", "make_crops", "write_crop_folder"),
    "openscenes": ("make_openscenes",),
    "openscenes_folder": ("OpenScenes", "open_openscenes"),
    "openscenes_statistics": ("describe",),
}

# Written out for type checkers, which cannot run `attach`.
__all__ = [
    "BACKGROUND",
    "ArtCatalogue",
    "CropSet",
    "Drawing",
    "ObjectGroup",
    "OpenScenes",
    "Photograph",
    "Photographs",
    "Scene",
    "SceneComposer",
    "SceneConfig",
    "SceneSet",
    "cache_folder",
    "compose_scenes",
    "describe",
    "make_crops",
    "make_openscenes",
    "open_openscenes",
    "render_scenes",
    "write_crop_folder",
]
_, __getattr__, __dir__ = attach(__name__, _HOME)
