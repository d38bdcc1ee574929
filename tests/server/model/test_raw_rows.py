"""Raw rows, through both front ends and both APIs: columns of a table become what training made of them, or are refused."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2, predictor_pb2, predictor_pb2_grpc
from frostline.protocol import pack_bytes
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import LoadError
from frostline_server.model.loader import Loader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.dtypes import DTYPES, NAMES
from tests.support import calls, raw_rows
from tests.support.raw_rows import ROWS, columns_of, encoded, logits_of
from tests.support.rollouts import check_rollout, settled
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

LOGITS = logits_of(encoded())


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_rows.write(root)
    with running(root, transport=request.param, log_level="error") as instance:
        yield instance


def infer(channel: grpc.Channel, arrays: dict[str, Array], model: str = "churn") -> Array:
    request = calls.infer_request(model, arrays, ["logits"])
    return calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))["logits"]


def predict(channel: grpc.Channel, arrays: dict[str, Array], model: str = "churn") -> Array:
    request = typed(arrays, ["LOGITS"], model)
    tensor = predictor_pb2_grpc.PredictorStub(channel).Predict(request, timeout=TIMEOUT_S).logits
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


APIS: dict[str, Callable[..., Array]] = {"infer": infer, "predict": predict}


@pytest.mark.parametrize("api", APIS)
def test_raw_rows_are_answered_as_training_answers_them_alone_and_together(channel: grpc.Channel, api: str) -> None:
    np.testing.assert_allclose(APIS[api](channel, columns_of()), LOGITS, rtol=1e-6)
    for row, expected in zip(ROWS, LOGITS, strict=True):
        np.testing.assert_allclose(APIS[api](channel, columns_of([row])), expected[None], rtol=1e-6)


def test_a_column_may_have_an_axis_of_one_and_any_place_in_the_request(channel: grpc.Channel) -> None:
    columns = {name: cells.reshape(-1, 1) for name, cells in reversed(columns_of().items())}
    np.testing.assert_allclose(infer(channel, columns), LOGITS, rtol=1e-6)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BYTES"}))
def test_a_number_may_have_any_type_of_numbers(channel: grpc.Channel, datatype: str) -> None:
    rows = [(tenure, "pro", "2022-03-04") for tenure in (0.0, 1.0)]
    columns = columns_of(rows)
    columns["tenure"] = columns["tenure"].astype(DTYPES[datatype])
    np.testing.assert_allclose(infer(channel, columns), logits_of(encoded(rows)), rtol=1e-6)


def test_the_bytes_of_a_text_that_came_before_are_no_number(channel: grpc.Channel) -> None:
    row = (3.0, "pro", "2022-03-04")
    infer(channel, columns_of([row]))
    request = calls.infer_request("churn", columns_of([row]), ["logits"])
    at = [tensor.name for tensor in request.inputs].index("tenure")
    request.raw_input_contents[at] = pack_bytes(["pro"])
    with pytest.raises(grpc.RpcError) as refused:
        calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "input byte size mismatch for input 'tenure'" in str(refused.value.details())
    assert "Expected 8, got 7" in str(refused.value.details())


def test_callers_with_raw_rows_and_with_numbers_get_their_own_answers(server: Running) -> None:
    numbers = encoded()

    def ask(number: int) -> None:
        with grpc.insecure_channel(server.address) as channel:
            for turn in range(8):
                at = (number + turn) % len(ROWS)
                if number % 3 == 0:
                    got = infer(channel, {"input": numbers[at : at + 1]})
                elif number % 3 == 1:
                    got = infer(channel, columns_of([ROWS[at]]))
                else:
                    columns = columns_of([ROWS[at]])
                    columns["tenure"] = columns["tenure"].astype(np.float32)
                    got = predict(channel, columns)
                np.testing.assert_allclose(got, LOGITS[at : at + 1], rtol=1e-6)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))


STATES = np.array(
    [
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, 2, 0],
        [0, 2, 0],
        [0, 0, 0],
        [0, 0, 1],
        [3, 0, 3],
    ],
    np.uint8,
)
"""What each cell of `ROWS` is to training: known, missing, unknown or outside."""


@pytest.mark.parametrize(
    "wanted", [["input_states"], ["logits", "input_states"], ["input_states", "softmax", "logits"]]
)
def test_what_each_cell_is_can_be_asked_for_beside_the_answer(channel: grpc.Channel, wanted: list[str]) -> None:
    request = calls.infer_request("churn", columns_of(), wanted)
    got = calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))
    assert list(got) == wanted
    np.testing.assert_array_equal(got["input_states"], STATES)
    if "logits" in wanted:
        np.testing.assert_allclose(got["logits"], LOGITS, rtol=1e-6)


def typed(columns: dict[str, Array], outputs: list[str], model: str = "churn") -> predictor_pb2.PredictRequest:
    request = predictor_pb2.PredictRequest(model=model, outputs=outputs)
    for name, array in columns.items():
        data = pack_bytes(array.ravel()) if array.dtype.hasobject else array.tobytes()
        request.inputs.add(name=name, dtype=NAMES[array.dtype.str], shape=array.shape, data=data)
    return request


@pytest.mark.parametrize("others", [[], ["LOGITS"]])
def test_the_typed_api_says_what_each_cell_is(channel: grpc.Channel, others: list[str]) -> None:
    predictor = predictor_pb2_grpc.PredictorStub(channel)
    response = predictor.Predict(typed(columns_of(), [*others, "STATES"]), timeout=TIMEOUT_S)
    assert list(response.states.shape) == [len(ROWS), 3]
    np.testing.assert_array_equal(np.frombuffer(response.states.data, np.uint8).reshape(-1, 3), STATES)
    assert response.HasField("logits") == bool(others)


def test_numbers_have_no_states_though_raw_rows_were_asked_about_before(channel: grpc.Channel) -> None:
    stub, predictor = calls.stub(channel), predictor_pb2_grpc.PredictorStub(channel)
    stub.ModelInfer(calls.infer_request("churn", columns_of(), ["input_states"]), timeout=TIMEOUT_S)
    predictor.Predict(typed(columns_of(), ["STATES"]), timeout=TIMEOUT_S)
    numbers = {"input": encoded()[:1]}
    code, message = calls.refused(stub.ModelInfer, calls.infer_request("churn", numbers, ["input_states"]))
    assert (code, "unexpected inference output 'input_states'" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, message = calls.refused(predictor.Predict, typed(numbers, ["STATES"]))
    assert (code, "only raw rows have STATES" in message) == (grpc.StatusCode.UNIMPLEMENTED, True)


# Refusals


def _text(columns: dict[str, Array]) -> None:
    columns["tenure"] = np.array(["12"], object)


def _number(columns: dict[str, Array]) -> None:
    columns["plan"] = np.array([1.0])


def _unknown(columns: dict[str, Array]) -> None:
    columns["colour"] = columns["plan"]


def _missing(columns: dict[str, Array]) -> None:
    del columns["signup"]


def _wide(columns: dict[str, Array]) -> None:
    columns["plan"] = np.array([["pro", "pro"]], object)


def _more(columns: dict[str, Array]) -> None:
    columns["plan"] = np.array(["pro", "pro"], object)


def _both(columns: dict[str, Array]) -> None:
    columns["input"] = encoded()[:1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_text, "'tenure' data-type is 'BYTES', but model 'churn' expects 'FP64'"),
        (_number, "'plan' data-type is 'FP64', but model 'churn' expects 'BYTES'"),
        (_unknown, "'colour'"),
        (_missing, "missing required input(s) ['signup']"),
        (_wide, "unexpected shape for input 'plan'"),
        (_more, "input 'plan' batch size does not match other inputs"),
        (_both, "'input'"),
    ],
)
def test_what_does_not_fit_the_columns_is_refused_by_name(
    channel: grpc.Channel, change: Callable[[dict[str, Array]], None], words: str
) -> None:
    columns = columns_of(ROWS[:1])
    change(columns)
    code, message = calls.refused(calls.stub(channel).ModelInfer, calls.infer_request("churn", columns))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in message


def test_who_knows_neither_names_is_told_both(channel: grpc.Channel) -> None:
    infer = calls.stub(channel).ModelInfer
    _, message = calls.refused(infer, calls.infer_request("churn", {"rows": encoded()[:1]}))
    assert message.endswith("it takes ['input'], or ['tenure', 'plan', 'signup']")
    columns = {"tenure" if name == "tenure" else f"{name}s": cells for name, cells in columns_of(ROWS[:1]).items()}
    _, message = calls.refused(infer, calls.infer_request("churn", columns))
    assert message.endswith(
        "unexpected inference input 'plans' for model 'churn'; it takes ['tenure', 'plan', 'signup'], or ['input']"
    )


def test_who_sends_raw_rows_to_a_model_that_takes_none_without_a_batch_axis_is_told_why(tmp_path: Path) -> None:
    raw_rows.write(tmp_path)
    (tmp_path / "churn" / "config.pbtxt").write_text("max_batch_size: 0")
    with running(tmp_path) as whole, grpc.insecure_channel(whole.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            infer(channel, columns_of())
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "but it takes ['input']; raw rows are not taken, because the model is served without a batch axis" in (
            refused.value.details() or ""
        )


def test_a_column_that_comes_twice_is_refused(channel: grpc.Channel) -> None:
    request = calls.infer_request("churn", columns_of(ROWS[:1]))
    request.inputs.append(request.inputs[1])
    request.raw_input_contents.append(request.raw_input_contents[1])
    assert calls.refused(calls.stub(channel).ModelInfer, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'plan' already exists in request for model 'churn'",
    )


def test_a_text_that_is_no_utf_8_is_refused(channel: grpc.Channel) -> None:
    request = calls.infer_request("churn", columns_of(ROWS[:2]))
    request.raw_input_contents[1] = b"\x03\x00\x00\x00pro\x02\x00\x00\x00\xff\xfe"
    code, message = calls.refused(calls.stub(channel).ModelInfer, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'plan' for model 'churn', row 1: " in message
    assert "not UTF-8" in message


BAD_CELLS = [
    ((float("inf"), "pro", ""), "column 'tenure', row 0: inf is no finite number"),
    ((1e39, "pro", ""), "column 'tenure', row 0: 1e+39 is no finite number"),
    ((1.0, "pro", "2023-02-29"), "column 'signup', row 0: '2023-02-29' is not an ISO date such as"),
    ((1.0, "pro", "yesterday"), "column 'signup', row 0: 'yesterday' is not an ISO date such as"),
    ((1.0, "pro", "0001-01-01T00:00+10:00"), "column 'signup', row 0: '0001-01-01T00:00+10:00' is not"),
]


@pytest.mark.parametrize(("row", "words"), BAD_CELLS)
def test_a_cell_that_is_not_what_its_column_is_fails_its_own_request_alone(
    server: Running, channel: grpc.Channel, row: tuple[float, str, str], words: str
) -> None:
    stub = calls.stub(channel)
    with server.held("churn") as held:
        good = [
            stub.ModelInfer.future(calls.infer_request("churn", columns_of([each]), ["logits"]), timeout=TIMEOUT_S)
            for each in ROWS
        ]
        bad = stub.ModelInfer.future(calls.infer_request("churn", columns_of([row])), timeout=TIMEOUT_S)
        held.wait_until_queued(len(ROWS) + 1)
    assert bad.exception(TIMEOUT_S).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in bad.exception().details()
    got = np.concatenate([calls.answers(call.result(TIMEOUT_S))["logits"] for call in good])
    np.testing.assert_allclose(got, LOGITS, rtol=1e-6)


def test_every_request_of_a_batch_is_told_its_own_bad_row(server: Running, channel: grpc.Channel) -> None:
    stub = calls.stub(channel)
    infinite, dateless = (float("inf"), "pro", ""), (1.0, "pro", "soon")
    requests: list[list[Any]] = [
        [ROWS[0], infinite, ROWS[1], infinite],
        [ROWS[0], ROWS[1], dateless],
        [dateless, infinite],
        [*ROWS[:3]],
    ]
    with server.held("churn") as held:
        sent = [
            stub.ModelInfer.future(calls.infer_request("churn", columns_of(rows), ["logits"]), timeout=TIMEOUT_S)
            for rows in requests
        ]
        held.wait_until_queued(sum(map(len, requests)))
    words = [call.exception(TIMEOUT_S).details() for call in sent[:3]]
    assert words[0].startswith("column 'tenure', row 1: inf is no finite number of float32")
    assert words[1].startswith("column 'signup', row 2: 'soon' is not an ISO date")
    assert words[2].startswith("column 'signup', row 0: 'soon' is not an ISO date")
    np.testing.assert_allclose(calls.answers(sent[3].result(TIMEOUT_S))["logits"], LOGITS[:3], rtol=1e-6)


# What clients are told


def test_clients_are_told_the_columns(channel: grpc.Channel) -> None:
    stub = calls.stub(channel)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="churn"), timeout=TIMEOUT_S)
    config = stub.ModelConfig(pb.ModelConfigRequest(name="churn"), timeout=TIMEOUT_S).config
    expected = [("tenure", "FP64"), ("plan", "BYTES"), ("signup", "BYTES")]
    assert [(each.name, each.datatype) for each in metadata.inputs] == expected
    assert [list(each.shape) for each in metadata.inputs] == [[-1]] * 3
    assert [(each.name, each.data_type) for each in config.input] == [
        ("tenure", model_config_pb2.TYPE_FP64),
        ("plan", model_config_pb2.TYPE_STRING),
        ("signup", model_config_pb2.TYPE_STRING),
    ]
    told = json.loads(config.parameters["frostline.rows"].string_value)
    assert [column["name"] for column in told["columns"]] == list(raw_rows.COLUMNS)
    assert told["missing"] == ["", "NA", "?"]


def test_the_schema_says_what_the_columns_hold(channel: grpc.Channel) -> None:
    question = predictor_pb2.SchemaRequest(model="churn")
    schema = predictor_pb2_grpc.PredictorStub(channel).Schema(question, timeout=TIMEOUT_S)
    tenure, plan, signup = schema.columns
    assert (schema.model, schema.version, schema.task) == ("churn", "1", "single-label")
    assert list(schema.labels) == list(raw_rows.LABELS)
    assert (tenure.kind, tenure.dtype, tenure.lowest, tenure.highest) == (
        predictor_pb2.NUMBER,
        predictor_pb2.FP64,
        -1,
        71,
    )
    assert (plan.kind, list(plan.categories)) == (predictor_pb2.CATEGORY, list(raw_rows.PLANS))
    assert (signup.kind, signup.format, signup.latest) == (predictor_pb2.DATE, "iso", "2024-05-31T00:00:00")
    assert not plan.HasField("lowest")
    assert json.loads(schema.example) == {"tenure": 12.0, "plan": "basic", "signup": "2024-05-31"}
    assert [(each.name, list(each.shape)) for each in schema.inputs] == [("input", [-1, 4])]
    assert schema.max_rows == 64


def test_there_is_no_schema_of_an_unknown_model(channel: grpc.Channel) -> None:
    question = predictor_pb2.SchemaRequest(model="nobody")
    code, _ = calls.refused(predictor_pb2_grpc.PredictorStub(channel).Schema, question)
    assert code == grpc.StatusCode.NOT_FOUND


# Metrics


def numbers_of(server: Running, family: str) -> dict[str, float]:
    """A family's numbers by column."""
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    return {
        line.partition('column="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(family + "{")
    }


def test_missing_unknown_and_outside_cells_are_counted_by_column(tmp_path: Path) -> None:
    raw_rows.write(tmp_path)
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        infer(channel, columns_of())
        calls.statistics(channel, "churn", 1)
        assert numbers_of(server, "frostline_input_missing_total") == {"tenure": 1, "plan": 2, "signup": 1}
        assert numbers_of(server, "frostline_input_unknown_total") == {"tenure": 0, "plan": 2, "signup": 0}
        assert numbers_of(server, "frostline_input_outside_total") == {"tenure": 1, "plan": 0, "signup": 1}
        assert numbers_of(server, "frostline_input_drift") == {}


def test_the_drift_is_the_population_stability_index_against_training(tmp_path: Path) -> None:
    raw_rows.write(tmp_path)
    # Of the bins below 1, up to 10 and above, training had a quarter, a quarter and a half; of the plans a third each.
    rows = [(0.0, "basic", "")] * 100 + [(5.0, "pro", "")] * 100 + [(10.0, "zoë 🙂", "")] * 100
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        for at in range(0, 300, 50):
            infer(channel, columns_of(rows[at : at + 50]))
        calls.statistics(channel, "churn", 6)
        found = numbers_of(server, "frostline_input_drift")
    third, quarter, half = 1 / 3, 0.25, 0.5
    expected = 2 * (third - quarter) * np.log(third / quarter) + (third - half) * np.log(third / half)
    assert found == {"tenure": pytest.approx(expected), "plan": pytest.approx(0, abs=1e-9)}


# Versions


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[Path], Any]]:
    """Loads the version in a folder."""
    loaded = []
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))

    def load(folder: Path) -> Any:
        loaded.append(loader.load(folder, "churn", model_config_pb2.ModelConfig(), lambda warning: None))
        return loaded[-1]

    yield load
    for served in loaded:
        assert served.batcher.close(TIMEOUT_S)


