"""The reader of CSV: from bytes to cells, whatever separates and encodes them."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

from frostline_training.data.cells import Cells, check_once
from frostline_training.errors import DataError
from frostline_training.sources import Reading

_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE = 50  # rows that decide what separates the cells
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"\xfd7zXZ\0": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "a Parquet file",
}
"""How other files begin that are taken for CSV."""


def read(
    path: Path | str,
    content: bytes,
    reading: Reading,
    *,
    first: int = 1,
    check: Callable[[Collection[str]], None] = lambda _: None,
) -> Cells:
    """Return the cells of a CSV file with a header.

    Args:
        path: What messages call the file.
        content: Its bytes, compressed with gzip or not.
        reading: How it is read.
        first: The number of its first row, in messages.
        check: Is given the names of the columns before anything else is found wrong, and may refuse them.

    Raises:
        DataError: It is empty, ragged, in another encoding, or no CSV.
    """
    text, hint = _without_hint(_text(path, _plain(path, content), reading.encoding))
    # A text may be longer than what Python's csv takes by itself.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    separator = reading.separator or hint or _separator(path, text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    starts: list[int] = []
    ended = 0
    try:
        for row in lines:
            # A cell of blanks is one where the table has one column, and the rest of an empty line elsewhere.
            if row and not (_is_blank(row) and (not rows or len(rows[0]) > 1)):
                rows.append([cell.strip() for cell in row])
                starts.append(ended + 1)
            ended = lines.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {ended + 1}: not a row of CSV: {error}") from error
    if not rows or not any(rows[0]):
        raise DataError(f"{path} is empty; its first line must name the columns")
    names, rows, starts = rows[0], rows[1:], starts[1:]
    check(names)
    check_once(path, names)
    if not rows:
        raise DataError(f"{path} holds column names, but no rows")
    for index, (row, line) in enumerate(zip(rows, starts, strict=True), start=first):
        if len(row) != len(names):
            raise DataError(
                f"{path}, row {index} (line {line}): {len(row)} cells, but the header names {len(names)} columns, "
                f"separated by {separator!r}"
            )
    return Cells(path, dict(zip(names, zip(*rows, strict=True), strict=True)), reading, starts, first)


def _plain(path: Path | str, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        if kind := next((kind for start, kind in _OTHERS.items() if content.startswith(start)), ""):
            raise DataError(f"{path} is {kind}, and no CSV file, which may be compressed with gzip alone")
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: gzip cannot unpack it: {error}") from error


def _text(path: Path | str, content: bytes, encoding: str) -> str:
    try:
        # Only some encodings take a byte order mark for one; in all others it is the first character.
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        # The byte order mark of some encodings is not among the bytes that the error counts.
        place = error.start + len(content) - len(error.object)
        line = content[:place].count(b"\n") + 1
        guess = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        instead = f'encoding="{guess}"' if guess != encoding else "its encoding"
        raise DataError(
            f"{path}, line {line}: byte 0x{content[place]:02x} (number {place + 1} of the file) is not {encoding}",
            f"; say {instead} in CsvFile{' (latin-1 and others too)' if guess == 'cp1252' else ''}, or save it as UTF-8",
        ) from error


def _without_hint(text: str) -> tuple[str, str]:
    """Return the text with an empty line for Excel's first one, ``sep=;``, and the separator that it names, or ""."""
    hint = re.match(r'"?sep=(.)"?(?=[\r\n])', text, re.IGNORECASE)
    return (text[hint.end() :], hint[1]) if hint else (text, "")


def _is_blank(row: Sequence[str]) -> bool:
    return len(row) == 1 and row[0].isspace()


def _separator(path: Path | str, text: str) -> str:
    """Return what separates the cells: that which gives the header several, and all rows as many."""
    fits = {}
    for separator in _SEPARATORS:
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            widths = [len(row) for row in islice(lines, _SAMPLE) if row and not _is_blank(row)]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            fits[separator] = (all(width == widths[0] for width in widths), widths[0])
    even = [separator for separator, (alike, _) in fits.items() if alike]
    if len(even) > 1:
        told = " or ".join(repr(separator) for separator in even)
        raise DataError(f"{path}: either {told} may separate the cells", f"; say separator={even[0]!r} in CsvFile")
    # None fits: the rows are ragged, which is said of the likeliest one.
    return even[0] if even else max(fits, key=lambda separator: fits[separator][1], default=",")
