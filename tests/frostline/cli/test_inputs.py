"""Files to the rows a model takes."""

import contextlib
import gzip
import io
import json
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frostline.cli.inputs import Arrays, InputError, Origin, requests
from frostline.client.catalog import Model, TensorSpec


def model(*shape: int, datatype: str = "FP32", names: tuple[str, ...] = ("input",)) -> Model:
    inputs = tuple(TensorSpec(name, datatype, (-1, *shape)) for name in names)
    return Model("m", "1", "READY", inputs=inputs, max_batch_size=64)


def unbatched(*shapes: tuple[int, ...], datatype: str = "FP32") -> Model:
    """A model without a batch axis, whose inputs are `a`, `b`, ..."""
    return Model(
        "m", "1", "READY", inputs=tuple(TensorSpec(n, datatype, s) for n, s in zip("abc", shapes, strict=False))
    )


def read(*arguments: Any, **options: Any) -> tuple[Arrays, list[Origin]]:
    """The one request there is."""
    [request] = requests(*arguments, **options)
    return request


def stdin(content: bytes = b"") -> io.BytesIO:
    return io.BytesIO(content)


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def test_an_npy_file_keeps_its_type_and_values(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.save(tmp_path / "rows.npy", rows)
    arrays, sources = read([str(tmp_path / "rows.npy")], model(3), stdin())
    np.testing.assert_array_equal(arrays["input"], rows)
    assert arrays["input"].dtype == np.float16
    assert sources == [(str(tmp_path / "rows.npy"), 0), (str(tmp_path / "rows.npy"), 1)]


@pytest.mark.parametrize("header", ["", "a,b,c\n", "\ufeffa,b,c\n", "0,1,2\n"])
def test_a_csv_file_may_have_a_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}1,2,3\n\n4,5,6.5\n", encoding="utf-8")
    arrays, _ = read([str(tmp_path / "rows.csv")], model(3), stdin())
    assert arrays["input"].tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert arrays["input"].dtype == np.float32


@pytest.mark.parametrize(
    ("content", "rows", "said"),
    [
        (b"0,1,2\n1,2,3\n", [[1, 2, 3]], "is the header that pandas writes, and no row"),
        (b"0,1\n1,2\n", [[0, 1], [1, 2]], "is taken for a row; a header has no numbers"),
        (b"0,1,2\n", [[0, 1, 2]], ""),
        (b"0\n1\n", [[0], [1]], ""),
    ],
)
def test_a_line_that_numbers_the_columns_is_a_header_and_said_to_be_one(
    content: bytes, rows: list[list[int]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, _ = read(["-"], model(len(rows[0])), stdin(content))
    assert arrays["input"].tolist() == rows
    assert capsys.readouterr().err == (
        f"frostline: -: the first line, which numbers the columns from 0, {said}\n" if said else ""
    )


def test_flat_csv_rows_fill_the_models_shape_in_row_major_order() -> None:
    arrays, _ = read(["-"], model(1, 2, 2), stdin(b"1,2,3,4\n"))
    assert arrays["input"].tolist() == [[[[1, 2], [3, 4]]]]


def test_csv_numbers_take_the_type_of_the_input() -> None:
    arrays, _ = read(["-"], model(2, datatype="INT64"), stdin(b"1,2\n"))
    assert arrays["input"].dtype == np.int64
    for content in (b"1,2.5\n", b"1,nan\n"):
        with pytest.raises(InputError, match="numbers that are not INT64"):
            read(["-"], model(2, datatype="INT64"), stdin(content))


def test_large_whole_numbers_in_a_csv_file_are_not_rounded() -> None:
    for number, datatype in ((2**53 + 1, "INT64"), (-(2**63), "INT64"), (2**64 - 1, "UINT64")):
        arrays, _ = read(["-"], model(2, datatype=datatype), stdin(f"{number},1e3\n".encode()))
        assert arrays["input"][0, 0] == number
    with pytest.raises(
        InputError, match=r"numbers that are not UINT8: input 'input' holds 300 at \[1, 0\], but the model"
    ):
        read(["-"], model(1, datatype="UINT8"), stdin(b"3\n300\n"))
    with pytest.raises(InputError, match="its whole numbers have no type of 64 bits in common"):
        read(["-"], model(2, datatype="UINT64"), stdin(b"-1,18446744073709551615\n"))


def test_numbers_in_a_csv_file_that_would_become_infinite_are_refused() -> None:
    assert np.isinf(read(["-"], model(1), stdin(b"-inf\n"))[0]["input"]).all()
    for cell, datatype, sentence in (
        (b"1e300", "FP32", "holds 1e\\+300 at \\[0, 0\\], but the model takes FP32, whose largest number"),
        (b"1e5", "FP16", "holds 100000.0 at"),
        (b"1e999", "FP64", "'1e999' is larger than any number that can be sent"),
    ):
        with pytest.raises(InputError, match=sentence):
            read(["-"], model(1, datatype=datatype), stdin(cell))
    assert read(["-"], model(1, datatype="FP64"), stdin(b"1e300\n"))[0]["input"].tolist() == [[1e300]]


@pytest.mark.parametrize(
    ("datatype", "dtype", "sent"),
    [("FP64", "f8", "f8"), ("FP32", "f8", "f4"), ("FP32", "i8", "f4"), ("FP16", "f4", "f2"), ("INT64", "f8", "i8")],
)
def test_arrays_take_the_type_of_the_input(tmp_path: Path, datatype: str, dtype: str, sent: str) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1, 2]], dtype))
    array = read([str(tmp_path / "rows.npy")], model(2, datatype=datatype), stdin())[0]["input"]
    assert (array.dtype.str[1:], array.tolist()) == (sent, [[1, 2]])
    np.save(tmp_path / "wrong.npy", np.array([[1, 2**53 + 1]]))
    if datatype != "INT64":
        with pytest.raises(
            InputError, match=r"wrong.npy cannot be sent: input 'input' holds 9007199254740993 at \[0, 1\]"
        ):
            read([str(tmp_path / "wrong.npy")], model(2, datatype=datatype), stdin())


