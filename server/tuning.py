"""What a model's configuration asks of ONNX Runtime's sessions, apart from the providers they run on."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import onnxruntime as ort

from frostline.pb import model_config_pb2
from server.errors import LoadError

T = TypeVar("T")

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Triton's numbers for how far ONNX Runtime rewrites the graph."""

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
    )
)  # fmt: skip
"""Entries ONNX Runtime is known to read; it says nothing of those it does not."""

MAX_THREADS = 1024
"""ONNX Runtime would start any number at once."""

_OWN_ENTRIES = frozenset(("session.model_external_initializers_file_folder_path",))


@dataclass(frozen=True, slots=True)
class Tuning:
    """How one model's sessions are made; the defaults are the server's own.

    Attributes:
        intra_op_threads: threads within an operator; 0 takes the server's setting.
        inter_op_threads: threads across operators, where they run in parallel; 0 leaves it to ONNX Runtime.
        parallel: whether operators that do not wait for each other run side by side.
        graph_level: how far the graph is rewritten; a key of `GRAPH_LEVELS`.
        cpu_arena: whether the CPU's memory is kept between runs.
        memory_pattern: whether memory is planned ahead for a known shape.
        session: further entries of the session's configuration.
        run: entries of each run's configuration.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    parallel: bool = False
    graph_level: int = 0
    cpu_arena: bool = True
    memory_pattern: bool = True
    session: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)

    def options(self, threads: int) -> ort.SessionOptions:
        """Options for a new session.

        Args:
            threads: within an operator, where the model does not say.

        Raises:
            LoadError: ONNX Runtime refuses an entry.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads or threads
        options.inter_op_num_threads = self.inter_op_threads
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if self.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = GRAPH_LEVELS[self.graph_level]
        options.enable_cpu_mem_arena = self.cpu_arena
        options.enable_mem_pattern = self.memory_pattern
        # It raises what it calls an error, too; only what is fatal it cannot.
        options.log_severity_level = 4
        # A spinning pool would take the core that the next requests are read on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for name, value in self.session.items():
            try:
                options.add_session_config_entry(name, value)
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                raise LoadError(f"config.pbtxt sets parameters.{name} '{value}': {error}") from error
        return options

    def run_options(self) -> ort.RunOptions | None:
        """Options for every run; None where nothing is asked for."""
        if not self.run:
            return None
        options = ort.RunOptions()
        for name, value in self.run.items():
            options.add_run_config_entry(name, value)
        return options

    def device_run_options(self, graph_id: str) -> ort.RunOptions:
        """Options for runs on a CUDA device that replay, or capture, the graph of this id; -1 for none."""
        options = self.run_options() or ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph_id)
        return options


def tuning_of(config: model_config_pb2.ModelConfig) -> tuple[Tuning, list[str]]:
    """What a configuration asks for, and warnings that name what in its `parameters` is not known here.

    Raises:
        LoadError: a value makes no sense.
    """
    level = config.optimization.graph.level
    if level not in GRAPH_LEVELS:
        raise LoadError(f"config.pbtxt sets optimization.graph.level {level}; it must be -1, 0, 1 or 2")
    given = {name: parameter.string_value for name, parameter in config.parameters.items()}
    entries = {name: value for name, value in given.items() if name.startswith("session.") and name not in _OWN_ENTRIES}
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
    unknown = sorted(set(given) - {SLO, *_PARAMETERS, *CUDA_PARAMETERS, *entries})
    if unknown:
        names = ", ".join(f"parameters.{name}" for name in unknown)
        warnings.append(f"config.pbtxt asks for what is not honoured: {names}")
    passed_on = sorted(set(entries) - SESSION_ENTRIES)
    if passed_on:
        warnings.append(
            f"config.pbtxt sets {', '.join(passed_on)}, passed on to ONNX Runtime, which ignores what it does not know"
        )
    return tuning, warnings


_SHRINK = "memory.enable_memory_arena_shrinkage"
SLO = "slo_ms"
"""A parameter of ours, read with the rest of what a model's batches are like."""

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
        raise LoadError(f"config.pbtxt sets {name} to nothing; leave it out or give it a value")
    return text


def choice(*values: str) -> Callable[[str, str], str]:
    """A reader of one of these values, or of its place among them, which is how Triton spells them."""
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
