"""A model's config.pbtxt: what is read from it, and that everything else in it is named or refused."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from google.protobuf.empty_pb2 import Empty
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.pb.model_config_pb2 import ModelConfig, ModelParameter
from frostline_server.errors import LoadError
from frostline_server.model_config.pbtxt import label_file, parse_model_config, read_model_config, unknown_fields
from frostline_server.regular_files import FileReader


def read(folder: Path, content: str | bytes) -> tuple[ModelConfig, list[str]]:
    path = folder / "config.pbtxt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_model_config(FileReader(folder), path)


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(LoadError) as caught:
        read(folder, content)
    return str(caught.value)


def unhonoured(folder: Path, content: str) -> list[str]:
    """The names in the one warning, or none."""
    _, warnings = read(folder, content)
    if not warnings:
        return []
    (warning,) = warnings
    head, _, names = warning.partition(": ")
    assert head == "config.pbtxt has fields that this server does not support"
    return names.split(", ")


def test_a_configuration_that_is_honoured_in_full_has_no_warnings(tmp_path: Path) -> None:
    config, warnings = read(
        tmp_path, 'name: "m"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 4\nversion_policy { all { } }\n'
    )
    assert (config.name, config.max_batch_size, config.version_policy.WhichOneof("policy_choice")) == ("m", 4, "all")
    assert warnings == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ('{"name": "m", "maxBatchSize": 4, "dynamic_batching": {"preferred_batch_size": [2]}}', ""),
        ('{"input": [{"name": "x", "is_shape_tensor": true, "allow_ragged_batch": false}]}', "input.is_shape_tensor"),
        ('{"batch_input": [], "cc_model_filenames": {}, "runtime": "", "sequence_batching": null}', ""),
        ('{"metricTags": {"any name": "x"}, "response_cache": {}}', "metric_tags, response_cache"),
        ('{"optimization": {"cuda": {"graphSpec": [{"input": {"x": {"dim": ["1"]}}}]}}}', "optimization.cuda"),
        ('{"model_transaction_policy": {"decoupled": false}}', ""),
    ],
)
def test_a_configuration_in_json_is_read_and_what_is_not_honoured_in_it_is_named(fields: str, names: str) -> None:
    _, warnings = parse_model_config(fields)
    assert warnings == (
        [f"the configuration in the request has fields that this server does not support: {names}"] if names else []
    )


@pytest.mark.parametrize(
    "text", [r'{"\ud800": 4}', r'{"input": [{"\ud800": 4}]}', r'{"parameters": {"\ud800": {}}}', r'{"name": "\ud800"}']
)
def test_half_a_character_is_refused_wherever_it_is(text: str) -> None:
    with pytest.raises(LoadError, match=r"^it is not a model configuration: "):
        parse_model_config(text)


def test_a_value_that_is_infinite_is_refused() -> None:
    with pytest.raises(LoadError, match="infinity"):
        parse_model_config('{"instance_group": [{"kind": 1e999}]}')


NAMES = ["input", "dims", "name", "parameters", "optimization", "graph", "dynamic_batching", "priority_queue_policy", "versionPolicy", "x"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
)


@given(JSON)
def test_whatever_json_comes_is_read_or_refused(value: object) -> None:
    try:
        config, _ = parse_model_config(json.dumps(value))
    except LoadError:
        return
    assert isinstance(config, ModelConfig)
    assert isinstance(value, dict)


def test_an_empty_configuration_is_one(tmp_path: Path) -> None:
    config, warnings = read(tmp_path, "# nothing\n")
    assert (config.ByteSize(), warnings) == (0, [])


@pytest.mark.parametrize(("text", "written"), [("max_batch_size: 0", True), ("# max_batch_size: 0", False)])
def test_a_batch_size_that_is_written_as_zero_is_told_from_one_that_is_not_written(
    tmp_path: Path, text: str, *, written: bool
) -> None:
    config, _ = read(tmp_path, text)
    assert (config.HasField("max_batch_size"), config.max_batch_size) == (written, 0)


def test_tritons_usual_spellings_are_read(tmp_path: Path) -> None:
    config, warnings = read(
        tmp_path,
        """
        backend: "onnxruntime"
        input [
          { name: "a" data_type: TYPE_FP32 dims: [ 3, -1 ] },
          { name: 'b', data_type: TYPE_INT64; dims: 1 dims: 2 reshape { shape: [ 2 ] } }
        ]
        output : [ < name: "o" "p" dims: [ ] > ]
        parameters: { key: "intra_op_thread_count" value: { string_value: "a [ { # b" } }
        parameters [ { key: "x" value { string_value: "y" } } ]
        dynamic_batching { }
        """,
    )
    first, second = config.input
    assert (first.name, list(first.dims), second.name, list(second.dims), list(second.reshape.shape)) == (
        "a", [3, -1], "b", [1, 2], [2],
    )  # fmt: skip
    assert config.output[0].name == "op"
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "intra_op_thread_count": "a [ { # b",
        "x": "y",
    }
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("response_cache { enable: true }", ["response_cache.enable"]),
        ("response_cache { }", ["response_cache"]),
        (
            "optimization { priority: PRIORITY_MAX cuda { graphs: true busy_wait_events: false } graph { level: 1 } }",
            ["optimization.priority", "optimization.cuda.graphs", "optimization.cuda.busy_wait_events"],
        ),
        (
            'input [ { name: "a" format: FORMAT_NCHW }, { name: "b" format: FORMAT_NHWC, optional: true } ]',
            ["input.format", "input.optional"],
        ),
        ("instance_group [ { rate_limiter { priority: 2 } } ]", ["instance_group.rate_limiter.priority"]),
        (
            'model_repository_agents { agents [ { name: "a" parameters { key: "b" value: "c" } } ] }',
            [
                "model_repository_agents.agents.name",
                "model_repository_agents.agents.parameters.key",
                "model_repository_agents.agents.parameters.value",
            ],
        ),
        ('metric_tags { key: "a" value: "b" }; runtime: "x" "y"', ["metric_tags.key", "metric_tags.value", "runtime"]),
        ("cc_model_filenames [ ]\nmodel_metrics: < metric_control: [ < histogram_options { buckets: - 1 } > ] >",
         ["cc_model_filenames", "model_metrics.metric_control.histogram_options.buckets"]),
        ("model_transaction_policy { decoupled: false }", []),
    ],
)  # fmt: skip
def test_every_field_that_is_not_honoured_is_named_by_its_path(tmp_path: Path, text: str, names: list[str]) -> None:
    assert unhonoured(tmp_path, text) == names


def test_what_stands_around_an_unknown_field_is_read(tmp_path: Path) -> None:
    config, _ = read(
        tmp_path,
        'name: "m" model_operations { op_library_filename: [ "a [ }" ] } max_batch_size: 8 # } ]\nbackend: "onnxruntime"',
    )
    assert (config.name, config.max_batch_size, config.backend) == ("m", 8, "onnxruntime")


@pytest.mark.parametrize(
    "content",
    [
        "max_batch_size", "max_batch_size: x", "max_batch_size: 3000000000", "{", "]", "instance_group { count: 2",
        "runtime", "runtime: [", "runtime: [ 1 2 ]", "response_cache: { enable", "response_cache: { : 1 }",
        "response_cache { enable: 1 >", 'runtime: "a', "runtime: -", "runtime { a: 1 }", "[some.extension]: 1", "input [ { name: 'a' } { name: 'b' } ]", "input { data_type: TYPE_FP8 }",
        'name: "a" name: "b"', "= 1", "dynamic_batching { } dynamic_batching 1",
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content).startswith("config.pbtxt is not a model configuration: ")


def test_a_mistake_is_shown_where_it_is_although_unknown_fields_stand_before_it(tmp_path: Path) -> None:
    assert ": 3:17 :" in refusal(tmp_path, "response_cache {\n enable: true }\nmax_batch_size: many")
    assert ": 2:11 :" in refusal(tmp_path, "# a comment\nruntime: [")


@pytest.mark.parametrize("text", ["unknown {" * 5000, "optimization {" * 5000])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).startswith("config.pbtxt is not a model configuration: ")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: " in refusal(tmp_path, b"\xff")
    with pytest.raises(LoadError, match="cannot be read: "):
        read_model_config(FileReader(tmp_path), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('platform: "tensorrt_plan"', "config.pbtxt sets platform 'tensorrt_plan'; this server serves only ONNX files, so it must be 'onnxruntime_onnx'"),
        ('platform: "ensemble"', "config.pbtxt sets platform 'ensemble'; this server serves only ONNX files, so it must be 'onnxruntime_onnx'"),
        ('backend: "python"', "config.pbtxt sets backend 'python'; this server serves only ONNX files, so it must be 'onnxruntime'"),
    ],
)  # fmt: skip
def test_a_model_for_another_backend_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_what_is_printed_from_the_contract_is_read_back(tmp_path: Path) -> None:
    config = ModelConfig(name="m", max_batch_size=4, parameters={"a": ModelParameter(string_value='b"\n[ {')})
    config.input.add(name="x", dims=[1, -1]).reshape.SetInParent()
    config.model_warmup.add(name="w", inputs={"x": {"zero_data": True, "dims": [1, 2]}})
    config.model_transaction_policy.decoupled = False
    assert read(tmp_path, text_format.MessageToString(config)) == (config, [])
    assert parse_model_config(json_format.MessageToJson(config)) == (config, [])


TOKENS = [
    "name", "max_batch_size", "input", "optimization", "graph", "level", "parameters", "key", "value", "string_value", "unknown",
    "response_cache", "enable", "cuda", "graphs",
    "dims", ":", "{", "}", "[", "]", "<", ">", ",", ";", "-", "1", "-1", "1e5", "TYPE_FP32", '"text"', "'text'", '"', "#", "\n",
    "/", "\0", "é",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=25).map(" ".join))
def test_whatever_the_file_holds_it_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            config, _ = read(Path(folder), text)
        except LoadError:
            return
    assert isinstance(config, ModelConfig)


@settings(deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=25).map(" ".join))
def test_a_text_protobuf_can_read_alone_is_read_as_protobuf_reads_it(text: str) -> None:
    try:
        expected = text_format.Parse(text, ModelConfig())
    except text_format.ParseError:
        return
    with tempfile.TemporaryDirectory() as folder:
        assert read(Path(folder), text) == (expected, [])


def test_a_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.touch()
    os.truncate(path, 50_000_000)
    with pytest.raises(LoadError, match=r"config\.pbtxt cannot be read: it has 50000000 bytes; the most is 262144"):
        read_model_config(FileReader(tmp_path), path)
    with pytest.raises(LoadError, match="it has 262145 characters; the most is 262144"):
        parse_model_config(" " * 262145)


@pytest.mark.parametrize("text", ["zzz { " * 33, "ensemble_scheduling { step { " * 5000, "a: [" + "{ b: [" * 20_000])
def test_messages_are_in_each_other_to_a_depth_that_no_thread_lacks(text: str) -> None:
    with pytest.raises(text_format.ParseError, match="Expected at most 32 messages in each other"):
        unknown_fields(text, Empty.DESCRIPTOR)


def test_of_many_unsupported_fields_some_are_named(tmp_path: Path) -> None:
    _, (warning,) = read(
        tmp_path,
        """
        input { format: 1 is_shape_tensor: true allow_ragged_batch: true optional: true is_non_linear_format_io: true }
        output { is_shape_tensor: true is_non_linear_format_io: true }
        instance_group { profile: "a" passive: true host_policy: "a" secondary_devices { kind: 1 device_id: 1 } }
        instance_group { rate_limiter { priority: 1 resources { name: "a" global: true count: 1 } } }
        optimization { priority: 1 gather_kernel_buffer_threshold: 1 eager_batching: true }
        response_cache { enable: true } runtime: "a" input { optional: true }
        """,
    )
    assert warning.endswith(", optimization.eager_batching, response_cache.enable and 1 more")


# Names that Triton does not know, and what cannot be left undone


@pytest.mark.parametrize(
    ("text", "place", "name", "hint"),
    [
        ("max_batch_size: 8\n version_polcy { all {} }", "2:2", "version_polcy", "did you mean 'version_policy'?"),
        ("dynamic_batchin { }", "1:1", "dynamic_batchin", "did you mean 'dynamic_batching'?"),
        ("fooo: 3", "1:1", "fooo", "correct the name, or leave it out"),
        ('input [ { name: "a",\ndtype: TYPE_FP32 } ]', "2:1", "input.dtype", "did you mean 'data_type'?"),
        ("response_cache {\n enabled: true }", "2:2", "response_cache.enabled", "did you mean 'enable'?"),
        ("parameters { key: 'a' val { } }", "1:23", "parameters.val", "did you mean 'value'?"),
        ("metric_tags { key: 'a' val: 'b' }", "1:24", "metric_tags.val", "did you mean 'value'?"),
        ("max_queue_delay_microseconds: 1", "1:1", "max_queue_delay_microseconds", "correct the name, or leave it out"),
    ],
)  # fmt: skip
def test_a_name_that_triton_does_not_know_is_refused_where_it_stands(
    tmp_path: Path, text: str, place: str, name: str, hint: str
) -> None:
    assert refusal(tmp_path, text) == (
        f"config.pbtxt is not a model configuration: {place} : ModelConfig of Triton 2.73 has no field '{name}'; {hint}"
    )


@pytest.mark.parametrize(
    ("text", "name", "hint"),
    [
        ('{"foo": 1}', "foo", "correct the name, or leave it out"),
        ('{"dynamic_batchin": {}}', "dynamic_batchin", "did you mean 'dynamic_batching'?"),
        ('{"versionPolcy": null}', "versionPolcy", "did you mean 'version_policy'?"),
        ('{"parameters": {"a": {"string_valu": "b"}}}', "parameters.a.string_valu", "did you mean 'string_value'?"),
        ('{"optimization": {"cuda": {"graph": true}}}', "optimization.cuda.graph", "did you mean 'graphs'?"),
        ('{"optimization": {"cuda": {"graph_spec": [{"input": {"x": {"dims": [1]}}}]}}}',
         "optimization.cuda.graph_spec.input.x.dims", "did you mean 'dim'?"),
    ],
)  # fmt: skip
def test_a_name_that_triton_does_not_know_is_refused_in_json_too(text: str, name: str, hint: str) -> None:
    with pytest.raises(LoadError) as caught:
        parse_model_config(text)
    assert str(caught.value) == (
        f"it is not a model configuration: ModelConfig of Triton 2.73 has no field '{name}'; {hint}"
    )


@pytest.mark.parametrize(
    ("text", "fields", "name"),
    [
        ("sequence_batching { }", '{"sequence_batching": {}}', "sequence_batching"),
        ("sequence_batching { state { input_name: 'a' } }", '{"sequenceBatching": {"oldest": {}}}', "sequence_batching"),
        ("dynamic_batching { } sequence_batching { }", '{"dynamic_batching": {}, "sequence_batching": {}}', "sequence_batching"),
        ("ensemble_scheduling { step { } }", '{"ensemble_scheduling": {"step": [{}]}}', "ensemble_scheduling"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", '{"batch_input": [{"target_name": "a"}]}', "batch_input"),
        ("batch_output { target_name: 'a' }", '{"batchOutput": [{}]}', "batch_output"),
        ("model_transaction_policy { decoupled: true }", '{"modelTransactionPolicy": {"decoupled": true}}', "model_transaction_policy.decoupled"),
    ],
)  # fmt: skip
def test_what_would_be_answered_as_something_else_is_refused(tmp_path: Path, text: str, fields: str, name: str) -> None:
    told = refusal(tmp_path, text)
    assert told.startswith(f"config.pbtxt sets {name}; this server serves only ONNX files, ")
    with pytest.raises(LoadError) as caught:
        parse_model_config(fields)
    assert str(caught.value) == told.replace("config.pbtxt", "it", 1)


# Labels


def test_a_byte_order_mark_is_no_part_of_the_first_label(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfant\nbee\n")
    assert label_file(FileReader(tmp_path), tmp_path, "labels.txt") == ("ant", "bee")


def test_labels_stand_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\n  bee \r\n\ncat\n\n", encoding="utf-8")
    assert label_file(FileReader(tmp_path), tmp_path, "labels.txt") == ("ant", "bee", "", "cat")
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "labels.txt").write_text("dog", encoding="utf-8")
    assert label_file(FileReader(tmp_path), tmp_path, "names/labels.txt") == ("dog",)


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_the_end_of_a_line_ends_a_label(tmp_path: Path, character: str) -> None:
    (tmp_path / "labels.txt").write_text(f"an{character}t\nbee\n", encoding="utf-8")
    assert label_file(FileReader(tmp_path), tmp_path, "labels.txt") == (f"an{character}t", "bee")


def test_a_number_that_no_field_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^config.pbtxt is not a model configuration: .*out of range"):
        read(tmp_path, "input { data_type: 1" + "0" * 40 + " }")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "/etc/hostname",
            "config.pbtxt names the label file '/etc/hostname'; it must be in the model's own folder",
        ),
        ("nowhere.txt", "the label file nowhere.txt cannot be read: "),
        ("nul\0.txt", "the label file nul\0.txt cannot be read: "),
        ("large.txt", "the label file large.txt cannot be read: it has 8388609 bytes; the most is 8388608"),
        ("bytes.txt", "the label file bytes.txt cannot be read: "),
        (
            "../labels.txt",
            "config.pbtxt names the label file '../labels.txt'; it must be in the model's own folder",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "large.txt").write_bytes(bytes((8 << 20) + 1))
    with pytest.raises(LoadError) as caught:
        label_file(FileReader(tmp_path), tmp_path, name)
    assert str(caught.value).startswith(message)