def test_files_of_different_types_that_the_model_takes_are_joined(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 255]], np.uint8))
    np.save(tmp_path / "b.npy", np.array([[0.5, 2]]))
    array = read([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")], model(2), stdin())[0]["input"]
    assert (array.dtype.name, array.tolist()) == ("float32", [[1, 255], [0.5, 2]])


@pytest.mark.parametrize("name", ["input", "pixels", "logits", "rtol", "output.logits"])
def test_a_golden_sample_is_sent_as_it_is_whatever_the_input_is_called(tmp_path: Path, name: str) -> None:
    golden: dict[str, Any] = {"logits": [[9.0]], "output.logits": [[8.0]], "rtol": 0.1, "atol": 0.1}
    np.savez(tmp_path / "golden.npz", input=[[1.0]], **golden)
    assert read([str(tmp_path / "golden.npz")], model(1, names=(name,)), stdin())[0][name].tolist() == [[1]]
    golden |= {f"input.{name}": [[1.0]], "input.other": [[2.0]]}
    np.savez(tmp_path / "golden.npz", **golden)
    arrays, _ = read([str(tmp_path / "golden.npz")], model(1, names=("other", name)), stdin())
    assert {key: array.tolist() for key, array in arrays.items()} == {"other": [[2]], name: [[1]]}


def test_standard_input_is_told_apart_by_its_first_bytes() -> None:
    assert read(["-"], model(2), stdin(b"1,2\n"))[0]["input"].tolist() == [[1, 2]]
    assert read(["-"], model(2), stdin(npy([[3.0, 4.0]])))[0]["input"].tolist() == [[3, 4]]
    archive = io.BytesIO()
    np.savez(archive, input=np.array([[5.0, 6.0]]))
    assert read(["-"], model(2), stdin(archive.getvalue()))[0]["input"].tolist() == [[5, 6]]


def test_an_npz_file_feeds_several_inputs_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    arrays_of_file: dict[str, Any] = {"left": [[1.0]], "input.right": [[2.0]], "logits": [[9.0]], "rtol": 0.1}
    np.savez(tmp_path / "rows.npz", **arrays_of_file)
    arrays, _ = read([str(tmp_path / "rows.npz")], model(1, names=("left", "right")), stdin())
    assert {name: array.tolist() for name, array in arrays.items()} == {"left": [[1]], "right": [[2]]}


def test_the_only_array_of_an_npz_file_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", [[1.0]])
    assert read([str(tmp_path / "rows.npz")], model(1), stdin())[0]["input"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("row_shape", "expected"),
    [
        ((1, 2, 3), (1, 1, 2, 3)),
        ((2, 3), (1, 2, 3)),
        ((2, 3, 1), (1, 2, 3, 1)),
        ((6,), (1, 6)),
        ((3, 2, 3), (1, 3, 2, 3)),
        ((2, 3, 3), (1, 2, 3, 3)),
        ((18,), (1, 18)),
        ((1, -1, -1), (1, 1, 2, 3)),
    ],
)
def test_a_picture_becomes_gray_or_colour_as_the_model_asks(
    tmp_path: Path, row_shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pixels = np.full((2, 3, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    array = read([str(tmp_path / "picture.png")], model(*row_shape), stdin())[0]["input"]
    assert array.shape == expected
    assert array.dtype == np.uint8
    assert (array == 90).all()


def test_a_pictures_pixels_are_scaled_to_what_white_is_to_the_model(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).save(tmp_path / "picture.png")
    array = read([str(tmp_path / "picture.png")], model(1, 3), stdin(), white=16)[0]["input"]
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, [[[0, 3.2, 16]]], rtol=1e-6)


def test_a_picture_of_another_size_is_never_resized(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "picture.png")
    with pytest.raises(InputError, match=r"is 3 x 2 pixels, but the model's input is input FP32 \[any, 1, 8, 8\]"):
        read([str(tmp_path / "picture.png")], model(1, 8, 8), stdin())


def test_a_picture_is_no_row_of_any_length(tmp_path: Path) -> None:
    Image.new("L", (3, 1)).save(tmp_path / "picture.png")
    assert read([str(tmp_path / "picture.png")], model(3), stdin())[0]["input"].shape == (1, 3)
    with pytest.raises(InputError, match="pictures are never resized"):
        read([str(tmp_path / "picture.png")], model(-1), stdin())


def test_a_picture_of_16_bits_is_scaled_to_8_as_in_training(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 51, 65535]], np.uint16)).save(tmp_path / "deep.png")
    array = read([str(tmp_path / "deep.png")], model(1, 3), stdin())[0]["input"]
    assert array.dtype == np.uint8
    assert array.tolist() == [[[0, 51, 255]]]


@pytest.mark.parametrize("name", ["rows.npy", "rows.csv", "rows.npz"])
def test_what_has_no_pixels_of_a_picture_has_no_white(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.endswith("csv") else npy([[1, 2]]))
    with pytest.raises(InputError, match=f"--white scales the pixels of png files, and {path} is none"):
        read([str(path)], model(2), stdin(), white=16)


def test_transparent_parts_are_white_or_what_the_card_says(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "card.json").write_text(json.dumps({"data": {"pictures": {"background": [10, 20, 30]}}}))
    paths = [str(tmp_path / "p.png")]
    assert read(paths, model(3, 1, 2), stdin())[0]["input"].tolist() == [[[[0, 255]]] * 3]
    array = read(paths, model(3, 1, 2), stdin(), card=tmp_path / "card.json")[0]["input"]
    assert array.tolist() == [[[[0, 10]], [[0, 20]], [[0, 30]]]]
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InputError, match="is not the card of a model that was trained on a folder of pictures"):
        read(paths, model(3, 1, 2), stdin(), card=tmp_path / "card.json")


