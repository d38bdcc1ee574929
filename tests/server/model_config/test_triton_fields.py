"""The fields of Triton's that the server does not act on, compared with those of Triton's own client."""

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2 as triton

from frostline.pb import model_config_pb2
from frostline_server.model_config.pbtxt import parse_model_config
from frostline_server.model_config.triton_fields import NOT_SUPPORTED, Fields, is_map

CONTRACT = model_config_pb2.DESCRIPTOR.message_types_by_name["ModelConfig"]
ALL_FIELDS = triton.DESCRIPTOR.message_types_by_name["ModelConfig"]


def described(message: Descriptor | None) -> Fields:
    return {} if message is None else {field.name: described(field.message_type) for field in message.fields}


def added(message: Descriptor | None, others: Fields) -> Fields:
    """A message of the contract with these fields of Triton's beside its own."""
    own = {} if message is None else {field.name: field.message_type for field in message.fields}
    assert not own.keys() & {name for name, below in others.items() if not below}, "named twice"
    return {name: added(own.get(name), others.get(name, {})) for name in {*own, *others}}


def maps(message: Descriptor, path: str = "") -> set[str]:
    """The paths of all maps."""
    found: set[str] = set()
    for field in message.fields:
        if field.message_type is not None:
            found |= maps(field.message_type, f"{path}{field.name}.")
            found |= {path + field.name} if field.message_type.GetOptions().map_entry else set()
    return found


def taken_for_maps(fields: Fields, path: str = "") -> set[str]:
    below = {f"{path}{name}": inner for name, inner in fields.items()}
    return {where for where, inner in below.items() if is_map(inner)}.union(
        *(taken_for_maps(inner, f"{where}.") for where, inner in below.items())
    )


def test_the_contract_and_the_list_together_are_tritons_fields() -> None:
    assert added(CONTRACT, NOT_SUPPORTED) == described(ALL_FIELDS)


def test_maps_are_told_from_messages() -> None:
    assert taken_for_maps(described(ALL_FIELDS)) == maps(ALL_FIELDS)


def test_a_configuration_as_triton_gives_it_out_is_read() -> None:
    config = triton.ModelConfig(name="m", max_batch_size=4)
    config.input.add(name="x", data_type=triton.TYPE_FP32, dims=[4])
    config.instance_group.add(name="m_0", kind=triton.ModelInstanceGroup.KIND_CPU, count=1)
    config.optimization.input_pinned_memory.enable = True
    config.parameters["a"].string_value = "b"
    for snake_case in (True, False):
        text = json_format.MessageToJson(
            config, preserving_proto_field_name=snake_case, always_print_fields_with_no_presence=True
        )
        read, _ = parse_model_config(text)
        assert (read.name, list(read.input[0].dims), read.parameters["a"].string_value) == ("m", [4], "b")
