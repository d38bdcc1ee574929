"""What a model's `parameters` and `optimization.graph` make of ONNX Runtime's sessions."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.errors import LoadError
from frostline_server.model_config.session_options import check_threads, tuning_of
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.tuning import Tuning
from tests.support import onnx_models


def configured(optimization: str = "", **parameters: str) -> ModelConfig:
    config = text_format.Parse(optimization, ModelConfig())
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def test_a_model_that_asks_for_nothing_gets_the_servers_own_settings() -> None:
    assert tuning_of(ModelConfig()) == (Tuning(), [])
    options = Tuning().options(threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 3)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, True)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_parameters_of_tritons_backend_become_session_options() -> None:
    config = configured(
        intra_op_thread_count="2", inter_op_thread_count="5", execution_mode="1", enable_mem_arena="0",
        enable_mem_pattern="false",
    )  # fmt: skip
    tuning, warnings = tuning_of(config)
    assert warnings == []
    options = tuning.options(threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 5)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)


def test_zero_threads_leave_the_servers_setting() -> None:
    tuning, _ = tuning_of(configured(intra_op_thread_count="0"))
    assert tuning.options(threads=3).intra_op_num_threads == 3


@pytest.mark.parametrize(
    ("level", "meaning"),
    [
        (-1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (0, ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (1, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_the_levels_of_graph_optimization_are_tritons(level: int, meaning: ort.GraphOptimizationLevel) -> None:
    tuning, warnings = tuning_of(configured(f"optimization {{ graph {{ level: {level} }} }}"))
    assert (tuning.options(1).graph_optimization_level, warnings) == (meaning, [])


def test_entries_of_the_session_are_passed_on() -> None:
    tuning, warnings = tuning_of(
        configured(**{"session.intra_op.allow_spinning": "1", "session.set_denormal_as_zero": "1"})
    )
    options = tuning.options(1)
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert warnings == []


@pytest.mark.parametrize(
    "name", ["session.frobnicate", "session.collect_node_memory_stats_to_file", "session.intra_op_num_threads"]
)
def test_an_entry_that_is_not_known_to_be_harmless_is_named_and_not_passed_on(name: str) -> None:
    tuning, warnings = tuning_of(configured(**{name: "1"}))
    assert tuning == Tuning()
    assert warnings == [f"config.pbtxt has options that this server does not support: parameters.{name}"]


@pytest.mark.parametrize(
    ("parameters", "instances", "cpus", "each"),
    [
        ({"intra_op_thread_count": "64"}, 64, 2, 64),
        ({"intra_op_thread_count": "257"}, 1, 2, 257),
        ({}, 65, 2, 4),
        ({"inter_op_thread_count": "100", "execution_mode": "1"}, 3, 2, 104),
        ({"intra_op_thread_count": "129"}, 8, 64, 129),
    ],
)
def test_more_threads_than_make_sense_on_a_machine_are_refused(
    parameters: dict[str, str], instances: int, cpus: int, each: int
) -> None:
    tuning, _ = tuning_of(configured(**parameters))
    with pytest.raises(LoadError) as caught:
        check_threads(tuning, instances, 4, cpus)
    most = max(256, 16 * cpus)
    assert str(caught.value).startswith(
        f"config.pbtxt asks for {instances} instances with {each} threads each; at most {most} threads are possible on {cpus} CPUs"
    )


@pytest.mark.parametrize(
    ("parameters", "instances", "default", "cpus"),
    [
        ({"intra_op_thread_count": "4"}, 64, 1, 2),
        ({"intra_op_thread_count": "128"}, 8, 32, 64),
        # Not made without execution_mode 1.
        ({"inter_op_thread_count": "1024"}, 1, 1, 2),
        # What the operator has asked for is no matter of the model.
        ({}, 1, 1000, 2),
    ],
)
def test_as_many_threads_as_make_sense_are_not_refused(
    parameters: dict[str, str], instances: int, default: int, cpus: int
) -> None:
    check_threads(tuning_of(configured(**parameters))[0], instances, default, cpus)


def test_a_configuration_has_no_thousands_of_parameters() -> None:
    with pytest.raises(LoadError, match="has 257 parameters; at most 256 are possible"):
        tuning_of(configured(**{f"p{number}": "1" for number in range(257)}))


def test_parameters_that_are_not_known_are_all_named() -> None:
    own = "session.model_external_initializers_file_folder_path"
    _, (warning,) = tuning_of(configured(share_session_between_instances="true", a="1", **{own: "/"}))
    assert warning == (
        f"config.pbtxt has options that this server does not support: parameters.a, parameters.{own}, "
        "parameters.share_session_between_instances"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("intra_op_thread_count", "-1", "a whole number from 0 to 1024"),
        ("intra_op_thread_count", "1025", "a whole number from 0 to 1024"),
        ("inter_op_thread_count", "9" * 5000, "a whole number from 0 to 1024"),
        ("inter_op_thread_count", "many", "a whole number from 0 to 1024"),
        ("execution_mode", "2", "0 or 1"),
        ("enable_mem_arena", "yes", "0 or 1"),
        ("enable_mem_pattern", "", "0 or 1"),
        ("memory.enable_memory_arena_shrinkage", "cpu", "name devices, such as cpu:0;gpu:0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_what_would(name: str, value: str, expected: str) -> None:
    with pytest.raises(LoadError) as caught:
        tuning_of(configured(**{name: value}))
    message = str(caught.value)
    assert message.startswith(f"config.pbtxt sets parameters.{name} '{value}'; it must ")
    assert message.endswith(expected)


@pytest.mark.parametrize("level", [-2, 3])
def test_a_level_that_is_none_is_refused(level: int) -> None:
    with pytest.raises(LoadError, match=f"optimization.graph.level {level}; it must be -1, 0, 1 or 2"):
        tuning_of(configured(f"optimization {{ graph {{ level: {level} }} }}"))


def test_an_entry_onnx_runtime_refuses_is_named() -> None:
    tuning = Tuning(session={f"session.{'x' * 5000}": "1"})
    with pytest.raises(LoadError, match=r"^config.pbtxt sets parameters.session.x+ '1': "):
        tuning.options(1)


def test_a_tuned_session_still_answers_right(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.linear().SerializeToString())
    config = configured(
        "optimization { graph { level: 2 } }", execution_mode="1", inter_op_thread_count="1", enable_mem_pattern="0",
        **{"memory.enable_memory_arena_shrinkage": "cpu:0"},
    )  # fmt: skip
    tuning, warnings = tuning_of(config)
    assert warnings == []
    run_options = tuning.run_options()
    assert run_options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
    session = load_session(path, [(CPU, {})], threads=1, strict=True, tuning=tuning)
    x = onnx_models.rows(3)
    (logits,) = session.run([x], ["logits"])
    np.testing.assert_allclose(logits, onnx_models.logits_of(x))
