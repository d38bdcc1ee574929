"""The NumPy array of what a user gives as an input: lists, arrays, masked arrays and columns of a table.

NumPy turns almost anything into some array. What would lose a value on the way, or be no numbers and no texts, is refused
here with its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.client.catalog import Model, TensorSpec
from frostline.client.cells import is_unordered, unwritable
from frostline.client.errors import InvalidInput


class Frame(Protocol):
    """A table of pandas, polars or pyarrow."""

    @property
    def columns(self) -> Any:
        """Its columns, or their names."""


class Picture(Protocol):
    """A picture of Pillow, which need not be installed."""

    @property
    def mode(self) -> str:
        """How its pixels are held, such as RGB."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def getbands(self) -> tuple[str, ...]:
        """The names of its channels."""


Inputs = ArrayLike | Mapping[str, Any] | Iterable[Any] | PathLike[str] | Frame | Picture
"""The network's one input, or its inputs by name; or raw rows: see `rows`."""

_FROM_HERE_ROUNDED = 2.0**53
"""The first whole number from which on float64 leaves some out."""

_NESTED = (list, tuple, np.ndarray)

_NUMBERS = (int, float, np.number, np.bool_)
_ELEMENTS = (str, bytes, *_NUMBERS)

_CONVERT = "convert it first, such as with .astype(np.float32)"

_NO_NUMBERS = {
    "c": "complex numbers; send the real and the imaginary parts as two numbers",
    "M": "points in time; send a number instead, such as the days since a date",
    "m": "lengths of time; send a number instead, such as the seconds",
    "V": "records; send one array for each field",
}
"""What arrays of a kind hold that no model takes, and what to send, by NumPy's letter of the kind."""


class Given(NamedTuple):
    """An input as an array.

    Attributes:
        array: The array: numbers, truth values or texts.
        listed: Whether its element type is NumPy's choice for Python's numbers, and so says nothing.
    """

    array: NDArray[Any]
    listed: bool


def described(name: str) -> str:
    """An input in a message to the user; the name is empty for a network's only input."""
    return f"input {name!r}" if name else "the input"


def given(value: ArrayLike, name: str = "") -> Given:
    """The array of what a user gives as one input.

    Args:
        value: An array, or lists of numbers, truth values or texts, batch axis first.
        name: The input's name; empty for a network's only input.

    Returns:
        The array, in this machine's byte order.

    Raises:
        InvalidInput: It is no array, or elements of it are neither numbers nor texts, are missing, or would be changed.
    """
    if type(value) is np.ndarray and value.dtype.kind in "fiub":
        return Given(_native(value, name), listed=False)
    what = described(name)
    if is_table(value):
        raise InvalidInput(
            f"{what} is a table, whose columns have no order that the model knows; give its numbers with the columns in "
            "the order of training: df[[...]].to_numpy()"
        )
    if is_unordered(value):
        raise InvalidInput(f"{what} is a set, which has no order that its rows could have; give a list")
    _refuse_masked(value, what)
    try:
        array = np.asarray(value)
    except Exception as error:  # any class may have an __array__ that raises anything
        _refuse_masked(value, what, thoroughly=True)
        sentence = _ragged(value) if isinstance(value, list | tuple) else ""
        raise InvalidInput(f"{what} is not an array: {sentence or error}") from error
    if array.dtype.kind == "f" and isinstance(value, Sequence):
        array = _exact(value, array, what)
    if not isinstance(value, list | tuple):
        return Given(_native(array, name), listed=isinstance(value, bool | int | float))
    if array.dtype.kind in "SUT":
        # NumPy would write numbers among the texts as texts, and cut zeros off their ends.
        array = np.asarray(value, dtype=object)
    elif array.dtype.kind == "f" and np.isnan(array).any():
        _refuse_masked(value, what, thoroughly=True)
    return Given(_native(array, name), listed=True)


def is_table(value: object) -> bool:
    """Whether it is a table with named columns, such as a DataFrame of pandas or polars."""
    # Asked of the type, because the columns of a lazy table take long to find.
    return not isinstance(value, np.ndarray) and hasattr(type(value), "columns")


