"""A published table takes raw rows: anyone's ONNX Runtime answers them as PyTorch answers what training encodes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import frostline
from frostline_training import data, publish
from frostline_training.data import Column, Dataset, Rows, Split
from frostline_training.data.raw import Category, Date, Input, Number, cells_of, columns_of, encode
from frostline_training.errors import PublishError, RefusedError
from frostline_training.publishing import preprocessing
from frostline_training.publishing.publish import Published
from frostline_training.publishing.raw_answers import golden_rows
from frostline_training.publishing.variants import make
from frostline_training.sources import CsvFile

Listing = Callable[[Path], list[str]]

INPUTS: list[Input] = [
    Number("months"),
    Category("plan", ["basic", "größer", "pro"]),
    Date("since", parts=["year", "age_days"], relative_to=datetime(2024, 6, 1)),  # noqa: DTZ001 as dates of tables
]


def _rows(count: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    plans = np.array(["basic", "größer", "pro"], object)[random.integers(3, size=count)]
    days = np.datetime64("2020-01-01") + random.integers(1500, size=count)
    return {"months": random.integers(72, size=count), "plan": plans, "since": days}


class Churn(nn.Module):
    """Numbers standardised, 0 where they are missing, and an embedding of the category."""

    def __init__(self, plans: int = 4, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.register_buffer("mean", torch.tensor([36.0, 2022.0, 700.0]))
        self.register_buffer("std", torch.tensor([20.0, 1.5, 400.0]))
        self.plan = nn.Embedding(plans, 4)
        self.head = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, row: Tensor) -> Tensor:
        numbers = (row[:, [0, 2, 3]] - self.get_buffer("mean")) / self.get_buffer("std")
        answer: Tensor = self.head(
            torch.cat([torch.where(numbers.isnan(), 0.0, numbers), self.plan(row[:, 1].long())], 1)
        )
        return answer


def _publish(models: Path, module: nn.Module | None = None, **options: Any) -> Published:
    options = {"inputs": INPUTS, "test": (_rows(90, 1), np.arange(90) % 2)} | options
    return publish(module or Churn(), options.pop("sample", _rows(200)), name="churn", models=models, **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return _publish(tmp_path_factory.mktemp("models"))


def _golden(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        return dict(golden)


def _sessions(folder: Path) -> Sequence[onnxruntime.InferenceSession]:
    return [onnxruntime.InferenceSession(folder / name) for name in ("preprocessing.onnx", "model.onnx")]


def test_onnx_runtime_alone_answers_raw_rows_as_pytorch_answers_the_encoded_ones(published: Published) -> None:
    encoder, model = _sessions(published.path)
    rows = _rows(90, 1)
    since = rows["since"].tolist()
    feed = {
        "months": rows["months"].astype(np.float32)[:, None],
        "plan": rows["plan"][:, None],
        "since.year": np.array([[day.year] for day in since], np.float32),
        "since.age_days": np.array([[(datetime(2024, 6, 1).date() - day).days] for day in since], np.float32),  # noqa: DTZ001
    }
    (encoded,) = encoder.run(None, feed)
    (logits,) = model.run(None, {"input": encoded})
    with torch.no_grad():
        expected = Churn().eval()(torch.from_numpy(frostline.encode(rows, INPUTS))).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_card_lists_the_file_that_encodes(published: Published) -> None:
    card = json.loads((published.path / "card.json").read_text())
    digest = hashlib.sha256((published.path / "preprocessing.onnx").read_bytes()).hexdigest()
    assert card["files"] == {"preprocessing.onnx": digest}
    assert [column["name"] for column in card["rows"]["columns"]] == ["months", "plan", "since"]
    assert card["input"] == {"name": "input", "dtype": "float32", "shape": ["batch", 4], "send": None}


def test_the_golden_sample_holds_real_raw_rows_and_then_odd_ones(published: Published) -> None:
    golden = _golden(published.path)
    months, plans, since = (golden[f"rows.{name}"] for name in ("months", "plan", "since"))
    assert [values.dtype.kind for values in (months, plans, since)] == ["f", "U", "U"]
    assert golden["rows_logits"].shape == (len(months), 2) == (len(plans), 2)
    real, test = golden["input"], _rows(90, 1)
    assert set(months[:64]) <= set(test["months"].tolist())
    np.testing.assert_array_equal(
        encode({"months": months[:64], "plan": plans[:64], "since": since[:64]}, INPUTS), real
    )
    np.testing.assert_array_equal(golden["rows_logits"][:64], golden["logits"])
    odd = [values[64:].tolist() for values in (months, plans, since)]
    assert {0.0, -1.0, 1e38, 1e-40} < set(odd[0])
    assert np.isnan(odd[0]).sum() == 1
    assert {"", "Narnia", "\N{FOX FACE}", "a\0b", " pro "} < set(odd[1])
    assert {"", "2024-02-29", "0001-01-01", "2024-02-29T23:59:59+02:00"} < set(odd[2])


def test_the_golden_answers_are_those_of_pytorch_to_what_training_encodes(published: Published) -> None:
    golden = _golden(published.path)
    rows = {name: values.tolist() for name, values in golden_rows(golden).items()}
    with torch.no_grad():
        expected = Churn().eval()(torch.from_numpy(encode(rows, INPUTS))).numpy()
    np.testing.assert_allclose(golden["rows_logits"], expected, rtol=1e-5, atol=1e-6)


def test_several_outputs_have_golden_answers_by_name(tmp_path: Path) -> None:
    published = _publish(
        tmp_path, Churn(outputs=3), task="multi-label", test=(_rows(40, 1), np.eye(3)[np.arange(40) % 3])
    )
    golden = _golden(published.path)
    logits, probabilities = golden["rows_output.logits"], golden["rows_output.probabilities"]
    np.testing.assert_allclose(probabilities, torch.from_numpy(logits).sigmoid().numpy(), atol=1e-6)


def test_without_test_rows_the_sample_is_compared(tmp_path: Path) -> None:
    assert _publish(tmp_path, test=None, sample=_rows(20)).rows == 20


def test_a_graph_that_swaps_two_categories_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything_under: Listing
) -> None:
    true_graph = preprocessing.graph

    def swapped(columns: Sequence[Column], **options: Any) -> onnx.ModelProto:
        model = true_graph(columns, **options)
        (encoder,) = (node for node in model.graph.node if node.op_type == "LabelEncoder")
        words = next(attribute.strings for attribute in encoder.attribute if attribute.name == "keys_strings")
        words[0], words[1] = words[1], words[0]
        return model

    monkeypatch.setattr(preprocessing, "graph", swapped)
    with pytest.raises(
        RefusedError, match=r"preprocessing\.onnx encodes '(basic|größer)' in column 'plan' as [12], and"
    ):
        _publish(tmp_path)
    assert everything_under(tmp_path) == []


class NoMissing(nn.Module):
    """Numbers go in as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, row: Tensor) -> Tensor:
        logits: Tensor = self.layer(row)
        return logits


