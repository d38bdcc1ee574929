"""Data sets as arrays with targets, split once into training, validation and test rows."""

from frostline_training.data.overview import overview
from frostline_training.data.rows import (
    INPUT,
    Array,
    Column,
    Dataset,
    Inputs,
    Rows,
    evenly,
    named,
    sample,
    take,
    tensors,
)
from frostline_training.data.splits import Split, describe, load, prepare, split

__all__ = [
    "INPUT",
    "Array",
    "Column",
    "Dataset",
    "Inputs",
    "Rows",
    "Split",
    "describe",
    "evenly",
    "load",
    "named",
    "overview",
    "prepare",
    "sample",
    "split",
    "take",
    "tensors",
]
