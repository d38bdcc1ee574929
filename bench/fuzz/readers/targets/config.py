"""Targets of configurations: config.pbtxt, the same as JSON, and the access file."""

import codecs
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format, text_format

from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import text
from bench.fuzz.readers.target import Check, Target
from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.access.access_file import ANONYMOUS, Entries, read
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import LoadError, StartError
from frostline_server.model.artifact import model_file
from frostline_server.model.warmup_requests import warmup_requests
from frostline_server.model_config.accelerators import accelerators_of, providers_for
from frostline_server.model_config.pbtxt import label_file, parse_model_config, read_model_config
from frostline_server.model_config.scheduling import model_batching, model_slo_s, placements
from frostline_server.model_config.session_options import tuning_of
from frostline_server.model_config.tensor_config import agreed, complete
from frostline_server.regular_files import FileReader
from frostline_server.runtime.devices import CPU, Provider
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.signature import Signature, TensorSpec

_SIGNATURE = Signature(
    (TensorSpec("a", "FP32", DTYPES["FP32"], (None, 4)), TensorSpec("b", "BYTES", DTYPES["BYTES"], ())),
    (TensorSpec("out", "FP32", DTYPES["FP32"], (3,)),),
    ("out",),
    batched=True,
    heads=None,
)
_DEFAULTS = Batching(64, (QueuePolicy(1024),))
_ON_CPU: Sequence[Provider] = [(CPU, {})]


def _decide(config: ModelConfig, folder: Path) -> None:
    """What the server decides by a configuration, step by step; each may refuse it.

    Raises:
        Found: a file outside the version's folder would be served.
    """
    file = None
    for step in (
        lambda: model_file(folder / "1", config),
        lambda: [label_file(FileReader(folder), folder, output.label_filename) for output in config.output],
        lambda: placements(config.instance_group, _ON_CPU, 0),
        lambda: model_slo_s(config, 0.0),
        lambda: tuning_of(config),
        lambda: providers_for(accelerators_of(config)[0], _ON_CPU, [CPU]),
        lambda: _schedule(config, folder),
    ):
        try:
            made = step()
        except LoadError:
            continue
        file = made if isinstance(made, Path) else file
    if file is not None and file.parent not in {folder / "1", folder / "1" / (config.default_model_filename or "-")}:
        raise Found(f"the configuration chose {file}")


def _schedule(config: ModelConfig, folder: Path) -> None:
    signature = agreed(_SIGNATURE, config)
    batching = model_batching(config, _DEFAULTS, batched=signature.batched)
    warmup_requests(config, signature, batching.max_batch_size, folder, FileReader(folder))
    complete(config, signature, "cpu")


def _pbtxt(folder: Path) -> Check:
    path = folder / "config.pbtxt"
    (folder / "1").mkdir()
    (folder / "warmup").mkdir()
    (folder / "warmup" / "rows").write_bytes(bytes(16))

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            config, warnings = read_model_config(FileReader(folder), path)
        except LoadError as error:
            _must_be_refused(data, error)
            return
        _compare(data, config, warnings)
        _decide(config, folder)

    return check


def _compare(data: bytes, config: ModelConfig, warnings: Sequence[str]) -> None:
    """Google's parser must have read the same, where it skips what it does not know as this one does."""
    other = ModelConfig()
    try:
        text_format.Parse(_unmarked(data), other, allow_unknown_field=bool(warnings))
    except (text_format.ParseError, UnicodeDecodeError):
        if not warnings:
            raise
        return
    if other.SerializeToString(deterministic=True) != config.SerializeToString(deterministic=True):
        raise Found(f"protobuf reads {other}, this reads {config}", data)


def _unmarked(data: bytes) -> bytes:
    return data.removeprefix(codecs.BOM_UTF8)


