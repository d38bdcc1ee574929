"""Frostline's own clients and command line send raw rows to real servers, as people hold them."""

import asyncio
import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frostline
from frostline.cli import main as cli
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from tests.support import raw_rows
from tests.support.raw_rows import COLUMNS, PLANS, ROWS, encoded, logits_of
from tests.support.servers import TIMEOUT_S, Running, running

RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
LOGITS = logits_of(encoded())
OTHER_NAMES = ("months", "tariff", "since")


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    raw_rows.write(models)
    (models / "plain" / "1").mkdir(parents=True)
    (models / "plain" / "1" / "model.onnx").write_bytes(raw_rows.network().SerializeToString())
    with running(models, transport=request.param, log_level="error") as instance:
        yield instance


def blocking(address: str, *args: Any, **named: Any) -> frostline.Prediction:
    with frostline.connect(address, timeout_s=TIMEOUT_S) as client:
        return client.predict(*args, **named)


def of_asyncio(address: str, *args: Any, **named: Any) -> frostline.Prediction:
    async def ask() -> frostline.Prediction:
        async with frostline.connect_async(address, timeout_s=TIMEOUT_S) as client:
            return await client.predict(*args, **named)

    return asyncio.run(ask())


Predict = Callable[..., frostline.Prediction]
both = pytest.mark.parametrize("predict", [blocking, of_asyncio])


@both
@pytest.mark.parametrize(
    "rows",
    [
        RECORDS,
        raw_rows.columns_of(),
        {name: cells.tolist() for name, cells in raw_rows.columns_of().items()},
        {"input": encoded()},
        encoded(),
        encoded().tolist(),
    ],
)
def test_all_that_people_hold_is_answered_as_training_answers_it(server: Running, predict: Predict, rows: Any) -> None:
    answer = predict(server.address, "churn", rows)
    np.testing.assert_allclose(answer.logits, LOGITS, rtol=1e-6)
    assert (answer.version, answer.task) == ("1", "single-label")


@both
def test_a_dict_without_any_input_is_refused(server: Running, predict: Predict) -> None:
    with pytest.raises(frostline.InvalidInput, match="plain expects input FP32"):
        predict(server.address, "plain", {})


def test_one_client_takes_rows_and_numbers_in_turn(server: Running) -> None:
    with frostline.connect(server.address, timeout_s=TIMEOUT_S) as client:
        for rows in (RECORDS, encoded(), RECORDS[0], encoded().tolist(), {"input": encoded()}, encoded()):
            count = 1 if rows is RECORDS[0] else len(ROWS)
            np.testing.assert_allclose(client.predict("churn", rows).logits, LOGITS[:count], rtol=1e-6)
        assert client.predict("churn", RECORDS[0], top_k=2).top(2)[0][0][0] == "no"
        assert client.predict("churn", RECORDS[0], outputs=["argmax"]).labels == ("no",)
        # A number that the model takes as it is, and one that is looked up because it must be refused.
        with pytest.raises(frostline.InvalidInput, match=r"input holds 1e\+300 at \[0, 0\]|FP32"):
            client.predict("churn", [[1e300, 0, 0, 0]])


@both
def test_more_rows_than_a_request_may_have_are_joined(server: Running, predict: Predict) -> None:
    answer = predict(server.address, "churn", RECORDS * 20)
    np.testing.assert_allclose(answer.logits, np.tile(LOGITS, (20, 1)), rtol=1e-6)


@both
def test_missing_columns_and_extra_ones(server: Running, predict: Predict) -> None:
    rows = [{"plan": "pro", "signup": date(2022, 3, 4), "churned": "no"}]
    expected = logits_of(encoded([(float("nan"), "pro", "2022-03-04")]))
    np.testing.assert_allclose(predict(server.address, "churn", rows, extra="ignore").logits, expected, rtol=1e-6)
    with pytest.raises(
        frostline.InvalidInput, match="'churned', and churn expects only the columns tenure, plan, signup"
    ):
        predict(server.address, "churn", rows)
    with pytest.raises(frostline.InvalidInput, match="have no column 'plan'"):
        predict(server.address, "churn", [{"tenure": 1, "signup": None}])


@both
def test_a_refusal_names_the_column(server: Running, predict: Predict) -> None:
    for row, sentence in (
        ({"tenure": "1", "plan": "", "signup": ""}, "column 'tenure': a number is expected, but it is '1'"),
        ({"tenure": 1, "plan": 5, "signup": ""}, "column 'plan': the text of a category is expected, but it is 5"),
        ({"tenure": 1, "plan": "", "signup": "x"}, "column 'signup': 'x' is not an ISO date"),
        ({"tenure": 1e39, "plan": "", "signup": ""}, r"column 'tenure': 1e\+39 is no finite number"),
    ):
        with pytest.raises(frostline.InvalidInput, match=sentence):
            predict(server.address, "churn", row)


