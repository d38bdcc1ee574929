"""The readers of folders of pictures, with a class for each picture or for each pixel; an error names the file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.pictures import FORMATS, MOST_BYTES, MOST_PIXELS
from frostline_training.data.cells import Cells
from frostline_training.data.pictures import UnreadableError, read, read_mask
from frostline_training.data.rows import Array, Dataset, Image, Rows
from frostline_training.errors import DataError
from frostline_training.sources import Fit, ImageFolder, MaskFolder, Reading, Rgb, Task

_IMAGE = "image"
_IMAGES, _MASKS = "images", "masks"
_NO_PICTURES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # what systems leave in folders
_SHOWN = 5  # how many skipped files are named; the rest is counted
_FITTED: dict[Fit, str] = {
    "pad": "resized with its aspect kept and padded",
    "crop": "resized with its aspect kept and cropped at the centre",
    "stretch": "stretched to this size",
}


def load_images(source: ImageFolder) -> Dataset:
    """Read the pictures of every class's folder.

    What is no picture is skipped and listed in the data set's notes; so is a picture that cannot be read.

    Raises:
        DataError: There is no such folder, a class has no pictures, or more pictures cannot be read than `source`
            allows.
    """
    reading = _Reading(source)
    folders = reading.folders()
    targets: list[int] = []
    for label, folder in enumerate(folders):
        left_out = len(reading.skipped)
        read_here = [label for _ in reading.pictures_of(folder)]
        if not read_here:
            why = f"; skipped: {_listed(reading.skipped[left_out:], source.path)}" if reading.skipped[left_out:] else ""
            raise DataError(f"{folder} is empty: class {folder.name!r} has no pictures{why}")
        targets += read_here
    labels = tuple(folder.name for folder in folders)
    return reading.dataset(np.array(targets, dtype=np.int64), labels, source.task)


def load_masks(source: MaskFolder) -> Dataset:
    """Read pictures, and the mask of each.

    Pictures that cannot be read are skipped as those of `load_images` are, with their masks.

    Raises:
        DataError: A folder or a mask is missing, a mask is not what it must be, or more pictures cannot be read than
            `source` allows.
    """
    reading = _Reading(source)
    masks = _masks(source.path / _MASKS)
    outside = 0 if source.outside is None else source.labels.index(source.outside)
    targets: list[Array] = []
    users: dict[Path, Path] = {}
    for path in reading.pictures_of(source.path / _IMAGES):
        mask = masks.get(path.stem)
        if mask is None:
            raise DataError(f"{path} has no mask: there is no {source.path / _MASKS / path.stem}.png")
        if mask in users:
            raise DataError(f"{users[mask].name} and {path.name} have one mask, {mask}: give each a name of its own")
        users[mask] = path
        try:
            targets.append(read_mask(mask, reading.media.form, outside, reading.sizes[-1], len(source.labels)))
        except UnreadableError as error:
            raise DataError(f"{mask}: {error}") from error
    if not targets:
        raise DataError(f"{source.path / _IMAGES} has no pictures")
    unused = [_Skipped(mask, "the mask of no picture") for mask in masks.values() if mask not in users]
    reading.skipped += unused
    return reading.dataset(np.stack(targets), source.labels, "dense", outside=source.labels[outside])


def _masks(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _inside(folder) if path.suffix.lower() == ".png" and path.is_file()}


@dataclass(frozen=True)
class _Skipped:
    """A file that is not read; `broken` where it should have been a picture."""

    path: Path
    reason: str
    broken: bool = False


class _Reading:
    """The pictures of a source that were read so far, and the files that were not.

    Attributes:
        media: What they are brought to.
        skipped: What was not read.
        sizes: Width and height of each picture, as a viewer shows it.
    """

    def __init__(self, source: ImageFolder | MaskFolder) -> None:
        self.media = Image(_IMAGE, source.size, source.color, source.fit, source.background)
        self.skipped: list[_Skipped] = []
        self.sizes: list[tuple[int, int]] = []
        self._source = source
        self._pixels: list[Array] = []
        self._paths: list[Path] = []
        self._refused: list[_Skipped] = []
        self._several = 0

    def folders(self) -> list[Path]:
        """Return the folders of the classes."""
        path = self._source.path
        inside = [entry for entry in _inside(path) if not entry.name.startswith(".")]
        folders = [entry for entry in inside if entry.is_dir() and entry.name.lower() not in _NO_PICTURES]
        if not folders:
            raise DataError(f"{path} is empty: it must hold one folder of pictures for each class")
        self.skipped += [_Skipped(entry, "not in the folder of a class") for entry in inside if entry not in folders]
        return folders

    def pictures_of(self, folder: Path) -> Iterator[Path]:
        """Read the pictures of a folder, and give the path of each that could be read."""
        for path in self._files(folder):
            try:
                picture = read(path, self.media.form)
            except UnreadableError as error:
                self.skipped.append(_Skipped(path, str(error), broken=error.broken))
                continue
            self._pixels.append(picture.pixels)
            self._paths.append(path)
            self.sizes.append(picture.size)
            self._several += picture.frames > 1
            if picture.refused:
                self._refused.append(_Skipped(path, picture.refused))
            yield path

    def dataset(self, targets: Array, labels: tuple[str, ...], task: Task, **facts: str) -> Dataset:
        """Return all that was read, with what was right."""
        source, media = self._source, self.media
        self._check_share()
        channels, height, width = media.form.shape
        return Dataset(
            name=source.path.name,
            rows=Rows(
                np.stack(self._pixels),
                targets,
                Cells(source.path, {_IMAGE: list(map(str, self._paths))}, Reading(missing=())),
            ),
            media=media,
            labels=labels,
            send=f"one {source.color} picture of {width}x{height} pixels: [{channels}, {height}, {width}], 0 (dark) to "
            f"255; upright, {_FITTED[source.fit]}, transparent parts on the colour {_hex(source.background)}",
            source=f"{len(targets)} pictures of the folder {source.path.name}",
            task=task,
            notes=tuple(self._notes()),
            facts={
                "pictures": {
                    "size": list(source.size),
                    "color": source.color,
                    "fit": source.fit,
                    "background": list(source.background),
                    "skipped": dict(Counter("unreadable" if one.broken else "no picture" for one in self.skipped)),
                    **facts,
                }
            },
        )

    def _files(self, folder: Path) -> list[Path]:
        files = []
        for path in _inside(folder):
            if path.name.startswith(".") or path.name.lower() in _NO_PICTURES:
                self.skipped.append(_Skipped(path, "hidden, or a system's own"))
            elif path.is_dir():
                within = sum(1 for each in path.rglob("*") if each.is_file())
                self.skipped.append(_Skipped(path, f"a folder within, with {_count(within, 'file')}"))
            elif not path.is_file():
                self.skipped.append(_Skipped(path, "not a regular file"))
            else:
                files.append(path)
        return files

    def _check_share(self) -> None:
        source = self._source
        broken = [one for one in self.skipped if one.broken]
        total = len(self._pixels) + len(broken)
        allowed = max(1, int(source.unreadable * total)) if source.unreadable else 0
        if len(broken) > allowed:
            raise DataError(
                f"{source.path}: {len(broken)} of {_count(total, 'picture')} cannot be read, and at most {allowed} may "
                f"(unreadable={source.unreadable:g}): {_listed(broken, source.path)}; repair or remove them"
            )

    def _notes(self) -> Iterator[str]:
        path = self._source.path
        if self.skipped:
            yield f"{len(self.skipped)} of {path.name} not read: {_listed(self.skipped, path)}"
        if self._several:
            yield f"{self._several} pictures of {path.name} have several frames or pages; the first one is used"
        if self._refused:
            yield (
                f"{len(self._refused)} of {_count(len(self._pixels), 'picture')} of {path.name} no client can send: "
                f"{_listed(self._refused, path)}; a server takes {FORMATS} of at most {MOST_PIXELS} pixels and "
                f"{MOST_BYTES >> 20} MiB, without further frames"
            )


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error


def _listed(skipped: Sequence[_Skipped], root: Path) -> str:
    shown = ", ".join(f"{one.path.relative_to(root)} ({one.reason})" for one in skipped[:_SHOWN])
    return shown if len(skipped) <= _SHOWN else f"{shown} and {len(skipped) - _SHOWN} more"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _hex(color: Rgb) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