def test_a_file_that_swaps_two_categories_is_not_served(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    swapped = raw_rows.preprocessing(("pro", "basic", "zoë 🙂"))
    folder = raw_rows.write(tmp_path, graph=swapped)
    with pytest.raises(LoadError, match="golden check failed: the answers 'logits' to raw rows differ from PyTorch's"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": []}, "card.json: rows.columns: Tuple should have at least 1 item"),
        ({"columns": [{"name": "tenure", "kind": "numeral"}]}, "card.json: rows.columns.0: Input tag 'numeral'"),
        ({"columns": [{"name": "tenure", "kind": "number"}] * 2}, "the column 'tenure' is there twice"),
        ({"columns": [{"name": "tenure", "kind": "number"}]}, "preprocessing.onnx does not take the card's columns"),
        ({"file": "../other.onnx"}, "card.json: rows.file"),
        ({"file": "other.onnx"}, "card.json does not list other.onnx among its files"),
        ({"columns": [{"name": "d", "kind": "date", "parts": [{"part": "age_days"}]}]}, "an age, and only an age"),
        ({"columns": [{"name": "a", "kind": "number", "edges": [1.0], "shares": [1.0]}]}, "1 shares for 1 edges"),
        ({"columns": [{"name": "a", "kind": "number", "lowest": "low"}]}, "rows.columns.0.number.lowest"),
        (
            {"columns": [{"name": "a", "kind": "category", "categories": ["b"], "missing": 1}]},
            "the column 'a' has 1 for no value, not 0 or 2",
        ),
    ],
)
def test_a_card_that_is_wrong_about_the_rows_is_refused(
    tmp_path: Path, load: Callable[[Path], Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(LoadError) as refusal:
        load(raw_rows.write(tmp_path, card=change))
    assert words in str(refusal.value)


def test_a_file_that_is_not_the_cards_is_refused(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    folder = raw_rows.write(tmp_path)
    (folder / "preprocessing.onnx").write_bytes(raw_rows.preprocessing(("a", "b")).SerializeToString())
    with pytest.raises(LoadError, match=r"preprocessing\.onnx is not the file its card describes"):
        load(folder)


def test_raw_rows_without_golden_ones_are_not_served(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    folder = raw_rows.write(tmp_path)
    with np.load(folder / "golden.npz") as golden:
        kept: dict[str, Any] = {key: golden[key] for key in golden if not key.startswith("rows")}
    np.savez(folder / "golden.npz", **kept)
    with pytest.raises(LoadError, match=r"golden.npz lacks 'rows\.tenure\.npy'|golden.npz lacks"):
        load(folder)


OTHER_PLANS = ("pro", "basic", "team", "zoe")
"""In another order, one added and one renamed, so that the old name is one that was removed."""


def test_every_answer_is_that_of_the_version_that_it_names_though_categories_were_renamed(tmp_path: Path) -> None:
    for version, plans in ((1, raw_rows.PLANS), (2, OTHER_PLANS)):
        raw_rows.write(tmp_path, version=version, plans=plans)
    rollouts.write(tmp_path / "churn", Rollout({"stable": 1}))
    expected = {"1": LOGITS, "2": logits_of(encoded(plans=OTHER_PLANS))}
    assert np.abs(expected["1"] - expected["2"]).max() > 1
    check_rollout(tmp_path, "churn", lambda at: columns_of([ROWS[at]]), expected, rtol=1e-6)


def test_a_shadow_sees_raw_rows_as_its_own_training_did_and_no_numbers_of_another_encoding(tmp_path: Path) -> None:
    raw_rows.write(tmp_path, version=1)
    raw_rows.write(tmp_path, version=2, plans=OTHER_PLANS)
    rollouts.write(tmp_path / "churn", Rollout({"stable": 1}, shadow=2))
    expected = LOGITS, logits_of(encoded(plans=OTHER_PLANS))
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        infer(channel, columns_of())
        infer(channel, {"input": encoded()[:5]})
        ((_, _, _, counts),) = settled(server, rows=len(ROWS))
    assert counts.rows == len(ROWS)
    assert counts.dropped == 5
    assert counts.disagreements == int((expected[0].argmax(axis=1) != expected[1].argmax(axis=1)).sum())
    assert counts.difference.total == pytest.approx(
        float(np.abs(expected[0] - expected[1]).max(axis=1).sum()), rel=1e-5
    )