def columns(table: Any, model: Model) -> dict[str, Given]:
    """The columns of a table as the inputs of a model, matched by name.

    Args:
        table: A DataFrame of pandas or polars, or what has columns like one.
        model: The model, ready.

    Returns:
        The model's inputs by name, in its order.

    Raises:
        InvalidInput: The table has not exactly the columns that the model takes, or the model takes no columns.
    """
    expected = "; ".join(map(str, model.inputs))
    has = list(map(str, names_of(table, f"{model.name} expects {expected}")))
    if not all(_is_column(spec) for spec in model.inputs):
        if len(model.inputs) == 1:
            raise InvalidInput(
                f"{model.name} has one input, {expected}, and does not know the names of its columns; give the numbers "
                "with the columns in the order of training: df[[...]].to_numpy()"
            )
        raise InvalidInput(f"{model.name} expects {expected}, which are not all columns; give a dict of arrays by name")
    names = [spec.name for spec in model.inputs]
    missing, extra = [n for n in names if n not in has], [n for n in has if n not in names]
    if missing or extra:
        facts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)} too many"] * bool(extra)
        raise InvalidInput(
            f"the table {' and '.join(facts)}; {model.name} expects the columns {', '.join(names)}: df[{names!r}]"
        )
    if len(has) > len(set(has)):
        raise InvalidInput(f"the table has several columns of one name: {', '.join(has)}")
    found = {}
    for spec in model.inputs:
        array = given(table[spec.name], spec.name).array
        found[spec.name] = Given(array.reshape(-1, *spec.shape[1:]), listed=False)
    return found


def names_of(table: Any, expected: str) -> list[Any]:
    """The names of a table's columns.

    Args:
        table: A table.
        expected: What the model expects, for a message.

    Raises:
        InvalidInput: The table has none yet.
    """
    if hasattr(type(table), "collect"):
        raise InvalidInput(f"the table is a query that was not run; give its result: .collect(). {expected}")
    # A table of Apache Arrow calls the columns themselves so.
    return list(table.column_names if hasattr(type(table), "column_names") else table.columns)


def place(index: int, shape: Sequence[int]) -> list[int]:
    """Where an element is, by its index in row-major order."""
    return [int(at) for at in np.unravel_index(index, tuple(shape))]


def no_text(inputs: Mapping[str, NDArray[Any]], error: UnicodeEncodeError) -> InvalidInput:
    """The refusal of inputs of which a text cannot be sent, with its place; of a name it is the name.

    Args:
        inputs: The inputs by name.
        error: Why not.
    """
    for name, array in inputs.items():
        for index, element in enumerate(array.ravel().tolist() if array.dtype.kind in "UO" else ()):
            if isinstance(element, str) and element == error.object:
                return unwritable(element, f"{described(name)} at {place(index, array.shape)}: ")
    return unwritable(error.object)


def _is_column(spec: TensorSpec) -> bool:
    return spec.shape[1:] in {(), (1,)} and len(spec.shape) > 0


