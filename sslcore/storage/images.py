"""One reader for all image files, none of which is trusted.

Only common formats are tried, because most holes of image libraries were in rare ones; sizes are looked at before bytes
are read and pixels decoded; and whatever a decoder raises (a damaged PNG can raise SyntaxError) becomes a DataError.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sslcore.errors import DataError
from sslcore.storage import files
from sslcore.storage.messages import explain, show_path

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm",
    )
)  # fmt: skip
_REMEDY = "remove it, or convert it anew from its source"
_BACKGROUND = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF


def read_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = 100_000_000,
    max_bytes: int = 1 << 29,
    min_side: int | None = None,
    alpha: bool = False,
) -> Image.Image:
    """An image file as 8-bit RGB, upright.

    JPEG, PNG, WebP, BMP, GIF, TIFF and PPM are recognised by content, not by name. Of an animation or a file of several
    pages the first picture is taken. Transparent parts are put on white. 16 bits become 8 by scaling the whole range
    (65535 to 255). Grayscale becomes three equal channels. The EXIF orientation is applied.

    Args:
        path: the file.
        max_pixels: more than these are refused before any is decoded.
        max_bytes: a larger file is refused before any of it is read.
        min_side: if given, a JPEG may come back smaller by 2, 4 or 8 (the decoder then skips work), with both sides
            still at least this long if they were so before.
        alpha: keep transparency: an image that has any comes as RGBA, any other as RGB.

    Raises:
        DataError: the file is missing, not such an image, damaged, or too large; path, reason and remedy are said.
    """
    path = Path(path)
    image = _open(path, max_pixels, max_bytes)
    try:
        if min_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        image.load()
        turn = _turn(image)
        plain = _to_8_bits(image, alpha)
        return plain if turn is None else plain.transpose(turn)
    except _Unsupported as error:
        raise DataError(f"cannot use {show_path(path)}: {error}") from None
    except Exception as error:  # decoders raise whatever the bytes make them raise
        raise _damaged(path, error) from error


def image_size(
    path: str | os.PathLike[str], *, max_pixels: int = 100_000_000, max_bytes: int = 1 << 29
) -> tuple[int, int]:
    """(width, height) that `read_image` would give, from the file's header alone. Raises as `read_image`."""
    path = Path(path)
    image = _open(path, max_pixels, max_bytes)
    try:
        turn = _turn(image)
    except Exception as error:
        raise _damaged(path, error) from error
    width, height = image.size
    # Pillow has turned a TIFF's size already, and will turn its pixels.
    return (height, width) if turn in _SIDEWAYS and image.format != "TIFF" else (width, height)


_SIDEWAYS = (
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
)  # fmt: skip


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All files below a folder whose name ends like an image's, sorted by path; the same on every machine.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice.

    Raises:
        DataError: the folder is missing, cannot be read, or holds no image.
    """
    root = Path(folder)
    shown = show_path(root)
    if not root.exists():
        raise DataError(f"there is no folder {shown}; check the path")
    if not root.is_dir():
        raise DataError(f"{shown} is a file; give the folder that holds the images")
    found: list[tuple[tuple[str, ...], str]] = []
    others = _walk(os.fspath(root), (), set(), found)
    if not found:
        raise DataError(
            f"{shown} holds no images ({others} other files): put {', '.join(_COMMON)} files "
            "there or in folders below, or give another folder"
        )
    return [Path(path) for _, path in sorted(found)]


_COMMON = (".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".ppm")


def _walk(
    folder: str, parts: tuple[str, ...], entered: set[tuple[int, int]], found: list[tuple[tuple[str, ...], str]]
) -> int:
    """Adds (path in parts, path) of images; returns how many other files there are."""
    others = 0
    try:
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in entered:
            return 0
        entered.add((identity.st_dev, identity.st_ino))
        with os.scandir(folder) as scan:
            entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"cannot list {show_path(folder)}: {explain(error)}") from error
    for entry in entries:
        if _is_folder(entry):
            others += _walk(entry.path, (*parts, entry.name), entered, found)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            found.append(((*parts, entry.name), entry.path))  # a broken link too: reading it names it
        else:
            others += 1
    return others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


# --- decoding ----------------------------------------------------------------------------------------------------


class _Unsupported(Exception):
    """Reason and remedy of an image that is whole but cannot be shown in 8 bits."""


def _open(path: Path, max_pixels: int, max_bytes: int) -> Image.Image:
    data = files.read_file(path, limit=max_bytes, error=DataError, remedy="remove it, or make it readable")
    shown = show_path(path)
    if not data:
        raise DataError(f"{shown} is empty; {_REMEDY}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{shown} is not an image that Surnia reads ({', '.join(FORMATS)}), or its beginning is damaged; "
            "remove it, or convert it"
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{shown} has {width} x {height} pixels, more than the {max_pixels} allowed; make it smaller, or raise the "
            "limit if you trust it"
        )
    return image


def _damaged(path: Path, error: Exception) -> DataError:
    shown = show_path(path)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return DataError(f"{shown} unfolds to more pixels than is safe to decode; make it smaller, or remove it")
    if isinstance(error, MemoryError):
        return DataError(f"{shown} does not fit in memory; make it smaller")
    return DataError(f"{shown} is damaged ({show_path(str(error)) or type(error).__name__}); {_REMEDY}")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:
        return None  # a damaged note about the picture does not make the picture unusable
    return _TURNS.get(orientation) if type(orientation) is int else None


def _to_8_bits(image: Image.Image, alpha: bool) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _from_16_bits(image)
    if image.mode == "F":
        raise _Unsupported("its pixels are floating-point numbers of unknown range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba if alpha else Image.alpha_composite(Image.new("RGBA", rgba.size, _BACKGROUND), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    white = 4095 if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,) else 65535
    if values.size and (values.min() < 0 or values.max() > white):
        raise _Unsupported("its pixels are 32-bit numbers of unknown range; convert it to 8 or 16 bits")
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
