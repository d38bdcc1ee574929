"""The readers of picture files to train on, of every format that Pillow knows, and of masks."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.pictures import Form, PictureError, class_indices, fitted_indices, opened, pixels
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
        size: Width and height as a viewer shows it, before it is brought to another.
        frames: How many its file has.
        refused: Why a server would not take the file; "" where it would.
    """

    pixels: Array
    size: tuple[int, int]
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
                shown = image.size  # by now it is upright
            return Picture(made, shown, frames, _why_refused(content))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        known = path.suffix.lower() in Image.registered_extensions()
        raise UnreadableError("not a picture", broken=known) from None
    except ValueError as error:
        raise UnreadableError(first_line(error)) from error
    except Exception as error:  # what Pillow raises of a damaged file has no class in common
        raise UnreadableError(f"damaged: {first_line(error)}") from error


def read_mask(path: Path, form: Form, outside: int, size: tuple[int, int], classes: int) -> NDArray[np.int64]:
    """Return the class of each pixel of a picture, [H, W].

    Args:
        path: A PNG of grey or with a palette, whose numbers are the classes.
        form: What its picture was brought to.
        outside: The class of what was added to the picture.
        size: Width and height of its picture.
        classes: How many there are.

    Raises:
        UnreadableError: It is none, or not that of such a picture.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 as above

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=["PNG"]) as image:
                indices = class_indices(image)
    except UnidentifiedImageError:
        raise UnreadableError("is no PNG") from None
    except PictureError as error:
        raise UnreadableError(str(error)) from error
    except Exception as error:  # as above
        raise UnreadableError(f"is damaged: {first_line(error)}") from error
    own = indices.shape[::-1]
    if own != size:
        raise UnreadableError(f"has {_by(own)} pixels, and its picture has {_by(size)}")
    wrong = np.argwhere(indices >= classes)
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UnreadableError(
            f"has the number {indices[row, column]} in row {row}, column {column}, and there are {classes} labels, for "
            f"the numbers 0 to {classes - 1}"
        )
    return fitted_indices(indices, form, outside).astype(np.int64)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _why_refused(content: bytes) -> str:
    try:
        opened(content).close()
    except PictureError as error:
        return str(error).partition(";")[0]  # what is to be sent instead, the note on all of them says
    return ""