def test_a_picture_is_upright_as_its_exif_data_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[7, 9]], np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "p.png", exif=exif)
    assert read([str(tmp_path / "p.png")], model(2, 1), stdin())[0]["input"].tolist() == [[[7], [9]]]


def test_rows_of_several_files_follow_each_other(tmp_path: Path) -> None:
    for name, rows in {"a": [[1.0, 2.0]], "b": [[3.0, 4.0], [5.0, 6.0]]}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    paths = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    arrays, sources = read(paths, model(2), stdin())
    assert arrays["input"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert sources == [(paths[0], 0), (paths[1], 0), (paths[1], 1)]


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 2), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match=r"b.npy holds rows of float32 \[3\], but .*a.npy holds float32 \[2\]"):
        read([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")], model(-1), stdin())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.npy", b"no", "rows.npy is not a NumPy array of plain numbers"),
        ("rows.npy", b"", "rows.npy is not a NumPy array of plain numbers"),
        ("rows.npz", b"PKno", "rows.npz is not an archive of NumPy arrays"),
        ("rows.png", b"no", "rows.png is not a PNG picture"),
        ("rows.csv", b"\xff\xfe", "rows.csv is not a csv file"),
        ("rows.csv", b"", "rows.csv holds no rows"),
        ("rows.csv", b"a,b\n", "rows.csv holds no rows"),
        ("rows.csv", b"1,2\n3\n", r"rows.csv, row 1 \(line 2\): 1 cells, but row 0 has 2$"),
        ("rows.csv", b"1,2\n3,x\n", r"rows.csv, row 1 \(line 2\), column 1: 'x' where a number was expected$"),
        ("rows.csv", b"a,b\n\n1,2\n3,x\n", r"row 1 \(line 4\), column 1: 'x' where"),
        ("rows.csv", b"1,2\n1_0,3\n", r"row 1 \(line 2\), column 0: '1_0' where"),
        (
            "rows.csv",
            b"a;b\n1;2\n",
            r"row 0 \(line 2\), column 0: '1;2' where .*; separate the cells by commas, or give .*--card",
        ),
        ("rows.csv", b'1,"' + b"2" * 200_000, r"'2{39} is larger than any number that can be sent$"),
        ("rows.csv.gz", b"\x1f\x8bno", "rows.csv.gz is not a csv file"),
        ("rows.csv", b"1,2,3\n", r"holds an array of shape \[1, 3\], but m expects input FP32 \[any, 2\]"),
        ("rows.txt", b"1,2\n", "it must end in .npy, .npz, .csv, .parquet, .png, .jpg or .webp"),
        ("rows.npy", npy(5.0), r"array of shape \[\]"),
        ("rows.npy", npy(np.zeros((0, 2))), "holds no rows"),
    ],
)
def test_a_file_that_cannot_be_rows_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read([str(tmp_path / name)], model(2), stdin())


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"cannot read nowhere\.npy: No such file or directory"):
        read(["nowhere.npy"], model(2), stdin())