def test_a_network_without_an_answer_where_a_number_is_missing_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"infinity or NaN where 'months' is missing; .*torch\.nan_to_num"):
        _publish(tmp_path, NoMissing())


def test_a_network_that_has_no_place_for_what_is_unknown_is_refused(tmp_path: Path) -> None:
    class FromOne(Churn):
        def forward(self, row: Tensor) -> Tensor:
            return super().forward(row - torch.tensor([0.0, 1.0, 0.0, 0.0]))

    with pytest.raises(
        RefusedError, match=r"IndexError: index out of range in self, where 'plan' is missing; .* without a place for 0"
    ):
        _publish(tmp_path, FromOne())


def test_a_real_row_with_a_missing_number_names_the_column_and_the_remedy(tmp_path: Path) -> None:
    rows = _rows(90, 1)
    rows["months"] = np.where(np.arange(90) == 7, np.nan, rows["months"])
    with pytest.raises(RefusedError, match=r"column 'months'; a missing number is NaN: replace it in forward\(\)"):
        _publish(tmp_path, NoMissing(), test=(rows, None))


def test_a_network_without_a_place_for_a_category_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        RefusedError, match=r"index out of range.*nn\.Embedding without a place.* an unknown or missing one is 0"
    ):
        _publish(tmp_path, Churn(plans=3))


