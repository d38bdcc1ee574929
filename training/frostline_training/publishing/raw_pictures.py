"""A network for pictures that takes files as they are: what the golden sample and the card say of them, proved."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from frostline import pictures
from frostline_training.data import Array, Split, evenly
from frostline_training.data.cells import Cells
from frostline_training.data.raw import RawRows, decoded, files_of
from frostline_training.data.rows import Image
from frostline_training.errors import DataError
from frostline_training.publishing import artifact
from frostline_training.publishing.raw_answers import answered, golden_arrays
from frostline_training.publishing.verify import Answer, Tolerance

_REAL = 16  # real pictures of a golden sample; each is a whole file, and all are encoded alike
_TRACED = 64  # more show an export nothing new
_ROTATED = 6  # of EXIF: what stands upright has its right side on top
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class RawPictures:
    """Encoded pictures that a network is traced with and proved with.

    Attributes:
        column: What clients call them, and what they are brought to.
        traced: A few, as files.
        held_out: Those of the proof, as files.
        targets: What was right for them, where it is known.
    """

    column: Image
    traced: Sequence[bytes]
    held_out: Sequence[bytes]
    targets: ArrayLike | None = None

    @classmethod
    def of(cls, sample: RawRows, test: tuple[RawRows, ArrayLike | None] | None, column: Image) -> "RawPictures":
        """Return the pictures that `frostline.publish` was given; those that are none which a server takes are left out.

        Raises:
            DataError: They are no pictures.
        """
        train: Iterable[bytes]
        targets: ArrayLike | None = None
        if test is None:
            train = held_out = files_of(sample, column)
        else:
            # A recipe has read all of its files already, and they may be more than memory holds.
            train = _each_file(sample, column) if isinstance(sample, Cells) else files_of(sample, column)
            held_out, targets = files_of(test[0], column), test[1]
        if test is not None and isinstance(test[0], Cells):
            # A recipe reads every format that Pillow knows.
            kept = [row for row, content in enumerate(held_out) if _is_taken(content)]
            if not kept:
                raise DataError(f"no held-out picture is {pictures.FORMATS}, which a server takes")
            held_out = [held_out[row] for row in kept]
            targets = None if targets is None else np.asarray(targets)[kept]
        traced = list(islice(filter(_is_taken, train), _TRACED)) or files_of(sample, column)
        return cls(column, traced, held_out, targets)

    def sample(self, names: Sequence[str]) -> torch.Tensor:  # noqa: ARG002 as of texts, which may be several tensors
        """Return pictures as the network takes them, float32 [N, C, H, W].

        Raises:
            DataError: One cannot be used.
        """
        return torch.from_numpy(decoded(self.traced, self.column))

    def test(self, names: Sequence[str]) -> tuple[Array, ArrayLike | None]:  # noqa: ARG002 as above
        """Return the pictures of the proof as the network takes them, float32 [N, C, H, W], and their targets.

        Raises:
            DataError: One cannot be used.
        """
        return decoded(self.held_out, self.column), self.targets

    def freeze(
        self,
        hidden: Path,
        network: nn.Module,
        answers: Callable[[nn.Module], Answer],
        names: Sequence[str],
        tolerance: Tolerance,
    ) -> dict[str, Array]:
        """Prove the network's file in `hidden` with raw pictures, odd ones among them; return what the golden sample holds.

        The arguments are those of `RawTable.freeze`.

        Raises:
            RefusedError: The network has no answer to a picture, or the file has another one.
        """
        (name,) = names
        real = [self.held_out[index] for index in evenly(len(self.held_out), _REAL)]
        odd = odd_pictures(self.held_out[0])
        files = [*real, *odd.values()]
        cause = "a division by the spread of a picture's own pixels, or by their sum"
        outputs = answered(
            hidden / artifact.MODEL_FILE,
            answers(network),
            {name: decoded(files, self.column)},
            len(real),
            [f"a picture is {told}" for told in odd],
            tolerance,
            fails=cause,
            no_number=cause,
        )
        return golden_arrays(joined(self.column.name, files), outputs)

    def card(self, hidden: Path) -> dict[str, Any]:  # noqa: ARG002 as of a table, which has a file in it
        """Return what the card says of the pictures."""
        column = self.column
        told = {
            "name": column.name,
            "kind": "image",
            "size": list(column.size),
            "color": column.color,
            "fit": column.fit,
            "background": list(column.background),
        }
        return {"rows": {"columns": [told]}}


def check_taken(split: Split) -> None:
    """Check, before anything is learnt, that servers take some of a recipe's pictures, which it is traced and proved with.

    Raises:
        DataError: They take none of the training, or none of the test.
    """
    for column in split.dataset.inputs or ():
        for part, rows in (("training", split.train), ("held-out", split.test)):
            if not isinstance(column, Image) or rows.cells is None:
                continue
            if not any(map(_is_taken, _each_file(rows.cells, column))):
                raise DataError(
                    f"no {part} picture is {pictures.FORMATS}, which a server takes: save the pictures as one of these"
                )


def _each_file(cells: Cells, column: Image) -> Iterator[bytes]:
    for row in range(len(cells.columns[column.name])):
        yield from files_of(cells.take([row]), column)


def joined(name: str, files: Sequence[bytes]) -> dict[str, Array]:
    """Return files as a golden sample holds them: all their bytes, uint8, and the length of each, int64 [Q]."""
    return {
        name: np.frombuffer(b"".join(files), np.uint8),
        f"{name}.lengths": np.array([len(content) for content in files], np.int64),
    }


def apart(name: str, rows: dict[str, Array]) -> list[bytes]:
    """Return the files that `joined` holds."""
    ends = np.cumsum(rows[f"{name}.lengths"]).tolist()
    return [rows[name][start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]


def odd_pictures(content: bytes) -> dict[str, bytes]:
    """Return pictures of the kinds that servers are sent sooner or later, by what they are, each made of a real one."""
    from PIL import Image as pillow  # noqa: N813, PLC0415 only those who have pictures pay for it

    real = pictures.flat(pictures.opened(content), "rgb", (255, 255, 255))
    real.thumbnail((256, 256))
    width, height = real.size
    exif = pillow.Exif()
    exif[_ORIENTATION] = _ROTATED
    ramp = pillow.fromarray(np.linspace(0, 255, height).astype(np.uint8)[:, np.newaxis].repeat(width, 1))
    through = real.copy()
    through.putalpha(ramp)
    deep = pillow.fromarray(np.asarray(real.convert("L")).astype(np.uint16) * 257)
    return {
        "turned by EXIF": _saved(real, "JPEG", exif=exif),
        "a JPEG of odd size": _saved(real.resize((width | 1, height | 1)), "JPEG"),
        "transparent": _saved(through, "PNG"),
        "grey of 16 bits": _saved(deep, "PNG"),
        "a WebP": _saved(real, "WEBP", lossless=True),
        "one pixel": _saved(real.resize((1, 1)), "PNG"),
    }


def _saved(image: Any, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _is_taken(content: bytes) -> bool:
    try:
        pictures.opened(content)
    except pictures.PictureError:
        return False
    return True