def test_several_inputs_need_an_npz_file_with_their_names_and_equal_rows(tmp_path: Path) -> None:
    two = model(1, names=("left", "right"))
    with pytest.raises(InputError, match=r"several inputs \(left, right\); give them in one .npz file"):
        read(["-"], two, stdin(b"1\n"))
    np.savez(tmp_path / "half.npz", left=[[1.0]])
    with pytest.raises(InputError, match=r"half\.npz holds left, but m needs an array named right"):
        read([str(tmp_path / "half.npz")], two, stdin())
    np.savez(tmp_path / "odd.npz", left=[[1.0]], right=[[1.0], [2.0]])
    with pytest.raises(InputError, match="disagree on the number of rows: left has 1, right has 2"):
        read([str(tmp_path / "odd.npz")], two, stdin())


def test_a_csv_file_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read([str(tmp_path / "rows.csv.gz")], model(2), stdin())[0]["input"].tolist() == [[1, 2]]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_texts_may_be_a_csv_column_with_the_name_of_the_input(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "a.csv").write_text('input\nhello\n7\n""\n"two\nlines, and more"\n', encoding="utf-8")
    np.save(tmp_path / "b.npy", np.array(["from npy"]).reshape(1, *shape))
    arrays, sources = read([str(tmp_path / "a.csv"), str(tmp_path / "b.npy")], model(*shape, datatype="BYTES"), stdin())
    assert arrays["input"].shape == (5, *shape)
    assert arrays["input"].ravel().tolist() == ["hello", "7", "", "two\nlines, and more", "from npy"]
    assert [number for _, number in sources] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("content", [b"1\n", b"hello\nyou\n", b"input,b\nhello,you\n", b"input\nhello\na,b\n", b""])
def test_what_may_be_a_header_or_a_text_is_no_csv_of_texts(content: bytes) -> None:
    said = r"give texts in an \.npy file, or in a csv file of one column with the header input$"
    with pytest.raises(InputError, match=said):
        read(["-"], model(1, datatype="BYTES"), stdin(content))


def test_texts_of_several_columns_cannot_come_from_csv() -> None:
    with pytest.raises(InputError, match=r"give texts in an \.npy file$"):
        read(["-"], model(2, datatype="BYTES"), stdin(b"input\nhello\n"))
    with pytest.raises(InputError, match="- holds no rows"):
        read(["-"], model(datatype="BYTES"), stdin(b"input\n"))


@pytest.fixture
def card(tmp_path: Path) -> Path:
    columns = [{"name": "age"}, {"name": "colour", "categories": ["(unknown)", "red", "blue"]}]
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"data": {"columns": columns}}))
    return path


