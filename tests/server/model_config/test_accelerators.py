"""Which execution providers a model's configuration asks for; decided without any of them."""

import pytest
from google.protobuf import text_format

from frostline.pb.model_config_pb2 import ModelConfig, ModelParameter
from frostline_server.errors import LoadError
from frostline_server.model_config.accelerators import (
    OPENVINO,
    TENSORRT,
    Accelerator,
    Accelerators,
    accelerators_of,
    file_options,
    providers_for,
)
from frostline_server.runtime.devices import CPU, CUDA, Provider

GPU: list[Provider] = [(CUDA, {"device_id": "1", "arena_extend_strategy": "kSameAsRequested"}), (CPU, {})]
ONLY_CPU: list[Provider] = [(CPU, {})]
ALL = (TENSORRT, CUDA, OPENVINO, CPU)
PATH = "optimization.execution_accelerators"


def gpu(name: str, **parameters: str) -> ModelConfig:
    config = ModelConfig()
    config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=name, parameters=parameters)
    return config


def cpu(name: str, **parameters: str) -> ModelConfig:
    config = ModelConfig()
    config.optimization.execution_accelerators.cpu_execution_accelerator.add(name=name, parameters=parameters)
    return config


def parameters(**given: str) -> ModelConfig:
    return ModelConfig(parameters={name: ModelParameter(string_value=value) for name, value in given.items()})


def test_a_model_that_asks_for_none_gets_the_devices_own() -> None:
    wanted, warnings = accelerators_of(ModelConfig())
    assert (wanted, warnings) == (Accelerators(), [])
    for own in (GPU, ONLY_CPU):
        assert providers_for(wanted, own, ALL) == (own, [])


def test_tritons_own_example_for_tensorrt_is_understood() -> None:
    config = text_format.Parse(
        """
        optimization { execution_accelerators { gpu_execution_accelerator : [ {
          name : "tensorrt"
          parameters { key: "precision_mode" value: "FP16" }
          parameters { key: "max_workspace_size_bytes" value: "1073741824" }
          parameters { key: "trt_engine_cache_enable" value: "true" }
        } ] } }
        """,
        ModelConfig(),
    )
    wanted, warnings = accelerators_of(config)
    options = {"trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824", "trt_engine_cache_enable": "1"}
    assert (wanted.gpu, warnings) == ((Accelerator("tensorrt", TENSORRT, options),), [])
    assert providers_for(wanted, GPU, ALL) == ([(TENSORRT, {**options, "device_id": "1"}), *GPU], [])


@pytest.mark.parametrize(
    ("mode", "options"),
    [("FP32", {}), ("FP16", {"trt_fp16_enable": "1"}), ("BF16", {"trt_bf16_enable": "1"}), ("INT8", {"trt_int8_enable": "1"})],
)  # fmt: skip
def test_a_precision_is_one_of_tensorrts_options(mode: str, options: dict[str, str]) -> None:
    wanted, _ = accelerators_of(gpu("tensorrt", precision_mode=mode))
    assert wanted.gpu[0].options == options


def test_openvino_goes_before_the_cpu_and_behind_the_gpu() -> None:
    wanted, warnings = accelerators_of(cpu("openvino", num_of_threads="2"))
    openvino = (OPENVINO, {"device_type": "CPU", "num_of_threads": "2"})
    assert warnings == []
    assert providers_for(wanted, ONLY_CPU, ALL) == ([openvino, *ONLY_CPU], [])
    assert providers_for(wanted, GPU, ALL) == ([GPU[0], openvino, GPU[1]], [])


@pytest.mark.parametrize(
    ("config", "own", "missing"),
    [
        (gpu("tensorrt"), GPU, "tensorrt needs an ONNX Runtime built with TensorrtExecutionProvider"),
        (cpu("openvino"), ONLY_CPU, "openvino needs an ONNX Runtime built with OpenVINOExecutionProvider"),
        (gpu("tensorrt"), ONLY_CPU, "tensorrt needs a GPU"),
        (parameters(gpu_mem_limit="1000"), ONLY_CPU, "gpu_mem_limit need a GPU"),
        (gpu("cuda", use_tf32="0", prefer_nhwc="1"), ONLY_CPU, "prefer_nhwc, use_tf32 need a GPU"),
    ],
)
def test_what_cannot_be_had_is_named_and_the_rest_is_used(
    config: ModelConfig, own: list[Provider], missing: str
) -> None:
    wanted, _ = accelerators_of(config)
    assert providers_for(wanted, own, (CUDA, CPU)) == (
        own, [f"config.pbtxt asks for execution providers that are not available: {missing}"],
    )  # fmt: skip