@both
def test_a_refusal_names_the_row_among_all_of_the_call(server: Running, predict: Predict) -> None:
    for bad in (3, 70, 199):
        rows = [dict(RECORDS[at % len(RECORDS)]) for at in range(200)]
        rows[bad]["signup"] = "2023-02-29"
        with pytest.raises(
            frostline.InvalidInput, match=f"^column 'signup', row {bad}: '2023-02-29' is not"
        ) as refusal:
            predict(server.address, "churn", rows)
        assert refusal.value.row == bad
        assert refusal.value.where == "column 'signup'"
        assert refusal.value.fact.startswith("'2023-02-29' is not an ISO date")


@both
def test_a_model_without_columns_says_what_it_takes(server: Running, predict: Predict) -> None:
    sentence = r"plain takes no rows with named columns, and a list of dicts was given; give an array: plain expects input FP32"
    with pytest.raises(frostline.InvalidInput, match=sentence):
        predict(server.address, "plain", RECORDS)
    np.testing.assert_allclose(predict(server.address, "plain", {"input": encoded()}).logits, LOGITS, rtol=1e-6)


def test_the_schema_tells_the_columns(server: Running) -> None:
    with frostline.connect(server.address) as client:
        schema = client.schema("churn")
        assert client.schema("churn", version="1") is client.schema("churn", version="1")
        model = client.model("churn")
        plain = client.schema("plain")
    tenure, plan, signup = schema.columns
    assert tenure == frostline.Column("tenure", "number", lowest=-1, highest=71, share_missing=0.1)
    assert plan == frostline.Column("plan", "category", PLANS)
    assert signup == frostline.Column(
        "signup", "date", lowest="2019-01-02T23:30:00", highest="2024-05-31T00:00:00", format="iso"
    )
    assert (schema.model, schema.version, schema.task, schema.labels) == ("churn", "1", "single-label", ("no", "yes"))
    assert (schema.missing, schema.max_rows) == (("", "NA", "?"), 64)
    assert schema.example == {"tenure": 12, "plan": "basic", "signup": "2024-05-31"}
    assert schema.reading["separator"] == ";"
    assert [(each.name, each.shape) for each in schema.inputs] == [("input", (-1, 4))]
    assert model.columns == COLUMNS
    assert (plain.columns, plain.example, plain.reading) == ((), {}, {})

    async def ask() -> frostline.Schema:
        async with frostline.connect_async(server.address) as client:
            return await client.schema("churn")

    assert asyncio.run(ask()) == schema
    with (
        frostline.connect(server.address) as client,
        pytest.raises(frostline.ModelNotFound, match="the server has: churn"),
    ):
        client.schema("absent")


CELLS = st.tuples(
    st.one_of(st.none(), st.floats(width=32, allow_infinity=False), st.integers(-(2**24), 2**24), st.booleans()),
    st.one_of(st.none(), st.sampled_from([*PLANS, "", "NA", " pro "]), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    st.one_of(st.none(), st.just(""), st.dates(date(1700, 1, 1)), st.datetimes(datetime(1700, 1, 1))),  # noqa: DTZ001
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.lists(CELLS, min_size=1, max_size=5))
def test_any_rows_are_what_training_would_have_made_of_them(server: Running, cells: list[tuple[Any, Any, Any]]) -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in cells]
    expected = encoded(
        [
            (
                float("nan") if tenure is None else float(tenure),
                plan or "",
                signup.isoformat() if isinstance(signup, date) else "",
            )
            for tenure, plan, signup in cells
        ]
    )
    with frostline.connect(server.address, timeout_s=TIMEOUT_S) as client:
        np.testing.assert_allclose(client.predict("churn", rows).logits, logits_of(expected), rtol=1e-5)


@both
def test_a_client_follows_a_promotion_to_other_columns(tmp_path: Path, predict: Predict) -> None:
    raw_rows.write(tmp_path, version=1)
    raw_rows.write(tmp_path, version=2, names=OTHER_NAMES, shift=5)
    rollouts.write(tmp_path / "churn", Rollout({"stable": 1}))
    others = [dict(zip(OTHER_NAMES, row, strict=True)) for row in ROWS]
    shifted = logits_of(encoded(), 5)

    def follow(ask: Callable[[Any], frostline.Prediction], promote: Callable[[], None]) -> None:
        np.testing.assert_allclose(ask(RECORDS).logits, LOGITS, rtol=1e-6)
        promote()
        np.testing.assert_allclose(ask(others).logits, shifted, rtol=1e-6)
        with pytest.raises(frostline.InvalidInput, match="expects only the columns months, tariff, since"):
            ask(RECORDS)

    with running(tmp_path, log_level="error", poll_s=0.1) as server, frostline.connect(server.address) as client:

        def promote() -> None:
            rollouts.write(tmp_path / "churn", Rollout({"stable": 2}))
            until = time.monotonic() + TIMEOUT_S
            while client.schema("churn").version != "2":
                assert time.monotonic() < until

        if predict is blocking:
            with frostline.connect(server.address, timeout_s=TIMEOUT_S) as asking:
                follow(lambda rows: asking.predict("churn", rows), promote)
            return
        with asyncio.Runner() as runner:

            async def connect() -> frostline.AsyncClient:
                return frostline.connect_async(server.address, timeout_s=TIMEOUT_S)

            asked = runner.run(connect())
            follow(lambda rows: runner.run(asked.predict("churn", rows)), promote)
            runner.run(asked.close())


