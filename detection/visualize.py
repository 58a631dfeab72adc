"""Pictures with what was found in them: known objects in the colour of their class, unknown ones in black and white.

Colours stay with their label in every picture. Okabe and Ito's set ("Color Universal Design", 2008) and after it Tol's
muted set ("Colour schemes", 2021) can be told apart with the common forms of colour blindness; black and white dashes
are left to the unknown.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from detection.openworld.suppression import strongest
from detection.structures import FIRST_KNOWN, UNKNOWN, Detections

PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
    "#44AA99", "#AA4499", "#999933", "#CC6677", "#88CCEE", "#117733", "#DDCC77",
)  # fmt: skip
SMALL = 640
"""Pictures whose longer side is shorter are enlarged by a whole number, or no letter could be read in them."""

Picture = Image.Image | npt.NDArray[np.uint8] | torch.Tensor
_INK, _PAPER, _MARGIN = "#101418", "#ffffff", "#d5d9de"
_STRIP = 8
"""A picture so many times as long as it is wide gets a margin, or labels would cover it and one another."""


class _Rect(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    def moved(self, down: int) -> "_Rect":
        return _Rect(self.left, self.top + down, self.right, self.bottom + down)


class _Mark(NamedTuple):
    """One detection as it is to be drawn."""

    box: _Rect
    text: str
    colour: str | None  # None: unknown


def colour(label: int) -> str:
    """The colour of a known class, as #rrggbb; colours recur after `len(PALETTE)` classes."""
    if label < FIRST_KNOWN:
        raise ValueError(f"label {label} is not a known class; only these have a colour")
    return PALETTE[(label - FIRST_KNOWN) % len(PALETTE)]


def draw(
    image: Picture,
    detections: Detections,
    names: Sequence[str],
    *,
    min_score: float = 0.0,
    limit: int | None = None,
    enlarge: bool = True,
) -> Image.Image:
    """A copy of a picture with boxes and names.

    Args:
        image: PIL image, (h, w, 3) uint8 array, or (3, h, w) tensor, uint8 or float in [0, 1].
        detections: boxes in its pixels.
        names: of the label space: background, unknown, then the known classes.
        min_score: weaker detections are not drawn.
        limit: most detections to draw, of which known and unknown ones have half a claim each (`strongest`), as their
            scores are not of one kind; a label in a corner counts the others. None: all.
        enlarge: small pictures are enlarged first (`SMALL`), and long strips get a margin for the labels.

    Returns:
        RGB.

    Raises:
        ValueError: a label has no name, or the picture is none of the above.
    """
    picture = as_picture(image)
    factor = max(1, round(SMALL / max(picture.size))) if enlarge else 1
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    found, left_out = _chosen(detections.to("cpu"), min_score, limit)
    marks = _marks(found, names, picture.size, factor)
    width, shorter = picture.width, min(picture.size)
    if enlarge:
        picture, down = _with_margin(picture)
        marks = [mark._replace(box=mark.box.moved(down)) for mark in marks]
    canvas = _Canvas(picture, shorter, beside=picture.width > width)
    for mark in reversed(marks):  # the strongest on top
        canvas.box(mark)
    for mark in marks:  # the strongest has the first choice of a place
        canvas.label(mark)
    if left_out:
        corner = _Rect(picture.width, picture.height, picture.width, picture.height)
        canvas.label(_Mark(corner, f"{left_out:,} more not drawn", _PAPER))
    return picture


def _with_margin(picture: Image.Image) -> tuple[Image.Image, int]:
    """A long strip with room for labels, above and below it or on the right; and how far down it went."""
    longer = max(picture.size)
    if longer <= _STRIP * min(picture.size):
        return picture, 0
    wide = picture.width == longer
    room = longer // 6 if wide else longer // 3  # letters stand one beside the other
    size = (longer, picture.height + room) if wide else (picture.width + room, longer)
    canvas, down = Image.new("RGB", size, _MARGIN), room // 2 if wide else 0
    canvas.paste(picture, (0, down))
    return canvas, down