def _must_be_refused(data: bytes, error: LoadError) -> None:
    """What Google's parser takes whole may be refused only for its backend."""
    if "this server serves only ONNX files" in str(error) or "nested too deeply" in str(error):
        return
    try:
        text_format.Parse(_unmarked(data), ModelConfig())
    except (text_format.ParseError, ValueError, RecursionError):
        return
    raise Found(f"protobuf reads it, this does not: {error}", data)


def _json(folder: Path) -> Check:
    (folder / "1").mkdir()

    def check(data: bytes) -> None:
        # A parameter of a request, so it is text.
        given = data.decode(errors="replace")
        try:
            config, _ = parse_model_config(given)
        except LoadError:
            return
        try:
            other = json_format.Parse(given, ModelConfig(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            if "duplicate" in str(error):
                return
            raise
        if other.SerializeToString(deterministic=True) != config.SerializeToString(deterministic=True):
            raise Found(f"protobuf reads {other}, this reads {config}", data)
        _decide(config, folder)

    return check


def _access(folder: Path) -> Check:
    path = folder / "access.toml"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            entries = read(path, Entries())
        except StartError as error:
            _check_secrets(data, str(error))
            return
        identities = [identity for _, identity in (*entries.tokens, *entries.certificates)]
        if any(len(digest) != 32 for digest, _ in entries.tokens) or not all(one.roles for one in identities):
            raise Found("an entry without a digest or a role passed", data)
        if ANONYMOUS in {one.name for one in identities}:
            raise Found("an entry has the name of those without credentials", data)
        if len(entries.tokens) != len({digest for digest, _ in entries.tokens}):
            raise Found("a token is there twice", data)

    return check


def _check_secrets(data: bytes, message: str) -> None:
    """No hash, nor a token that stands in its place, may be in a message."""
    try:
        tokens = tomllib.loads(data.decode()).get("tokens", [])
    except (ValueError, RecursionError):
        return
    for token in tokens if isinstance(tokens, list) else []:
        secret = token.get("sha256") if isinstance(token, dict) else None
        # A key is no value, whatever it is called.
        if isinstance(secret, str) and len(secret) > 16 and secret in message and data.count(secret.encode()) == 1:
            raise Found(f"the message shows a secret: {message}", data)


_PBTXT = b"""name: "m"  # a comment
platform: 'onnxruntime_onnx' max_batch_size: 8
input [{ name: "a" data_type: TYPE_FP32 dims: [ -1, 4 ] }, { name: "b" data_type: TYPE_STRING dims: 1 reshape { shape: [] } }]
output { name: "out" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
instance_group [{ count: 2 kind: KIND_CPU }]
dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 priority_levels: 2 default_priority_level: 1 }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters: { key: "slo_ms" value: { string_value: "5" } };
version_policy: < latest: { num_versions: 2 } >
optimization { graph { level: 1 } execution_accelerators { cpu_execution_accelerator { name: "openvino" } } cuda { graphs: true graph_spec { batch_size: 1 } } }
model_warmup { name: "w" batch_size: 1 count: 2 inputs { key: "a" value { data_type: TYPE_FP32 dims: [1, 4] input_data_file: "rows" } }
  inputs { key: "b" value { data_type: TYPE_STRING dims: [] zero_data: true } } }
"""
_ACCELERATED = b"""optimization { execution_accelerators {
  gpu_execution_accelerator { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } parameters { key: "max_workspace_size_bytes" value: "1073741824" } }
  gpu_execution_accelerator { name: "cuda" parameters { key: "gpu_mem_limit" value: "9" } parameters { key: "x" value: "y" } }
  cpu_execution_accelerator { name: "openvino" parameters { key: "num_of_threads" value: "2" } parameters { key: "precision" value: "FP32" } } } }
"""
_TUNED = b"".join(
    b'parameters { key: "%s" value { string_value: "%s" } }\n' % pair
    for pair in (
        (b"intra_op_thread_count", b"4"),
        (b"inter_op_thread_count", b"0"),
        (b"execution_mode", b"1"),
        (b"enable_mem_arena", b"true"),
        (b"enable_mem_pattern", b"0"),
        (b"memory.enable_memory_arena_shrinkage", b"cpu:0"),
        (b"session.set_denormal_as_zero", b"1"),
        (b"cudnn_conv_algo_search", b"0"),
        (b"do_copy_in_default_stream", b"1"),
        (b"slo_ms", b"1e3"),
    )
)
_SCHEDULED = b"""max_batch_size: 4
instance_group [{ count: 1 kind: KIND_GPU gpus: [ 0 ] }, { kind: KIND_MODEL }, { kind: KIND_AUTO gpus: 1 }]
dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 allow_timeout_override: true max_queue_size: 9 }
  priority_levels: 3 default_priority_level: 2 priority_queue_policy { key: 1 value { max_queue_size: 2 } } }
"""
_TEXT_WORDS: tuple[bytes, ...] = (
    *(b"{", b"}", b"<", b">", b"[", b"]", b":", b",", b";", b"-", b"#", b'"', b"'", b"\\", b"\n", b"1.0f", b"inf"),
    *(b"0x1F", b"017", b"TYPE_FP16", b"99", b"true", b"nan", b"[a.b/c.D]", b'"\\xff"', b'"\\000"', b"\\u00e9"),
)
_NAMES = (
    *(name.encode() for name in ModelConfig.DESCRIPTOR.fields_by_name),
    *(b"dims", b"kind", b"count", b"name", b"gpus", b"key", b"value", b"string_value", b"level"),
)
_SHA = b"a5" * 32

TARGETS = (
    Target(
        "pbtxt",
        "config.pbtxt, and what is decided by it",
        _pbtxt,
        (
            _PBTXT,
            _ACCELERATED,
            _TUNED,
            _SCHEDULED,
            *(line + b"\n" for line in _PBTXT.splitlines() if line.count(b"{") == line.count(b"}")),
        ),
        text(*_TEXT_WORDS, *_NAMES, b"input { ", b"instance_group { kind: ", b"a { b: 1 } "),
    ),
    Target(
        "config-json",
        "a configuration in a request to load a model",
        _json,
        (
            json_format.MessageToJson(text_format.Parse(_PBTXT, ModelConfig(), allow_unknown_field=True)).encode(),
            b'{"max_batch_size": 4, "input": [{"name": "a", "dims": ["1", 2], "dataType": "TYPE_FP32"}], "responseCache": {"enable": true}}',
            json.dumps({"parameters": {"slo_ms": {"string_value": "3"}}, "instanceGroup": [{"kind": 2}]}).encode(),
        ),
        text(
            *(b"[", b"{", b"}", b"]", b",", b":", b'"', b"null", b"true", b"1e999", b"-1", b"NaN", b'"\\ud800"', b"99"),
            *(b'"' + name + b'":' for name in _NAMES),
        ),
    ),
    Target(
        "access",
        "the access file",
        _access,
        (
            b'[[tokens]]\nname = "ci"\nsha256 = "'
            + _SHA
            + b'"\nroles = ["predict", "control"]\nrequests_per_s = 5\nburst = 2.5\n',
            b'[[certificates]]\nname = "lb"\nsubjects = ["lb.example"]\nroles = ["observe"]\n[anonymous]\nrequests_per_s = 1e3\n',
            b"a = 1979-05-27T07:32:00Z\nb = '''x'''\n[c.d]\ne = 0x1f\n",
        ),
        text(
            *(
                b"[",
                b"[[",
                b"]]",
                b"{",
                b"}",
                b"=",
                b'"',
                b"'''",
                b'"""',
                b"\n",
                b",",
                b"inf",
                b"nan",
                b"\\",
                b"1_0",
                b".",
            ),
            *(b"[[tokens]]\n", b"[anonymous]\n", b"name=", b"roles=", b"sha256=", b"burst=", b"requests_per_s=", _SHA),
            *(b"1979-05-27", b"07:32:00", b"+00:00", b'"anonymous"', b'"predict"', b"subjects="),
        ),
    ),
)
