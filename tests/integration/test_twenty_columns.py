"""A table of twenty columns, each of another kind, trained and served: any row is answered as training would answer it.

Or it is refused, by a message that names a column which training refuses too.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import frostline
from frostline.cli.table_rows import InvalidTableError, raw
from frostline_training import data
from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.data import Column
from frostline_training.data.cells import Cells, number
from frostline_training.data.encoding import encode
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, DateColumn
from tests.support import calls
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.training.published import trained

Array = np.ndarray[Any, Any]
Row = Mapping[str, str]
"""A cell for each column, as a file has it."""

ROWS = 150
LONG = [f"{word} " * 25 + word for word in ("first", "zweites", "трети")]
ZONE = timezone(timedelta(hours=5, minutes=30))


def _number(value: float, digits: int = 2) -> str:
    """As German tables have it: 1.234,56."""
    return f"{value:,.{digits}f}".translate(str.maketrans(",.", ".,"))


def _words(*words: str) -> Callable[[int], str]:
    return lambda row: words[row % len(words)]


def _day(row: int) -> date:
    return date(2019, 1, 1) + timedelta(days=37 * row)


def _time(row: int) -> datetime:
    return datetime(2020, 2, 28, 23, 0, 5, tzinfo=ZONE) + timedelta(hours=7 * row)


COLUMNS: Mapping[str, Callable[[int], str]] = {
    "whole": lambda row: str(row % 83 - 20),
    "decimal": lambda row: _number(row / 7),
    "thousands": lambda row: _number(1234.5 * row * row),
    "huge": lambda row: f"{row + 1},5e30",
    "tiny": lambda row: f"{row + 1}e-30",
    "constant": lambda _: "7",
    "rarely": lambda row: "" if row % 25 else str(row),
    "stand-in": lambda row: "-999" if row % 9 == 0 else str(row),
    "truth": _words("True", "False"),
    "yes or no": _words("yes", "no", "n/a"),
    "zero or one": _words("0", "1", "1"),
    "city": _words("Köln", "Ko\u0308ln", "東京", "São Paulo", "ẞ"),
    "mood 🙂": _words("🙂", "🦊", "👩‍👩‍👧", "❤️"),
    "postcode": _words("05090", "00100", "10115", "5090"),
    "grade": _words("1", "2", "10", "1.0"),
    "alone": _words("same"),
    "story": _words(*LONG),
    "born": lambda row: _day(row).isoformat() if row % 11 else "-",
    "signup": lambda row: _day(row).strftime("%d.%m.%Y"),
    "seen": lambda row: _time(row).isoformat(),
    "stamp": lambda row: _time(row).strftime("%d %b %Y %H:%M %z"),
}
MISSING = ("", "NA", "n/a", "-", "?", "-999")


class Served(NamedTuple):
    """The trained network behind a server.

    Attributes:
        server: A real one.
        columns: What training made of the file.
        cells: Of the file.
        network: What it learnt.
        schema: What the server says of it.
    """

    server: Running
    columns: Sequence[Column]
    cells: Cells
    network: nn.Module
    schema: frostline.Schema


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("twenty")
    with (folder / "people.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow([*COLUMNS, "left"])
        table.writerows(
            [*(cell(row) for cell in COLUMNS.values()), ("no", "yes")[row * row % 3 > 0]] for row in range(ROWS)
        )
    recipe = Recipe(
        name="people",
        data=CsvFile(
            path=folder / "people.csv",
            target="left",
            decimal=",",
            thousands=".",
            missing=MISSING,
            columns={
                "grade": "category",
                "zero or one": "category",
                "story": "category",
                "signup": DateColumn(format="%d.%m.%Y", parts=("age_days",)),
                "stamp": DateColumn(format="%d %b %Y %H:%M %z"),
            },
        ),
        network=Mlp(hidden=(8,), activation="tanh"),
        hyperparameters=Hyperparameters(epochs=2),
        baselines=False,
    )
    network = trained(recipe, folder / "models")
    test = data.prepare(recipe)
    assert test.test.cells is not None
    with running(folder / "models", log_level="error") as server, frostline.connect(server.address) as client:
        yield Served(server, test.dataset.columns, test.test.cells, network, client.schema("people"))


def _near(name: str) -> st.SearchStrategy[str]:
    """Cells that a column has, or nearly: spaces, other notations, what is missing, and what only looks alike."""
    own = st.integers(0, ROWS - 1).map(COLUMNS[name])
    spaced = st.tuples(st.sampled_from(["", " ", "\t ", "\u00a0"]), own, st.sampled_from(["", "  ", "\n"])).map("".join)
    return st.one_of(
        own,
        spaced,
        own.map(str.swapcase),
        st.sampled_from([*MISSING, " NA ", "(unknown)", "nan", "None"]),
    )


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6).map(lambda value: _number(value, 3)),
    st.integers(-(10**9), 10**9).map(str),
    st.sampled_from(["1e39", "-1e39", "inf", "-Infinity", "1.5", "1,5", "1.23,4", "1_000", "١٢", "+,5", "-0", "7.", "0x10", "1 000", "-999,0", "-9,99e2"]),
)  # fmt: skip
DATES = st.one_of(
    st.dates().map(date.isoformat),
    st.dates(date(1000, 1, 1)).map(lambda day: day.strftime("%d.%m.%Y")),
    st.datetimes(timezones=st.sampled_from([UTC, ZONE])).map(datetime.isoformat),
    st.datetimes(datetime(1000, 1, 1), timezones=st.just(ZONE)).map(lambda time: time.strftime("%d %b %Y %H:%M %z")),  # noqa: DTZ001
    st.sampled_from(["2023-02-29", "29.02.2024", "31.04.2024", "2024-13-01", "2024-1-1", "24:00", "0001-01-01T00:00+10:00", "2024-W01-1", "20240229", "2024-02-29T24:00"]),
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

CHANGES = st.sampled_from([*COLUMNS]).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(_near(name), NUMBERS, DATES, TEXTS))
)
TABLES = st.lists(
    st.tuples(st.integers(0, ROWS - 1), st.lists(CHANGES, max_size=3)), min_size=1, max_size=3
).map(lambda rows: [{name: cell(at) for name, cell in COLUMNS.items()} | dict(changes) for at, changes in rows])  # fmt: skip


def _expected(served: Served, rows: Sequence[Row]) -> tuple[Array, set[tuple[str, int]]]:
    """What training would answer, and the cells that it refuses, by column and row."""
    logits, refused = [], set()
    for at, row in enumerate(rows):
        cells = Cells("rows", {name: [cell.strip()] for name, cell in row.items()}, served.cells.reading)
        for column in served.columns:
            try:
                encode(cells, [column])
            except DataError:
                refused.add((column.cells, at))
        if not any(bad == at for _, bad in refused):
            with torch.no_grad():
                logits.append(served.network(torch.from_numpy(encode(cells, served.columns)))[0].numpy())
    return np.array(logits), refused


def _check_refusal(error: Exception, refused: set[tuple[str, int]]) -> None:
    """Check that a message names a cell that training refuses too."""
    words = [f"column {name!r}" for name, _ in refused]
    assert any(word in str(error) for word in words), f"{error} names none of {refused}"
    row = re.search(r", row (\d+)", str(error))
    named = {at for name, at in refused if f"column {name!r}" in str(error)}
    assert {int(row[1])} <= named if row else len(named) >= 1


def _sent(served: Served, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The columns as people hold them: numbers as such, and all other cells as the texts that they are."""
    reading = served.cells.reading

    def value(cell: str) -> Any:
        bare = cell.strip()
        if bare in reading.missing:
            return None
        found = number(bare, reading)
        return cell if found is None or math.isnan(found) else found

    numbers = {column.name for column in served.schema.columns if column.kind == "number"}
    return {name: [value(row[name]) if name in numbers else row[name] for row in rows] for name in COLUMNS}


