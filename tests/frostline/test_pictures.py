"""Pictures by their headers: how many pixels a file has, before any of it is decoded."""

import io
import struct
from typing import Any

import pytest
from PIL import Image

from frostline.pictures import PictureError, opened, pixels_in

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
