"""The cells of a column of raw rows: what they are, where they are, and which of them hold no value."""

from collections.abc import Callable, KeysView, Reversible, Sequence, Set
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.client.errors import InvalidInput

Cells = Sequence[Any] | NDArray[Any]

Place = Callable[[int], str]
"""Says where a cell is, by the number of its row."""


def located(name: str, first: int | None, index: int) -> str:
    """Where a cell of a column is; `first` is the number of the first row, None if there is just one."""
    return f"column {name!r}" if first is None else f"column {name!r}, row {first + index}"


def is_missing(cell: Any) -> bool:
    """Whether it stands for no value: None, NaN, NaT or NA."""
    if cell is None:
        return True
    if isinstance(cell, Decimal):
        return cell.is_nan()
    if isinstance(cell, float | np.floating):
        return bool(np.isnan(cell))
    if isinstance(cell, np.datetime64):
        return bool(np.isnat(cell))
    return type(cell).__name__ in {"NAType", "NaTType"}  # of pandas, which need not be installed


def is_unordered(value: object) -> bool:
    """Whether it is a set, of which nobody knows which element belongs to which row. The keys of a dict have its order."""
    return isinstance(value, Set) and not isinstance(value, KeysView | Reversible)


def is_scalar(value: object) -> bool:
    """Whether it is an array without axes, of any library: one value, whatever else an array has."""
    return getattr(value, "ndim", None) == 0 and hasattr(value, "tolist") and not isinstance(value, np.generic)


def told(value: object) -> str:
    """A value in a message to the user, with its type."""
    return f"{value!r:.40} ({type(value).__name__})"


def texts(cells: list[str], where: Place) -> NDArray[Any]:
    """Texts as an array of objects [rows].

    Raises:
        InvalidInput: One cannot be written in UTF-8.
    """
    array = np.empty(len(cells), object)
    array[:] = cells
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        index = next(at for at, text in enumerate(cells) if any("\ud800" <= each <= "\udfff" for each in text))
        raise unwritable(cells[index], f"{where(index)}: ") from None
    return array


def unwritable(text: str, where: str = "") -> InvalidInput:
    """The refusal of a text or a name that cannot be written in UTF-8; `where` says where it is."""
    return InvalidInput(f"{where}{text!r:.40} has half of a surrogate pair, which is no character")