def _native(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind == "T":
        # NumPy's texts of any length, which have no byte order, may have a missing one too.
        array = array.astype(object)
    dtype = array.dtype
    if dtype.kind == "O":
        _check_objects(array, described(name))
    elif dtype.kind in _NO_NUMBERS:
        raise InvalidInput(
            f"{described(name)} has elements of type {dtype}, which no model takes: {_NO_NUMBERS[dtype.kind]}"
        )
    elif dtype.kind == "f" and dtype.itemsize > 8:
        raise InvalidInput(f"{described(name)} has elements of type {dtype}, which no model takes; {_CONVERT}")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _check_objects(array: NDArray[Any], what: str) -> None:
    elements = array.ravel().tolist()
    # NumPy makes objects of numbers among which one is something else, or too large.
    texts = [index for index, element in enumerate(elements) if isinstance(element, str | bytes)]
    strange = [index for index, element in enumerate(elements) if not isinstance(element, _ELEMENTS)]
    if strange:
        # A dict says what was meant, also where something else is missing before it.
        index = next((index for index in strange if isinstance(elements[index], Mapping)), strange[0])
        element = elements[index]
        wanted = "a text" if texts else "a number"
        missing = element is None or type(element).__name__ in {"NAType", "NaTType"}
        hint = "; a missing number is float('nan'), where the model takes one" if missing and not texts else ""
        if isinstance(element, Mapping):
            hint = "; rows with named columns are a list with a dict for each row"
        raise InvalidInput(
            f"{what} holds {element!r:.40} at {place(index, array.shape)} where {wanted} was expected{hint}"
        )
    number = next((index for index, element in enumerate(elements) if isinstance(element, _NUMBERS)), None)
    if texts and number is not None:
        raise InvalidInput(
            f"{what} holds the text {elements[texts[0]]!r:.40} at {place(texts[0], array.shape)} and the number "
            f"{elements[number]!r:.40} at {place(number, array.shape)}; give only texts, or only numbers"
        )
    if elements and not texts:
        large = next((e for e in elements if isinstance(e, int) and not -(2**63) <= e < 2**64), None)
        if large is not None:
            raise InvalidInput(f"{what} holds numbers of no type that a network takes, such as {large!r:.40}")
        raise InvalidInput(
            f"{what} is an array of objects, though all are numbers, such as {elements[0]!r:.40}; {_CONVERT}"
        )


def _refuse_masked(value: Any, what: str, at: tuple[int, ...] = (), *, thoroughly: bool = False) -> None:
    """Refuses masked elements, which NumPy would send with whatever lies below the mask.

    Lists of numbers are looked through only if it is to be thorough: that takes as long as to make an array of them.
    """
    if isinstance(value, np.ma.MaskedArray):
        masked = np.flatnonzero(np.ma.getmaskarray(value))
        if masked.size:
            raise InvalidInput(
                f"{what} is masked at {[*at, *place(int(masked[0]), value.shape)]}, so there is no number to send; fill it "
                "first: .filled(float('nan')), where the model takes that"
            )
    elif isinstance(value, list | tuple) and (thoroughly or isinstance(next(iter(value), 0), _NESTED)):
        for index, part in enumerate(value):
            _refuse_masked(part, what, (*at, index), thoroughly=thoroughly)


def _exact(value: object, array: NDArray[Any], what: str) -> NDArray[Any]:
    """The numbers of a list of which NumPy has made floats, with each whole number as it was.

    NumPy does so where there are floats, and where no type of its own has all of the whole numbers, or seems to have them:
    of 2**64 - 1 and 0 it makes floats.

    Args:
        value: The list.
        array: What NumPy has made of it.
        what: The input, for a message.

    Raises:
        InvalidInput: A whole number was rounded, and no type has it and the numbers beside it.
    """
    if not (np.abs(array) >= _FROM_HERE_ROUNDED).any():
        return array
    elements = np.asarray(value, dtype=object).ravel().tolist()
    whole = all(isinstance(element, int | np.integer) for element in elements)
    if whole and min(map(int, elements)) >= 0:
        return np.array(elements, np.uint64).reshape(array.shape)
    for index, element in enumerate(elements):
        if isinstance(element, int | np.integer) and int(float(element)) != int(element):
            where = f"{what} holds {int(element)} at {place(index, array.shape)} beside"
            if whole:
                raise InvalidInput(
                    f"{where} {min(map(int, elements))} and {max(map(int, elements))}, which no type has together"
                )
            raise InvalidInput(
                f"{where} floats, as one of which it would be {float(element):.0f}; round it first, or send whole numbers only"
            )
    return array


def _ragged(value: Sequence[Any]) -> str:
    """Where lists are not as long as the first ones beside them; empty if all are."""
    lengths: list[int] = []
    part: Any = value
    while _is_sequence(part):
        lengths.append(len(part))
        part = part[0] if len(part) else None

    def look(part: Any, at: list[int]) -> str:
        length = len(part) if _is_sequence(part) else None
        expected = lengths[len(at)] if len(at) < len(lengths) else None
        if length != expected:
            has, others = ("is a single value" if n is None else f"has length {n}" for n in (length, expected))
            return f"{at} {has}, but {[0] * len(at)} {others}; make all equally long"
        parts = part if length else ()
        return next(filter(None, (look(each, [*at, index]) for index, each in enumerate(parts))), "")

    return look(value, [])


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
