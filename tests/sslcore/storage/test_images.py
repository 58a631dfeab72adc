import io
import os
import random
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from sslcore.errors import DataError
from sslcore.storage import image_size, list_images, read_image

RAMP = np.stack(np.meshgrid(np.arange(0, 256, 8), np.arange(0, 192, 8)), -1)  # (24, 32, 2)
RGB = np.concatenate([RAMP, np.full((24, 32, 1), 60)], -1).astype(np.uint8)


def pixels(path, **kwargs):
    image = read_image(path, **kwargs)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(tmp_path, image, name="image", **kwargs):
    path = tmp_path / name
    image.save(path, **({"format": "PNG"} | kwargs))
    return path


# --- whole images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"])
def test_every_format_is_known_by_its_content_whatever_its_name(tmp_path, form):
    path = saved(
        tmp_path, Image.fromarray(RGB), "photo.xyz", format=form, **({"lossless": True} if form == "WEBP" else {})
    )
    assert np.abs(pixels(path) - RGB).max() <= {"JPEG": 60, "GIF": 40}.get(form, 0)
    assert image_size(path) == (32, 24)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    gray = Image.fromarray(RGB[..., 0])
    expected = np.asarray(gray.convert(mode).convert("RGB"))
    assert np.array_equal(pixels(saved(tmp_path, gray.convert(mode))), expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_kept_where_asked_for(tmp_path, form):
    rgba = np.dstack([RGB, RAMP[..., 1].astype(np.uint8)])
    more = {"lossless": True, "exact": True} if form == "WEBP" else {}
    clear = read_image(saved(tmp_path, Image.fromarray(rgba), format=form, **more), alpha=True)
    assert clear.mode == "RGBA"
    assert np.array_equal(np.asarray(clear), rgba)
    assert read_image(saved(tmp_path, Image.fromarray(rgba).quantize(), "palette"), alpha=True).mode == "RGBA"
    assert read_image(saved(tmp_path, Image.fromarray(RGB), "whole"), alpha=True).mode == "RGB"


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    wide = np.array([[0, 128, 257, 32768, 65535, 65279]], np.uint16)
    expected = np.rint(wide / 257).astype(int)
    for form in ("PNG", "TIFF"):
        got = pixels(saved(tmp_path, Image.fromarray(wide), format=form))
        assert np.array_equal(got, np.repeat(expected[..., None], 3, -1))
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32896))
    assert pixels(pgm)[0, :, 0].tolist() == [255, 128]
    pgm.write_bytes(b"P5 2 1 1023\n" + struct.pack(">2H", 1023, 511))
    assert pixels(pgm)[0, :, 0].tolist() == [255, 127]


def test_big_endian_sixteen_bits(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(">", np.array([[0, 65535, 256]], ">u2").tobytes(), 3, 1, 16))
    assert pixels(path)[0, :, 1].tolist() == [0, 255, 1]


