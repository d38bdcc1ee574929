"""Pictures as a viewer shows them: upright, of 8 bits, on a ground where they are transparent, brought to one size.

Training and the server both make a network's pixels here, so that a picture is the same to both.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["pad", "crop", "stretch"]
Color = Literal["grey", "rgb"]

FORMATS = "PNG, JPEG or WebP"
MOST_PIXELS = 32_000_000
"""A picture of more is refused before any of it is decoded: a small file can hold billions."""
MOST_PIXELS_TOGETHER = 64_000_000
"""Pictures of one request may have as many together: decoding them takes seconds, and others wait meanwhile."""
MOST_BYTES = 64 << 20
"""The longest file."""
CHANNELS = (1, 3, 4)
"""Of pixels: grey, red green blue, and these with opacity."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # in EXIF data
_TURNING = (b"Exif\0\0", b"tiff:Orientation")  # without them, in EXIF data or XMP, a JPEG is upright
_COLOURS = ("YCbCr", "RGB")  # of which libjpeg-turbo makes red, green and blue as Pillow does
_MOST_SEGMENTS = 4096
"""In front of a JPEG's pixels; more than 64 MiB of the longest ones."""

_DEEP = 65535  # white, where a pixel has 16 bits
_SCALED = ((np.arange(_DEEP + 1) * 255 + _DEEP // 2) // _DEEP).astype(np.uint8)
_WHOLE = ("PNG", "PPM")  # Pillow opens the 16-bit pictures of some formats with 32 bits
_NO_RANGE = {"I": "whole numbers of 32 bits", "F": "floating-point numbers", "LAB": "L*a*b* values"}
_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA")  # modes of at most 8 bits


class PictureError(Exception):
    """A file cannot be used as a picture; the text says why, and what to do."""


@dataclass(frozen=True)
class Form:
    """What pictures are brought to.

    Attributes:
        size: Height and width in pixels.
        color: ``grey`` or ``rgb``.
        fit: What happens to the aspect: ``pad`` keeps it and fills the rest with `background`, ``crop`` keeps it and cuts the
            longer side at both ends, ``stretch`` does not keep it.
        background: What shows through transparent parts: red, green, blue, 0 to 255.
    """

    size: tuple[int, int]
    color: Color = "rgb"
    fit: Fit = "pad"
    background: tuple[int, int, int] = (255, 255, 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a picture's pixels, [C, H, W]."""
        return (1 if self.color == "grey" else 3, *self.size)


def pixels_in(content: bytes) -> int:
    """Return how many pixels a PNG, JPEG or WebP file says that it has; 0 if it is none, or says nothing.

    It takes microseconds, because nothing but the header is looked at. `opened` refuses a file that has others.
    """
    if content.startswith(_PNG):
        return int.from_bytes(content[16:20], "big") * int.from_bytes(content[20:24], "big")
    if content.startswith(_JPEG):
        height, width = _size_in_jpeg(content)
        return height * width
    return _pixels_in_webp(content) if _is_webp(content) else 0


def opened(content: bytes) -> "Image":
    """Return a PNG, JPEG or WebP file as a picture of which only the header was read.

    Raises:
        PictureError: It is something else, damaged, has several frames, or is too large.
    """
    if len(content) > MOST_BYTES:
        raise PictureError(f"has {len(content)} bytes; send at most {MOST_BYTES}")
    read = _reader(content)
    if read is None:
        raise PictureError(f"is {_kind(content)}; send {FORMATS}")
    try:
        image = read(io.BytesIO(content))
    except Exception as error:  # what Pillow raises of a damaged file has no class in common
        raise _damaged(error) from error
    width, height = image.size
    if width * height != pixels_in(content):
        raise PictureError(
            "is damaged (its header does not say its size, or says two); save it again with another program"
        )
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"has {width} x {height} pixels; send at most {MOST_PIXELS} pixels, for example a smaller copy"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise PictureError("is an animation; send one of its frames")
    return image


def is_open(value: object) -> bool:
    """Whether it is a picture of Pillow, which need not be imported for who has none."""
    return hasattr(type(value), "save") and hasattr(type(value), "getbands")


def are_pixels(value: object) -> bool:
    """Whether it is an array of pixels that `of_pixels` takes."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in CHANNELS))
    )


def of_pixels(array: NDArray[np.uint8]) -> "Image":
    """Return decoded pixels as a picture: what a file without loss that holds them would be.

    Args:
        array: [height, width] or [height, width, 1] (grey), [height, width, 3] (red, green, blue) or [height, width, 4]
            (and opacity), 0 to 255.
    """
    from PIL import Image  # noqa: PLC0415 only those who have pictures pay for the library

    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def as_file(picture: "Image | NDArray[np.uint8]") -> bytes:
    """Return a picture that is no file as a PNG of which `flat` makes the same: with its EXIF data, in a mode of PNG.

    Args:
        picture: One of Pillow's, or pixels as `of_pixels` takes them.

    Raises:
        PictureError: It has masked pixels, is of a kind whose range is not known, or was closed.
    """
    if isinstance(picture, np.ma.MaskedArray) and np.ma.getmaskarray(picture).any():
        raise PictureError("has masked pixels, which have no colour; fill them in, as with .filled(255)")
    file = io.BytesIO()
    try:
        image = of_pixels(np.asarray(picture)) if isinstance(picture, np.ndarray) else picture
        _in_a_mode_of_png(image).save(file, "PNG", exif=image.getexif())
    except Exception as error:  # of what is closed or damaged; the errors have no class in common
        fact = str(error).strip() or "it was closed, or its file was; open it again"
        raise PictureError(f"cannot be saved as a PNG: {fact}; give the path or the bytes of its file") from error
    return file.getvalue()


def _in_a_mode_of_png(image: "Image") -> "Image":
    from PIL import Image  # noqa: PLC0415 as above

    if _is_deep(image.mode, image.format):
        return image if image.mode != "I" else Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in _OF_PNG:
        return image
    _refuse_no_range(image)
    # A mode with opacity that Pillow converts to grey and opacity alone.
    see_through = "LA" if image.mode == "La" else "RGBA"
    return image.convert(see_through if image.has_transparency_data else "RGB")


def read(content: bytes, form: Form) -> NDArray[np.uint8]:
    """Return the pixels uint8 [C, H, W] of a PNG, JPEG or WebP file.

    Raises:
        PictureError: It is something else, damaged, has several frames, or is too large.
    """
    height, width = form.size
    # What needs nothing but decoding does without Pillow, whose look at the header takes long beside a small picture.
    if (
        form.color == "rgb"
        and content.startswith(_JPEG)
        and len(content) <= MOST_BYTES
        and not any(mark in content for mark in _TURNING)
        and _size_in_jpeg(content) == form.size
    ):
        whole = _decoded_jpeg(content, height, width)
        if whole is not None:
            return whole.transpose(2, 0, 1)
    return decoded(opened(content), form)


def decoded(image: "Image", form: Form) -> NDArray[np.uint8]:
    """Return the pixels uint8 [C, H, W] of what `opened` or `of_pixels` gave.

    Raises:
        PictureError: It is damaged, or of a kind that is not taken.
    """
    try:
        return pixels(image, form)
    except ValueError as error:
        raise PictureError(str(error)) from error
    except Exception as error:  # as above
        raise _damaged(error) from error


def pixels(image: "Image", form: Form) -> NDArray[np.uint8]:
    """Return the pixels uint8 [C, H, W] of an open picture, 0 (dark) to 255.

    Raises:
        ValueError: They are of a kind whose range is not known.
    """
    whole = _colours(image)
    if whole is not None and form.color == "rgb" and whole.shape[:2] == form.size:
        return whole.transpose(2, 0, 1)
    fitted = _fitted(_flat(image, whole, form.color, form.background), form)
    # Pillow takes the channels apart, so that they lie in memory as they are read: NumPy takes a quarter of the decoding's time
    # to turn them as they are copied, and Pillow twice as long to split them into pictures first.
    planes = b"".join([fitted.tobytes("raw", band) for band in fitted.mode])
    return np.frombuffer(planes, np.uint8).reshape(form.shape)


def class_indices(image: "Image") -> NDArray[np.int32]:
    """Return the numbers of an open PNG of grey or with a palette, [height, width], as they are in the file.

    Raises:
        PictureError: It has colours.
    """
    if image.mode not in ("1", "L", "P") and not _is_deep(image.mode, image.format):
        raise PictureError(
            f"has the mode {image.mode}, and a mask has one number for each pixel; save it as grey or with a palette"
        )
    # Pillow spreads grey of 2 or 4 bits over 0 to 255.
    tiles: Any = getattr(image, "tile", ())
    spread = {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1) if tiles else 1
    return np.asarray(image).astype(np.int32) // spread


def fitted_indices(indices: NDArray[np.int32], form: Form, outside: int) -> NDArray[np.int32]:
    """Bring the class of each pixel [height, width] to size as `pixels` brings its picture, [H, W].

    Each takes the class of the nearest pixel, so that none is mixed of others.

    Args:
        indices: The classes.
        form: What the picture was brought to.
        outside: The class of what is added.
    """
    from PIL import Image  # noqa: PLC0415 as above

    return np.asarray(_fitted(Image.fromarray(indices), form, outside))


def _colours(image: "Image") -> NDArray[np.uint8] | None:
    """The pixels [height, width, 3] of a JPEG in colour that is upright and not decoded yet; None of any other picture."""
    from PIL import JpegImagePlugin  # noqa: PLC0415 as above

    # Not one of its subclasses, whose first picture is not all of the file.
    if type(image) is not JpegImagePlugin.JpegImageFile or image.mode != "RGB" or not image.tile:
        return None
    if not isinstance(image.fp, io.BytesIO) or image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    return _decoded_jpeg(image.fp.getvalue(), image.height, image.width)


def _decoded_jpeg(content: bytes, height: int, width: int) -> NDArray[np.uint8] | None:
    """The pixels [height, width, 3] of a JPEG in colour of this size, as it lies; None if it is another, or damaged.

    They are the same as Pillow's, because both libraries hold libjpeg-turbo, and take less time.
    """
    import simplejpeg  # noqa: PLC0415 as above

    try:
        *size, colours, _ = simplejpeg.decode_jpeg_header(content)
        if size != [height, width] or colours not in _COLOURS:
            return None
        # From an odd address on: to one that is a multiple of 32 libjpeg-turbo writes past the cache, and reading takes longer.
        room = np.empty(1 + 3 * width * height, np.uint8)[1:]
        whole: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB", buffer=room)
    except ValueError:
        return None  # Pillow says what is damaged, or does with what there is
    return whole


def flat(image: "Image", color: Color, background: tuple[int, int, int]) -> "Image":
    """Return `image` as 8-bit grey or colour: upright as its EXIF data says, transparent parts on `background`.

    16 bits are scaled to 8: 65535 is 255. Of several frames it is the first. CMYK is converted without a profile.

    Args:
        image: A picture that is open; it is turned in place.
        color: ``grey`` or ``rgb``.
        background: What shows through.

    Raises:
        ValueError: The pixels are of a kind whose range is not known.
    """
    return _flat(image, _colours(image), color, background)


def _flat(image: "Image", whole: NDArray[np.uint8] | None, color: Color, background: tuple[int, int, int]) -> "Image":
    from PIL import Image  # noqa: PLC0415 as above

    upright = _upright(image, background) if whole is None else Image.fromarray(whole)
    wanted = "L" if color == "grey" else "RGB"
    if upright.mode != wanted:
        upright = upright.convert("RGB").convert(wanted)
    return upright


def _upright(image: "Image", background: tuple[int, int, int]) -> "Image":
    """`image` as its EXIF data says, of 8 bits, and on `background` where it is transparent."""
    from PIL import Image, ImageOps  # noqa: PLC0415 as above

    file_format, upright = image.format, image
    ImageOps.exif_transpose(upright, in_place=True)
    if _is_deep(upright.mode, file_format):
        upright = _eight_bits(upright)
    _refuse_no_range(upright)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (*background, 255)), upright)
    return upright


def _is_deep(mode: str, file_format: str | None) -> bool:
    """Whether a pixel has 16 bits."""
    return mode.startswith("I;16") or (mode == "I" and file_format in _WHOLE)


def _refuse_no_range(image: "Image") -> None:
    if image.mode in _NO_RANGE:
        raise ValueError(f"its pixels are {_NO_RANGE[image.mode]}; save it with 8 or 16 bits of grey or colour")


def _eight_bits(image: "Image") -> "Image":
    from PIL import Image  # noqa: PLC0415 as above

    deep: NDArray[Any] = np.asarray(image)
    # By a table, because numbers that hold the product take eight times the memory of the picture.
    scaled = Image.fromarray(_SCALED[deep])
    seen_through: Any = image.info.get("transparency")
    if seen_through is not None:
        scaled.putalpha(Image.fromarray(np.where(deep == seen_through, 0, 255).astype(np.uint8)))
    return scaled


def _fitted(image: "Image", form: Form, outside: int | None = None) -> "Image":
    """Bring `image` to size; where it holds classes, `outside` is that of what is added."""
    from PIL import Image, ImageOps  # noqa: PLC0415 as above

    height, width = form.size
    if image.size == (width, height):
        return image
    taken = Image.Resampling.BICUBIC if outside is None else Image.Resampling.NEAREST
    match form.fit:
        case "stretch":
            return image.resize((width, height), taken)
        case "crop":
            return ImageOps.fit(image, (width, height), taken)
        case "pad":
            scale = min(width / image.width, height / image.height)
            inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            ground = (
                Image.new("RGB", (width, height), form.background).convert(image.mode)
                if outside is None
                else Image.new(image.mode, (width, height), outside)
            )
            resized = image.resize(inner, taken)
            ground.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return ground


def _reader(content: bytes) -> "Callable[[io.BytesIO], Image] | None":
    # Only those who have pictures pay for the library.
    from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: PLC0415

    # By their classes, not by `Image.open`: that warns of large pictures, and tries every format there is.
    if content.startswith(_PNG):
        return PngImagePlugin.PngImageFile
    if content.startswith(_JPEG):
        return JpegImagePlugin.JpegImageFile
    return WebPImagePlugin.WebPImageFile if _is_webp(content) else None


def _is_webp(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def _size_in_jpeg(content: bytes) -> tuple[int, int]:
    """Height and width as the last frame header (SOF) before the pixels (SOS) says, which is the one that counts to Pillow."""
    size, at, last = (0, 0), 2, len(content) - 1
    for _ in range(_MOST_SEGMENTS):
        at = content.find(b"\xff", at)
        if not 0 < at < last:
            return size
        marker = content[at + 1]
        if marker == _SCAN:
            return size
        if marker == _PADDING:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            if marker in _FRAMES:
                size = (
                    int.from_bytes(content[at + 5 : at + 7], "big"),
                    int.from_bytes(content[at + 7 : at + 9], "big"),
                )
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0, 0


_SCAN, _PADDING = 0xDA, 0xFF
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x00, 0xC8, 0xCC, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))


def _pixels_in_webp(content: bytes) -> int:
    match content[12:16]:
        case b"VP8X":
            return (1 + int.from_bytes(content[24:27], "little")) * (1 + int.from_bytes(content[27:30], "little"))
        case b"VP8L":
            sizes = int.from_bytes(content[21:25], "little")
            return (1 + (sizes & 0x3FFF)) * (1 + (sizes >> 14 & 0x3FFF))
        case b"VP8 ":
            return (int.from_bytes(content[26:28], "little") & 0x3FFF) * (
                int.from_bytes(content[28:30], "little") & 0x3FFF
            )
    return 0


def _damaged(error: Exception) -> PictureError:
    told = str(error).strip() or type(error).__name__
    return PictureError(f"is damaged ({told.splitlines()[0][:200]}); send the whole file as it was saved")


def _kind(content: bytes) -> str:
    if not content:
        return "empty"
    names = {b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"%PDF": "a PDF"}
    return next((name for start, name in names.items() if content.startswith(start)), "no picture that is taken")
