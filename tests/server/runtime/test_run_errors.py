"""Which failures of a run are the request's and which the server's, and how ONNX Runtime's words reach a client."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from frostline_server.errors import InvalidData, OutOfMemory, RunFailed
from frostline_server.runtime.run_errors import MAX_MESSAGE, cleaned, run_error
from tests.support import bad_data
from tests.support.bad_data import BAD

Array = np.ndarray[Any, Any]

DATA = "the network does not take this data: "


def failure_of(operator: str, inputs: dict[str, Array]) -> Exception:
    """What ONNX Runtime raises for a network of one operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    model = bad_data.network(operator).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Non-zero status code") as caught:
        session.run(None, inputs)
    return caught.value


@pytest.mark.parametrize("operator", BAD)
def test_what_the_data_causes_is_the_requests_in_words_without_source_code(operator: str) -> None:
    error = run_error(failure_of(operator, BAD[operator].inputs), "cpu")
    assert type(error) is InvalidData
    assert str(error) == f"{DATA}{operator} node 'the {operator}': {BAD[operator].words}"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_memory_that_cannot_be_had_is_neither_bad_data_nor_a_broken_device(device: str) -> None:
    error = run_error(failure_of("ConstantOfShape", {"i": np.array([2**50])}), device)
    assert type(error) is OutOfMemory
    assert str(error) == (
        "the network ran out of memory: ConstantOfShape node 'the ConstantOfShape': Failed to allocate memory for requested "
        "buffer of size 4503599627370496; send fewer rows or smaller tensors in one request"
    )
    for words in (
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ):
        assert type(run_error(RuntimeError(node(words)), device)) is OutOfMemory
    assert type(run_error(MemoryError(), device)) is OutOfMemory


def node(words: str, name: str = "", status: str = "1 : FAIL") -> str:
    """A failure as ONNX Runtime words it."""
    return (
        f"[ONNXRuntimeError] : {status} : Non-zero status code returned while running Gemm node. Name:'{name}' "
        f"Status Message: {words}"
    )


CALL = "GPU=0 ; hostname=box-7 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc ; line=129"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            f"CUDA failure 700: an illegal memory access was encountered ; {CALL} ; expr=cudaStreamSynchronize(stream)",
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize(stream)",
        ),
        (f"CUBLAS failure 13: the GPU program failed to execute ; {CALL}", "CUBLAS failure 13: the GPU program failed to execute ; GPU=0"),
        ("CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED", "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED"),
        ("CUDA error executing cudaMemcpyAsync", "CUDA error executing cudaMemcpyAsync"),
    ],
)  # fmt: skip
def test_what_cuda_says_is_the_devices_failure_without_the_machines_name(words: str, shown: str) -> None:
    error = run_error(RuntimeError(node(words)), "cuda:1")
    assert type(error) is RunFailed
    assert str(error) == f"the network failed: Gemm node: {shown}"


def test_on_a_cuda_device_an_operators_own_refusal_is_the_requests() -> None:
    # As a run from bound buffers raises it, without a status.
    words = (
        "Error in execution: Non-zero status code returned while running Gather node. Name:'' Status Message: too far"
    )
    error = run_error(RuntimeError(words), "cuda:0")
    assert type(error) is InvalidData
    assert str(error) == f"{DATA}Gather node: too far"


def test_names_in_the_graph_blame_nobody() -> None:
    for name in ("CUDA error", "out of memory", "/src/cuda_failure.cc:12 f()"):
        error = run_error(RuntimeError(node("too far", name)), "cuda:0")
        assert type(error) is InvalidData
    assert (
        str(run_error(RuntimeError(node("too far", "CUDA error")), "cuda:0"))
        == f"{DATA}Gemm node 'CUDA error': too far"
    )


@pytest.mark.parametrize("status", ["9 : NOT_IMPLEMENTED", "6 : EP_FAIL", "5 : ENGINE_ERROR"])
def test_what_cannot_run_here_is_the_servers_failure(status: str) -> None:
    assert type(run_error(RuntimeError(node("no such kernel", status=status)), "cpu")) is RunFailed


@pytest.mark.parametrize(
    "error", [ValueError("Required inputs (['x']) are missing from input feed ([])."), OSError("gone")]
)
def test_what_no_operator_said_is_the_servers_failure(error: Exception) -> None:
    failure = run_error(error, "cpu")
    assert type(failure) is RunFailed
    assert str(failure) == f"the network failed: {error}"


PATH = "/onnxruntime_src/onnxruntime/core/"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("\x1b[1;31mred\x1b[0m and\nmore\t lines", "red and more lines"),
        (f"{PATH}a.cc:87 virtual OrtValue* ort::C::Out(int, const ort::Shape&) const [with T = float; U = char [3]] said", "said"),
        (f"{PATH}a.h:1 ort::F::F(const std::function<void(int)>&)::<lambda()> x > (y) was false. It must", "It must"),
        (f"{PATH}a.h:1 void ort::f() noexcept re_.ok() was false.", "re_.ok() was false."),
        ("matmul.cc:59 Compute MatMul mismatch", "MatMul mismatch"),
        ("ops.cc:2256 operator() Integer modulo", "Integer modulo"),
        (r"D:\a\_work\1\s\core\a.cc:12 ort::f(int) said", "said"),
        ("'/encoder/layers.0/Gather' of model.onnx: 3:4", "'/encoder/layers.0/Gather' of model.onnx: 3:4"),
        ("it said\nStacktrace:\n 0 main\n", "it said"),
        ("", ""),
    ],
)  # fmt: skip
def test_words_are_kept_and_source_code_is_not(raw: str, words: str) -> None:
    assert cleaned(raw) == words


def test_words_are_cut_to_a_size_that_a_header_holds() -> None:
    assert cleaned("x" * 100_000) == "x" * MAX_MESSAGE + "..."
    assert len(str(run_error(RuntimeError(node("y" * 100_000)), "cpu"))) < MAX_MESSAGE + 100
