"""The reader of picture files to train on, of every format that Pillow knows."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frostline.pictures import Form, PictureError, opened, pixels
from frostline_training.data.rows import Array
from frostline_training.errors import first_line


class UnreadableError(Exception):
    """A file is not read, for the reason that is its text. `broken` where it should have been a picture."""

    def __init__(self, reason: str, *, broken: bool = True) -> None:
        super().__init__(reason)
        self.broken = broken


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        pixels: float32 [C, H, W], 0 to 255.
        frames: How many its file has.
        refused: Why a server would not take the file; "" where it would.
    """

    pixels: Array
    frames: int
    refused: str


def read(path: Path, form: Form) -> Picture:
    """Return a picture.

    Raises:
        UnreadableError: It is no picture, damaged, or of a kind that is not read.
    """
    # Only those who train on pictures decode them.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        # What Pillow warns of (odd metadata, many pixels) is either no harm or an error below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))  # MPO is a phone's photo
                made = pixels(image, form).astype(np.float32)
            return Picture(made, frames, _why_refused(content))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        known = path.suffix.lower() in Image.registered_extensions()
        raise UnreadableError("not a picture", broken=known) from None
    except ValueError as error:
        raise UnreadableError(first_line(error)) from error
    except Exception as error:  # what Pillow raises of a damaged file has no class in common
        raise UnreadableError(f"damaged: {first_line(error)}") from error


def _why_refused(content: bytes) -> str:
    try:
        opened(content).close()
    except PictureError as error:
        return str(error).partition(";")[0]  # what is to be sent instead, the note on all of them says
    return ""