@settings(max_examples=120, derandomize=True, database=None)
@given(TABLES)
def test_any_rows_are_answered_as_training_answers_them(served: Served, rows: list[Row]) -> None:
    expected, refused = _expected(served, rows)
    sent = _sent(served, rows)

    # As people hold them.
    with frostline.connect(served.server.address, timeout_s=TIMEOUT_S) as client:
        _compare(lambda: client.predict("people", sent).logits, expected, refused)

        # As a file has them.
        file = io.StringIO(newline="")
        table = csv.writer(file, delimiter=";")
        table.writerow(COLUMNS)
        table.writerows([row[name] for name in COLUMNS] for row in rows)
        content = file.getvalue().encode()

        def predict() -> Array:
            columns = raw("people.csv", content, served.schema, lambda _: None)
            return client.predict("people", columns).logits

        _compare(predict, expected, refused)


def _compare(predict: Callable[[], Array], expected: Array, refused: set[tuple[str, int]]) -> None:
    if not refused:
        np.testing.assert_allclose(predict(), expected, rtol=1e-4, atol=1e-4)
        return
    with pytest.raises((frostline.InvalidInput, InvalidTableError)) as caught:
        predict()
    _check_refusal(caught.value, refused)


@settings(max_examples=60, derandomize=True, database=None)
@given(TABLES)
def test_any_tensors_by_column_are_answered_as_training_answers_them(served: Served, rows: list[Row]) -> None:
    expected, refused = _expected(served, rows)
    sent = _sent(served, rows)
    numbers = {column.name for column in served.schema.columns if column.kind == "number"}
    if any(isinstance(cell, str) for name in numbers for cell in sent[name]):
        return  # a text has no place among numbers
    tensors = {
        name: np.array([np.nan if cell is None else cell for cell in cells], np.float64 if name in numbers else object)
        for name, cells in sent.items()
    }
    with grpc.insecure_channel(served.server.address) as channel:

        def predict() -> Array:
            request = calls.infer_request("people", tensors, ["logits"])
            return calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))["logits"]

        if not refused:
            np.testing.assert_allclose(predict(), expected, rtol=1e-4, atol=1e-4)
            return
        code, message = calls.refused(predict)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    _check_refusal(Exception(message), refused)
