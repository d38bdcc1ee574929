"""The scheduling of a model configuration: its batching, latency limit and instances, with the server's defaults."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.config import MAX_BATCH_SIZE
from frostline_server.errors import LoadError
from frostline_server.model_config.session_options import MAX_RUN, SLO
from frostline_server.runtime.devices import CPU, CUDA, Provider

MAX_PRIORITIES = 256
MAX_INSTANCES = 64
MAX_SLO_MS = 3_600_000
MAX_RUN_S = 86_400
MAX_PREFERRED_SIZES = 64
"""Warm-up runs each of them."""
MAX_QUEUE_DELAY_S = 10
MAX_QUEUE_SIZE = 10_000_000
MAX_TIMEOUT_S = 86_400

_Group = model_config_pb2.ModelInstanceGroup
_KINDS = {_Group.KIND_AUTO: "KIND_AUTO", _Group.KIND_GPU: "KIND_GPU", _Group.KIND_CPU: "KIND_CPU", _Group.KIND_MODEL: "KIND_MODEL"}  # fmt: skip


def model_batching(config: model_config_pb2.ModelConfig, defaults: Batching, *, batched: bool) -> Batching:
    """How a model's requests are batched: its own configuration, and the server's defaults for the rest.

    Args:
        config: the model's own configuration.
        defaults: the server's settings; their first policy limits every queue that has no limit of its own.
        batched: whether the graph has a batch axis.

    Raises:
        LoadError: the configuration contradicts the graph or itself.
    """
    if config.max_batch_size < 0:
        raise LoadError(f"config.pbtxt sets max_batch_size {config.max_batch_size}; it must not be negative")
    if config.max_batch_size > MAX_BATCH_SIZE:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {config.max_batch_size}; at most {MAX_BATCH_SIZE} is possible"
        )
    if config.max_batch_size > 0 and not batched:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {config.max_batch_size}, but the graph has no free batch axis on every input and output"
        )
    dynamic = config.dynamic_batching
    _at_most("max_queue_delay_microseconds", dynamic.max_queue_delay_microseconds, MAX_QUEUE_DELAY_S * 10**6)
    batching = replace(
        defaults,
        max_batch_size=(config.max_batch_size or defaults.max_batch_size) if batched else 1,
        policies=_policies(dynamic, defaults.policies[0]),
        default_priority=dynamic.default_priority_level if dynamic.priority_levels else 0,
        max_queue_delay_s=dynamic.max_queue_delay_microseconds / 1e6 or defaults.max_queue_delay_s,
        preferred_sizes=_preferred(dynamic),
        preserve_ordering=dynamic.preserve_ordering,
    )
    _check_preferred(batching)
    _check_order(batching)
    return batching


def model_slo_s(config: model_config_pb2.ModelConfig, default_s: float) -> float:
    """The latency limit of a model in seconds: its parameter `slo_ms`, or the server's; 0 for no limit.

    Raises:
        LoadError: the parameter is not a valid number.
    """
    return _number(config, SLO, default_s * 1000, MAX_SLO_MS) / 1000


def model_max_run_s(config: model_config_pb2.ModelConfig, default_s: float) -> float:
    """How long a run of a model may take, in seconds: its parameter `max_run_s`, or the server's; infinity for 0.

    Raises:
        LoadError: the parameter is not a valid number.
    """
    return _number(config, MAX_RUN, default_s, MAX_RUN_S) or math.inf


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise LoadError(f"config.pbtxt sets {name} {value}; at most {most} is possible")


def _preferred(dynamic: model_config_pb2.ModelDynamicBatching) -> tuple[int, ...]:
    sizes = sorted(set(dynamic.preferred_batch_size))
    if len(sizes) > MAX_PREFERRED_SIZES:
        raise LoadError(
            f"config.pbtxt has {len(sizes)} values of preferred_batch_size; at most {MAX_PREFERRED_SIZES} are possible"
        )
    return tuple(sizes)


def _number(config: model_config_pb2.ModelConfig, name: str, default: float, most: float) -> float:
    if name not in config.parameters:
        return default
    text = config.parameters[name].string_value
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be a number in range [0, {most:g}]")
    return number


def _policies(dynamic: model_config_pb2.ModelDynamicBatching, default: QueuePolicy) -> tuple[QueuePolicy, ...]:
    levels = dynamic.priority_levels
    if levels > MAX_PRIORITIES:
        raise LoadError(f"config.pbtxt sets priority_levels {levels}; at most {MAX_PRIORITIES} are possible")
    if levels and not 1 <= dynamic.default_priority_level <= levels:
        raise LoadError(
            f"config.pbtxt sets default_priority_level {dynamic.default_priority_level}; with priority_levels {levels} it "
            f"must be in range [1, {levels}]"
        )
    strange = sorted(level for level in dynamic.priority_queue_policy if not 1 <= level <= levels)
    if strange:
        allowed = f"in range [1, {levels}]" if levels else "left out without priority_levels"
        raise LoadError(f"config.pbtxt has a priority_queue_policy for level {strange[0]}; it must be {allowed}")
    own = dynamic.priority_queue_policy
    return tuple(
        _policy(own.get(level, dynamic.default_queue_policy), default.max_rows)
        for level in range(1, max(1, levels) + 1)
    )


def _policy(policy: model_config_pb2.ModelQueuePolicy, max_rows: int) -> QueuePolicy:
    _at_most("max_queue_size", policy.max_queue_size, MAX_QUEUE_SIZE)
    _at_most("default_timeout_microseconds", policy.default_timeout_microseconds, MAX_TIMEOUT_S * 10**6)
    return QueuePolicy(
        max_rows=policy.max_queue_size or max_rows,
        timeout_s=policy.default_timeout_microseconds / 1e6,
        delay=policy.timeout_action == model_config_pb2.ModelQueuePolicy.DELAY,
        allow_override=policy.allow_timeout_override,
    )


def _check_preferred(batching: Batching) -> None:
    for size in batching.preferred_sizes:
        if not 1 <= size <= batching.max_batch_size:
            raise LoadError(
                f"config.pbtxt sets preferred_batch_size {size}; it must be in range [1, {batching.max_batch_size}], up to "
                "the most rows of a batch"
            )


def _check_order(batching: Batching) -> None:
    if not batching.preserve_ordering:
        return
    if len(batching.policies) > 1:
        raise LoadError("config.pbtxt sets preserve_ordering, with which only one priority level is possible")
    if any(policy.delay and (policy.timeout_s or policy.allow_override) for policy in batching.policies):
        raise LoadError(
            "config.pbtxt sets preserve_ordering, with which a queue policy cannot have the timeout action DELAY"
        )


def placements(
    groups: Sequence[model_config_pb2.ModelInstanceGroup], providers: Sequence[Provider], devices: int
) -> tuple[list[Sequence[Provider]], list[str]]:
    """The execution providers of each instance of a model.

    Args:
        groups: the configuration's `instance_group`; empty for one instance on the server's device.
        providers: the server's own execution providers, best first.
        devices: how many CUDA devices there are.

    Returns:
        The execution providers of each instance, best first; and warnings.

    Raises:
        LoadError: a group names a device that does not exist, or too many instances.
    """
    instances: list[Sequence[Provider]] = []
    warnings: list[str] = []
    for group in groups:
        count = group.count or 1
        if count < 0:
            raise LoadError(f"config.pbtxt has an instance_group with count {count}; it must not be negative")
        if group.kind not in _KINDS:
            raise LoadError(
                f"config.pbtxt has an instance_group of kind {group.kind}; it must be {', '.join(_KINDS.values())}"
            )
        # Before the list of places is made, which may be long.
        if len(instances) + count * max(1, len(group.gpus)) > MAX_INSTANCES:
            raise LoadError(f"config.pbtxt asks for more than {MAX_INSTANCES} instances of the model")
        kind = _KINDS[group.kind]
        places = [providers]
        if kind == "KIND_CPU":
            if group.gpus:
                raise LoadError(f"config.pbtxt has an instance_group of KIND_CPU that names gpus {list(group.gpus)}")
            places = [[(CPU, {})]]
        elif group.gpus:
            places = _on_gpus(group.gpus, providers, devices)
        elif kind == "KIND_GPU" and providers[0][0] == CPU:
            warnings.append(
                "config.pbtxt has an instance_group of KIND_GPU, but this server runs its models on the CPU"
            )
        elif kind == "KIND_MODEL":
            warnings.append(
                "config.pbtxt has an instance_group of KIND_MODEL, which is not possible for an ONNX model; the server "
                "uses KIND_AUTO"
            )
        instances += [place for place in places for _ in range(count)]
    return instances or [providers], warnings


def _on_gpus(gpus: Iterable[int], providers: Sequence[Provider], devices: int) -> list[Sequence[Provider]]:
    gpus = list(gpus)
    absent = [gpu for gpu in gpus if not 0 <= gpu < devices]
    if absent:
        there = f"{devices} CUDA devices were found, numbered from 0" if devices else "no CUDA device was found"
        raise LoadError(f"config.pbtxt has an instance_group with gpus {gpus}, but {there}")
    if providers[0][0] == CPU:
        raise LoadError(
            f"config.pbtxt has an instance_group with gpus {gpus}, but this server runs its models on the CPU; use --device "
            "auto or cuda, or leave gpus out"
        )
    return [
        [(name, {**options, "device_id": str(gpu)} if name == CUDA else options) for name, options in providers]
        for gpu in gpus
    ]