def test_settings_of_cuda_are_given_to_it_in_either_spelling() -> None:
    numbered = parameters(
        cudnn_conv_algo_search="1", gpu_mem_limit="1000", arena_extend_strategy="0", do_copy_in_default_stream="1"
    )
    wanted, warnings = accelerators_of(numbered)
    (name, options), _ = providers_for(wanted, GPU, ALL)[0]
    assert (name, warnings) == (CUDA, [])
    assert options == {
        "device_id": "1", "cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": "1000",
        "arena_extend_strategy": "kNextPowerOfTwo", "do_copy_in_default_stream": "1",
    }  # fmt: skip
    named, warnings = accelerators_of(gpu("cuda", cudnn_conv_algo_search="DEFAULT", use_tf32="false", sdpa_kernel="2"))
    assert (named.cuda, warnings) == ({"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0", "sdpa_kernel": "2"}, [])


@pytest.mark.parametrize("name", ["use_tf32", "enable_cuda_graph"])
def test_a_model_chooses_its_precision_and_its_graphs_in_either_spelling(name: str) -> None:
    for config in (parameters(**{name: "true"}), gpu("cuda", **{name: "1"})):
        wanted, warnings = accelerators_of(config)
        assert (wanted.cuda, warnings) == ({name: "1"}, [])
        (_, options), _ = providers_for(wanted, [(CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})], ALL)[0]
        assert options[name] == "1"


def test_the_newer_spelling_of_a_setting_of_cuda_wins() -> None:
    config = gpu("cuda", gpu_mem_limit="2000")
    config.parameters["gpu_mem_limit"].string_value = "1000"
    assert accelerators_of(config)[0].cuda == {"gpu_mem_limit": "2000"}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (gpu("tensorrt", trt_cuda_graph_enable="1"), "gpu_execution_accelerator.tensorrt.trt_cuda_graph_enable"),
        (gpu("cuda", device_id="3"), "gpu_execution_accelerator.cuda.device_id"),
        (gpu("gpu_io"), "gpu_execution_accelerator.gpu_io"),
        (cpu("xnnpack"), "cpu_execution_accelerator.xnnpack"),
        (cpu("openvino", colour="red"), "cpu_execution_accelerator.openvino.colour"),
    ],
)
def test_what_is_not_known_is_named(config: ModelConfig, name: str) -> None:
    _, warnings = accelerators_of(config)
    assert warnings == [f"config.pbtxt has options that this server does not support: {PATH}.{name}"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (gpu("tensorrt", precision_mode="FP8"), f"{PATH}.gpu_execution_accelerator.tensorrt.precision_mode 'FP8'; it must be FP32, FP16, BF16, INT8"),
        (gpu("tensorrt", max_workspace_size_bytes="1GB"), f"{PATH}.gpu_execution_accelerator.tensorrt.max_workspace_size_bytes '1GB'; it must be a number of bytes"),
        (gpu("tensorrt", trt_dla_core="x"), f"{PATH}.gpu_execution_accelerator.tensorrt.trt_dla_core 'x'; it must be a whole number"),
        (gpu("tensorrt", trt_dla_enable="x"), f"{PATH}.gpu_execution_accelerator.tensorrt.trt_dla_enable 'x'; it must be 0 or 1"),
        (gpu("tensorrt", trt_engine_cache_path=""), f"{PATH}.gpu_execution_accelerator.tensorrt.trt_engine_cache_path to an empty value; remove it or give it a value"),
        (parameters(cudnn_conv_algo_search="3"), "parameters.cudnn_conv_algo_search '3'; it must be 0 (EXHAUSTIVE), 1 (HEURISTIC), 2 (DEFAULT)"),
        (cpu("openvino", num_of_threads="1025"), f"{PATH}.cpu_execution_accelerator.openvino.num_of_threads '1025'; it must be a whole number from 0 to 1024"),
        (parameters(gpu_mem_limit="-1"), "parameters.gpu_mem_limit '-1'; it must be a number of bytes"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_with_what_would(config: ModelConfig, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        accelerators_of(config)
    assert str(caught.value) == f"config.pbtxt sets {message}"


def test_options_that_make_a_provider_touch_files_are_known() -> None:
    config = gpu("tensorrt", trt_engine_cache_path="/a", trt_dump_subgraphs="1", precision_mode="FP16")
    config.MergeFrom(cpu("openvino", cache_dir="/b", num_streams="1"))
    assert file_options(config) == ["cache_dir", "trt_dump_subgraphs", "trt_engine_cache_path"]


@pytest.mark.parametrize(
    "name", ["trt_engine_cache_enable", "trt_timing_cache_enable", "int8_use_native_calibration_table"]
)
def test_what_touches_files_without_naming_one_is_known_too(name: str) -> None:
    config = gpu("tensorrt", **{name: "1"})
    assert accelerators_of(config)[1] == []
    assert file_options(config) == [name]


def test_accelerators_are_few() -> None:
    config = ModelConfig()
    for _ in range(9):
        config.MergeFrom(gpu("cuda"))
    with pytest.raises(LoadError, match="has 9 execution accelerators of one kind; at most 8 are possible"):
        accelerators_of(config)
