"""Users' own files: what is read, and that whatever is wrong with them is one sentence that says where."""

import bz2
import contextlib
import lzma
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from frostline.cli import main as cli
from frostline_training import data
from frostline_training.data import Dataset, Rows, named
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, ImageFolder, NpzFile, ParquetFile
from tests.support.training.datasets import only_input, picture_folder

Listing = Callable[[Path], list[str]]

FLOWERS = "length,colour,kind\n" + "1.5,red,rose\n2.5,blue,violet\n,red,rose\n0.5,,violet\n" * 5


def _csv(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _npz(folder: Path, **arrays: object) -> Path:
    path = folder / "t.npz"
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, **plain)
    return path


def test_a_csv_files_columns_are_numbers_or_categories(tmp_path: Path) -> None:
    dataset = data.load(CsvFile(path=_csv(tmp_path, FLOWERS), target="kind"))
    np.testing.assert_array_equal(
        only_input(dataset)[:4], np.array([[1.5, 2], [2.5, 1], [np.nan, 2], [0.5, 3]], np.float32)
    )
    assert [column.categories for column in dataset.columns] == [None, ("(unknown)", "blue", "red", "(missing)")]
    assert dataset.labels == ("rose", "violet")
    assert dataset.rows.targets[:4].tolist() == [0, 1, 0, 1]
    assert (
        dataset.send == "length (a number, NaN where it is missing); colour (0 (unknown), 1 blue, 2 red, 3 (missing))"
    )


def test_what_a_column_is_can_be_said(tmp_path: Path) -> None:
    text = "zip,note,y\n" + "".join(f"{10 + index % 2},n{index},{index % 2}\n" for index in range(8))
    dataset = data.load(CsvFile(path=_csv(tmp_path, text), target="y", columns={"zip": "category", "note": "skip"}))
    assert [(column.name, column.categories) for column in dataset.columns] == [("zip", ("(unknown)", "10", "11"))]


def test_labels_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    assert data.load(CsvFile(path=_csv(tmp_path, "x,y\n1,10\n2,9\n3,-1\n"), target="y")).labels == ("-1", "9", "10")


def test_a_text_column_becomes_its_bytes(tmp_path: Path) -> None:
    path = _csv(tmp_path, 'text,y\n"a, b",good\nüber,bad\n,bad\n')
    dataset = data.load(CsvFile(path=path, target="y", columns={"text": "text"}, text_bytes=4))
    assert [bytes(row) for row in only_input(dataset)] == [b"a, b", "übe".encode(), b"\0\0\0\0"]
    assert dataset.sequence


def test_several_columns_of_0_and_1_are_several_labels(tmp_path: Path) -> None:
    dataset = data.load(CsvFile(path=_csv(tmp_path, "x,a,b\n1,0,1\n2,1,1\n"), target=("a", "b"), task="multi-label"))
    assert dataset.rows.targets.tolist() == [[0, 1], [1, 1]]
    assert (str(dataset.rows.targets.dtype), dataset.labels) == ("float32", ("a", "b"))


