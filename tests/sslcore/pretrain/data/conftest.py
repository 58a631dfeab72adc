"""Tiny folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslcore.augment import RandomView, ViewSpec


def picture(seed: int, height: int = 24, width: int = 30) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, names: list[str], *, same_size: bool = False) -> Path:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, 24 if same_size else 20 + i % 7).save(path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 pictures of several sizes in 3 classes."""
    return fill(tmp_path / "pictures", [f"{'abc'[i % 3]}/{i:02}.png" for i in range(23)])


@pytest.fixture
def views() -> list[RandomView]:
    return [RandomView(ViewSpec(size=size), (0.5,) * 3, (0.25,) * 3) for size in (16, 12)]