# The command line


def table(path: Path, rows: list[list[str]], separator: str = ";") -> str:
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


HEAD = ["signup", "churned", "tenure", "plan"]


def test_a_table_is_predicted_without_a_card(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(
        tmp_path / "customers.csv",
        [
            HEAD,
            ["2024-05-31", "no", "12,5", "basic"],
            ["?", "yes", "NA", "platinum"],
            ["1999-01-01", "", "100", ""],
        ],
    )
    expected = logits_of(
        encoded([(12.5, "basic", "2024-05-31"), (float("nan"), "platinum", ""), (100, "", "1999-01-01")])
    )
    exponents = np.exp(expected - expected.max(axis=1, keepdims=True))
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    command = ["predict", "churn", path, "--server", server.address]
    assert cli.run([*command, "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["id"] for line in lines] == [f"{path}:{row}" for row in range(3)]
    assert [float(line["yes"]) for line in lines] == pytest.approx(softmax[:, 1].tolist(), rel=1e-4)
    here, dates = f"frostline: {path}, column", "2019-01-02 23:30:00 to 2024-05-31"
    assert err.splitlines() == [
        f"{here} 'tenure': of 3 cells 1 missing, 1 outside of what training saw, -1 to 71, such as '100' in row 2",
        f"{here} 'plan': of 3 cells 1 missing, 1 of a category that the model does not know, such as 'platinum' in row 1",
        f"{here} 'signup': of 3 cells 1 missing, 1 outside of what training saw, {dates}, such as '1999-01-01' in row 2",
    ]
    assert cli.run([*command, "--format", "json"]) == 0
    assert [row["prediction"] for row in json.loads(capsys.readouterr().out)["rows"]] == [
        raw_rows.LABELS[at] for at in expected.argmax(axis=1)
    ]
    assert cli.run(command) == 0
    assert "basic" not in capsys.readouterr().out


def test_a_table_without_a_column_that_training_missed_is_predicted(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "less.csv", [["signup", "plan"], ["2022-03-04", "pro"]])
    assert cli.run(["predict", "churn", path, "--server", server.address, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 1
    assert err == f"frostline: {path} has no column 'tenure': it is missing in all rows\n"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([HEAD, ["", "", "12.5", ""]], "row 0 (line 2), column 'tenure': '12.5' is not a number; the source says decimal=','"),
        ([HEAD, ["", "", "1", ""], ["31/05/2024", "", "1", ""]], "row 1 (line 3), column 'signup': '31/05/2024' is not an ISO date"),
        ([HEAD, ["", "", "1e39", ""]], "column 'tenure': 1e39 is no finite number of float32"),
        ([["tenure", "signup"], ["1", ""]], "has no column 'plan'; it has: tenure, signup"),
        ([["Tenure", "plan", "signup"], ["1", "", ""]], "has no column 'tenure', but 'Tenure'; rename it"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[list[str]], sentence: str
) -> None:
    path = table(tmp_path / "bad.csv", rows)
    assert cli.run(["predict", "churn", path, "--server", server.address]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err


def test_numbers_and_tables_are_not_mixed(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "rows.csv", [HEAD, ["", "", "1", ""]])
    numbers = str(tmp_path / "rows.npy")
    np.save(numbers, encoded())
    assert cli.run(["predict", "churn", numbers, "--server", server.address, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS) + 1
    golden = str(server.config.models / "churn" / "1" / "golden.npz")
    assert cli.run(["predict", "churn", golden, "--server", server.address, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert cli.run(["predict", "churn", path, numbers, "--server", server.address]) == 2
    assert f"{path} has raw rows, and {numbers} the network's own input" in capsys.readouterr().err
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    assert cli.run(["predict", "plain", str(tmp_path / "rows.parquet"), "--server", server.address]) == 2
    assert "has columns with names, and the model's input is input FP32 [any, 4]" in capsys.readouterr().err


def test_models_lists_the_number_of_columns(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "--server", server.address]) == 0
    assert "3 columns" in capsys.readouterr().out
    assert cli.run(["models", "--server", server.address, "--format", "json"]) == 0
    churn, plain = json.loads(capsys.readouterr().out)
    assert (churn["columns"], plain["columns"]) == (list(COLUMNS), [])


def test_show_lists_the_columns(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "churn", "--models", str(server.config.models)]) == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "tenure number -1 to 71 10.0%" in lines
    assert "plan category basic; pro; zoë 🙂 0.0%" in lines
    assert "signup date 2019-01-02 23:30:00 to 2024-05-31 0.0%" in lines
