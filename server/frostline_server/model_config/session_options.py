"""The session options of a model configuration, except execution providers."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
from frostline_server.runtime.tuning import GRAPH_LEVELS, Tuning

T = TypeVar("T")

SESSION_ENTRIES = frozenset(
    f"session.{name}"
    for name in (
        "disable_prepacking", "use_env_allocators", "set_denormal_as_zero", "disable_quant_qdq",
        "disable_double_qdq_remover", "enable_quant_qdq_cleanup", "enable_gelu_approximation",
        "enable_cast_chain_elimination", "disable_aot_function_inlining", "use_device_allocator_for_initializers",
        "inter_op.allow_spinning", "intra_op.allow_spinning", "intra_op_thread_affinities", "qdqisint8allowed",
        "x64quantprecision", "dynamic_block_base", "force_spinning_stop", "strict_shape_type_inference",
        "allow_released_opsets_only", "disable_cpu_ep_fallback", "qdq_matmulnbits_accuracy_level",
        "use_memory_efficient_skip_layer_norm", "save_external_prepacked_constant_initializers",
        "use_deterministic_compute", "disable_qdq_constant_folding", "enable_dq_matmulnbits_fusion",
    )
)  # fmt: skip
"""Entries that are passed on. ONNX Runtime has more, which write files or override what the server has decided, such as
the number of threads; those that it does not know it silently ignores."""

MAX_THREADS = 1024
"""A limit of our own: ONNX Runtime would start any number of threads at once. `check_threads` has that of a machine."""
MAX_PARAMETERS = 256


def tuning_of(config: model_config_pb2.ModelConfig) -> tuple[Tuning, list[str]]:
    """The session options of a configuration, and warnings that name unknown `parameters`.

    Raises:
        LoadError: a value is invalid.
    """
    level = config.optimization.graph.level
    if level not in GRAPH_LEVELS:
        raise LoadError(f"config.pbtxt sets optimization.graph.level {level}; it must be -1, 0, 1 or 2")
    if len(config.parameters) > MAX_PARAMETERS:
        raise LoadError(f"config.pbtxt has {len(config.parameters)} parameters; at most {MAX_PARAMETERS} are possible")
    given = {name: parameter.string_value for name, parameter in config.parameters.items()}
    entries = {name: value for name, value in given.items() if name in SESSION_ENTRIES}
    tuning = Tuning(
        intra_op_threads=_read(given, "intra_op_thread_count", threads, "0"),
        inter_op_threads=_read(given, "inter_op_thread_count", threads, "0"),
        parallel=_read(given, "execution_mode", switch, "0"),
        graph_level=level,
        cpu_arena=_read(given, "enable_mem_arena", switch, "1"),
        memory_pattern=_read(given, "enable_mem_pattern", switch, "1"),
        session=entries,
        run={name: _arenas(f"parameters.{name}", given[name]) for name in (_SHRINK,) if name in given},
    )
    warnings = []
    unknown = sorted(set(given) - {SLO, MAX_RUN, *_PARAMETERS, *CUDA_PARAMETERS, *entries})
    if unknown:
        names = ", ".join(f"parameters.{name}" for name in unknown)
        warnings.append(f"config.pbtxt has options that this server does not support: {names}")
    return tuning, warnings


def check_threads(tuning: Tuning, instances: int, default: int, cpus: int) -> None:
    """Refuse a model whose sessions would start more threads than make sense on this machine.

    Args:
        tuning: of each session.
        instances: how many sessions there are.
        default: threads of a session whose configuration does not say.
        cpus: that the process may use.

    Raises:
        LoadError: they are too many.
    """
    across = tuning.inter_op_threads or default if tuning.parallel else 0
    each = (tuning.intra_op_threads or default) + across
    most = max(_THREADS, _THREADS_PER_CPU * cpus, default)
    if instances * each > most:
        raise LoadError(
            f"config.pbtxt asks for {instances} instances with {each} threads each; at most {most} threads are possible on "
            f"{cpus} CPUs; lower the count of instance_group, intra_op_thread_count or inter_op_thread_count"
        )


_THREADS, _THREADS_PER_CPU = 256, 16
"""The most threads of a model's sessions: on any machine, and for each CPU where that is more."""

_SHRINK = "memory.enable_memory_arena_shrinkage"
SLO = "slo_ms"
"""Frostline's own parameter; `scheduling` reads it."""
MAX_RUN = "max_run_s"
"""The parameter with the time limit of a run, in seconds."""

_PARAMETERS = (
    "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena", "enable_mem_pattern", _SHRINK,
)  # fmt: skip


def _read(given: Mapping[str, str], name: str, read: Callable[[str, str], T], default: str) -> T:
    return read(f"parameters.{name}", given.get(name, default))


def threads(name: str, text: str) -> int:
    """A number of threads."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= MAX_THREADS):
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be a whole number from 0 to {MAX_THREADS}")
    return int(text)


def size(name: str, text: str) -> str:
    """A number of bytes, as it was written."""
    if not (text.isascii() and text.isdecimal() and len(text) < 21 and int(text) < 2**64):
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be a number of bytes")
    return text


def number(name: str, text: str) -> str:
    """A whole number, as it was written."""
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be a whole number")
    return text


def switch(name: str, text: str) -> bool:
    """Triton's truth values: 0, 1, false, true."""
    value = {"1": True, "true": True, "0": False, "false": False}.get(text.lower())
    if value is None:
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be 0 or 1")
    return value


def flag(name: str, text: str) -> str:
    """A truth value as ONNX Runtime spells it: 0 or 1."""
    return "1" if switch(name, text) else "0"


def words(name: str, text: str) -> str:
    """Any text but an empty one."""
    if not text:
        raise LoadError(f"config.pbtxt sets {name} to an empty value; remove it or give it a value")
    return text


def choice(*values: str) -> Callable[[str, str], str]:
    """A reader of one of these values, or of its index among them, which is Triton's spelling."""
    places = [str(place) for place in range(len(values))]

    def read(name: str, text: str) -> str:
        if text in values:
            return text
        if text in places:
            return values[places.index(text)]
        numbered = ", ".join(f"{place} ({value})" for place, value in enumerate(values))
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must be {numbered}")

    return read


def _arenas(name: str, text: str) -> str:
    if not re.fullmatch(r"(cpu|gpu):\d+(;(cpu|gpu):\d+)*", text, re.ASCII):
        raise LoadError(f"config.pbtxt sets {name} '{text}'; it must name devices, such as cpu:0;gpu:0")
    return text


CUDA_PARAMETERS: Mapping[str, Callable[[str, str], str]] = {
    "cudnn_conv_algo_search": choice("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "gpu_mem_limit": size,
    "arena_extend_strategy": choice("kNextPowerOfTwo", "kSameAsRequested"),
    "do_copy_in_default_stream": flag,
    "use_tf32": flag,
    "enable_cuda_graph": flag,
}
"""Parameters that are options of the CUDA provider, with what reads their values."""
