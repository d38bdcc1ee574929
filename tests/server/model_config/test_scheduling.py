"""What config.pbtxt says of batches and instances, and what it may not say."""

import math
from typing import Any

import pytest
from google.protobuf import text_format

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import LoadError
from frostline_server.model_config.scheduling import model_batching, model_max_run_s, model_slo_s, placements
from frostline_server.runtime.devices import CPU, CUDA, Provider
from tests.support.puppet import batching

DEFAULTS = batching(max_batch_size=16, max_queue_size=100, max_queue_delay_s=0.5)
ON_CPU: list[Provider] = [(CPU, {})]
ON_GPU: list[Provider] = [(CUDA, {"device_id": "1", "arena_extend_strategy": "kSameAsRequested"}), (CPU, {})]


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def read(text: str, *, batched: bool = True) -> Batching:
    return model_batching(parse(text), DEFAULTS, batched=batched)


def devices(text: str, providers: list[Provider], count: int = 0) -> tuple[list[str], list[str]]:
    """Where instances would run, such as cpu or cuda:0, and the warnings."""
    places, warnings = placements(parse(text).instance_group, providers, count)
    return ["cpu" if place[0][0] == CPU else f"cuda:{place[0][1]['device_id']}" for place in places], warnings


# Batches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("dynamic_batching { }", {}),
        ("max_batch_size: 4", {"max_batch_size": 4}),
        ("dynamic_batching { max_queue_delay_microseconds: 2500 }", {"max_queue_delay_s": 0.0025}),
        ("dynamic_batching { preferred_batch_size: [8, 4, 8] }", {"preferred_sizes": (4, 8)}),
        ("dynamic_batching { preserve_ordering: true }", {"preserve_ordering": True}),
        ("dynamic_batching { default_queue_policy { max_queue_size: 7 } }", {"policies": (QueuePolicy(7),)}),
        (
            "dynamic_batching { default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1500 } }",
            {"policies": (QueuePolicy(100, timeout_s=0.0015, delay=True),)},
        ),
        (
            """
            dynamic_batching {
              priority_levels: 3
              default_priority_level: 2
              default_queue_policy { max_queue_size: 7 }
              priority_queue_policy { key: 1 value { allow_timeout_override: true } }
            }
            """,
            {
                "policies": (QueuePolicy(100, allow_override=True), QueuePolicy(7), QueuePolicy(7)),
                "default_priority": 2,
            },
        ),
        (
            "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
            {"preserve_ordering": True, "policies": (QueuePolicy(100, delay=True),)},
        ),
    ],
)
def test_a_model_says_how_it_is_batched_and_the_server_says_the_rest(text: str, expected: dict[str, Any]) -> None:
    defaults = {"max_batch_size": 16, "max_queue_size": 100, "max_queue_delay_s": 0.5}
    assert read(text) == batching(**defaults | expected)


def test_a_network_without_a_batch_axis_takes_one_row_at_a_time() -> None:
    assert read("", batched=False).max_batch_size == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max_batch_size: -1", "config.pbtxt sets max_batch_size -1; it must not be negative"),
        ("max_batch_size: 70000", "config.pbtxt sets max_batch_size 70000; at most 65536 is possible"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [2, 5] }",
            "config.pbtxt sets preferred_batch_size 5; it must be in range [1, 4], up to the most rows of a batch",
        ),
        (
            "dynamic_batching { preferred_batch_size: 0 }",
            "config.pbtxt sets preferred_batch_size 0; it must be in range [1, 16], up to the most rows of a batch",
        ),
        (
            "dynamic_batching { priority_levels: 3 }",
            "config.pbtxt sets default_priority_level 0; with priority_levels 3 it must be in range [1, 3]",
        ),
        (
            "dynamic_batching { priority_levels: 3 default_priority_level: 4 }",
            "config.pbtxt sets default_priority_level 4; with priority_levels 3 it must be in range [1, 3]",
        ),
        (
            "dynamic_batching { priority_levels: 18446744073709551615 default_priority_level: 1 }",
            "config.pbtxt sets priority_levels 18446744073709551615; at most 256 are possible",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } } }",
            "config.pbtxt has a priority_queue_policy for level 3; it must be in range [1, 2]",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value { } } }",
            "config.pbtxt has a priority_queue_policy for level 1; it must be left out without priority_levels",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 10000001 }",
            "config.pbtxt sets max_queue_delay_microseconds 10000001; at most 10000000 is possible",
        ),
        (
            f"max_batch_size: 65 dynamic_batching {{ preferred_batch_size: {list(range(1, 66))} }}",
            "config.pbtxt has 65 values of preferred_batch_size; at most 64 are possible",
        ),
        (
            "dynamic_batching { default_queue_policy { max_queue_size: 4294967295 } }",
            "config.pbtxt sets max_queue_size 4294967295; at most 10000000 is possible",
        ),
        (
            "dynamic_batching { default_queue_policy { default_timeout_microseconds: 86400000001 } }",
            "config.pbtxt sets default_timeout_microseconds 86400000001; at most 86400000000 is possible",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "config.pbtxt sets preserve_ordering, with which only one priority level is possible",
        ),
        (
            "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }",
            "config.pbtxt sets preserve_ordering, with which a queue policy cannot have the timeout action DELAY",
        ),
    ],
)  # fmt: skip
def test_a_configuration_that_contradicts_itself_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(LoadError) as caught:
        read(text)
    assert str(caught.value) == why


