"""Messages of the protocol as the JSON of Triton's REST."""

import json

import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline_server.http.messages import parameter, parameters_to_json, to_json
from frostline_server.http.statuses import Failure


def test_a_message_has_the_protocols_names_and_whole_numbers_as_numbers() -> None:
    message = pb.ModelStatistics(
        name="m", inference_count=2**64 - 1, inference_stats={"success": {"count": 2**53 + 1, "ns": 5}}
    )
    told = json.loads(json.dumps(to_json(message)))
    assert told["inference_count"] == 2**64 - 1
    assert told["inference_stats"]["success"] == {"count": 2**53 + 1, "ns": 5}
    assert told["last_inference"] == 0
    assert told["batch_stats"] == []


def test_without_defaults_only_what_is_said_is_there() -> None:
    entry = pb.RepositoryIndexResponse.ModelIndex(name="m", state="READY")
    assert to_json(entry, defaults=False) == {"name": "m", "state": "READY"}


def test_a_field_with_presence_is_there_only_if_it_was_set() -> None:
    assert "lowest" not in to_json(typed.Column(name="age"))
    assert to_json(typed.Column(name="age", lowest=0))["lowest"] == 0


def test_an_enum_is_its_name_and_one_that_is_not_known_its_number() -> None:
    assert to_json(typed.Column(kind=typed.TEXT))["kind"] == "TEXT"
    assert to_json(typed.Column.FromString(b"\x10\x63"))["kind"] == 99


def test_bytes_are_base64() -> None:
    assert to_json(typed.Tensor(data=b"\x00\xff"))["data"] == "AP8="


def test_maps_are_objects_in_the_order_of_their_keys() -> None:
    parameters = {"b": pb.InferParameter(int64_param=1), "a": pb.InferParameter(bool_param=False)}
    message = pb.ModelInferResponse(parameters=parameters)
    told = to_json(message)["parameters"]
    assert list(told) == ["a", "b"]
    assert told == {"a": {"bool_param": False}, "b": {"int64_param": 1}}


@pytest.mark.parametrize(
    "value", [True, False, 0, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 0.5, float("inf"), "", "text"]
)
def test_a_parameter_comes_back_as_what_it_was(value: object) -> None:
    told = parameters_to_json({"p": parameter(value, "p")})["p"]
    assert (type(told), told) == (type(value), value)


@pytest.mark.parametrize("value", [None, [], {}, 2**64, -(2**63) - 1])
def test_what_is_no_parameter_is_refused(value: object) -> None:
    with pytest.raises(Failure, match=r"parameter .p. is .*; it may be a truth value, a number or a text"):
        parameter(value, "p")
