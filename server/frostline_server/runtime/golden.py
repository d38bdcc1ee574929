"""The golden sample, a regression test of a model: real inputs, and the logits that PyTorch computed for them.

The server compares its own logits with these within the sample's tolerances.
"""

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import IO, Any, BinaryIO, cast

import numpy as np

from frostline_server.errors import LoadError
from frostline_server.regular_files import FileReader
from frostline_server.runtime.row_schema import RowSchema
from frostline_server.runtime.signature import Signature

Array = np.ndarray[Any, Any]

MAX_BYTES = 1 << 30
"""The most bytes that a golden sample's arrays may have, packed or unpacked: 64 rows of 4 million float32."""
_MAX_LIST_BYTES = 1 << 20
ROUNDING = 5e-7
"""Of the largest number of a row: four roundings of single precision, as sums in another order have them."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Real inputs, and the logits that PyTorch computed for them.

    Attributes:
        inputs: for each input of the network, [R, ...].
        logits: [R, C]; of a network that gives something else, its first output [R, ...].
        rtol: allowed relative difference.
        atol: allowed absolute difference.
        further: PyTorch's other outputs by name, [R, ...] each.
    """

    inputs: dict[str, Array]
    logits: Array
    rtol: float
    atol: float
    further: Mapping[str, Array] = field(default_factory=dict)


def compare(
    got: Array, expected: Array, golden: Golden, start: int, size: int, what: str = "logits", axis: str = "element"
) -> None:
    """Compare logits, or another output, with PyTorch's.

    Args:
        got: [R, ...], as served.
        expected: [R, ...], as PyTorch computed.
        golden: the tolerances.
        start: the number of the first of these rows in the sample, for messages.
        size: how many rows the batch had.
        what: the output, for messages.
        axis: what its first axis after the rows counts, for messages.

    Raises:
        LoadError: they differ; the message has the largest difference and its row.
    """
    if got.shape != expected.shape:
        raise LoadError(
            f"golden check failed: {what} have shape {list(got.shape)}, golden.npz has {list(expected.shape)}"
        )
    with np.errstate(invalid="ignore"):  # of two infinities, which is NaN
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    # Written so that a NaN on either side counts as a difference.
    # An infinite logit would allow any answer.
    allowed = golden.atol + golden.rtol * np.abs(expected) + ROUNDING * _largest(expected)
    wrong = ~(difference <= allowed) | ~np.isfinite(expected)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1.0)), wrong.shape)
        row, *rest = (int(index) for index in worst)
        raise LoadError(
            f"golden check failed: the {what} differ from PyTorch's by {difference[worst]:.3g} at row {(start + row) % len(golden.logits)}"
            f"{f', {axis} {rest[0]}' if rest else ''} (batch of {size}; served {got[worst]:.6g}, trained {expected[worst]:.6g}; "
            f"allowed {golden.atol:g} + {golden.rtol:g} x |trained|); {int(wrong.reshape(len(wrong), -1).any(axis=1).sum())} rows of the batch differ"
        )


def compare_classes(classes: Array, expected: Array, golden: Golden, start: int, size: int) -> None:
    """Check that each class has the largest of PyTorch's logits, within the tolerance.

    Args:
        classes: [R, ...], the served classes.
        expected: [R, C, ...], PyTorch's logits.
        golden: the tolerances.
        start: the number of the first of these rows in the sample, for messages.
        size: how many rows the batch had.

    Raises:
        LoadError: a class does not.
    """
    # Without an axis of classes, or with none on it, there is no largest one.
    if expected.ndim < 2 or not expected.shape[1] or classes.shape != (*expected.shape[:1], *expected.shape[2:]):
        raise LoadError(
            f"golden check failed: classes have shape {list(classes.shape)} for logits {list(expected.shape)}"
        )
    strange = (classes < 0) | (classes >= expected.shape[1])
    places = np.expand_dims(np.where(strange, 0, classes), 1)
    chosen, best = np.take_along_axis(expected, places, 1)[:, 0], expected.max(axis=1)
    # Either logit may differ by the tolerance.
    rounding = 2 * ROUNDING * _largest(expected)[:, 0]
    wrong = strange | (best - chosen > 2 * golden.atol + golden.rtol * (np.abs(best) + np.abs(chosen)) + rounding)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise LoadError(
            f"golden check failed: the class differs from PyTorch's at row {(start + row) % len(golden.logits)} "
            f"(batch of {size}); {int(wrong.reshape(len(wrong), -1).any(axis=1).sum())} rows of the batch differ"
        )