def test_batches_cannot_be_demanded_of_a_network_without_a_batch_axis() -> None:
    with pytest.raises(LoadError, match="max_batch_size 8, but the graph has no free batch axis"):
        read("max_batch_size: 8", batched=False)


# Instances


@pytest.mark.parametrize(
    ("text", "providers", "expected"),
    [
        ("", ON_CPU, ["cpu"]),
        ("", ON_GPU, ["cuda:1"]),
        ("instance_group { }", ON_GPU, ["cuda:1"]),
        ("instance_group { count: 3 }", ON_CPU, ["cpu"] * 3),
        ("instance_group { count: 2 kind: KIND_GPU }", ON_GPU, ["cuda:1"] * 2),
        ("instance_group { count: 2 kind: KIND_CPU }", ON_GPU, ["cpu"] * 2),
        ("instance_group { count: 2 kind: KIND_GPU gpus: [0, 2] }", ON_GPU, ["cuda:0", "cuda:0", "cuda:2", "cuda:2"]),
        ("instance_group { gpus: 0 }", ON_GPU, ["cuda:0"]),
        ("instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }", ON_GPU, ["cuda:1", "cpu"]),
    ],
)
def test_instances_run_where_their_groups_say(text: str, providers: list[Provider], expected: list[str]) -> None:
    assert devices(text, providers, 3) == (expected, [])


def test_an_instance_on_a_named_gpu_keeps_the_servers_other_settings() -> None:
    ((first, second),), _ = placements(parse("instance_group { gpus: 0 }").instance_group, ON_GPU, 3)
    assert first == (CUDA, {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"})
    assert second == (CPU, {})


def test_a_group_for_any_gpu_on_a_server_without_one_runs_on_the_cpu_and_says_so() -> None:
    places, (warning,) = devices("instance_group { kind: KIND_GPU count: 2 }", ON_CPU)
    assert places == ["cpu", "cpu"]
    assert warning == "config.pbtxt has an instance_group of KIND_GPU, but this server runs its models on the CPU"


def test_a_group_left_to_the_model_is_taken_as_automatic_and_says_so() -> None:
    places, (warning,) = devices("instance_group { kind: KIND_MODEL }", ON_GPU)
    assert places == ["cuda:1"]
    assert "the server uses KIND_AUTO" in warning


@pytest.mark.parametrize(
    ("text", "providers", "count", "why"),
    [
        ("instance_group { gpus: [0, 1] }", ON_GPU, 1, "instance_group with gpus [0, 1], but 1 CUDA devices were found, numbered from 0"),
        ("instance_group { gpus: 0 }", ON_CPU, 0, "instance_group with gpus [0], but no CUDA device was found"),
        ("instance_group { gpus: -1 }", ON_GPU, 2, "instance_group with gpus [-1], but 2 CUDA devices were found"),
        ("instance_group { gpus: 0 }", ON_CPU, 1, "instance_group with gpus [0], but this server runs its models on the CPU"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", ON_GPU, 2, "instance_group of KIND_CPU that names gpus [0]"),
        ("instance_group { count: -2 }", ON_CPU, 0, "instance_group with count -2; it must not be negative"),
        ("instance_group { kind: 99 }", ON_CPU, 0, "instance_group of kind 99; it must be KIND_AUTO, "),
        ("instance_group { count: 2000000000 }", ON_CPU, 0, "config.pbtxt asks for more than 64 instances of the model"),
        ("instance_group { kind: 7 }", ON_CPU, 0, "instance_group of kind 7; it must be KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL"),
        (f"instance_group {{ gpus: {[0] * 65} }}", ON_GPU, 1, "config.pbtxt asks for more than 64 instances of the model"),
        ("instance_group { count: 40 } instance_group { count: 40 }", ON_CPU, 0, "config.pbtxt asks for more than 64 instances"),
    ],
)  # fmt: skip
def test_a_group_that_cannot_be_followed_is_refused_with_its_reason(
    text: str, providers: list[Provider], count: int, why: str
) -> None:
    with pytest.raises(LoadError) as caught:
        devices(text, providers, count)
    assert why in str(caught.value)


# Parameters


def parameter(name: str, value: str) -> model_config_pb2.ModelConfig:
    return parse(f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}')


@pytest.mark.parametrize(("text", "seconds"), [("10", 0.01), ("0.5", 0.0005), ("0", 0.0)])
def test_a_models_own_limit_wins_over_the_servers(text: str, seconds: float) -> None:
    assert model_slo_s(parameter("slo_ms", text), 3.0) == pytest.approx(seconds)
    assert model_slo_s(parse(""), 3.0) == pytest.approx(3.0)


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0.5", 0.5), ("0", math.inf)])
def test_a_models_own_limit_on_runs_wins_over_the_servers(text: str, seconds: float) -> None:
    assert model_max_run_s(parameter("max_run_s", text), 3.0) == seconds
    assert model_max_run_s(parse(""), 3.0) == 3.0
    assert model_max_run_s(parse(""), 0.0) == math.inf


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "86401", ""])
def test_a_limit_on_runs_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match=r"sets max_run_s '.*'; it must be a number in range \[0, 86400\]"):
        model_max_run_s(parameter("max_run_s", text), 3.0)
