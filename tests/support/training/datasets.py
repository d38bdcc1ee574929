"""What the tests of data readers share."""

from pathlib import Path

from PIL import Image

from frostline_training.data import Array, Dataset, named


def picture_folder(folder: Path, *, classes: int = 2, each: int = 3) -> Path:
    """Write so many pictures of 5 x 4 pixels for each class, no two alike; returns the folder."""
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (5, 4), (40 * label, number, 255)).save(folder / f"class-{label}" / f"{number}.png")
    return folder


def only_input(dataset: Dataset) -> Array:
    """The rows of a data set with one input."""
    (array,) = named(dataset.rows.inputs).values()
    return array