def as_picture(image: Picture) -> Image.Image:
    """A new RGB picture of any of the forms `draw` takes."""
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise ValueError(f"a tensor image is (3, h, w), uint8 or float in [0, 1], not {_describe(image)}")
        whole = image.detach().cpu()
        if whole.is_floating_point():
            whole = (whole.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
        image = whole.permute(1, 2, 0).numpy()
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"an array image is (h, w, 3) uint8, not {_describe(array)}")
    return Image.fromarray(np.ascontiguousarray(array))


def _describe(array: npt.NDArray[np.generic] | torch.Tensor) -> str:
    return f"{tuple(array.shape)} {str(array.dtype).removeprefix('torch.')}"


def _chosen(detections: Detections, min_score: float, limit: int | None) -> tuple[Detections, int]:
    """What is to be drawn, the strongest first, and how many `limit` leaves out."""
    strong = detections[detections.scores >= min_score]
    chosen = strongest(strong.labels, strong.scores, len(strong) if limit is None else limit)
    return strong[chosen], len(strong) - len(chosen)


def _marks(found: Detections, names: Sequence[str], size: tuple[int, int], factor: int) -> list[_Mark]:
    marks = []
    values = (found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), found.posteriors.tolist())
    for box, label, score, posterior in zip(*values, strict=True):
        if not UNKNOWN <= label < len(names):
            raise ValueError(f"a detection has label {label}, but there are names for 1 to {len(names) - 1}")
        if not np.isfinite(box).all():
            continue
        shown = posterior if label == UNKNOWN else score
        text = f"{names[label]} {_share(shown)}".rstrip()
        marks.append(_Mark(_pixels(box, size, factor), text, None if label == UNKNOWN else colour(label)))
    return marks


def _pixels(box: Sequence[float], size: tuple[int, int], factor: int) -> _Rect:
    """First and last column and row of a box, within the picture."""
    (left, right), (top, bottom) = (
        (min(max(a * factor, 0), side - 1), min(max(b * factor - 1, 0), side - 1))
        for a, b, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1]))
    )
    return _Rect(round(left), round(top), max(round(left), round(right)), max(round(top), round(bottom)))


def _share(value: float) -> str:
    """.83; nothing for NaN."""
    if not np.isfinite(value):
        return ""
    return "1.0" if value >= 0.995 else f"{value:.2f}".removeprefix("0")


