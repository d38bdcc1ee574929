"""Pictures as a viewer shows them: upright, of 8 bits, on a ground where they are transparent, brought to one size."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline_training.data.rows import Array
from frostline_training.errors import first_line
from frostline_training.sources import ImageFolder, Rgb

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP = 65535  # white, where a pixel has 16 bits
_WHOLE = ("PNG", "PPM")  # Pillow opens the 16-bit pictures of some formats with 32 bits


class UnreadableError(Exception):
    """A file is not read, for the reason that is its text. `broken` where it should have been a picture."""

    def __init__(self, reason: str, *, broken: bool = True) -> None:
        super().__init__(reason)
        self.broken = broken


def read(path: Path, source: ImageFolder) -> tuple[Array, int]:
    """Return a picture's pixels float32 [C, H, W], 0 to 255, and how many frames its file has.

    Raises:
        UnreadableError: It is no picture, damaged, or of a kind that is not read.
    """
    # Only those who train on pictures decode them.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        # What Pillow warns of (odd metadata, many pixels) is either no harm or an error below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                frames = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))  # MPO is a phone's photo
                image = flat(opened, source.color, source.background)
                fitted = _fitted(image, source)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        known = path.suffix.lower() in Image.registered_extensions()
        raise UnreadableError("not a picture", broken=known) from None
    except ValueError as error:
        raise UnreadableError(first_line(error)) from error
    except Exception as error:  # what Pillow raises of a damaged file has no class in common
        raise UnreadableError(f"damaged: {first_line(error)}") from error
    pixels = np.asarray(fitted, dtype=np.float32)
    return (pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), frames


def flat(image: "Image", color: str, background: Rgb) -> "Image":
    """Return `image` as 8-bit grey or colour: upright as its EXIF data says, transparent parts on `background`.

    16 bits are scaled to 8: 65535 is 255. Of several frames it is the first. CMYK is converted without a profile.

    Args:
        image: A picture that is open.
        color: ``grey`` or ``rgb``.
        background: What shows through.

    Raises:
        ValueError: The pixels are of a kind whose range is not known.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 as above

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in _WHOLE):
        upright = _eight_bits(upright)
    if upright.mode in ("I", "F", "LAB"):
        kind = {"I": "whole numbers of 32 bits", "F": "floating-point numbers", "LAB": "L*a*b* values"}[upright.mode]
        raise ValueError(f"its pixels are {kind}; save it with 8 or 16 bits of grey or colour")
    if upright.has_transparency_data:
        above = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", above.size, (*background, 255)), above)
    return upright.convert("RGB").convert("L" if color == "grey" else "RGB")


def _eight_bits(image: "Image") -> "Image":
    from PIL import Image  # noqa: PLC0415 as above

    deep: Array = np.asarray(image).astype(np.int64)
    scaled = Image.fromarray(((deep * 255 + _DEEP // 2) // _DEEP).astype(np.uint8))
    seen_through: Any = image.info.get("transparency")
    if seen_through is not None:
        scaled.putalpha(Image.fromarray(np.where(deep == seen_through, 0, 255).astype(np.uint8)))
    return scaled


def _fitted(image: "Image", source: ImageFolder) -> "Image":
    from PIL import Image, ImageOps  # noqa: PLC0415 as above

    height, width = source.size
    match source.fit:
        case "stretch":
            return image.resize((width, height), Image.Resampling.BICUBIC)
        case "crop":
            return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        case "pad":
            scale = min(width / image.width, height / image.height)
            inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            ground = Image.new("RGB", (width, height), source.background).convert(image.mode)
            resized = image.resize(inner, Image.Resampling.BICUBIC)
            ground.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return ground
