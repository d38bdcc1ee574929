"""The GPU benchmark where there is no GPU: its network, its questions, its tables, and that it says so."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from rich.console import Console

from bench import gpu
from bench.gpu import Study
from bench.load import gpu_workload, networks
from bench.load.gpu_workload import LENGTHS, Classes, Images
from bench.load.workload import WrongAnswer
from bench.measure import gpu_baselines
from bench.measure.gpu_baselines import Floors, Memory
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
    images = Images(model)
    asked = images.classes("fp32", 2, count=3)
    request = pb.ModelInferRequest.FromString(asked.messages[1])
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == ("UINT8", [2, 3, 64, 64])
    sent = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(2, 3, 64, 64).astype(np.float32)
    asked.check(1, answered(logits(model, sent).argmax(axis=1)))


def test_a_network_given_bytes_answers_as_it_does_given_numbers() -> None:
    x = images(2)
    bytes_in = ort.InferenceSession(
        gpu_workload.of_bytes(small()).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(bytes_in.run(["logits"], {"input": x})[0], logits(small(), x.astype(np.float32)))


def test_texts_of_every_length_are_compared_with_what_single_precision_answers() -> None:
    session = ort.InferenceSession(
        networks.bert(layers=1, width=16, heads=2, vocabulary=50).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    asked = gpu_workload.texts("bert", session, 7, 50, count=2)
    request = pb.ModelInferRequest.FromString(asked.messages[1])
    assert [(tensor.name, list(tensor.shape)) for tensor in request.inputs] == [
        ("input_ids", [1, 7]),
        ("attention_mask", [1, 7]),
    ]

    def answer(numbers: Any, name: str = "logits") -> bytes:
        raw = np.asarray(numbers, "<f4").tobytes()
        return pb.ModelInferResponse(outputs=[{"name": name}], raw_output_contents=[raw]).SerializeToString()

    asked.check(1, answer(asked.logits[1] + 0.01))
    with pytest.raises(WrongAnswer, match=r"logits differ by 0\.2"):
        asked.check(1, answer(asked.logits[1] + 0.2))
    with pytest.raises(WrongAnswer, match="expected logits"):
        asked.check(1, answer(asked.logits[1], "softmax"))


def test_padding_that_is_masked_does_not_change_a_texts_answer() -> None:
    model = networks.bert(layers=2, width=16, heads=2, vocabulary=50)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens, mask = np.random.default_rng(0).integers(0, 50, (3, 5)), np.ones((3, 5), np.int64)
    alone = session.run(["logits"], {"input_ids": tokens, "attention_mask": mask})[0]
    padded = {"input_ids": np.pad(tokens, ((0, 0), (0, 4))), "attention_mask": np.pad(mask, ((0, 0), (0, 4)))}
    np.testing.assert_allclose(session.run(["logits"], padded)[0], alone, atol=1e-6)


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


@pytest.mark.parametrize("graphs", [True, False])
def test_the_servers_configuration_is_one_it_understands(graphs: bool) -> None:
    config = text_format.Parse(gpu.config(graphs=graphs, instances=2), ModelConfig())
    wanted, warnings = accelerators_of(config)
    assert (wanted.cuda, warnings) == ({"enable_cuda_graph": str(int(graphs))}, [])
    assert config.instance_group[0].count == 2


def test_a_timed_call_is_counted_in_rows() -> None:
    calls = list[int]()
    sample = gpu_baselines.timed(lambda: calls.append(1), 4, 0.0)
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
    assert gpu_baselines.gpu_name(Nvml()) == "NVIDIA Example 80GB (81,920 MiB, driver 1.2)"


def test_used_memory_is_read_while_something_is_done() -> None:
    memory = Memory()
    memory.PERIOD_S = 0.0
    with gpu_baselines.watched(Nvml(), memory):
        while not memory.mib:
            pass
    assert set(memory.mib) == {2048.0}


class Loaded(Study):
    """Loads that are made up, so that the tables are known."""

    def load(self, lab: Any, target: Any, asked: Any, in_flight: int, rows: int) -> Any:
        self.asked = asked
        memory = Memory([1.0, 3.0, 2.0]).sample()
        return {"rate": 90.0, "p50_ms": 2.0, "p99_ms": 4.0, "cpu_ms": 0.5, "memory_mib": 9.0} | memory

    def serve(self, *arguments: Any, **options: Any) -> Any:
        return None


class KnownFloors(Floors):
    def timed(self, once: Any, rows: int) -> Any:
        once()
        return {"rate": 100.0, "p50_ms": 1.6, "p99_ms": 1.7}


@pytest.fixture
def study() -> Study:
    return Loaded(KnownFloors("cpu", 0.0), 0.0, None, side=32, width=8, layers=1)


def test_batches_are_told_with_their_floors_and_what_falls_short(study: Study) -> None:
    (row,) = gpu.batches(study, (2,)).rows
    assert row == ("2", "90", "2.00 / 4.00", "100", "100", "0.90 (short of 0.95)", "0.90", "1 -> 3 -> 2")


def test_callers_of_one_row_are_compared_with_full_batches(study: Study) -> None:
    first, second = gpu.callers(study, 4, 16).rows
    assert first == ("1", "90", "2.00 / 4.00", "100", "1.60", "0.90", "2.50", "500")
    assert second[0] == "2"


def test_graphs_are_told_by_how_much_faster_they_are(study: Study) -> None:
    (row,) = gpu.graphs(study, (1,)).rows
    assert row == ("1", "2.00", "2.00", "1.00 (short of 1.3)", "1.60", "1.60", "1.00")


def test_texts_of_several_lengths_are_told_by_the_time_that_onnx_runtime_would_take_for_them(study: Study) -> None:
    rows = gpu.lengths(study, 2).rows
    assert len(rows) == 2 * (len(LENGTHS) + 1)
    assert rows[0] == ("1, 16 tokens", "90", "2.00 / 4.00", "100", "")
    assert rows[4] == ("1, together", "360", "", "", "3.60")


def test_two_models_are_told_by_their_sum(study: Study) -> None:
    first, _ = gpu.together(study, 2).rows
    assert first == ("1", "90", "90 + 90", "2.00", "1 -> 3 -> 2")


def test_a_section_that_fails_leaves_the_others_alone(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(study: Study) -> Any:
        raise WrongAnswer("none at all")

    monkeypatch.setattr(gpu, "SECTIONS", {"first": fails, "second": lambda study: gpu.batches(study, (1,))})
    console, record = Console(width=160), tmp_path / "record.jsonl"
    assert [gpu.shown(name, study, console, record) for name in gpu.SECTIONS] == [False, True]
    said = capsys.readouterr().out
    assert "first failed" in said
    assert "WrongAnswer: none at all" in said
    assert [json.loads(line)["section"] for line in record.read_text().splitlines()] == ["second"]


def test_a_section_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["batchs"])
    assert ended.value.code == 2
    assert "there is no section batchs; there are batches, callers" in capsys.readouterr().err


# Where there is none


def test_without_a_gpu_it_says_so_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.measure.gpu_baselines.cuda_devices", lambda: 0)
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "nothing was measured: no CUDA device was found\n"


def test_without_cuda_in_onnx_runtime_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert gpu_baselines.obstacle().endswith("install onnxruntime-gpu")


def test_without_the_drivers_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("bench.measure.gpu_baselines.cuda_devices", lambda: 1)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpu_baselines.obstacle() == "nvidia-ml-py is missing; install the extra `cuda`"
