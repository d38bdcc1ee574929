"""A text classification data set made from Python's own library: code, comment or docstring."""

import ast
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.cells import Cells
from frostline_training.data.rows import Dataset, Rows, Text, evenly
from frostline_training.errors import DataError
from frostline_training.sources import Reading

LABELS = ("code", "comment", "docstring")
SNIPPET_BYTES = 128

_COLUMN = "text"
_SHORTEST = 24  # bytes; less says too little
_ROWS_PER_CLASS = 3000

# Old, large and well documented: these are in every version of Python, and a patch release hardly changes them.
_MODULES = """
    argparse ast calendar codecs collections/__init__ configparser contextlib copy csv datetime decimal
    difflib dis doctest email/message enum fractions ftplib functools gettext heapq http/client imaplib
    inspect ipaddress json/decoder json/encoder logging/__init__ logging/handlers mailbox mimetypes optparse
    os pathlib pdb pickle pickletools platform plistlib poplib pprint pydoc queue random sched shutil smtplib
    socket socketserver ssl statistics string subprocess tarfile tempfile textwrap threading timeit tokenize
    traceback types typing unittest/case unittest/mock urllib/parse urllib/request uuid warnings weakref
    zipfile
"""


def python_text() -> Dataset:
    """Return as many snippets of each kind, as bytes; comments come without their ``#``, docstrings without quotes.

    Which snippets there are depends on the Python version; the same Python gives the same ones in the same order.

    Raises:
        DataError: This Python's library has no sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, dict[bytes, None]] = {label: {} for label in LABELS}  # dictionaries, to keep each text once
    for module in _MODULES.split():
        path = folder / f"{module}.py"
        path = path if path.exists() else folder / module / "__init__.py"  # some became packages, or will
        if path.exists():
            for label, text in _snippets(path.read_text(encoding="utf-8")):
                found[label].setdefault(text)
    texts = [_spread(list(found[label])) for label in LABELS]
    count = min(len(kind) for kind in texts)
    if count < 100:
        raise DataError(f"the text set needs the sources of Python's own library, and {folder} holds next to none")
    rows = [text for kind in texts for text in kind[:count]]
    inputs = as_bytes(rows, SNIPPET_BYTES)
    cells = Cells("python-text", {_COLUMN: [text.decode("ascii") for text in rows]}, Reading(missing=("",)))
    return Dataset(
        name="python-text",
        rows=Rows(inputs, np.repeat(np.arange(len(LABELS)), count), cells),
        labels=LABELS,
        send=f"the bytes of a UTF-8 text as uint8, trained on at most {SNIPPET_BYTES}; 0 pads on the right",
        source="the standard library of the Python that trained it: its code, comments (without #) and docstrings",
        media=Text(_COLUMN, inputs.shape[1]),
        sequence=True,
    )


def encoded(texts: Iterable[str | None], width: int) -> NDArray[np.uint8]:
    """Return `texts` as uint8 [N, `width`]: their bytes in UTF-8, cut, or padded with 0; of a missing one only 0."""
    rows = as_bytes([(text or "").encode() for text in texts], width)
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def as_bytes(texts: list[bytes], longest: int) -> NDArray[np.uint8]:
    """Return `texts` as uint8 [N, T], cut to `longest` bytes and padded with 0 on the right."""
    texts = [text[:longest] for text in texts]
    rows = np.zeros((len(texts), max(1, *map(len, texts))), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return rows


def _spread(texts: list[bytes]) -> list[bytes]:
    # Evenly over all modules, not the first ones only.
    return [texts[place] for place in evenly(len(texts), _ROWS_PER_CLASS)]


def _snippets(source: str) -> Iterator[tuple[str, bytes]]:
    lines = source.splitlines()
    documented: set[int] = set()  # lines, from 1, that are no code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a newer Python thinks of an escape sequence
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
                yield from _cut("docstring", text.splitlines())

    block: list[str] = []
    before = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            documented.add(token.start[0])
            if token.start[0] != before + 1:
                yield from _cut("comment", block)
                block = []
            block.append(token.string.lstrip("#!: "))
            before = token.start[0]
    yield from _cut("comment", block)
    yield from _cut("code", [line for number, line in enumerate(lines, start=1) if number not in documented])


def _cut(label: str, lines: list[str]) -> Iterator[tuple[str, bytes]]:
    # Every snippet begins with a line, without its indentation, and is as many lines as fit, the last one cut. It ends
    # without the spaces that a server leaves out around a text.
    snippet = b""
    for line in lines:
        text = line.strip().encode("ascii", "replace")
        if text:
            snippet = snippet + b"\n" + text if snippet else text
            if len(snippet) >= SNIPPET_BYTES:
                yield label, snippet[:SNIPPET_BYTES].strip()
                snippet = b""
    if len(snippet) >= _SHORTEST:
        yield label, snippet
