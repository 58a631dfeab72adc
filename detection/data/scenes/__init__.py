"""Scenes made from real parts: drawings with transparent backgrounds pasted on photographs.

    >>> from detection.data.scenes import make_crops
    >>> crops = make_crops("train", 12_000, seed=0)  # doctest: +SKIP

Names are imported when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.data.scenes.backgrounds import Photograph, Photographs
    from detection.data.scenes.cache import cache_folder
    from detection.data.scenes.catalogue import ArtCatalogue, Drawing
    from detection.data.scenes.crops import BACKGROUND, CropSet, make_crops, write_crop_folder

_HOMES = {
    "ArtCatalogue": "catalogue",
    "BACKGROUND": "crops",
    "CropSet": "crops",
    "Drawing": "catalogue",
    "Photograph": "backgrounds",
    "Photographs": "backgrounds",
    "cache_folder": "cache",
    "make_crops": "crops",
    "write_crop_folder": "crops",
}

__all__ = [
    "BACKGROUND",
    "ArtCatalogue",
    "CropSet",
    "Drawing",
    "Photograph",
    "Photographs",
    "cache_folder",
    "make_crops",
    "write_crop_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