def test_a_number_can_be_what_is_predicted(tmp_path: Path) -> None:
    dataset = data.load(CsvFile(path=_csv(tmp_path, "x,y\n1,0.5\n2,7\n"), target="y", task="regression"))
    assert dataset.rows.targets.tolist() == [[0.5], [7]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "t.csv is empty; its first line must name the columns"),
        ("a,y\n", "holds column names, but no rows"),
        ("a,b\n1,2\n", "has no target column 'y'; its columns are: a, b"),
        ("a,y\n1,2\n1\n", "t.csv, row 2 (line 3): 1 cells, but the header names 2 columns"),
        ("a,y\n1,2\n1,2,3\n", "t.csv, row 2 (line 3): 3 cells, but the header names 2 columns"),
        ("a,a,y\n1,2,3\n", "more than one column 'a'"),
        ("a,y\n1,u\n2,\n", "t.csv, row 2 (line 3), column 'y': the target is missing"),
        ("a,y\n1,u\n-inf,v\n", "t.csv, row 2 (line 3), column 'a': -inf is no finite number of float32"),
        ("a,y\n1,u\n1e99,v\n", "t.csv, row 2 (line 3), column 'a': 1e99 is no finite number"),
        (
            "a,y\n" + "1,u\n" * 20 + "l,v\n",
            "t.csv, row 21 (line 22), column 'a': 'l' is not a number, unlike 20 other cells",
        ),
        ("a,y\n,u\n,v\n", "column 'a' has no values; skip it"),
        ("y\nu\nv\n", "has no columns to learn from"),
        ("a,y\n" + "".join(f"n{index},u\n" for index in range(101)), "column 'a' holds 101 different texts"),
        ('a,y\n"1,u\n', "t.csv, line 2: not a row of CSV: unexpected end of data"),
    ],
)
def test_a_wrong_csv_file_is_refused_with_the_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        data.load(CsvFile(path=_csv(tmp_path, text), target="y"))
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"columns": {"b": "skip"}}, "has no column 'b'; its columns are: a, c, y"),
        ({"columns": {"a": "text"}}, "the text column 'a' must be the only one; skip c"),
        ({"columns": {"c": "number"}}, "row 1 (line 2), column 'c': 'p' is not a number"),
        ({"task": "multi-label"}, "row 1 (line 2), column 'y': 2 is neither 0 nor 1"),
        ({"target": ("a", "y")}, "a single-label task has one target column, not 2"),
        ({"target": "c", "task": "regression"}, "row 1 (line 2), column 'c': 'p' is not a number"),
    ],
)
def test_what_is_said_of_a_csv_file_must_fit_it(tmp_path: Path, options: Mapping[str, object], sentence: str) -> None:
    source = CsvFile.model_validate({"path": _csv(tmp_path, "a,c,y\n1,p,2\n2,q,3\n"), "target": "y", **options})
    with pytest.raises(DataError) as refusal:
        data.load(source)
    assert sentence in str(refusal.value)


