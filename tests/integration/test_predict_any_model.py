"""`frostline predict` against a real server: whatever model it serves, the command shows its classes or says why not."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import frostline
from frostline.cli import main as cli
from tests.support import onnx_models
from tests.support.servers import Running, running

GRAPHS: Mapping[str, str] = {
    # An answer has as many rows as the input has columns, so it chooses no class for a row of the input.
    "outer": """outer (float[1, n] x) => (float[n, n] y) { t = Transpose <perm = [1, 0]> (x) y = MatMul (t, x) }""",
    "pair": """pair (float[2, 2] x) => (float[2, 2] y) { y = Identity (x) }""",
    # It may have no rows, or no classes.
    "positive": """positive (float[n] x) => (float[k, 1] y)
        { zero = Constant <value_float = 0.0> () p = Greater (x, zero) w = NonZero (p) f = Cast <to = 1> (w)
          y = Transpose <perm = [1, 0]> (f) }""",
    "columns": """columns (float[n] x) => (float[1, k] y)
        { zero = Constant <value_float = 0.0> () p = Greater (x, zero) w = NonZero (p) y = Cast <to = 1> (w) }""",
    # Not the rank that it declares.
    "liar": """liar (float[1, n] x, int64[r] shape) => (float[1, m] y) { y = Reshape (x, shape) }""",
    "scalar": """scalar (float x) => (float y) { y = Neg (x) }""",
    "halved": """halved (float x, float[N, 2] z) => (float[N, 2] y) { y = Mul (z, x) }""",
    "added": """added (float[N, 2] a, float[N, 2] b) => (float[N, 2] y) { y = Add (a, b) }""",
    "texts": """texts (string[N, 1] x) => (string[N, 1] y) { y = Identity (x) }""",
}

LISTS = {
    "more": onnx_models.listing(again=True),
    "fewer": onnx_models.listing(),
    # Its rows have classes.
    "fewer-classes": onnx_models.listing(columns=3),
}
"""They answer as many rows as they find."""


def floats(*values: object) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    for name, graph in GRAPHS.items():
        (models / name / "1").mkdir(parents=True)
        header = '<ir_version: 8, opset_import: ["": 17]>'
        onnx.save(onnx.parser.parse_model(f"{header}\n{graph}"), models / name / "1" / "model.onnx")
    for name, model in {**LISTS, "any-shape": onnx_models.any_shape()}.items():
        (models / name / "1").mkdir(parents=True)
        onnx.save(model, models / name / "1" / "model.onnx")
    settings = {"require": "none", "model_control": "none", "log_level": "error", "transport": request.param}
    with running(models, **settings) as instance:
        yield instance


@pytest.fixture
def ask(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Ask":
    return Ask(server.address, tmp_path, capsys)


class Ask:
    """Runs the command on arrays."""

    def __init__(self, address: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._address = address
        self._folder = folder
        self._capsys = capsys

    def __call__(self, model: str, *rows: object, form: str = "csv", top: int | None = None) -> tuple[int, str, str]:
        """Exit code, output and error; rows are an array for an npy file, or arrays by name for an npz file."""
        paths = []
        for number, content in enumerate(rows):
            if isinstance(content, dict):
                paths.append(self._folder / f"{number}.npz")
                np.savez(paths[-1], **content)
            else:
                paths.append(self._folder / f"{number}.npy")
                np.save(paths[-1], np.asarray(content))
        arguments = ["predict", model, *map(str, paths), "--server", self._address, "--format", form]
        arguments += [] if top is None else ["--top", str(top)]
        code = cli.run(arguments)
        said = self._capsys.readouterr()
        return code, said.out, said.err


def test_each_file_is_a_request_where_there_is_no_batch_axis(ask: Ask) -> None:
    code, out, err = ask("pair", floats([3, 1], [1, 2]), floats([1, 2], [5, 4]), top=1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert [(Path(row["id"]).name, row["class"]) for row in rows] == [
        ("0.npy:0", "0"),
        ("0.npy:1", "1"),
        ("1.npy:0", "1"),
        ("1.npy:1", "0"),
    ]
    # Row 0 has the logits 3 and 1.
    assert float(rows[0]["probability"]) == pytest.approx(np.exp(3) / np.exp([3, 1]).sum(), rel=1e-5)


@pytest.mark.parametrize("model", ["outer", "texts"])
def test_a_ranking_of_what_has_no_classes_is_refused(ask: Ask, model: str) -> None:
    code, out, err = ask(model, floats([3, 1]), top=2)
    assert (code, out) == (2, "")
    assert f"{model} is a model of the task 'any', which has none to rank; leave out --top" in err


def test_answers_of_different_sizes_leave_cells_of_csv_empty(ask: Ask) -> None:
    code, out, err = ask("outer", floats([3]), floats([1, 2]))
    assert (code, err) == (0, "")
    header, first, second = (line.split(",")[1:] for line in out.splitlines())
    assert header == ["y_0_0", "y_0_1", "y_1_0", "y_1_1"]
    assert (first, second) == (["9.0", "", "", ""], ["1.0", "2.0", "2.0", "4.0"])
    assert ask("outer", floats([3]), floats([1, 2]), form="json")[0] == 0


@pytest.mark.parametrize("model", ["positive", "columns"])
@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize("count", [0, 2])
def test_whatever_comes_back_is_no_traceback(ask: Ask, model: str, form: str, count: int) -> None:
    code, out, err = ask(model, floats(*[1] * count, -1), form=form)
    assert (code, bool(out), bool(err)) in {(0, True, False), (1, False, True)}
    assert err.count("\n") <= 1
    assert "unexpected" not in err


def test_an_answer_of_another_rank_than_it_declares_is_shown_as_it_is(ask: Ask) -> None:
    given = {"x": np.arange(4, dtype=np.float32)[None], "shape": np.array([1, 2, 2])}
    code, out, err = ask("liar", given)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "id,y_0_0_0,y_0_0_1,y_0_1_0,y_0_1_1"
    assert out.splitlines()[1].endswith(",0.0,1.0,2.0,3.0")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        ("more", floats([1], [9], [3], [4]), "more gave an answer of 5 rows in found for 4 sent"),
        ("fewer", floats([1], [9], [3], [4]), "fewer gave an answer of 3 rows in found for 4 sent"),
        ("fewer", floats([9]), "fewer gave an answer of 0 rows in found for 1 sent"),
        ("fewer-classes", floats([1, 0, 0], [9, 0, 0]), "fewer-classes gave an answer of 1 row in softmax for 2 sent"),
    ],
)
def test_no_row_is_given_the_answer_of_another(ask: Ask, form: str, model: str, rows: object, words: str) -> None:
    code, out, err = ask(model, rows, form=form)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{words}, so nobody knows which is whose; infer gives it whole" in err


@pytest.mark.parametrize(("a", "b"), [(100, 99), (99, 100), (3, 2)])
async def test_inputs_of_different_numbers_of_rows_are_named_with_these(server: Running, a: int, b: int) -> None:
    inputs = {"a": np.ones((a, 2), np.float32), "b": np.ones((b, 2), np.float32)}
    said = rf"^the inputs of added disagree on the number of rows: a has {a}, b has {b}; each row has all inputs\. "
    with frostline.connect(server.address) as client:
        # Also once it is known what the model takes.
        for _ in range(2):
            with pytest.raises(frostline.InvalidInput, match=said):
                client.predict("added", inputs)
    async with frostline.connect_async(server.address) as client:
        with pytest.raises(frostline.InvalidInput, match=said):
            await client.predict("added", inputs)


async def test_the_client_joins_no_answers_of_other_rows_and_gives_that_to_one_request_whole(server: Running) -> None:
    few, many = floats([1], [9], [3]), np.ones((100, 1), np.float32)
    many[0] = 9
    said = r"^more gave an answer of 65 rows in found for 64 sent, so nobody knows which is whose; infer gives it whole"
    with frostline.connect(server.address) as client:
        assert client.predict("more", few).outputs["found"].ravel().tolist() == [9, 1, 9, 3]
        with pytest.raises(frostline.FrostlineError, match=said):
            client.predict("more", many)
    async with frostline.connect_async(server.address) as client:
        with pytest.raises(frostline.FrostlineError, match=said):
            await client.predict("more", many)


@pytest.mark.parametrize(
    ("model", "rows", "form", "shown"),
    [
        ("scalar", np.float32(2), "csv", "id,y\nFILE:0,-2.0\n"),
        ("scalar", np.float32(2), "json", [{"row": 0, "input": "FILE", "id": "FILE:0", "y": -2.0}]),
        ("outer", floats([3, 1]), "csv", "id,y_0_0,y_0_1,y_1_0,y_1_1\nFILE:0,9.0,3.0,3.0,1.0\n"),
        ("outer", floats([3, 1]), "table", "9.0000 3.0000 3.0000 1.0000"),
        ("outer", floats([3, 1, 2]), "table", "9.0000 3.0000 6.0000 3.0000 ... [3, 3]"),
        ("outer", floats([3, np.nan]), "json",
         [{"row": 0, "input": "FILE", "id": "FILE:0", "y": [[9.0, None], [None, None]]}]),
        ("texts", np.array([["a"], ["longer, yes"]]), "csv", 'id,y_0\nFILE:0,a\nFILE:1,"longer, yes"\n'),
    ],
)  # fmt: skip
def test_a_model_without_classes_shows_its_outputs(
    ask: Ask, tmp_path: Path, model: str, rows: object, form: str, shown: object
) -> None:
    code, out, err = ask(model, rows, form=form)
    assert (code, err) == (0, "")
    out = out.replace(str(tmp_path / "0.npy"), "FILE")
    if form == "json":
        assert json.loads(out)["rows"] == shown
    elif form == "csv":
        assert out == shown
    else:
        assert str(shown) in out


@pytest.mark.parametrize("rows", [np.float32(2), floats(1, 2), floats([1, 2], [3, 4])])
def test_an_input_of_which_the_file_says_no_axes_takes_any(ask: Ask, rows: Any) -> None:
    code, out, err = ask("any-shape", rows, form="json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"][0]["minus"] == (-rows).tolist()


def test_the_schema_tells_an_input_of_any_shape_from_a_scalar(server: Running) -> None:
    with frostline.connect(server.address) as client:
        for name, shape in {"any-shape": (-1,), "scalar": ()}.items():
            schema = client.schema(name)
            assert [spec.shape for spec in (*schema.inputs, *schema.outputs)] == [shape, shape]
            assert (schema.inputs, schema.outputs) == ((model := client.model(name)).inputs, model.outputs)


def test_scalars_beside_rows_are_read_from_one_file(ask: Ask) -> None:
    code, out, err = ask("halved", {"x": np.float32(0.5), "z": floats([2, 4], [6, 2])}, top=1)
    assert (code, err) == (0, "")
    answered = list(csv.DictReader(io.StringIO(out)))
    assert [row["class"] for row in answered] == ["1", "0"]
    assert float(answered[0]["probability"]) == pytest.approx(np.exp(2) / np.exp([1, 2]).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        ("outer", np.ones((2, 3), np.float32), "expects x FP32 [1, any]"),
        ("outer", np.float32(1), "expects x FP32 [1, any]"),
        ("scalar", np.ones((1, 1), np.float32), "expects x FP32 []"),
    ],
)
def test_a_file_of_another_shape_is_one_clear_sentence(ask: Ask, model: str, rows: object, words: str) -> None:
    code, out, err = ask(model, rows)
    assert (code, out) == (2, "")
    assert words in err
