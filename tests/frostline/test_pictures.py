"""Pictures: how many pixels their headers say, before any is decoded; and JPEG files, which Pillow does not decode."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frostline.pictures import Form, PictureError, decoded, opened, pixels, pixels_in, read

_TURNED = Image.Exif()
_TURNED[274] = 6
# What looks like markers lies in segments, and is none.
_MISLEADING = {"comment": b"\xff\xda\xff\xc0" * 50, "icc_profile": b"\xff\xc0\x00\x11" * 40_000, "exif": _TURNED}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive jpeg with much before its pixels": ("JPEG", {"progressive": True, **_MISLEADING}),
    "webp": ("WEBP", {}),
    "webp without loss": ("WEBP", {"lossless": True}),
    "webp with metadata": ("WEBP", {"exif": _TURNED}),
}


def _file(size: tuple[int, int], form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (65, 1000), (16383, 2)])
def test_a_header_says_how_many_pixels_there_are(kind: str, size: tuple[int, int]) -> None:
    form, options = KINDS[kind]
    file = _file(size, form, **options)
    assert pixels_in(file) == size[0] * size[1]
    assert opened(file).size == size


@pytest.mark.parametrize("kind", KINDS)
def test_of_half_a_header_no_pixels_are_told(kind: str) -> None:
    form, options = KINDS[kind]
    file = _file((65, 1000), form, **options)
    for size in range(20):
        assert pixels_in(file[:size]) in (0, 1)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8\xff", b"\xff\xd8\xff" + b"\xfe\x00\x02\xff" * 5000])
def test_what_is_no_picture_or_has_no_end_of_a_header_has_no_pixels(content: bytes) -> None:
    assert pixels_in(content) == 0


def test_a_file_that_says_two_sizes_is_refused() -> None:
    small, large = _file((2, 2)), _file((4000, 4000))
    header = small.index(b"IHDR") - 4
    second = large[large.index(b"IHDR") - 4 :]
    with pytest.raises(PictureError, match=r"is damaged .*its size"):
        opened(small[: header + 25] + second)


def test_the_last_frame_header_of_a_jpeg_counts() -> None:
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, 4000, 4000, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    jpeg = _file((2, 2), "JPEG")
    assert pixels_in(jpeg[:2] + frame + jpeg[2:]) == 4
    assert opened(jpeg[:2] + frame + jpeg[2:]).size == (2, 2)


JPEGS: dict[str, dict[str, Any]] = {
    "of every pixel's colour": {"subsampling": 0, "quality": 95},
    "of half the colours": {"subsampling": 1, "quality": 75},
    "of a quarter of the colours": {"subsampling": 2, "quality": 30},
    "progressive": {"progressive": True, "quality": 60},
    "in red, green and blue": {"keep_rgb": True},
    "with marks to start again from": {"restart_marker_blocks": 3},
}
FORMS = [Form((61, 75)), Form((32, 40)), Form((32, 40), "grey", "crop")]


def _photograph(**options: Any) -> bytes:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 9, 3), np.uint8)).resize((75, 61), Image.Resampling.BICUBIC)
    noisy = (np.asarray(coarse) + random.normal(0, 9, (61, 75, 3))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_has_the_pixels_that_pillow_decodes(kind: str, form: Form) -> None:
    file = _photograph(**JPEGS[kind])
    image, by_pillow = opened(file), opened(file)
    by_pillow.load()
    expected = pixels(by_pillow, form)
    assert np.array_equal(read(file, form), expected)
    assert np.array_equal(decoded(image, form), expected)
    assert image.tile, "Pillow decoded it, which takes longer"  # type: ignore[attr-defined]  # of files


# By a viewer's lights it is 61 wide and 75 high.
@pytest.mark.parametrize("form", [*FORMS, Form((75, 61))])
def test_a_jpeg_that_lies_on_its_side_is_turned(form: Form) -> None:
    file = _photograph(exif=_TURNED)
    turned = np.rot90(np.asarray(Image.open(io.BytesIO(file))), -1)
    assert np.array_equal(read(file, form), pixels(Image.fromarray(turned), form))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_jpeg_that_was_cut_off_is_refused(share: float) -> None:
    file = _photograph()
    with pytest.raises(PictureError, match="is damaged"):
        read(file[: int(share * len(file))], FORMS[0])


def test_a_jpeg_with_a_flaw_that_pillow_overlooks_has_the_pixels_that_pillow_makes_of_it() -> None:
    file = bytearray(_photograph(restart_marker_blocks=3))
    at = file.index(b"\xff\xd1")
    file[at:at] = b"\x12\x34"  # which belongs to no block
    by_pillow = opened(bytes(file))
    by_pillow.load()
    assert np.array_equal(read(bytes(file), FORMS[0]), pixels(by_pillow, FORMS[0]))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_in_other_colours_has_the_pixels_that_pillow_decodes(mode: str) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(_photograph())).convert(mode).save(file, "JPEG")
    by_pillow = opened(file.getvalue())
    by_pillow.load()
    assert np.array_equal(read(file.getvalue(), FORMS[0]), pixels(by_pillow, FORMS[0]))
