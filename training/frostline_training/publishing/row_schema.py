"""The schema of raw rows in a card: each column as clients send it, and how the training rows were distributed.

A server compares what it is sent with the training by it.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.categories import MISSING
from frostline_training.data import Column
from frostline_training.data.cells import Cells
from frostline_training.data.rows import UNKNOWN, DateOf
from frostline_training.publishing.preprocessing import FILE

_BINS = 10
_Numbers = NDArray[np.float32]  # of one column, [N]


def to_card(columns: Sequence[Column], train: Cells, numbers: NDArray[np.float32]) -> dict[str, Any]:
    """Return what a card says of the raw rows under `rows`.

    Args:
        columns: The network's, in their order.
        train: The rows that it was trained on.
        numbers: The same as the network takes them, float32 [N, F].
    """
    placed = list(zip(columns, numbers.T, strict=True))
    grouped = [list(group) for _, group in groupby(placed, key=lambda each: each[0].cells)]
    return {
        "file": FILE,
        "missing": list(dict.fromkeys(("", *train.reading.missing))),
        "columns": [_column(group, train) for group in grouped],
        "example": _example([group[0] for group in grouped], train),
        "reading": train.reading.model_dump(mode="json"),
    }


def from_card(rows: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the network's columns, of which `to_card` told."""
    columns: list[Column] = []
    for told in rows["columns"]:
        name = told["name"]
        if told["kind"] == "number":
            columns.append(Column(name))
        elif told["kind"] == "category":
            columns.append(Column(name, (UNKNOWN, *told["categories"], *([MISSING] if told.get("missing") else []))))
        else:
            for part in told["parts"]:
                since = part.get("relative_to")
                relative_to = None if since is None else datetime.fromisoformat(since)
                columns.append(
                    Column(f"{name}.{part['part']}", date=DateOf(name, told["format"], part["part"], relative_to))
                )
    return tuple(columns)


def _column(group: Sequence[tuple[Column, _Numbers]], train: Cells) -> dict[str, Any]:
    first, values = group[0]
    if first.date is not None:
        return _date(first.cells, first.date.format, [column.date for column, _ in group if column.date], train)
    if first.categories is None:
        return {"name": first.name, "kind": "number", **_distribution(values)}
    empty = np.array([cell is None for cell in train.values(first.name)])
    missing = empty | (values == first.missing) if first.missing else empty
    counts = np.bincount(values.astype(np.intp), minlength=len(first.categories))[1 : len(first.known) + 1]
    known = int(counts.sum())
    return {
        "name": first.name,
        "kind": "category",
        "categories": list(first.known),
        **({"missing": first.missing} if first.missing else {}),
        "share_missing": float(np.mean(missing)),
        "share_unknown": float(np.mean((values == 0) & ~missing)),
        "shares": (counts / known).tolist() if known else [],
    }


def _distribution(values: _Numbers) -> dict[str, Any]:
    filled = values[~np.isnan(values)]
    told: dict[str, Any] = {"lowest": None, "highest": None, "share_missing": float(np.isnan(values).mean())}
    if not len(filled):
        return {**told, "edges": [], "shares": []}
    # Edges are numbers of the data above the lowest, so that no bin is empty: the population stability index divides
    # by its share. A number that is as frequent as a whole bin has a bin of its own, which ends at the next number:
    # else those of a flag that is seldom 1 would all be in one bin.
    different, counts = np.unique(filled, return_counts=True)
    (frequent,) = np.nonzero(counts * _BINS >= len(filled))
    inner = np.quantile(filled, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    ends = different[np.minimum(frequent + 1, len(different) - 1)]
    edges = np.unique(np.concatenate([inner, different[frequent], ends]))
    edges = edges[edges > different[0]]
    counts = np.bincount(np.searchsorted(edges, filled, side="right"), minlength=len(edges) + 1)
    return {
        **told,
        "lowest": float(filled.min()),
        "highest": float(filled.max()),
        "edges": edges.tolist(),
        "shares": (counts / len(filled)).tolist(),
    }


def _date(name: str, form: str, parts: Sequence[DateOf], train: Cells) -> dict[str, Any]:
    cells = train.values(name)
    moments = [train.moment(index, name, cell, form) for index, cell in enumerate(cells) if cell is not None]
    return {
        "name": name,
        "kind": "date",
        "format": form,
        "lowest": min(moments).isoformat() if moments else None,
        "highest": max(moments).isoformat() if moments else None,
        "share_missing": cells.count(None) / len(cells),
        "parts": [
            {"part": date.part} | ({} if date.relative_to is None else {"relative_to": date.relative_to.isoformat()})
            for date in parts
        ],
    }


def _example(columns: Sequence[tuple[Column, _Numbers]], train: Cells) -> dict[str, Any]:
    values = [_values(column, numbers, train) for column, numbers in columns]
    rows = zip(*values, strict=True)
    row = next((row for row in rows if None not in row), [each[0] for each in values])
    return dict(zip((column.cells for column, _ in columns), row, strict=True))


def _values(column: Column, numbers: _Numbers, train: Cells) -> Sequence[float | str | None]:
    if column.categories is None and column.date is None:
        return [None if math.isnan(value) else value for value in numbers.tolist()]
    return train.values(column.cells)
