"""What parameters ask for: each value read, each wrong one refused, hints ignored."""

from typing import Any

import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.codec.codec import Codec, DecodedRequest
from frostline_server.errors import InvalidInput, PredictionError, RegionNotFound, Unsupported
from tests.support.signatures import CLASSIFIER, NOWHERE

ROW = np.array([[1, 2, 3, 4]], np.float32)


def decoded(where: str = "request", /, **parameters: dict[str, Any]) -> DecodedRequest:
    """A good request with parameters on the request, its input or its output."""
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[ROW.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=ROW.shape)
    request.outputs.add(name="logits")
    holder: Any = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[where]
    for name, value in parameters.items():
        holder.parameters[name].MergeFrom(pb.InferParameter(**value))
    return Codec("m", "3", CLASSIFIER, 8, None).decode_infer(request, NOWHERE)


def refusal(where: str, error: type[PredictionError], **parameters: dict[str, Any]) -> str:
    with pytest.raises(error) as caught:
        decoded(where, **parameters)
    return str(caught.value)


def test_without_parameters_a_request_has_the_default_priority_and_no_timeout() -> None:
    rows = decoded()
    assert (rows.priority, rows.timeout_s, rows.deliveries) == (0, None, None)


@pytest.mark.parametrize("field", ["uint64_param", "int64_param"])
def test_priority_and_timeout_are_read_from_either_type_of_whole_number(field: str) -> None:
    rows = decoded(priority={field: 2}, timeout={field: 1_500_000})
    assert (rows.priority, rows.timeout_s) == (2, 1.5)


def test_the_largest_values_are_taken() -> None:
    rows = decoded(priority={"uint64_param": 2**64 - 1}, timeout={"uint64_param": 2**64 - 1})
    assert (rows.priority, rows.timeout_s) == (2**64 - 1, (2**64 - 1) / 1e6)


def test_a_timeout_of_zero_is_none() -> None:
    assert decoded(timeout={"int64_param": 0}).timeout_s is None


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [{"string_param": "1"}, {"double_param": 1.0}, {"bool_param": True}, {}])
def test_priority_and_timeout_of_another_type_are_refused(name: str, value: dict[str, Any]) -> None:
    message = refusal("request", InvalidInput, **{name: value})
    assert message.startswith(f"invalid value type for '{name}' parameter, expected int64_param or uint64_param, got ")


@pytest.mark.parametrize("name", ["priority", "timeout"])
def test_negative_priority_and_timeout_are_refused(name: str) -> None:
    message = refusal("request", InvalidInput, **{name: {"int64_param": -1}})
    assert message == f"invalid value for '{name}', expected value >= 0, got -1"


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": {"int64_param": 0}},
        {"sequence_id": {"string_param": ""}, "sequence_start": {"bool_param": False}, "sequence_end": {"bool_param": False}},
    ],
)  # fmt: skip
def test_what_says_that_a_request_is_no_sequence_is_taken(parameters: dict[str, dict[str, Any]]) -> None:
    assert decoded(**parameters).rows == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_id", {"int64_param": 1}),
        ("sequence_id", {"string_param": "a"}),
        ("sequence_start", {"bool_param": True}),
        ("sequence_end", {"bool_param": True}),
    ],
)
def test_a_sequence_is_refused_with_the_reason(name: str, value: dict[str, Any]) -> None:
    message = refusal("request", Unsupported, **{name: value})
    assert message.startswith(f"parameter '{name}' is not supported: this server keeps no state between requests")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sequence_id", {"bool_param": True}, "int64_param or string_param, got bool_param"),
        ("sequence_start", {"int64_param": 1}, "bool_param, got int64_param"),
        ("sequence_end", {}, "bool_param, got no value"),
    ],
)
def test_a_sequence_parameter_of_another_type_is_refused(name: str, value: dict[str, Any], expected: str) -> None:
    assert (
        refusal("request", InvalidInput, **{name: value})
        == f"invalid value type for '{name}' parameter, expected {expected}"
    )


@pytest.mark.parametrize(
    ("where", "name", "message"),
    [
        ("request", "classification", "parameter 'classification' belongs to an output, not to the request"),
        ("input", "classification", "parameter 'classification' belongs to an output, not to an input such as 'input'"),
        ("request", "shared_memory_region", "parameter 'shared_memory_region' belongs to an input or output, not to the request"),
        ("input", "priority", "parameter 'priority' belongs to the request, not to an input such as 'input'"),
        ("output", "timeout", "parameter 'timeout' belongs to the request, not to an output such as 'logits'"),
        ("output", "sequence_id", "parameter 'sequence_id' belongs to the request, not to an output such as 'logits'"),
    ],
)  # fmt: skip
def test_a_parameter_in_the_wrong_place_is_refused(where: str, name: str, message: str) -> None:
    assert refusal(where, InvalidInput, **{name: {"int64_param": 1}}) == message


@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_tritons_own_prefix_is_reserved_apart_from_the_hint_of_its_streams(where: str) -> None:
    assert decoded(where, triton_enable_empty_final_response={"bool_param": True}).rows == 1
    message = refusal(where, InvalidInput, triton_x={"int64_param": 1})
    assert message == "parameter keys starting with 'triton_' are reserved for Triton usage, got 'triton_x'"


@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_hints_of_any_name_and_type_are_ignored(where: str) -> None:
    rows = decoded(
        where, binary_data={"bool_param": True}, binary_data_size={"int64_param": 1}, a={"double_param": 1}, b={}
    )
    assert [bytes(data) for data in rows.data] == [ROW.tobytes()]


REGION = {"string_param": "r"}
SIZE = {"int64_param": 16}


@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"shared_memory_region": REGION}, "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor"),
        ({"shared_memory_byte_size": SIZE}, "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor"),
        ({"shared_memory_offset": SIZE}, "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor"),
        ({"shared_memory_region": SIZE, "shared_memory_byte_size": SIZE}, "invalid value type for 'shared_memory_region' parameter for tensor"),
        ({"shared_memory_region": REGION, "shared_memory_byte_size": REGION}, "invalid value type for 'shared_memory_byte_size' parameter for tensor"),
        ({"shared_memory_region": REGION, "shared_memory_byte_size": {"int64_param": -1}}, "invalid value for 'shared_memory_byte_size' for tensor"),
        ({"shared_memory_region": REGION, "shared_memory_byte_size": SIZE, "shared_memory_offset": {"int64_param": -1}}, "invalid value for 'shared_memory_offset' for tensor"),
    ],
)  # fmt: skip
def test_a_place_in_shared_memory_must_be_whole(where: str, parameters: dict[str, Any], message: str) -> None:
    assert refusal(where, InvalidInput, **parameters).startswith(message)


def test_an_output_for_a_region_that_nobody_registered_is_not_found() -> None:
    message = refusal("output", RegionNotFound, shared_memory_region=REGION, shared_memory_byte_size=SIZE)
    assert message == "Unable to find shared memory region: 'r'"


def test_an_output_is_either_classes_or_in_shared_memory() -> None:
    both: dict[str, dict[str, Any]] = {
        "shared_memory_region": REGION,
        "shared_memory_byte_size": SIZE,
        "classification": {"int64_param": 1},
    }
    assert refusal("output", InvalidInput, **both) == (
        "output 'logits' can't set both 'shared_memory_region' and 'classification'"
    )
