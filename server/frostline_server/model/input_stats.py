"""The statistics of raw rows: what training did not know of them, and how far their columns are from training's.

Counted by column, for a bounded number of columns.
"""

import threading
from typing import Any

import numpy as np

from frostline_server.runtime.row_encoder import MISSING, OUTSIDE, UNKNOWN
from frostline_server.runtime.row_schema import Category, Date, Number, RowSchema

Array = np.ndarray[Any, Any]

WINDOW_ROWS = 5000
"""The drift is that of the latest rows: at least so many, once there were, and less than twice as many."""
LEAST_ROWS = 200
"""Before so many rows, the distribution of a column is chance."""

_PENDING_ROWS = 4096
_PENDING_BATCHES = 64
_LEAST_SHARE = 1e-4
"""What an empty bin counts as, so that its logarithm is finite: as is usual for this index."""


class InputStats:
    """Counts the cells of raw rows.

    Args:
        schema: the columns, and their distribution in training.
        max_series: the most columns that are counted.
    """

    def __init__(self, schema: RowSchema, max_series: int = 100) -> None:
        self._names = [column.name for column in schema.columns[:max_series]]
        self._lock = threading.Lock()
        self._pending: list[tuple[Array, Array]] = []
        self._pending_rows = 0
        self._states = np.zeros((4, len(self._names)), np.int64)
        self._bins = [bins for bins in _bins(schema) if bins.column < max_series]
        self._window_rows = 0

    def add(self, numbers: Array, states: Array) -> None:
        """Count a batch: the network's input [rows, F], and what each cell is, [rows, columns]."""
        with self._lock:
            # Of columns whose distribution is not known, such as texts, the network's numbers tell nothing here.
            self._pending.append((numbers if self._bins else states, states))
            self._pending_rows += len(states)
            if len(self._pending) >= _PENDING_BATCHES or self._pending_rows >= _PENDING_ROWS:
                self._count()

    def missing(self) -> dict[str, float]:
        """Cells without a value, by column."""
        return self._by_column(MISSING)

    def unknown(self) -> dict[str, float]:
        """Cells with a category that training did not know, by column."""
        return self._by_column(UNKNOWN)

    def outside(self) -> dict[str, float]:
        """Cells below or above all of training, by column."""
        return self._by_column(OUTSIDE)

    def drift(self) -> dict[str, float]:
        """The population stability index of the latest rows, by column; of none before `LEAST_ROWS` rows.

        It is the sum of (share - trained share) * log(share / trained share) over the bins of a column.
        """
        with self._lock:
            self._count()
            return {
                self._names[bins.column]: bins.index()
                for bins in self._bins
                if (bins.recent + bins.before).sum() >= LEAST_ROWS
            }

    def _by_column(self, state: int) -> dict[str, float]:
        with self._lock:
            self._count()
            return dict(zip(self._names, self._states[state].tolist(), strict=True))

    def _count(self) -> None:
        # Emptied first: what could not be counted would fail every batch after it.
        pending, self._pending, self._pending_rows = self._pending, [], 0
        if not pending:
            return
        numbers = np.concatenate([numbers for numbers, _ in pending])
        states = np.concatenate([states for _, states in pending])[:, : len(self._names)]
        for state in (MISSING, UNKNOWN, OUTSIDE):
            self._states[state] += (states == state).sum(axis=0)
        self._window_rows += len(numbers)
        full = self._window_rows >= WINDOW_ROWS
        if full:
            self._window_rows = 0
        for bins in self._bins:
            bins.add(numbers, states)
            if full:
                bins.before, bins.recent = bins.recent, np.zeros_like(bins.recent)


class _Bins:
    """A column's cells by bin, those that have a value and are known.

    Attributes:
        column: its place among the columns.
        recent: how many cells of the present window are in each bin.
        before: of the window before it.
    """

    def __init__(self, column: int, place: int, trained: Array, edges: Array | None) -> None:
        self.column = column
        self._place = place
        self._edges = edges
        self._trained = np.maximum(trained, _LEAST_SHARE)
        self.recent = np.zeros(len(trained), np.int64)
        self.before = np.zeros(len(trained), np.int64)

    def add(self, numbers: Array, states: Array) -> None:
        cells = numbers[:, self._place]
        known = cells[(states[:, self.column] != MISSING) & (states[:, self.column] != UNKNOWN)]
        # Categories are numbered from 1; 0 is the unknown one.
        bins = known.astype(np.int64) - 1 if self._edges is None else np.searchsorted(self._edges, known, side="right")
        # Whatever the version's own file gives.
        self.recent += np.bincount(bins.clip(0, len(self.recent) - 1), minlength=len(self.recent))

    def index(self) -> float:
        counts = self.recent + self.before
        share = np.maximum(counts / counts.sum(), _LEAST_SHARE)
        return float(((share - self._trained) * np.log(share / self._trained)).sum())


def _bins(schema: RowSchema) -> list[_Bins]:
    """Of the columns whose distribution the schema says."""
    found, place = [], 0
    for at, column in enumerate(schema.columns):
        if isinstance(column, Number | Category) and len(column.shares) > 1:
            edges = np.array(column.edges, np.float32) if isinstance(column, Number) else None
            found.append(_Bins(at, place, np.array(column.shares), edges))
        place += len(column.parts) if isinstance(column, Date) else 1
    return found