def test_two_classes_of_an_archive_have_two_names() -> None:
    with pytest.raises(ValidationError, match="labels must be different from each other"):
        NpzFile(path=Path("x.npz"), labels=("cat", "dog", "cat"))


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for source in (
        CsvFile(path=tmp_path / "n", target="y"),
        NpzFile(path=tmp_path / "n"),
        ImageFolder(path=tmp_path / "n"),
    ):
        with pytest.raises(DataError, match=r"cannot read .*n: No such file"):
            data.load(source)


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"a": [1.5, None], "c": ["p", "q"], "y": ["u", "v"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    dataset = data.load(ParquetFile(path=tmp_path / "t.parquet", target="y"))
    np.testing.assert_array_equal(only_input(dataset), np.array([[1.5, 1], [np.nan, 2]], np.float32))


def test_bytes_of_parquet_are_texts(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"a": [1.5, 2.5], "c": [b"p", "é".encode()], "y": ["u", "v"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    dataset = data.load(ParquetFile(path=tmp_path / "t.parquet", target="y"))
    assert dataset.columns[1].categories == ("(unknown)", "p", "é")


def test_a_parquet_file_has_each_column_once(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    columns = [arrow.array([1.0, 2.0]), arrow.array([3.0, 4.0]), arrow.array(["u", "v"])]
    parquet.write_table(arrow.table(columns, names=["a", "a", "y"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has more than one column 'a'"):
        data.load(ParquetFile(path=tmp_path / "t.parquet", target="y"))


def _parquet(path: Path, columns: dict[str, Any]) -> ParquetFile:
    import pyarrow  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 only these tests need it
    from pyarrow import parquet  # noqa: PLC0415

    parquet.write_table(pyarrow.table(columns), path)
    return ParquetFile(path=path, target="y")


Y = ["u", "v"] * 10


def test_row_numbers_that_pandas_keeps_are_no_column(tmp_path: Path) -> None:
    source = _parquet(tmp_path / "t.parquet", {"a": range(20), "y": Y, "__index_level_0__": range(20)})
    assert [column.name for column in data.load(source).columns] == ["a"]


@pytest.mark.parametrize(
    ("values", "kind"), [([[1, 2]] * 20, "list<element: int64>"), ([{"a": 1}] * 20, "struct<a: int64>")]
)
def test_a_column_with_several_values_a_row_is_refused_unless_it_is_skipped(
    tmp_path: Path, values: list[object], kind: str
) -> None:
    source = _parquet(tmp_path / "t.parquet", {"a": range(20), "b": values, "y": Y})
    with pytest.raises(DataError, match=f"column 'b' holds {re.escape(kind)}, and a column has one value for each row"):
        data.load(source)
    skipped = source.model_copy(update={"columns": {"b": "skip"}})
    assert [column.name for column in data.load(skipped).columns] == ["a"]


def test_times_are_read_to_the_microsecond_as_clients_send_them(tmp_path: Path) -> None:
    times = np.arange("2020-01-01", "2020-01-21", dtype="datetime64[D]").astype("datetime64[ns]") + 123456789
    dataset = data.load(_parquet(tmp_path / "t.parquet", {"when": times, "y": Y}))
    assert {column.cells for column in dataset.columns} == {"when"}
    assert dataset.rows.cells is not None
    assert dataset.rows.cells.columns["when"][0] == "2020-01-01 00:00:00.123456"


def test_a_target_is_no_column(tmp_path: Path) -> None:
    source = CsvFile(path=_csv(tmp_path, "a,y\n" + "1,u\n2,v\n" * 20), target="y", columns={"y": "skip"})
    with pytest.raises(DataError, match="columns skips 'y', which is a target; leave it out of columns"):
        data.load(source)


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (lzma.compress(b"a,y\n1,u\n"), "compressed with xz"),
        (bz2.compress(b"a,y\n1,u\n"), "compressed with bzip2"),
        (b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
        (b"PAR1rest", "a Parquet file"),
    ],
)
def test_another_file_that_is_called_csv_is_called_what_it_is(tmp_path: Path, packed: bytes, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(packed)
    with pytest.raises(DataError, match=f"t.csv is {kind}, and no CSV file, which may be compressed with gzip alone"):
        data.load(CsvFile(path=tmp_path / "t.csv", target="y"))


def test_test_rows_that_are_training_rows_too_are_counted(tmp_path: Path) -> None:
    def notes(rows: list[int]) -> tuple[str, ...]:
        source = CsvFile(path=_csv(tmp_path, "a,y\n" + "".join(f"{row},{'uv'[row % 2]}\n" for row in rows)), target="y")
        return data.split(data.load(source), seed=0, validation=0.2, test=0.2).dataset.notes

    assert notes(list(range(100))) == ()
    assert notes(list(range(10)) * 10) == (
        "20 of the 20 test rows are in the training rows too, so scores may be better than for new rows",
    )


def test_labels_and_classes_of_pixels_that_no_training_row_has_are_named() -> None:
    def notes(targets: NDArray[np.generic], task: Any, labels: tuple[str, ...]) -> tuple[str, ...]:
        inputs = np.arange(targets.size, dtype=np.float32).reshape(len(targets), 1, *targets.shape[1:])
        dataset = Dataset("d", Rows(inputs, targets), labels, "", "", task=task)
        return data.split(dataset, seed=0, validation=0.2, test=0.2).dataset.notes

    pixels = np.arange(20 * 6).reshape(20, 2, 3) % 2
    assert notes(pixels, "dense", ("a", "b")) == ()
    assert notes(pixels, "dense", ("a", "b", "c")) == (
        "no training row has a pixel of the class 'c', which the network cannot learn",
    )
    held = np.arange(20 * 9).reshape(20, 9) % 2 * (np.arange(9) < 2)
    assert notes(held.astype(np.float32), "multi-label", tuple("abcdefghi")) == (
        "no training row has the label 'c', 'd', 'e', 'f', 'g' and 2 more, which the network cannot learn",
    )


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow, which is not installed: pip install pyarrow"):
        data.load(ParquetFile(path=tmp_path / "t.parquet", target="y"))


@pytest.mark.parametrize(
    ("target", "labels", "places"),
    [
        (["yes", "no", "yes"], ("yes", "no"), [0, 1, 0]),
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        ([b"yes", b"no", b"yes"], ("yes", "no"), [0, 1, 0]),
        ([1, 0, 1], ("no", "yes"), [1, 0, 1]),
        ([True, False, True], ("no", "yes"), [1, 0, 1]),
    ],
)
def test_labels_name_the_classes_that_they_are(
    tmp_path: Path, target: list[Any], labels: tuple[str, ...], places: list[int]
) -> None:
    path = _npz(tmp_path, input=np.zeros((3, 2)), target=target)
    dataset = data.load(NpzFile(path=path, labels=labels))
    assert dataset.labels == labels
    np.testing.assert_array_equal(dataset.rows.targets, places)


def test_classes_that_are_bytes_are_texts(tmp_path: Path) -> None:
    dataset = data.load(NpzFile(path=_npz(tmp_path, input=np.zeros((2, 2)), target=["é".encode(), b"no"])))
    assert dataset.labels == ("no", "é")
    with pytest.raises(DataError, match=r"t\.npz: b'\\xff' is no text in UTF-8"):
        data.load(NpzFile(path=_npz(tmp_path, input=np.zeros((2, 2)), target=[b"\xff", b"no"])))


def test_numbers_that_single_precision_does_not_tell_apart_are_named(tmp_path: Path) -> None:
    times = 1.7e12 + np.arange(100.0)
    lost = "of 100 different numbers float32, which networks compute with, tells only 1 apart; give smaller numbers"
    rows = "".join(f"{row},{time:.0f}\n" for row, time in enumerate(times))
    table = CsvFile(path=_csv(tmp_path, "a,when\n" + rows), target="when", task="regression")
    (note,) = data.load(table).notes
    assert note.startswith(f"Column 'when' of t.csv: {lost}")
    archive = NpzFile(path=_npz(tmp_path, input=np.stack([times, times % 7], 1), target=times), task="regression")
    assert [note.partition(f": {lost}")[0] for note in data.load(archive).notes] == [
        "t.npz, column 1 of input",
        "t.npz, target",
    ]
    exact = NpzFile(
        path=_npz(tmp_path, input=np.stack([times % 9, times % 7], 1), target=times % 50), task="regression"
    )
    assert data.load(exact).notes == ()


@pytest.mark.parametrize("columns", [2000, 2001])
def test_more_columns_than_servers_take_are_refused(tmp_path: Path, columns: int) -> None:
    header = ",".join(f"c{place}" for place in range(columns))
    row = ",".join(["1"] * columns)
    source = CsvFile(path=_csv(tmp_path, f"{header},y\n{row},u\n{row},v\n"), target="y")
    if columns <= 2000:
        assert len(data.load(source).columns) == columns
        return
    with pytest.raises(
        DataError, match=r"t\.csv: 2001 columns are more than the 2000 that a server takes: leave some out"
    ):
        data.load(source)


def test_categories_that_no_card_can_hold_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{'long' * 5000}{row},u\n" for row in range(300))
    source = CsvFile(path=_csv(tmp_path, f"c,y\n{rows}"), target="y", columns={"c": "category"})
    with pytest.raises(DataError, match="the 300 categories of column 'c' do not go into the model's card"):
        data.load(source)


def test_an_archive_of_numbers_classes_and_lengths(tmp_path: Path) -> None:
    path = _npz(tmp_path, input=np.ones((3, 4, 2)), target=["u", "v", "u"], lengths=[1, 4, 2])
    dataset = data.load(NpzFile(path=path))
    inputs = named(dataset.rows.inputs)
    assert {name: (str(array.dtype), array.shape) for name, array in inputs.items()} == {
        "input": ("float32", (3, 4, 2)),
        "lengths": ("int64", (3,)),
    }
    assert (dataset.labels, dataset.rows.targets.tolist(), dataset.sequence) == (("u", "v"), [0, 1, 0], True)


def test_whole_numbers_in_rows_are_tokens(tmp_path: Path) -> None:
    path = _npz(tmp_path, input=np.arange(6, dtype=np.int32).reshape(3, 2), target=[0, 1, 1])
    dataset = data.load(NpzFile(path=path, labels=("no", "yes")))
    assert (str(only_input(dataset).dtype), dataset.sequence, dataset.labels) == ("int64", True, ("no", "yes"))


@pytest.mark.parametrize(
    ("arrays", "options", "sentence"),
    [
        ({"x": [1]}, {}, "has no array 'input'; it has: x"),
        ({"input": np.ones((2, 2))}, {}, "has no array 'target'"),
        ({"input": [[1.0, 2], [3, np.nan]], "target": [0, 1]}, {}, "t.npz, row 2, column 2, input: nan is no finite"),
        ({"input": np.ones((2, 2)), "target": [0]}, {}, "has 2 rows of input, but 1 of target"),
        ({"input": np.ones((0, 2)), "target": []}, {}, "input has shape [0, 2]"),
        ({"input": np.ones(3), "target": [0, 0, 1]}, {}, "input has shape [3]"),
        ({"input": [["a", "b"]], "target": [0]}, {}, "input is <U1, not numbers"),
        ({"input": [[1, -2]], "target": [0]}, {}, "row 1, column 2, input: token -2 is negative"),
        ({"input": np.ones((2, 2)), "target": [0.5, 1]}, {}, "target is float64 [2], not one class for each row"),
        ({"input": np.ones((2, 2)), "target": [0, 2]}, {"labels": ("a", "b")}, "row 2, target: class 2"),
        (
            {"input": np.ones((2, 2)), "target": ["u", "v"]},
            {"labels": ("a",)},
            "t.npz has the class 'u', which is not among its labels: a",
        ),
        ({"input": np.ones((2, 3, 1)), "target": [0, 1], "lengths": [1, 4]}, {}, "row 2, lengths: 4 is not between 1"),
        ({"input": np.ones((2, 3, 1)), "target": [0, 1], "lengths": [1.5, 2]}, {}, "lengths must be one whole number"),
        (
            {"input": np.ones((1, 2)), "target": [[0, 3]]},
            {"task": "multi-label"},
            "row 1, column 2, target: 3 is neither",
        ),
        ({"input": np.ones((1, 2)), "target": [np.inf]}, {"task": "regression"}, "row 1, column 1, target: inf is no"),
    ],
)
def test_a_wrong_archive_is_refused_with_the_place(
    tmp_path: Path, arrays: Mapping[str, object], options: Mapping[str, object], sentence: str
) -> None:
    source = NpzFile.model_validate({"path": _npz(tmp_path, **arrays), **options})
    with pytest.raises(DataError) as refusal:
        data.load(source)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(("content", "sentence"), [(b"", "t.npz is empty"), (b"PK no", "is not an archive of NumPy")])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        data.load(NpzFile(path=tmp_path / "t.npz"))


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_an_archive_that_is_damaged_somewhere_is_refused_or_read(tmp_path: Path, at: int) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, input=np.arange(80.0).reshape(40, 2), target=np.arange(40) % 2)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        data.load(NpzFile(path=path))


def _damage(kind: str, folder: Path) -> str:
    rows = "".join(f"{index},{'uv'[index % 2]}\n" for index in range(20))
    match kind:
        case "missing target column":
            return f"CsvFile(path={str(_csv(folder, 'a,b' + chr(10) + rows))!r}, target='y')"
        case "ragged rows":
            return f"CsvFile(path={str(_csv(folder, 'a,y' + chr(10) + rows + '1' + chr(10)))!r}, target='y')"
        case "a class with one sample":
            return f"CsvFile(path={str(_csv(folder, 'a,y' + chr(10) + rows + '1,w' + chr(10)))!r}, target='y')"
        case "an empty file":
            return f"CsvFile(path={str(_csv(folder, ''))!r}, target='y')"
        case "NaN":
            return f"NpzFile(path={str(_npz(folder, input=[[np.nan]] * 9, target=[0, 1, 0] * 3))!r})"
        case _:
            pictures = picture_folder(folder / "p")
            for name in ("x.png", "y.png"):
                (pictures / "class-0" / name).write_bytes(b"no picture")
            return f"ImageFolder(path={str(pictures)!r})"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing target column", "has no target column 'y'"),
        ("ragged rows", "row 21 (line 22): 1 cells"),
        ("a class with one sample", "class 'w' has 1 row"),
        ("an empty file", "is empty"),
        ("NaN", "row 1, column 1, input: nan is no finite number"),
        ("files that are no pictures", "2 of 8 pictures cannot be read"),
    ],
)
def test_bad_data_is_one_sentence_code_2_and_no_artifact(
    tmp_path: Path, everything_under: Listing, capsys: pytest.CaptureFixture[str], kind: str, sentence: str
) -> None:
    recipe = tmp_path / "own.py"
    recipe.write_text(
        "from frostline_training.config import Mlp, Recipe\nfrom frostline_training.sources import CsvFile, ImageFolder, NpzFile\n"
        f"recipe = Recipe(name='own', network=Mlp(), data={_damage(kind, tmp_path)})\n"
    )
    models, runs = tmp_path / "models", tmp_path / "runs"
    assert cli.run(["train", str(recipe), "--models", str(models), "--runs", str(runs)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not models.exists()