class _Canvas:
    """Draws on a picture with lines and letters that fit its size.

    Args:
        shorter: side of the picture within its margin, which lines must not fill.
        beside: labels stand on the right of their boxes, where there is a margin.
    """

    def __init__(self, picture: Image.Image, shorter: int, *, beside: bool) -> None:
        self.width, self.height = picture.size
        self.beside = beside
        longer = max(picture.size)
        self.line = max(2, min(round(longer / 220), round(shorter / 10)))
        self.edge = max(1, round(self.line / 3))
        self.pad = max(3, round(longer / 220))
        self.font = _font(max(12, round(longer / 44)))
        self.pen = ImageDraw.Draw(picture)
        self.taken = np.zeros((self.height, self.width), dtype=np.bool_)  # where labels stand
        self.crowded = self.width + 1  # for labels so wide no place is left anywhere

    def box(self, mark: _Mark) -> None:
        """An outline between two dark edges, which part it from a background like it; dashed for the unknown."""
        left, top, right, bottom = mark.box
        self.pen.rectangle([left, top, right, bottom], outline=_INK, width=self.line + 2 * self.edge)
        left, top, right, bottom = left + self.edge, top + self.edge, right - self.edge, bottom - self.edge
        if right - left < self.line or bottom - top < self.line:
            return
        if mark.colour is not None:
            self.pen.rectangle([left, top, right, bottom], outline=mark.colour, width=self.line)
            return
        for dash in _dashes(_Rect(left, top, right, bottom), self.line, 3 * self.line):
            self.pen.rectangle(dash, fill=_PAPER)

    def label(self, mark: _Mark) -> None:
        """The text beside the box, where it hides no other text if there is such a place."""
        left, _, right, _ = self.pen.textbbox((0, 0), mark.text, font=self.font, anchor="ls")
        ascent, descent = self._heights()
        width, height = round(right - left) + 2 * self.pad, ascent + descent + 2 * self.pad
        place = self._place(mark.box, width, height)
        self.taken[place.top : place.bottom, place.left : place.right] = True
        fill = mark.colour or _INK
        corners = [place.left, place.top, place.right - 1, place.bottom - 1]
        self.pen.rectangle(corners, fill=fill, outline=_INK if mark.colour else _PAPER, width=self.edge)
        at = (place.left + self.pad - left, place.top + self.pad + ascent)
        self.pen.text(at, mark.text, font=self.font, fill=_PAPER if _dark(fill) else _INK, anchor="ls")

    def _heights(self) -> tuple[int, int]:
        """Of letters above and below their line, the same for every word."""
        _, top, _, bottom = self.pen.textbbox((0, 0), "lg", font=self.font, anchor="ls")
        return round(-top), round(bottom)

    def _place(self, box: _Rect, width: int, height: int) -> _Rect:
        first = [(box.right + 1 + self.pad, box.top)] if self.beside else []
        places = [self._inside(x, y, width, height) for x, y in (*first, *_corners(box, width, height))]
        free = next((place for place in places if self._free(place)), None)
        return free or self._nearest(places[0]) or places[0]

    def _nearest(self, wanted: _Rect) -> _Rect | None:
        """The free place of that size that is least far away; None if all are taken."""
        width, height = wanted.right - wanted.left, wanted.bottom - wanted.top
        if width >= self.crowded:
            return None
        rows = range(wanted.top % height, self.height - height + 1, height)
        columns = range(wanted.left % width, self.width - width + 1, width)
        grid = [_Rect(x, y, x + width, y + height) for y in rows for x in columns]
        grid.sort(key=lambda place: abs(place.left - wanted.left) + abs(place.top - wanted.top))
        found = next((place for place in grid if self._free(place)), None)
        if found is None:
            self.crowded = width
        return found

    def _free(self, place: _Rect) -> bool:
        return not self.taken[place.top : place.bottom, place.left : place.right].any()

    def _inside(self, x: int, y: int, width: int, height: int) -> _Rect:
        x = min(max(x, 0), max(0, self.width - width))
        y = min(max(y, 0), max(0, self.height - height))
        return _Rect(x, y, x + width, y + height)


def _corners(box: _Rect, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Where a label may stand, the best first: above, below, then within the box; left before right."""
    for y in (box.top - height, box.bottom + 1, box.top, box.bottom + 1 - height):
        yield box.left, y
        yield box.right + 1 - width, y


def _dashes(box: _Rect, width: int, dash: int) -> Iterator[list[int]]:
    """Strips along the four sides, as long as the gaps between them, starting at the corners."""
    for start, end in _pieces(box.left, box.right, dash):
        yield [start, box.top, end, box.top + width - 1]
        yield [start, box.bottom - width + 1, end, box.bottom]
    for start, end in _pieces(box.top, box.bottom, dash):
        yield [box.left, start, box.left + width - 1, end]
        yield [box.right - width + 1, start, box.right, end]


def _pieces(first: int, last: int, dash: int) -> Iterator[tuple[int, int]]:
    """Every second one of an odd number of about equal pieces, so that both corners are drawn."""
    count = 2 * round(((last - first) / dash - 1) / 2) + 1
    step = (last - first) / max(1, count)
    for k in range(0, max(1, count), 2):
        yield round(first + k * step), round(first + (k + 1) * step)


def _dark(fill: str) -> bool:
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
