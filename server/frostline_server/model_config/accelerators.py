"""The execution providers of a model configuration, with their options, in the order in which they are tried."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
from frostline_server.model_config.session_options import CUDA_PARAMETERS, flag, number, size, threads, words
from frostline_server.runtime.devices import CUDA, Provider

TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
MAX_ACCELERATORS = 8


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An execution provider that is tried before the device's own.

    Attributes:
        name: as config.pbtxt spells it.
        provider: ONNX Runtime's name.
        options: for that provider.
    """

    name: str
    provider: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Accelerators:
    """The execution providers that one model requests.

    Attributes:
        gpu: providers tried before CUDA.
        cpu: providers tried before the CPU's own.
        cuda: options of the CUDA provider itself.
    """

    gpu: tuple[Accelerator, ...] = ()
    cpu: tuple[Accelerator, ...] = ()
    cuda: Mapping[str, str] = field(default_factory=dict)


def accelerators_of(config: model_config_pb2.ModelConfig) -> tuple[Accelerators, list[str]]:
    """The providers that a configuration requests, and warnings that name unknown options.

    Raises:
        LoadError: a value is invalid.
    """
    wanted = config.optimization.execution_accelerators
    for entries in (wanted.gpu_execution_accelerator, wanted.cpu_execution_accelerator):
        if len(entries) > MAX_ACCELERATORS:
            raise LoadError(
                f"config.pbtxt has {len(entries)} execution accelerators of one kind; at most {MAX_ACCELERATORS} are possible"
            )
    given = config.parameters
    gpu, cuda, unknown = _for_gpu(wanted.gpu_execution_accelerator)
    cpu, unknown_cpu = _for_cpu(wanted.cpu_execution_accelerator)
    for name, read in CUDA_PARAMETERS.items():
        if name in given:
            # The accelerator's own parameter overrides Triton's older spelling.
            cuda.setdefault(name, read(f"parameters.{name}", given[name].string_value))
    unknown += unknown_cpu
    warnings = [f"config.pbtxt has options that this server does not support: {', '.join(unknown)}"] if unknown else []
    return Accelerators(gpu, cpu, cuda), warnings


def file_options(config: model_config_pb2.ModelConfig) -> list[str]:
    """The options of a configuration that make a provider read, write or load files.

    They are for whoever may write the models folder, and for nobody else.
    """
    wanted = config.optimization.execution_accelerators
    entries = (*wanted.gpu_execution_accelerator, *wanted.cpu_execution_accelerator)
    return sorted({name for entry in entries for name in entry.parameters if name in _FILE_OPTIONS})


def providers_for(
    wanted: Accelerators, providers: Sequence[Provider], available: Iterable[str]
) -> tuple[list[Provider], list[str]]:
    """The execution providers of one session, best first: accelerators, CUDA, the CPU's accelerators, the CPU.

    Args:
        wanted: the providers that the model's configuration requests.
        providers: the device's own, from `choose_providers`.
        available: the providers this ONNX Runtime was built with.

    Returns:
        The providers, and warnings that name those that are not available.
    """
    on_gpu = providers[0][0] == CUDA
    missing = [] if on_gpu else [f"{entry.name} needs a GPU" for entry in wanted.gpu]
    if wanted.cuda and not on_gpu:
        missing.append(f"{', '.join(sorted(wanted.cuda))} need a GPU")
    chosen: list[Provider] = []
    for name, options in providers:
        if name == CUDA:
            before, device, own = wanted.gpu, {"device_id": options["device_id"]}, {**options, **wanted.cuda}
        else:
            before, device, own = wanted.cpu, {}, options
        for entry in before:
            if entry.provider in available:
                chosen.append((entry.provider, {**entry.options, **device}))
            else:
                missing.append(f"{entry.name} needs an ONNX Runtime built with {entry.provider}")
        chosen.append((name, own))
    return chosen, [
        f"config.pbtxt asks for execution providers that are not available: {'; '.join(missing)}"
    ] if missing else []


_CUDA_OPTIONS: Mapping[str, Callable[[str, str], str]] = {
    **CUDA_PARAMETERS,
    **dict.fromkeys(
        (
            "cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d", "enable_skip_layer_norm_strict_mode",
            "tunable_op_enable", "tunable_op_tuning_enable", "prefer_nhwc", "use_ep_level_unified_stream",
            "fuse_conv_bias",
        ),
        flag,
    ),
    "tunable_op_max_tuning_duration_ms": number,
    "sdpa_kernel": number,
}  # fmt: skip