class Overflowing(Churn):
    """Squares what it sees: no answer at 1e38."""

    def forward(self, row: Tensor) -> Tensor:
        return super().forward(torch.cat([row[:, :1] ** 2 / 70, row[:, 1:]], 1))


def test_a_number_that_the_network_has_no_answer_to_is_left_out_of_the_golden_sample(tmp_path: Path) -> None:
    months = _golden(_publish(tmp_path, Overflowing()).path)["rows.months"]
    assert 1e38 not in months
    assert {0.0, -1.0, 1e-40} < set(months[64:].tolist())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dynamic": {"input": {1: "time"}}}, "a table has no dynamic axes"),
        ({"test": [(_rows(4), [0, 1, 0, 1])]}, r"test is list: with inputs, give \(raw rows, targets\)"),
        ({"test": ({"months": [1]}, [0])}, "the raw rows have no column 'plan'; they have: months"),
        ({"sample": torch.zeros(4, 4)}, "the raw rows are Tensor: give a list or array for each column"),
        (
            {"sample": {**_rows(4), "plan": ["Basic"] * 4}},
            r"no row of the sample has a category that 'plan' knows \(basic,",
        ),
        ({"sample": _rows(1), "test": None}, "give at least 2 rows"),
        ({"inputs": [Number("input")]}, "a column is called 'input'"),
        ({"sample": {**_rows(4), "since": ["1.1.2024"] * 4}}, "row 1, column 'since': '1.1.2024' is not an ISO date"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PublishError, match=sentence):
        _publish(tmp_path, **options)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_takes_the_same_raw_rows_and_answers_as_its_own_file_does(
    published: Published, precision: Any
) -> None:
    columns = columns_of(INPUTS)
    encoded = encode(_rows(90, 1), INPUTS)
    rows = Rows(encoded, np.arange(90) % 2, cells_of(_rows(90, 1), columns))
    split = Split(Dataset("d", rows, ("0", "1"), "", "", columns=columns), rows, rows, rows)
    variant = make(published, precision, split, bound=100)
    full, small = (json.loads((each.path / "card.json").read_text()) for each in (published, variant))
    assert (small["files"], small["rows"]) == (full["files"], full["rows"])
    assert (variant.path / "preprocessing.onnx").read_bytes() == (published.path / "preprocessing.onnx").read_bytes()
    golden = _golden(variant.path)
    raw = golden_rows(golden)
    assert len(raw["plan"]) > 64 + 6
    encoder, model = _sessions(variant.path)
    (again,) = encoder.run(None, preprocessing.feed(raw, columns, [""]))
    (logits,) = model.run(None, {"input": again})
    assert np.isfinite(golden["rows_logits"]).all()
    assert (np.abs(logits - golden["rows_logits"]) <= golden["atol"] + golden["rtol"] * np.abs(logits)).all()
    if precision == "fp16":
        assert 1e38 not in raw["months"]


def test_rows_of_a_table_keep_their_cells_through_the_split(tmp_path: Path) -> None:
    lines = [f"{index},{'ab'[index % 2]},{'uv'[index % 2]}" for index in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["size,kind,y", *lines]))
    split = data.split(data.load(CsvFile(path=tmp_path / "t.csv", target="y")), seed=3, validation=0.2, test=0.3)
    for rows in (split.train, split.validation, split.test):
        assert rows.cells is not None
        assert list(rows.cells.columns) == ["size", "kind"]
        inputs = np.asarray(rows.inputs)
        assert [float(cell or "") for cell in rows.cells.columns["size"]] == inputs[:, 0].tolist()
        assert rows.cells.lines == [int(size) + 2 for size in inputs[:, 0]]
