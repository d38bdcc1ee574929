"""A config.pbtxt of which single fields are changed, and nothing else."""

import pytest
from google.protobuf import text_format

from frostline.pb import model_config_pb2
from frostline.tune.pbtxt import NotAConfiguration, changed

TEXT = """# Mine.
name: "cnn"   # not to be lost
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 100 } # why
instance_group [ { count: 4 kind: KIND_CPU } ]
parameters { key: "slo_ms" value { string_value: "10" } }
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
unheard_of: [ "a" 'b', "}" ]
"""


def fields(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def read(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)


def test_a_field_replaces_the_one_there_and_the_rest_stays_as_it_was_written() -> None:
    new = fields(
        'max_batch_size: 64 instance_group { count: 2 } parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
    )
    text = changed(TEXT, new)
    for line in TEXT.splitlines():
        if not line.startswith(("max_batch_size", "instance_group", 'parameters { key: "intra')):
            assert line in text.splitlines()
    config = read(text.replace('unheard_of: [ "a" \'b\', "}" ]', ""))
    assert config.max_batch_size == 64
    assert [group.count for group in config.instance_group] == [2]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "slo_ms": "10",
        "intra_op_thread_count": "1",
    }


def test_the_same_change_again_changes_nothing() -> None:
    new = fields("max_batch_size: 64 instance_group { count: 2 }")
    once = changed(TEXT, new)
    assert changed(once, new) == once


def test_an_empty_file_becomes_the_fields() -> None:
    assert changed("", fields("max_batch_size: 4")) == "max_batch_size: 4\n"


def test_keys_are_dropped_from_every_spelling_of_parameters() -> None:
    text = 'parameters [ { key: "slo_ms" value { string_value: "1" } }, { key: "b" value { string_value: "2" } } ]'
    assert set(read(changed(text, fields(""), ("slo_ms",))).parameters) == {"b"}
    assert changed('parameters: { key: "slo_ms" };\nname: "a"', fields(""), ("slo_ms",)) == '\nname: "a"\n'.lstrip()


def test_several_fields_on_a_line_are_told_apart() -> None:
    assert changed("max_batch_size: 2, name: 'x'; input { dims: [-1] }", fields("max_batch_size: 3")) == (
        " name: 'x'; input { dims: [-1] }\nmax_batch_size: 3\n"
    )


@pytest.mark.parametrize("text", ["{", "name", "name {", "name: ]", "input { ] }", "7: 8", "parameters: 5"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(NotAConfiguration):
        changed(text, fields('parameters { key: "a" }'))