_TENSORRT_OPTIONS: Mapping[str, tuple[str, Callable[[str, str], str]]] = {
    "max_workspace_size_bytes": ("trt_max_workspace_size", size),
    "int8_calibration_table_name": ("trt_int8_calibration_table_name", words),
    "int8_use_native_calibration_table": ("trt_int8_use_native_calibration_table", flag),
    **{
        f"trt_{name}": (f"trt_{name}", read)
        for read, names in {
            number: (
                "max_partition_iterations", "min_subgraph_size", "dla_core", "builder_optimization_level",
                "auxiliary_streams", "ep_context_embed_mode",
            ),
            flag: (
                "dla_enable", "engine_cache_enable", "dump_subgraphs", "force_sequential_engine_build",
                "context_memory_sharing_enable", "layer_norm_fp32_fallback", "timing_cache_enable",
                "force_timing_cache", "detailed_build_log", "build_heuristics_enable", "sparsity_enable",
                "dump_ep_context_model",
            ),
            words: (
                "engine_cache_path", "engine_cache_prefix", "timing_cache_path", "tactic_sources",
                "extra_plugin_lib_paths", "profile_min_shapes", "profile_max_shapes", "profile_opt_shapes",
                "ep_context_file_path",
            ),
        }.items()
        for name in names
    },
}  # fmt: skip

_PRECISIONS = {"FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "BF16": {"trt_bf16_enable": "1"}, "INT8": {"trt_int8_enable": "1"}}  # fmt: skip

_OPENVINO_OPTIONS: Mapping[str, Callable[[str, str], str]] = {
    "precision": words,
    "num_of_threads": lambda name, text: str(threads(name, text)),
    "num_streams": lambda name, text: str(threads(name, text)),
    "cache_dir": words,
}

_FILE_OPTIONS = frozenset(
    (
        "int8_calibration_table_name", "int8_use_native_calibration_table", "trt_engine_cache_enable",
        "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_timing_cache_enable", "trt_timing_cache_path",
        "trt_extra_plugin_lib_paths", "trt_ep_context_file_path", "trt_dump_subgraphs", "trt_dump_ep_context_model",
        "cache_dir",
    )
)  # fmt: skip
"""Options with which a provider reads files, writes them, or loads them as a part of the process.

A cache that is turned on needs no path for that: without one, it lies in the folder that the server was started in.
"""

_GPU = "optimization.execution_accelerators.gpu_execution_accelerator"
_CPU = "optimization.execution_accelerators.cpu_execution_accelerator"


def _for_gpu(
    wanted: Iterable[model_config_pb2.ModelOptimizationPolicy.ExecutionAccelerators.Accelerator],
) -> tuple[tuple[Accelerator, ...], dict[str, str], list[str]]:
    chosen: list[Accelerator] = []
    cuda: dict[str, str] = {}
    unknown: list[str] = []
    for entry in wanted:
        path = f"{_GPU}.{entry.name}"
        options: dict[str, str] = {}
        for name, value in sorted(entry.parameters.items()):
            if entry.name == "tensorrt" and name == "precision_mode":
                if value not in _PRECISIONS:
                    raise LoadError(f"config.pbtxt sets {path}.{name} '{value}'; it must be {', '.join(_PRECISIONS)}")
                options |= _PRECISIONS[value]
            elif entry.name == "tensorrt" and name in _TENSORRT_OPTIONS:
                option, read = _TENSORRT_OPTIONS[name]
                options[option] = read(f"{path}.{name}", value)
            elif entry.name == "cuda" and name in _CUDA_OPTIONS:
                cuda[name] = _CUDA_OPTIONS[name](f"{path}.{name}", value)
            elif entry.name in ("tensorrt", "cuda"):
                unknown.append(f"{path}.{name}")
        if entry.name == "tensorrt":
            chosen.append(Accelerator(entry.name, TENSORRT, options))
        elif entry.name != "cuda":
            unknown.append(path)
    return tuple(chosen), cuda, unknown


def _for_cpu(
    wanted: Iterable[model_config_pb2.ModelOptimizationPolicy.ExecutionAccelerators.Accelerator],
) -> tuple[tuple[Accelerator, ...], list[str]]:
    chosen: list[Accelerator] = []
    unknown: list[str] = []
    for entry in wanted:
        path = f"{_CPU}.{entry.name}"
        if entry.name != "openvino":
            unknown.append(path)
            continue
        options = {"device_type": "CPU"}
        for name, value in sorted(entry.parameters.items()):
            if name in _OPENVINO_OPTIONS:
                options[name] = _OPENVINO_OPTIONS[name](f"{path}.{name}", value)
            else:
                unknown.append(f"{path}.{name}")
        chosen.append(Accelerator(entry.name, OPENVINO, options))
    return tuple(chosen), unknown
