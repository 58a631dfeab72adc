"""Small art and photographs of our own: nothing here needs the network, the arcade wheel or scikit-image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from detection.data.scenes import ArtCatalogue, Photographs


def _draw(shape: str, colour: tuple[int, int, int], size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A filled shape on a transparent ground, with a margin around it."""
    image = Image.new("RGBA", (size[0] + 10, size[1] + 10))
    pen, box = ImageDraw.Draw(image), (5, 5, size[0] + 4, size[1] + 4)
    if shape == "disc":
        pen.ellipse(box, fill=(*colour, 255))
    elif shape == "box":
        pen.rectangle(box, fill=(*colour, 255))
    else:
        pen.polygon([(5, size[1] + 4), (size[0] // 2, 5), (size[0] + 4, size[1] + 4)], fill=(*colour, 255))
    return image


COLOURS = [(230, 40, 40), (40, 200, 60), (50, 80, 230), (240, 220, 40), (230, 60, 230), (30, 220, 220)]


def _photograph_all(folder: Path) -> None:
    """Ten pictures of smooth noise, each in its own tint."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(10):
        coarse = rng.integers(30, 220, (9, 12, 3)).astype(np.uint8)
        coarse[..., k % 3] //= 2
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"photo{k}.bmp")


@pytest.fixture(scope="session")
def draw():
    """(shape "disc" | "box" | "triangle", colour number 0 to 5) -> RGBA picture of 70 x 50 with a margin of 5."""
    return lambda shape, colour: _draw(shape, COLOURS[colour])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("SURNIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sprites(tmp_path):
    """Three classes: six discs, three boxes (both in clearly distinct colours), one triangle."""
    folder = tmp_path / "sprites"
    for shape, count in (("disc", 6), ("box", 3), ("triangle", 1)):
        (folder / shape).mkdir(parents=True)
        for k in range(count):
            _draw(shape, COLOURS[k]).save(folder / shape / f"{shape}{k}.png")
    return folder


@pytest.fixture
def photographs(tmp_path):
    """Ten pictures of smooth noise, each in its own tint."""
    folder = tmp_path / "photographs"
    _photograph_all(folder)
    return folder


@pytest.fixture(scope="session")
def shared_photos(tmp_path_factory):
    """The same photographs, for what several tests look at."""
    folder = tmp_path_factory.mktemp("shared") / "photographs"
    _photograph_all(folder)
    return Photographs.from_folder(folder)


@pytest.fixture
def art(sprites):
    return ArtCatalogue.from_folder(sprites)


@pytest.fixture
def photos(photographs):
    return Photographs.from_folder(photographs)