def tiff(order, data, width, height, bits):
    """An uncompressed grayscale TIFF."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    data += b"\0" * (len(data) % 2)
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8 + len(data))
    entries = b"".join(
        struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags
    )  # fmt: skip
    return head + data + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


def test_float_and_wide_integer_pixels_are_refused_with_the_remedy(tmp_path):
    for image in (Image.fromarray(np.ones((2, 2), np.float32)), Image.fromarray(np.full((2, 2), 1 << 20, np.int32))):
        path = saved(tmp_path, image, "image", format="TIFF")
        with pytest.raises(DataError, match=r"image: its pixels are .*; convert it to 8 or 16 bits"):
            read_image(path)


def test_cmyk(tmp_path):
    cmyk = Image.fromarray(RGB).resize((64, 64)).convert("CMYK")
    path = saved(tmp_path, cmyk, format="JPEG", quality=98)
    assert np.abs(pixels(path) - np.asarray(cmyk.convert("RGB")).astype(int)).mean() < 3


def test_transparency_is_put_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [0, 255, 128]
    expected = [[255, 255, 255], [200, 0, 0], [227, 127, 127]]
    for form in ({}, {"format": "WEBP", "lossless": True, "exact": True}):
        assert np.abs(pixels(saved(tmp_path, Image.fromarray(rgba), **form))[0] - expected).max() <= 1


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    expected = [[255, 255, 255], [200, 100, 50]]
    assert pixels(saved(tmp_path, image, transparency=0))[0].tolist() == expected
    assert pixels(saved(tmp_path, image, format="GIF", transparency=0))[0].tolist() == expected
    assert pixels(saved(tmp_path, image, transparency=b"\x00\xff"))[0].tolist() == expected


def test_a_transparent_colour_of_an_opaque_mode(tmp_path):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(saved(tmp_path, image, transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [4, 5, 6]]
    gray = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert pixels(saved(tmp_path, gray, transparency=7))[0].tolist() == [[255] * 3, [8] * 3]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_is_taken(tmp_path, form):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    path = saved(tmp_path, first, format=form, save_all=True, append_images=[second])
    assert np.abs(pixels(path) - [250, 0, 0]).max() < 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_upright(tmp_path, form, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # bright top left
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
            6: np.rot90, 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    path = saved(tmp_path, stored, format=form, exif=exif)
    got = pixels(path)
    assert got.shape == upright.shape
    assert np.abs(got - upright).mean() < 6
    assert image_size(path) == (32, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path):
    for exif in (
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0",
    ):
        path = saved(tmp_path, Image.fromarray(RGB), format="JPEG", exif=exif)
        assert pixels(path).shape == RGB.shape


def test_one_pixel(tmp_path):
    assert pixels(saved(tmp_path, Image.new("L", (1, 1), 9))).tolist() == [[[9, 9, 9]]]


def test_large_jpegs_are_decoded_smaller_on_request_but_never_too_small(tmp_path):
    big = Image.fromarray(RGB).resize((640, 400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, big, format="JPEG", quality=95, exif=exif)
    sizes = {side: read_image(path, min_side=side).size for side in (1, 50, 51, 100, 150, 200, 201, 900)}
    assert sizes == {1: (50, 80), 50: (50, 80), 51: (100, 160), 100: (100, 160), 150: (200, 320), 200: (200, 320),
                     201: (400, 640), 900: (400, 640)}  # fmt: skip
    small = read_image(path).resize((50, 80), Image.Resampling.BOX)
    assert np.abs(pixels(path, min_side=50) - np.asarray(small).astype(int)).mean() < 3
    assert read_image(saved(tmp_path, big), min_side=10).size == (640, 400)
    assert read_image(saved(tmp_path, big.convert("CMYK"), format="JPEG"), min_side=100).size == (160, 100)


# --- refused -----------------------------------------------------------------------------------------------------


def refused(path, **kwargs):
    with pytest.raises(DataError) as error:
        read_image(path, **kwargs)
    text = str(error.value)
    assert path.name in text
    assert ";" in text  # the remedy
    assert "\n" not in text
    return text


def test_what_is_not_an_image_is_said(tmp_path):
    (tmp_path / "note.png").write_text("hello\n" * 100)
    assert "is not an image that Surnia reads" in refused(tmp_path / "note.png")
    (tmp_path / "empty.png").write_bytes(b"")
    assert "is empty" in refused(tmp_path / "empty.png")
    assert "no such file" in refused(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    assert "folder" in refused(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")


@pytest.mark.parametrize("form", ["ICO", "EPS", "PCX", "TGA", "SGI", "ICNS", "PDF", "JPEG2000"])
def test_rare_formats_are_refused_even_under_another_name(tmp_path, form):
    path = saved(tmp_path, Image.new("RGB", (64, 64)), "photo.png", format=form)
    assert "is not an image that Surnia reads" in refused(path)


def test_a_truncated_photo_is_refused(tmp_path):
    for form in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF"):
        path = saved(
            tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), format=form
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(path)


def png(width, height, chunks=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = zlib.compress(bytes(1000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", row) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_001, 10_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_bombs_are_refused_before_they_unfold(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        refused(path)
    assert time.monotonic() - begun < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(path)


def test_a_compressed_text_of_a_gigabyte_is_refused(tmp_path):
    text = b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    data = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    path = tmp_path / "bomb.png"
    path.write_bytes(png(1, 1, data))
    refused(path)


def test_the_caps_are_the_callers(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB))
    assert "32 x 24 pixels, more than the 767 allowed" in refused(path, max_pixels=767)
    assert read_image(path, max_pixels=768).size == (32, 24)
    assert "larger than 50 bytes" in refused(path, max_bytes=50)
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    assert "larger than" in refused(tmp_path / "sparse.png")


def test_names_and_reasons_cannot_write_to_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[2J\n.png"
    path.write_bytes(b"x")
    with pytest.raises(DataError) as error:
        read_image(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_mutated_images_decode_or_are_one_typed_error(tmp_path, mutate, nothing_executed, form):
    rng = random.Random(4)
    image = Image.fromarray(RGB)
    extra = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    whole, path = io.BytesIO(), tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(whole, form, **extra, **({"exif": exif} if form in ("JPEG", "PNG", "TIFF", "WEBP") else {}))
    read_image(saved(tmp_path, image, format=form))  # all decoders are loaded before the watch
    refusals = []
    with nothing_executed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300 if form in ("JPEG", "PNG") else 150):
            path.write_bytes(mutate(whole.getvalue(), rng))
            try:
                assert read_image(path, max_pixels=1_000_000, min_side=8).mode == "RGB"
            except DataError as error:
                refusals.append(str(error))
    assert len(refusals) > 15
    assert all(map(str.isprintable, refusals))


# --- folders -----------------------------------------------------------------------------------------------------


def test_images_are_listed_recursively_sorted_without_hidden_ones(tmp_path):
    for name in (
        "b/2.JPG",
        "b/10.jpg",
        "a/x/y.jpeg",
        "a.png",
        "B/1.webp",
        "a/notes.txt",
        ".git/x.png",
        "a/.x.png",
        "z.tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)]
    assert found == ["B/1.webp", "a/x/y.jpeg", "a.png", "b/10.jpg", "b/2.JPG", "z.tif"]
    assert list_images(str(tmp_path)) == list_images(tmp_path)


def test_links_are_followed_once_and_loops_end(tmp_path):
    data, farm = tmp_path / "data", tmp_path / "farm"
    data.mkdir(), farm.mkdir()
    (data / "1.png").touch()
    (farm / "linked.png").symlink_to(data / "1.png")
    (farm / "broken.png").symlink_to(tmp_path / "nothing")
    (farm / "self.png").symlink_to(farm / "self.png")
    (farm / "there").symlink_to(data)
    (farm / "again").symlink_to(data)
    (farm / "up").symlink_to(tmp_path)
    (farm / "round").symlink_to(farm)
    found = [str(p.relative_to(farm)) for p in list_images(farm)]
    assert found == ["again/1.png", "broken.png", "linked.png", "self.png"]
    for name in ("broken.png", "self.png"):
        refused(farm / name)


def test_a_folder_without_images_is_said_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*; check the path"):
        list_images(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file; give the folder"):
        list_images(tmp_path / "file")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.heic").touch()
    with pytest.raises(DataError, match=r"holds no images \(2 other files\): put \.jpg, .* or give another folder"):
        list_images(tmp_path)


def test_a_name_that_is_not_text_is_listed_and_read(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    saved(tmp_path, Image.new("RGB", (2, 2))).rename(os.fsdecode(name))
    [path] = list_images(tmp_path)
    assert read_image(path).size == (2, 2)


def test_tiff_of_twelve_bits(tmp_path):
    assert TiffImagePlugin.OPEN_INFO[(b"II", 1, (1,), 1, (12,), ())] == ("I;16", "I;12")
    data = np.frombuffer(bytes.fromhex("fff800000fff"), np.uint8).tobytes()  # 4095, 2048, 0, 4095
    path = tmp_path / "a.tif"
    path.write_bytes(tiff("<", data, 4, 1, 12))
    assert pixels(path)[0, :, 0].tolist() == [255, 128, 0, 255]
    assert isinstance(path, Path)
