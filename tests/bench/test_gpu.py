"""The GPU benchmark where there is no GPU: its network, its questions, its tables, and that it says so."""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from bench import gpu
from bench.gpu import Case, Classes, Memory
from bench.load import networks
from bench.load.workload import WrongAnswer
from frostline.pb import inference_pb2 as pb
from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.model_config.accelerators import accelerators_of


def small(*, half: bool = False) -> onnx.ModelProto:
    return networks.resnet50(half=half, size=64, width=8, classes=10)


def logits(model: onnx.ModelProto, x: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x})[0]


def images(rows: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (rows, 3, 64, 64)).astype(np.uint8)


def test_the_network_has_the_shape_of_a_resnet_50() -> None:
    model = networks.resnet50()
    kernels = [node for node in model.graph.node if node.op_type == "Conv"]
    # 49 in the trunk and 4 beside it.
    assert len(kernels) == 53
    numbers = sum(math.prod(weight.dims) for weight in model.graph.initializer)
    assert numbers == pytest.approx(25.5e6, rel=0.01)


def test_the_network_runs_in_both_precisions_and_they_agree() -> None:
    x = images(3).astype(np.float32)
    full, half = logits(small(), x), logits(small(half=True), x)
    assert full.shape == half.shape == (3, 10)
    assert full.dtype == half.dtype == np.float32
    assert np.isfinite(half).all()
    assert np.abs(full - half).max() < 0.05 * np.ptp(full)


# Questions


def answered(classes: Any, name: str = "argmax") -> bytes:
    return pb.ModelInferResponse(
        outputs=[{"name": name}], raw_output_contents=[np.asarray(classes, "<i8").tobytes()]
    ).SerializeToString()


def test_the_networks_own_classes_are_right_answers() -> None:
    model = small()
    asked = gpu.classes_of("fp32", model, 2, count=3)
    request = pb.ModelInferRequest.FromString(asked.messages[1])
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == ("UINT8", [2, 3, 64, 64])
    sent = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(2, 3, 64, 64).astype(np.float32)
    asked.check(1, answered(logits(model, sent).argmax(axis=1)))


def test_a_class_as_good_within_the_precision_is_a_right_answer() -> None:
    Classes((b"",), np.array([[[0.0, 1.0, 0.99]]])).check(0, answered([2]))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (answered([0]), "classes are not the best ones: 1 behind"),
        (answered([3]), "there are no such classes"),
        (answered([1, 1]), "expected argmax"),
        (answered([1], "logits"), "expected argmax"),
        (b"\xff", "is no response"),
    ],
)
def test_other_answers_are_wrong(message: bytes, why: str) -> None:
    with pytest.raises(WrongAnswer, match=why):
        Classes((b"",), np.array([[[0.0, 1.0, 0.5]]])).check(0, message)


# What is measured


def test_every_precision_is_measured_with_and_without_graphs_at_every_size() -> None:
    made = gpu.cases(["fp32", "fp16"], [1, 64])
    assert len({case.name for case in made}) == len(made) == 8
    assert made[0].name == "fp32, graphs, batch 1"


@pytest.mark.parametrize(
    ("batch", "request_rows", "shape"), [(64, 0, (64, 8)), (64, 1, (1, 512)), (8, 16, (8, 8)), (1, 0, (1, 8))]
)
def test_as_many_rows_are_in_flight_however_they_are_sent(
    batch: int, request_rows: int, shape: tuple[int, int]
) -> None:
    assert gpu.shaped(batch, request_rows, 8) == shape


@pytest.mark.parametrize("graphs", [True, False])
def test_the_servers_configuration_is_one_it_understands(graphs: bool) -> None:
    config = text_format.Parse(gpu.config(graphs=graphs, instances=2), ModelConfig())
    wanted, warnings = accelerators_of(config)
    assert (wanted.cuda, warnings) == ({"enable_cuda_graph": str(int(graphs))}, [])
    assert config.instance_group[0].count == 2


def test_a_timed_call_is_counted_in_rows() -> None:
    calls = list[int]()
    sample = gpu.timed(lambda: calls.append(1), 4, 0.0)
    assert len(calls) == 1
    assert sample["rate"] > 0
    assert sample["p50_ms"] == sample["p99_ms"]


def test_memory_is_told_by_its_first_largest_and_last_reading() -> None:
    assert Memory([3.0, 9.0, 4.0]).sample() == {"gpu_first_mib": 3.0, "gpu_most_mib": 9.0, "gpu_last_mib": 4.0}
    assert math.isnan(Memory().sample()["gpu_last_mib"])


class Nvml:
    """NVIDIA's library with one GPU of 80 GiB."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        self.total, self.used = 80 << 30, 2 << 30
        return self

    def nvmlDeviceGetName(self, gpu: int) -> bytes:
        return b"NVIDIA Example 80GB"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "1.2"


def test_the_gpu_is_told_by_its_exact_name() -> None:
    assert gpu.gpu_name(Nvml()) == "NVIDIA Example 80GB (81,920 MiB, driver 1.2)"


def test_used_memory_is_read_while_something_is_done() -> None:
    memory = Memory()
    memory.PERIOD_S = 0.0
    with gpu.watched(Nvml(), memory):
        while not memory.mib:
            pass
    assert set(memory.mib) == {2048.0}


def test_the_table_has_the_ratios_of_each_round_and_says_what_falls_short() -> None:
    case = Case("fp16", graphs=True, batch=8)
    served = {"rate": [90.0, 100.0, 80.0], "p99_ms": [2.0, 3.0, 4.0]}
    served |= {f"gpu_{when}_mib": [float(number)] * 3 for number, when in enumerate(("first", "most", "last"))}
    results = {
        case.name: served,
        f"{case.name} copying": {"rate": [100.0, 100.0, 100.0]},
        f"{case.name} resident": {"rate": [180.0, 200.0, 200.0]},
    }
    assert gpu.ratios(results, case) == (0.9, 0.5)
    (row,) = gpu.table(results, [case], "GPU").rows
    assert row == ("fp16, graphs, batch 8", "90", "3.00", "100", "200", "0.90", "0.50", "0 -> 1 -> 2")
    results[f"{case.name} copying"] = {"rate": [200.0] * 3}
    (row,) = gpu.table(results, [case], "GPU").rows
    assert row[5] == "0.45 (short)"


# Where there is none


def test_without_a_gpu_it_says_so_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.gpu.cuda_devices", lambda: 0)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "nothing was measured: no CUDA device was found\n"


def test_without_cuda_in_onnx_runtime_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert gpu.obstacle().endswith("install onnxruntime-gpu")


def test_without_the_drivers_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("bench.gpu.cuda_devices", lambda: 1)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpu.obstacle() == "nvidia-ml-py is missing; install the extra `cuda`"
