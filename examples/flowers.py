"""A recipe for a CSV file: which of three species an iris is, by four lengths in cm (R. A. Fisher, 1936)."""

from pathlib import Path

from frostline_training.config import Mlp, Recipe
from frostline_training.sources import CsvFile

recipe = Recipe(
    name="flowers",
    data=CsvFile(path=Path("flowers.csv"), target="species"),
    network=Mlp(hidden=(16,)),
)
