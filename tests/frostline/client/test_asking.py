"""Which calls a prediction takes, against a server that is a function."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from frostline.client import asking, messages
from frostline.client.asking import Known, Question
from frostline.client.errors import (
    DeadlineExceeded,
    FrostlineError,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PermissionDenied,
    ServerUnavailable,
)
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.pb.model_config_pb2 import ModelConfig
from tests.support.fake_server import DTYPES

LIMIT = 4


class Puppet:
    """A server of the model `m`, whose logits are its input's numbers.

    Attributes:
        types: The input's type in each version, the newest last.
        alone: The versions that take no batches.
        sent: For each prediction asked for: the version, the type, and the rows.
        looked_up: The versions that were described.
        before: Called before each prediction, with how many there were.
    """

    def __init__(self, **types: str) -> None:
        self.types = {version.removeprefix("v"): datatype for version, datatype in types.items()}
        self.alone: set[str] = set()
        self.sent: list[tuple[str, str, int]] = []
        self.looked_up: list[str] = []
        self.before: Callable[[int], None] = lambda _: None
        self.most_bytes = 10**9
        self.dumb = False
        self.now_s = 0.0
        self.timeouts: list[float | None] = []

    @property
    def newest(self) -> str:
        return list(self.types)[-1]

    def call(self, method: str, request: Any) -> Any:
        if method != "Predict" and self.dumb:
            raise PermissionDenied("no questions")
        if method == "RepositoryIndex":
            return pb.RepositoryIndexResponse()
        if method == "Schema":
            raise FrostlineError("as servers before raw rows", "UNIMPLEMENTED")
        if method == "Predict":
            return self.predict(typed.PredictRequest.FromString(request))
        version = request.version or self.newest
        if version not in self.types:
            raise ModelNotFound(f"no version {version}")
        if method == "ModelConfig":
            config = ModelConfig(name="m", max_batch_size=0 if version in self.alone else LIMIT)
            config.parameters["frostline.version"].string_value = version
            return pb.ModelConfigResponse(config=config)
        self.looked_up.append(version)
        metadata = pb.ModelMetadataResponse(name="m", versions=[version])
        metadata.inputs.add(name="x", datatype=self.types[version], shape=[-1, 1])
        return metadata

    def predict(self, request: typed.PredictRequest) -> typed.PredictResponse:
        self.before(len(self.sent))
        [tensor] = request.inputs
        sent = typed.DataType.Name(tensor.dtype)
        self.sent.append((request.version, sent, tensor.shape[0]))
        if len(tensor.data) > self.most_bytes:
            raise MessageTooLarge(
                f"SERVER: Received message larger than max ({len(tensor.data)} vs. {self.most_bytes})"
            )
        version = request.version or self.newest
        if version not in self.types:
            raise ModelNotFound(f"no version {version}")
        expected = self.types[version]
        if sent != expected and (expected, sent) != ("FP32", "FP16"):
            raise InvalidInput(f"got {sent}")
        if tensor.shape[0] > LIMIT and version not in self.alone:
            raise InvalidInput("too many rows")
        logits = np.frombuffer(tensor.data, (DTYPES | {typed.UINT64: "<u8"})[tensor.dtype]).astype("<f8")
        reading = typed.Tensor(dtype=typed.FP64, shape=[len(logits), 1], data=logits.tobytes())
        return typed.PredictResponse(model="m", version=version, logits=reading)

    def ask(self, inputs: Any, known: Known | None = None, version: str = "", timeout_s: float = 30.0) -> Any:
        question = Question("m", version, inputs, ("logits",), 0, timeout_s, self.now_s + timeout_s)
        talk = asking.predict(question, known or Known(), clock=lambda: self.now_s)
        try:
            call = next(talk)
            while True:
                self.timeouts.append(call.timeout_s)
                try:
                    answer = self.call(call.method, call.request)
                except FrostlineError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(answer)
        except StopIteration as end:
            return messages.prediction(end.value, 0)


def column(*values: float, dtype: Any = np.float32) -> Any:
    return np.array(values, dtype)[:, None]


def logits(prediction: Any) -> list[float]:
    found: list[float] = prediction.logits[:, 0].tolist()
    return found


def test_float64_reaches_an_fp64_model_unrounded() -> None:
    server, known = Puppet(v1="FP64"), Known()
    for value in (np.array([[0.1]]), [[0.1]], [[1e300]]):
        assert logits(server.ask(value, known)) == [np.array(value).item()]
    # Refused as float32 once; never asked about again.
    assert [sent for _, sent, _ in server.sent] == ["FP32", "FP64", "FP64", "FP64"]
    assert server.looked_up == ["1"]


def test_whole_numbers_that_only_uint64_has_reach_its_model() -> None:
    server = Puppet(v1="UINT64")
    assert logits(server.ask([[2**64 - 1], [0]])) == [float(2**64 - 1), 0]
    assert [sent for _, sent, _ in server.sent] == ["UINT64"]


@pytest.mark.parametrize("as_array", [False, True])
def test_a_text_that_is_none_is_refused_with_its_place_among_all_rows(as_array: bool) -> None:
    class OfTexts(Puppet):
        def predict(self, request: typed.PredictRequest) -> typed.PredictResponse:
            if request.inputs[0].shape[0] > LIMIT:
                raise InvalidInput("too many rows")
            return typed.PredictResponse(model="m", version="1")

    server, known = OfTexts(v1="BYTES"), Known()
    texts: Any = [["a"]] * (LIMIT + 1) + [["\ud800"]]
    for _ in range(2):  # the first time the model is not known
        with pytest.raises(InvalidInput, match=r"^the input at \[5, 0\]: '\\ud800' has half of a surrogate pair"):
            server.ask(np.array(texts) if as_array else texts, known)
    with pytest.raises(InvalidInput, match=r"^'\\udcff' has half of a surrogate pair, which is no character"):
        server.ask({"\udcff": [["a"]]})


def test_what_float32_cannot_hold_is_looked_up_before_anything_is_sent() -> None:
    for value, datatype in (([[2**53 + 1]], "INT64"), ([[1e300]], "FP64"), (np.array([[1e300]]), "FP64")):
        server = Puppet(v1=datatype)
        server.ask(value)
        assert [sent for _, sent, _ in server.sent] == [datatype]
    server = Puppet(v1="FP32")
    with pytest.raises(InvalidInput, match=r"holds 9007199254740993 at \[0, 0\], but the model takes FP32"):
        server.ask([[2**53 + 1]])
    assert server.sent == []


def test_a_version_that_takes_another_type_is_looked_up_again() -> None:
    server, known = Puppet(v1="INT64"), Known()
    assert logits(server.ask([[3]], known)) == [3]
    server.types = {"2": "FP64"}
    assert logits(server.ask([[0.1]], known)) == [0.1]
    server.types = {"3": "UINT8"}
    assert logits(server.ask([[7.0]], known)) == [7]
    assert server.looked_up == ["1", "2", "3"]
    with pytest.raises(InvalidInput, match=r"holds 300 at \[0, 0\], but the model takes UINT8"):
        server.ask([[300]], known)


def test_rounding_to_half_precision_is_undone_for_a_version_that_takes_more() -> None:
    server, known = Puppet(v1="FP16"), Known()
    assert logits(server.ask(column(0.1), known)) == [float(np.float16(0.1))]
    server.types["2"] = "FP32"
    assert logits(server.ask(column(0.1), known)) == [float(np.float32(0.1))]
    assert server.sent[-2:] == [("", "FP16", 1), ("2", "FP32", 1)]
    assert logits(server.ask(column(0.1), known)) == [float(np.float32(0.1))]
    assert server.sent[-1] == ("", "FP32", 1)
    assert server.looked_up == ["1", "2"]


def test_what_no_conversion_helps_is_refused_once_with_what_the_model_takes() -> None:
    server = Puppet(v1="FP32")
    with pytest.raises(InvalidInput, match=r"^got BYTES; m expects x FP32 \[any, 1\]$"):
        server.ask([["a"]])
    assert len(server.sent) == 1


def test_a_refused_row_is_named_among_all_of_the_call_also_beside_what_the_model_takes() -> None:
    server = Puppet(v1="FP32")

    def refuse(count: int) -> None:
        if count == 2:
            raise InvalidInput("input 'x' for model 'm', row 1: it is no word")

    server.before = refuse
    with pytest.raises(
        InvalidInput, match=r"^input 'x' for model 'm', row 5: it is no word; m expects x FP32"
    ) as refused:
        server.ask(column(*range(10)))
    assert (refused.value.row, refused.value.where) == (5, "input 'x' for model 'm'")
    assert refused.value.fact == "it is no word"


def test_a_server_that_does_not_tell_what_it_takes_refuses_as_before() -> None:
    server = Puppet(v1="FP64")
    server.dumb = True
    with pytest.raises(InvalidInput, match=r"^got FP32$"):
        server.ask(column(1))
    with pytest.raises(PermissionDenied):
        server.ask([[1e300]])


def test_a_model_that_is_not_there_is_explained_once() -> None:
    server = Puppet(v1="FP32")
    for value in (column(1), [[2**53 + 1]]):
        with pytest.raises(ModelNotFound, match=r"^no version 9; the server has no models$"):
            server.ask(value, version="9")


def test_parts_are_answered_by_the_version_that_answered_the_first() -> None:
    server, known = Puppet(v1="FP32"), Known()
    rows = column(*range(10))
    assert logits(server.ask(rows, known)) == list(range(10))
    server.sent.clear()

    def add_a_version(count: int) -> None:
        if count == 1:
            server.types["2"] = "FP32"

    server.before = add_a_version
    prediction = server.ask(rows, known)
    assert (prediction.version, logits(prediction)) == ("1", list(range(10)))
    assert server.sent == [("", "FP32", 4), ("1", "FP32", 4), ("1", "FP32", 2)]


def test_a_version_that_takes_no_batches_gets_all_rows_at_once() -> None:
    server, known = Puppet(v1="FP32"), Known()
    rows = column(*range(10))
    server.ask(rows, known)
    # Its rows depend on each other: the answer to a part is another one.
    server.types["2"], server.alone = "FP32", {"2"}
    server.sent.clear()
    prediction = server.ask(rows, known)
    assert (prediction.version, logits(prediction)) == ("2", list(range(10)))
    assert server.sent[-1] == ("2", "FP32", 10)
    server.sent.clear()
    server.ask(rows, known)
    assert server.sent == [("", "FP32", 10)]


def test_where_that_version_goes_away_all_rows_are_answered_by_the_newest() -> None:
    server = Puppet(v1="FP32")

    def replace(count: int) -> None:
        if count == 2:
            server.types = {"2": "FP32"}

    server.before = replace
    prediction = server.ask(column(*range(10)))
    assert (prediction.version, logits(prediction)) == ("2", list(range(10)))
    assert server.sent[2:] == [("1", "FP32", 4), ("", "FP32", 4), ("2", "FP32", 4), ("2", "FP32", 2)]


def test_versions_that_go_away_again_and_again_end_it() -> None:
    server = Puppet(v1="FP32")

    def replace(count: int) -> None:
        server.types = {str(count): "FP32"}

    server.before = replace
    with pytest.raises(
        FrostlineError, match="version of m that had answered the first was replaced before the last; try"
    ):
        server.ask(column(*range(5)))


@pytest.mark.parametrize("failure", [ModelNotReady("no"), ServerUnavailable("no", kind="version_closing")])
def test_a_version_that_closes_has_gone_away_too(failure: FrostlineError) -> None:
    server, failures = Puppet(v1="FP32"), [failure]

    def close(count: int) -> None:
        if count == 2 and failures:
            raise failures.pop()

    server.before = close
    assert logits(server.ask(column(*range(5)))) == list(range(5))
    with pytest.raises(type(failure)):
        Puppet.ask(_failing(failure), column(1))


def _failing(failure: FrostlineError) -> Puppet:
    server = Puppet(v1="FP32")

    def fail(_: int) -> None:
        raise failure

    server.before = fail
    return server


def test_messages_that_are_too_large_are_halved_and_their_size_is_remembered() -> None:
    server, known = Puppet(v1="FP32"), Known()
    server.most_bytes = 9
    assert logits(server.ask(column(*range(4)), known)) == list(range(4))
    assert [rows for _, _, rows in server.sent] == [4, 2, 2]
    assert logits(server.ask(column(*range(4)), known)) == list(range(4))
    assert [rows for _, _, rows in server.sent[3:]] == [2, 2]
    server.most_bytes = 4
    assert logits(server.ask(column(*range(2)), known)) == [0, 1]
    server.most_bytes = 3
    with pytest.raises(MessageTooLarge):
        server.ask(column(1), known)


def test_a_server_without_room_is_not_asked_in_parts() -> None:
    server = _failing(Overloaded("the messages in flight leave no room", kind="network_full"))
    with pytest.raises(Overloaded):
        server.ask(column(*range(4)))
    assert server.looked_up == []


def test_all_requests_together_have_the_time_of_one() -> None:
    server = Puppet(v1="FP32")

    def take(_: int) -> None:
        server.now_s += 1

    server.before = take
    server.ask(column(*range(5)), timeout_s=5)
    assert server.timeouts == [5, 2, 2, 4, 3]
    with pytest.raises(
        DeadlineExceeded, match="not all rows were answered within 2 s; allow more time, or send fewer rows"
    ):
        server.ask(column(*range(10)), timeout_s=2)


class Frame:
    """A table of two columns."""

    columns = ("b", "a")

    def __getitem__(self, name: str) -> Any:
        return {"a": [1.0, 2.0], "b": [3, 4]}[name]


def test_the_columns_of_a_table_are_the_inputs_of_a_model() -> None:
    class Two(Puppet):
        def call(self, method: str, request: Any) -> Any:
            answer = super().call(method, request)
            if method == "ModelMetadata":
                del answer.inputs[:]
                answer.inputs.add(name="a", datatype="FP32", shape=[-1])
                answer.inputs.add(name="b", datatype="INT64", shape=[-1, 1])
            return answer

        def predict(self, request: typed.PredictRequest) -> typed.PredictResponse:
            found: Mapping[str, Any] = {
                each.name: np.frombuffer(each.data, DTYPES[each.dtype]).reshape(tuple(each.shape)).tolist()
                for each in request.inputs
            }
            assert found == {"a": [1, 2], "b": [[3], [4]]}
            return typed.PredictResponse(model="m", version="1")

    assert Two(v1="").ask(Frame()).version == "1"
    with pytest.raises(
        InvalidInput, match=r"m has one input, x FP32 \[any, 1\]|the table lacks x and has b, a too many"
    ):
        Puppet(v1="FP32").ask(Frame())


def test_joined_answers_that_do_not_fit_are_refused() -> None:
    parts = [typed.PredictResponse(logits=typed.Tensor(dtype=typed.FP32, shape=[1, n])) for n in (1, 2)]
    with pytest.raises(FrostlineError, match=r"do not fit together: logits of shapes \[1, 1\] and \[1, 2\]"):
        messages.joined(parts)


# Raw rows


class Tables:
    """A server of the model `m`, which takes raw rows and answers with what it was sent.

    Attributes:
        schemas: What each version takes, the newest last.
        turns: The versions that answer the next calls which name none; then the newest.
        calls: What was asked for: the method and the version.
    """

    def __init__(self, **schemas: Mapping[str, str]) -> None:
        self.schemas = {version.removeprefix("v"): columns for version, columns in schemas.items()}
        self.turns: list[str] = []
        self.calls: list[tuple[str, str]] = []

    def ask(self, inputs: Any, known: Known, version: str = "") -> tuple[str, dict[str, Any]]:
        """Which version answers, and what it was sent."""
        talk = asking.predict(Question("m", version, inputs, None, 0, 30.0, 30.0), known, clock=lambda: 0.0)
        call = next(talk)
        try:
            while True:
                try:
                    answer = self.call(call.method, call.request)
                except FrostlineError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(answer)
        except StopIteration as end:
            return end.value.version, dict(zip(end.value.names, end.value.labels, strict=True))

    def call(self, method: str, request: Any) -> Any:
        if method == "Predict":
            request = typed.PredictRequest.FromString(request)
        self.calls.append((method, request.version))
        version = request.version or (self.turns.pop(0) if self.turns else list(self.schemas)[-1])
        columns = self.schemas[version]
        if method == "Schema":
            told = [typed.Column(name=name, kind=typed.DATE, format=form) for name, form in columns.items()]
            return typed.SchemaResponse(model="m", version=version, columns=told, missing=[""], max_rows=LIMIT)
        sent = {each.name: each.data[4:].decode() for each in request.inputs}
        if sent.keys() != columns.keys():
            raise InvalidInput("no such columns", kind="invalid_input")
        if "?" in sent.values():
            raise InvalidInput("no date", kind="invalid_data")
        return typed.PredictResponse(model="m", version=version, names=sent, labels=sent.values())


DAY = datetime(2024, 5, 31)  # noqa: DTZ001  as tables have it


def test_the_schema_is_asked_for_once() -> None:
    server, known = Tables(v1={"a": "iso"}), Known()
    for _ in range(3):
        assert server.ask({"a": DAY}, known) == ("1", {"a": "2024-05-31T00:00:00"})
    assert server.calls == [("Schema", ""), *[("Predict", "")] * 3]


def test_a_promotion_to_other_columns_is_noticed() -> None:
    server, known = Tables(v1={"a": "iso"}), Known()
    assert server.ask({"a": "x"}, known) == ("1", {"a": "x"})
    server.schemas["2"] = {"b": "iso"}
    server.calls.clear()
    with pytest.raises(InvalidInput, match="the row has 'a', and m expects only the columns b"):
        server.ask({"a": "x"}, known)
    assert server.ask({"b": "x"}, known) == ("2", {"b": "x"})
    assert server.calls == [("Predict", ""), ("Schema", ""), ("Predict", "")]


def test_rows_of_the_newest_version_are_not_refused_by_what_is_known_of_the_last() -> None:
    server, known = Tables(v1={"a": "iso"}), Known()
    server.ask({"a": "x"}, known)
    server.schemas["2"] = {"b": "iso"}
    server.calls.clear()
    assert server.ask({"b": "x"}, known) == ("2", {"b": "x"})
    assert server.calls == [("Schema", ""), ("Predict", "2")]


def test_of_versions_that_share_the_traffic_one_that_takes_the_rows_gets_them() -> None:
    server, known = Tables(v1={"a": "iso"}, v2={"b": "iso"}), Known()
    server.turns = ["1", "2", "1"]
    assert server.ask({"a": "x"}, known) == ("1", {"a": "x"})
    assert server.calls == [("Schema", ""), ("Predict", ""), ("Schema", ""), ("Predict", "1")]


def test_a_version_that_writes_dates_otherwise_gets_its_own() -> None:
    server, known = Tables(v1={"a": "%d/%m/%Y"}, v2={"a": "%m/%d/%Y"}), Known()
    server.turns = ["1", "1", "2"]
    day = datetime(2024, 3, 4)  # noqa: DTZ001
    assert server.ask({"a": day}, known) == ("1", {"a": "04/03/2024"})
    assert server.ask({"a": day}, known) == ("2", {"a": "03/04/2024"})
    assert server.calls[2:] == [("Predict", ""), ("Schema", "2"), ("Predict", "2")]
    server.calls.clear()
    assert server.ask({"a": day}, known) == ("2", {"a": "03/04/2024"})
    assert server.ask({"a": "04/03/2024"}, known) == ("2", {"a": "04/03/2024"})
    server.turns = ["1"]
    assert server.ask({"a": "04/03/2024"}, known) == ("1", {"a": "04/03/2024"})
    assert server.calls == [("Predict", "")] * 3


def test_a_refusal_of_a_version_by_its_number_is_final() -> None:
    server, known = Tables(v1={"a": "iso"}), Known()
    server.ask({"a": "x"}, known, "1")
    for rows in ({"a": "?"}, {"b": "x"}):
        server.calls.clear()
        with pytest.raises(InvalidInput):
            server.ask(rows, known, "1")
        assert len(server.calls) == ("a" in rows)


def test_what_the_client_refuses_by_a_fresh_schema_costs_no_more_calls() -> None:
    server = Tables(v1={"a": "iso"})
    with pytest.raises(InvalidInput, match="column 'a': a date is expected"):
        server.ask({"a": 5}, Known())
    assert server.calls == [("Schema", "")]


def test_texts_count_by_their_length_where_messages_were_too_large() -> None:
    known = Known()
    texts = {"a": np.array(["x" * 1000] * 8, object)}
    assert known.rows_at_once(64, texts, 8) == 64
    known.refused(4000)
    assert known.rows_at_once(64, texts, 8) == 1
    assert known.rows_at_once(64, {"a": np.array(["x"] * 8, object)}, 8) == 64