def _largest(expected: Array) -> Array:
    """The size of the largest number of each row, [R, 1, ...]: near 0, numbers are as inexact as the large ones beside them."""
    sizes: Array = np.nan_to_num(np.abs(expected.astype(np.float64)), posinf=0.0)
    largest: Array = sizes.max(axis=tuple(range(1, sizes.ndim)), initial=0.0, keepdims=True)
    return largest


def golden_keys(inputs: Sequence[str]) -> dict[str, str]:
    """The key of each input's rows in a golden.npz, by the input's name."""
    return {name: "input" if len(inputs) == 1 else f"input.{name}" for name in inputs}


def _read(path: Path, files: FileReader, keys: Sequence[str], choices: Sequence[Sequence[str]]) -> dict[str, Array]:
    """The arrays of a golden sample, as `_arrays` has them.

    Raises:
        LoadError: the file lacks one, or is damaged.
    """
    try:
        with files.open(path) as file:
            return _arrays(file, keys, choices)
    except KeyError as error:
        raise LoadError(f"golden check failed: {path.name} lacks {error.args[0]}") from error
    except LoadError as error:
        raise LoadError(f"golden check failed: {path.name} {error}") from None
    except Exception as error:  # a damaged archive raises from zipfile, zlib, struct or numpy
        raise LoadError(f"golden check failed: {path.name} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class GoldenRows:
    """Raw rows, and what the training pipeline answers for them.

    Attributes:
        columns: for each column its cells, [R].
        outputs: by name, [R, ...].
    """

    columns: list[Array]
    outputs: Mapping[str, Array]


def read_golden_rows(path: Path, schema: RowSchema, own_outputs: Sequence[str], files: FileReader) -> GoldenRows:
    """Read the raw rows of a golden sample.

    Args:
        path: the file.
        schema: the columns.
        own_outputs: names of the file's own outputs.
        files: reads it.

    Raises:
        LoadError: the file is damaged, or does not fit.
    """
    keys = {spec.name: f"rows.{spec.name}" for spec in schema.specs}
    lengths = {spec.name: f"rows.{spec.name}.lengths" for spec in schema.specs if spec.binary}
    several = {name: f"rows_output.{name}" for name in own_outputs}
    arrays = _read(path, files, (*keys.values(), *lengths.values()), [("rows_logits",), tuple(several.values())])
    outputs = (
        {own_outputs[0]: arrays["rows_logits"]}
        if "rows_logits" in arrays
        else {name: arrays[key] for name, key in several.items()}
    )
    rows = len(next(iter(outputs.values()))) if all(array.ndim for array in arrays.values()) else 0
    columns = []
    for spec in schema.specs:
        cells = arrays[keys[spec.name]]
        if spec.binary:
            columns.append(_cut(cells, arrays[lengths[spec.name]], rows, f"{path.name} has in {keys[spec.name]}"))
            continue
        text = spec.dtype.hasobject
        if cells.shape != (rows,) or not rows or cells.dtype.kind != ("U" if text else "f"):
            raise LoadError(
                f"golden check failed: {path.name} has {cells.dtype} {list(cells.shape)} in {keys[spec.name]} for {rows} "
                f"answers; expected as many {'texts' if text else 'numbers'}"
            )
        columns.append(cells.astype(object) if text else cells.astype(np.float64))
    if any(len(output) != rows or output.dtype.kind not in "fiub" for output in outputs.values()):
        raise LoadError(f"golden check failed: {path.name} has answers to raw rows that are not numbers for each row")
    return GoldenRows(columns, outputs)


def _cut(joined: Array, lengths: Array, rows: int, what: str) -> Array:
    """The elements of a column of bytes, objects [R], of all of them together, uint8, and their lengths, int64 [R]."""
    whole = joined.dtype == np.uint8 and joined.ndim == 1 and lengths.dtype == np.int64 and lengths.shape == (rows,)
    if not whole or not rows or (lengths < 0).any() or lengths.sum() != len(joined):
        raise LoadError(
            f"golden check failed: {what} {joined.dtype} {list(joined.shape)} with lengths {lengths.dtype} "
            f"{list(lengths.shape)} for {rows} answers; expected the bytes of as many elements"
        )
    ends = np.cumsum(lengths).tolist()
    cells = np.empty(rows, object)
    cells[:] = [joined[start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]
    return cells


def read_golden(path: Path, signature: Signature, files: FileReader) -> Golden:
    """Read a golden sample and check that it matches the network's signature.

    Args:
        path: the file.
        signature: what the network takes.
        files: reads it.

    Raises:
        LoadError: the file is damaged, or does not fit.
    """
    keys = golden_keys([spec.name for spec in signature.inputs])
    several = {name: f"output.{name}" for name in signature.own_outputs}
    arrays = _read(path, files, (*keys.values(), "rtol", "atol"), [("logits",), tuple(several.values())])
    odd = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if odd:
        raise LoadError(f"golden check failed: {path.name} has no array in {odd[0]}")
    further = {} if "logits" in arrays else {name: arrays[key] for name, key in several.items()}
    first = next(iter(further)) if further else ""
    logits = further.pop(first) if further else arrays["logits"]
    rtol, atol = arrays["rtol"], arrays["atol"]
    outputs = (logits, *further.values())
    if any(array.dtype.kind not in "fiub" for array in (*outputs, rtol, atol)) or not all(
        np.isfinite(output).all() for output in outputs
    ):
        raise LoadError(f"golden check failed: {path.name} has logits or tolerances that are not finite numbers")
    if rtol.ndim or atol.ndim or not (0 <= rtol < np.inf and 0 <= atol < np.inf):
        raise LoadError(f"golden check failed: {path.name} has tolerances that are not finite numbers >= 0")
    for spec in signature.inputs:
        rows = arrays[keys[spec.name]]
        if not rows.ndim or not logits.ndim or len(rows) != len(logits) or logits.size == 0 or rows.dtype != spec.dtype:
            raise LoadError(
                f"golden check failed: {path.name} has input {rows.dtype} {list(rows.shape)} for logits {list(logits.shape)}; "
                f"expected {spec.dtype} with as many rows"
            )
    for name, rows in further.items():
        if not rows.ndim or len(rows) != len(logits):
            raise LoadError(
                f"golden check failed: {path.name} has output {name} {list(rows.shape)} beside {first} {list(logits.shape)}"
            )
    inputs = {name: arrays[key] for name, key in keys.items()}
    return Golden(inputs, logits, float(rtol), float(atol), further)


class _Bounded:
    """A file of which no more is read at once than an archive's list of members may have.

    The library makes an object of every member that an archive lists, before anybody can ask how many there are.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable, self._file = file.seek, file.tell, file.seekable, file
        self.listed = False

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        if self.listed:
            return self._file.read(size)
        content = self._file.read(_MAX_LIST_BYTES + 1 if size < 0 else min(size, _MAX_LIST_BYTES + 1))
        if len(content) > _MAX_LIST_BYTES:
            raise LoadError("has too many members")
        return content


def _arrays(file: BinaryIO, keys: Sequence[str], choices: Sequence[Sequence[str]]) -> dict[str, Array]:
    """The arrays of an archive, unpacked only if there are no more of them, and no larger ones, than may be.

    Args:
        file: the archive.
        keys: what it must hold.
        choices: of which it must hold one besides; the first that is there, or that is missed.

    Raises:
        KeyError: one is not there.
        LoadError: they are too large, or not what numpy writes.
    """
    bounded = _Bounded(file)
    with zipfile.ZipFile(cast("IO[bytes]", bounded)) as archive:
        bounded.listed = True
        there = archive.NameToInfo
        chosen = next((each for each in choices if each and all(f"{key}.npy" in there for key in each)), choices[0])
        members = {key: archive.getinfo(f"{key}.npy") for key in (*keys, *chosen)}
        unpacked = sum(member.file_size for member in members.values())
        if max(unpacked, sum(member.compress_size for member in members.values())) > MAX_BYTES:
            raise LoadError(f"unpacks to {unpacked} bytes; the most is {MAX_BYTES}")
        return {key: _array(archive, member) for key, member in members.items()}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise LoadError(f"has {member.filename} packed in a way that numpy does not")
    with archive.open(member) as packed:
        version = np.lib.format.read_magic(packed)
        if version not in _HEADERS:
            raise LoadError(
                f"has {member.filename} in version {version} of numpy's format, which plain arrays are not in"
            )
        shape, _, dtype = _HEADERS[version](packed)
        # Room for the elements is made before they are read, so that what the header says must be there.
        expected, there = math.prod(shape) * dtype.itemsize, member.file_size - packed.tell()
    if dtype.hasobject:
        raise LoadError(f"has Python objects in {member.filename}; expected numbers")
    if expected != there:
        raise LoadError(f"has {there} bytes for {member.filename}, whose shape {short(shape)} needs {expected}")
    with archive.open(member) as packed:
        array: Array = np.lib.format.read_array(packed, allow_pickle=False)
    return array


_HEADERS: Mapping[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