def test_a_card_puts_columns_in_order_and_words_into_numbers(card: Path) -> None:
    arrays, _ = read(["-"], model(2), stdin(b"colour,name,age\nblue,x,1.5\nred,y,\n,z,3\n"), card=card)
    np.testing.assert_array_equal(arrays["input"], np.array([[1.5, 2], [np.nan, 1], [3, 0]], np.float32))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"age,colour\n1,red\nold,red\n", r"-, row 1 \(line 3\), column 'age': 'old' is not a number"),
        (b"age\n1\n", "- has no column 'colour'; it has: age"),
        (
            b"5,red\n",
            "- has no column of the model, which takes .*'age'.*; it has: '5', 'red'. The first line of a csv file",
        ),
        (b"5,5\n", "- has no column of the model, which takes .*; it has: '5', '5'. The first line of a csv file"),
        (b"age,colour\n1\n", r"-, row 0 \(line 2\): 1 cells, but the header names 2"),
        (b"age,colour\n", "- holds column names, but no rows"),
        (b"", "- is empty; its first line must name the columns"),
    ],
)
def test_a_table_that_does_not_fit_the_card_is_refused_with_the_place(
    card: Path, content: bytes, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read(["-"], model(2), stdin(content), card=card)


def test_a_word_that_the_model_does_not_know_is_sent_as_unknown_and_named(
    card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, _ = read(["-"], model(2), stdin(b"age,colour\n1,red\n2,green\n3,(unknown)\n4,\n"), card=card)
    np.testing.assert_array_equal(arrays["input"], np.array([[1, 1], [2, 0], [3, 0], [4, 0]], np.float32))
    assert capsys.readouterr().err == (
        "frostline: -, row 1 (line 3), column 'colour': 'green' is no category that the model knows, and 1 more such cells: "
        "sent as unknown; it knows: red, blue\n"
    )


def test_a_card_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere.json: No such file"):
        read(["-"], model(2), stdin(b""), card=tmp_path / "nowhere.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="is not the card of a model that was trained on a table"):
        read(["-"], model(2), stdin(b""), card=tmp_path / "other.json")


def test_rows_go_in_requests_that_the_model_takes(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 3)):
        np.save(tmp_path / f"{name}.npy", np.arange(first, first + 3, dtype=np.float32)[:, None])
    small = replace(model(1), max_batch_size=4)
    paths = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    sent = [(arrays["input"].ravel().tolist(), sources) for arrays, sources in requests(paths, small, stdin())]
    assert sent == [
        ([0, 1, 2, 3], [(paths[0], 0), (paths[0], 1), (paths[0], 2), (paths[1], 0)]),
        ([4, 5], [(paths[1], 1), (paths[1], 2)]),
    ]


def test_texts_of_different_lengths_are_joined(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([["a"]]))
    np.save(tmp_path / "b.npy", np.array([["longer"]]))
    arrays, _ = read([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")], model(1, datatype="BYTES"), stdin())
    assert arrays["input"].tolist() == [["a"], ["longer"]]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (1, 0)])
def test_without_a_batch_axis_each_file_is_a_whole_input(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, np.float32)
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    for path in paths:
        np.save(path, array)
    sent = requests(paths, unbatched(shape), stdin())
    assert [(arrays["a"].shape, sources) for arrays, sources in sent] == [(shape, [(path, 0)]) for path in paths]
    with pytest.raises(InputError, match="but m expects a FP32"):
        requests(paths, unbatched((*shape, 5)), stdin())


def test_without_a_batch_axis_inputs_need_not_have_equally_many_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.float32(2), b=np.ones((3, 1), np.float32))
    arrays, sources = read([str(tmp_path / "x.npz")], unbatched((), (-1, 1)), stdin())
    assert {name: array.shape for name, array in arrays.items()} == {"a": (), "b": (3, 1)}
    assert sources == [(str(tmp_path / "x.npz"), 0)]


def test_a_model_without_inputs_is_one_clear_sentence() -> None:
    with pytest.raises(InputError, match="m takes no inputs"):
        requests(["-"], unbatched(), stdin(b"1\n"))


def test_a_damaged_file_is_one_clear_sentence(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", input=np.arange(300, dtype=np.float32).reshape(100, 3))
    np.save(tmp_path / "rows.npy", np.ones((2, 3), np.float32))
    Image.fromarray(np.ones((1, 3), np.uint8)).save(tmp_path / "rows.png")
    choose = random.Random(7)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(content)
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
            path.write_bytes(damaged)
            # Damage that nothing can see is read.
            with contextlib.suppress(InputError), warnings.catch_warnings(action="ignore"):
                requests([str(path)], model(3), stdin())
