"""Contact sheets: the objects of a group as numbered pictures, each with a little of its surroundings."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detection.discovery.grouping import REST, Group
from detection.discovery.records import UnknownObjects
from sslcore.storage import files, read_image

TILE = 144
"""Side of a crop on a sheet, in pixels."""
COLUMNS, ROWS = 8, 6
CONTEXT = 0.2
"""Surroundings on each side, as a share of the object's longer side."""

_PAPER, _INK, _SOFT, _WELL, _MARK = "#ffffff", "#1c2430", "#5b6675", "#eceff3", "#0b6e69"
_GAP, _MARGIN, _CAPTION, _HEADING = 14, 28, 24, 60


@dataclass(frozen=True)
class Sheet:
    """A picture file of some of a group's crops: numbers `first` to `last`, counted from 1 within the group."""

    file: str
    first: int
    last: int


class Crops:
    """Every object as a small picture, cut once from its source and kept compressed.

    Args:
        unknowns: the objects. Their pictures are read here, one after the other.

    Raises:
        DataError: a picture is missing or damaged.
    """

    def __init__(self, unknowns: UnknownObjects) -> None:
        self._jpegs: list[bytes] = [b""] * len(unknowns)
        for image in range(len(unknowns.images)):
            picture = read_image(unknowns.path(image))
            for thing in np.flatnonzero(unknowns.box_image == image).tolist():
                self._jpegs[thing] = _compressed(crop(picture, unknowns.boxes[thing].tolist()))

    def jpeg(self, thing: int) -> bytes:
        """An object's crop as a JPEG file."""
        return self._jpegs[thing]

    def picture(self, thing: int) -> Image.Image:
        """An object's crop."""
        return Image.open(io.BytesIO(self._jpegs[thing]), formats=("JPEG",))


def crop(picture: Image.Image, box: Sequence[float], *, side: int = TILE, context: float = CONTEXT) -> Image.Image:
    """A square around a box, scaled to `side`; beyond the picture's edge it is plain. The box is outlined.

    Args:
        picture: RGB.
        box: left, top, right, bottom, in its pixels.
        side: of the result.
        context: surroundings on each side, as a share of the box's longer side.
    """
    left, top, right, bottom = box
    width = max(right - left, bottom - top, 1.0) * (1 + 2 * context)
    scale = side / width
    x, y = (left + right - width) / 2, (top + bottom - width) / 2
    # Only what lies inside the picture is scaled: a resampled edge would be mixed with the plain surroundings.
    inside = (max(x, 0.0), max(y, 0.0), min(x + width, picture.width), min(y + width, picture.height))
    tile = Image.new("RGB", (side, side), _WELL)
    size = (max(1, round((inside[2] - inside[0]) * scale)), max(1, round((inside[3] - inside[1]) * scale)))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        tile.paste(
            picture.resize(size, how, box=inside), (round((inside[0] - x) * scale), round((inside[1] - y) * scale))
        )
    outline = [
        round((left - x) * scale),
        round((top - y) * scale),
        round((right - x) * scale),
        round((bottom - y) * scale),
    ]
    pen = ImageDraw.Draw(tile)
    pen.rectangle([outline[0] - 2, outline[1] - 2, outline[2] + 2, outline[3] + 2], outline="#20262e")
    pen.rectangle([outline[0] - 1, outline[1] - 1, outline[2] + 1, outline[3] + 1], outline="#ffffff")
    return tile


def write_sheets(folder: Path, group: Group, crops: Crops, *, per_sheet: int = COLUMNS * ROWS) -> list[Sheet]:
    """Write a group's sheets into `folder`: as many as it takes, because what is not seen cannot be left out.

    Raises:
        CheckpointError: a file cannot be written.
    """
    stem = "rest" if group.number == REST else f"group_{group.number:02d}"
    starts = range(0, len(group), per_sheet)
    sheets = []
    for page, start in enumerate(starts, start=1):
        things = group.members[start : start + per_sheet].tolist()
        name = f"{stem}.png" if len(starts) == 1 else f"{stem}_{page}.png"
        heading = title(group) + (f", sheet {page} of {len(starts)}" if len(starts) > 1 else "")
        picture = _sheet(heading, things, start + 1, crops)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        files.write_bytes(folder / name, buffer.getvalue())
        sheets.append(Sheet(name, start + 1, start + len(things)))
    return sheets


def title(group: Group) -> str:
    """What a group is called before it has a name."""
    count = "1 object" if len(group) == 1 else f"{len(group)} objects"
    return f"Fit no group: {count}" if group.number == REST else f"Group {group.number}: {count}"


def _sheet(heading: str, things: Sequence[int], first: int, crops: Crops) -> Image.Image:
    rows = -(-len(things) // COLUMNS)
    width = 2 * _MARGIN + COLUMNS * TILE + (COLUMNS - 1) * _GAP
    height = _MARGIN + _HEADING + rows * (TILE + _CAPTION) + (rows - 1) * _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), heading, fill=_INK, font=_font(28), anchor="lt")
    pen.line([(_MARGIN, _MARGIN + 42), (width - _MARGIN, _MARGIN + 42)], fill="#dde3ea", width=2)
    for place, thing in enumerate(things):
        row, column = divmod(place, COLUMNS)
        x = _MARGIN + column * (TILE + _GAP)
        y = _MARGIN + _HEADING + row * (TILE + _CAPTION + _GAP)
        sheet.paste(crops.picture(thing), (x, y))
        pen.text((x + TILE / 2, y + TILE + 6), str(first + place), fill=_SOFT, font=_font(18), anchor="mt")
    return sheet


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _compressed(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def sheet_names(sheets: Iterable[Sheet]) -> str:
    """The files, for a person."""
    return ", ".join(sheet.file for sheet in sheets)
