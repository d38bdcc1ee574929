"""Every kind of network on a real GPU: really bound there, proved in every bucket, and answering as PyTorch does."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import frostline
from bench.load import networks
from frostline import server_process
from frostline_server.runtime.devices import load_cuda_libraries
from frostline_training.publishing.variants import make
from tests.support import onnx_models
from tests.support.families import Family, Question, publish_families, questions

Array = np.ndarray[Any, Any]
Serving = Callable[..., AbstractContextManager[Any]]

FOREIGN = "resnet"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("on-gpu")


@pytest.fixture(scope="module")
def families(models: Path) -> dict[str, Family]:
    """Networks of every family, the digits in half precision and in 8 bits too, and a graph without an artifact."""
    built = publish_families(models)
    for precision in ("fp16", "int8"):
        # An untrained network guesses; how well is not what is asked here.
        make(built["digits"].published, precision, built["digits"].split, bound=100)
    networks.publish(models, {FOREIGN: networks.resnet50(size=64, width=8, classes=10)})
    return built


@pytest.fixture(scope="module")
def server(models: Path, families: dict[str, Family], on_gpu: Serving) -> Any:
    with on_gpu(models, "--log-level", "info") as running:
        yield running


def test_every_family_answers_as_pytorch_at_any_batch_and_length(server: Any, families: dict[str, Family]) -> None:
    asked = questions(families) * 3
    with frostline.connect(server.address, timeout_s=120) as client, ThreadPoolExecutor(32) as pool:

        def ask(question: Question) -> Any:
            inputs = question.inputs if len(question.inputs) > 1 else question.inputs["input"]
            return client.predict(question.model, inputs, outputs=["logits"])

        answers = list(pool.map(ask, asked))
    for question, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer.logits, question.logits, rtol=1e-4, atol=1e-4, err_msg=question.model)


def test_every_version_is_really_bound_to_cuda(server: Any, families: dict[str, Family]) -> None:
    for name in (*families, "digits-fp16", "digits-int8", FOREIGN):
        (labels,) = server.metric("frostline_model_info", name)
        assert 'provider="CUDAExecutionProvider"' in labels


def test_every_line_of_the_log_is_an_event(server: Any) -> None:
    assert [event for event in server.events if "level" not in event] == []


@pytest.mark.parametrize("name", ["digits", "digits-mlp", "digits-fp16", FOREIGN])
def test_networks_of_fixed_rows_run_from_captured_graphs(server: Any, name: str) -> None:
    assert sum(server.metric("frostline_model_cuda_graphs", name).values()) > 0, server.warnings


@pytest.mark.parametrize("name", ["digits-fp16", "digits-int8"])
def test_variants_answer_within_their_cards_tolerance(server: Any, models: Path, name: str) -> None:
    with np.load(models / name / "1" / "golden.npz") as golden, frostline.connect(server.address) as client:
        answer = client.predict(name, golden["input"], outputs=["logits"]).logits
        assert (np.abs(answer - golden["logits"]) <= golden["atol"] + golden["rtol"] * np.abs(golden["logits"])).all()


def test_a_graph_without_an_artifact_answers_as_the_cpu_does_for_numbers_and_for_bytes(server: Any) -> None:
    model = networks.resnet50(size=64, width=8, classes=10)
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(3).integers(0, 256, (37, 3, 64, 64)).astype(np.uint8)
    (logits,) = reference.run(["logits"], {"input": pixels.astype(np.float32)})
    with frostline.connect(server.address) as client:
        for rows in (1, 2, 3, 5, 8, 13, 37):
            for wire in (pixels[:rows], pixels[:rows].astype(np.float32)):
                answer = client.predict(FOREIGN, wire, outputs=["logits", "softmax", "argmax"])
                np.testing.assert_allclose(answer.logits, logits[:rows], rtol=1e-3, atol=1e-3 * np.ptp(logits))
                np.testing.assert_array_equal(answer.argmax, answer.logits.argmax(axis=1))


# Which device


def refused(*flags: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "frostline", "serve", "--port", "0", "--metrics-port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stderr


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    code, said = refused("--models", str(tmp_path), "--device", "cuda:7")
    assert code == 2
    assert "device cuda:7 was requested, but 1 CUDA devices were found" in said


def test_a_hidden_gpu_is_refused_when_demanded(tmp_path: Path) -> None:
    code, said = refused("--models", str(tmp_path), "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert code == 2
    assert "no CUDA device was found" in said


def test_a_hidden_gpu_is_fallen_back_from_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: Serving
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    onnx_models.write_artifact(tmp_path, "linear")
    with on_gpu(tmp_path, "--device", "auto") as running:
        assert "frostline_device_fallback 1.0" in running.metrics()
        (labels,) = running.metric("frostline_model_info", "linear")
        assert 'provider="CPUExecutionProvider"' in labels


# Memory


def serves_only(client: frostline.Client, version: str) -> bool:
    return [model.version for model in client.models() if model.ready] == [version]


def proved_version(folder: Path, model: onnx.ModelProto, pixels: Array) -> Path:
    """A version that is taken over at once, because it has a card and a golden sample; the CPU's answers are its truth."""
    folder.mkdir()
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    rows = pixels.astype(np.float32)
    (logits,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        ["logits"], {"input": rows}
    )
    np.savez(
        folder / "golden.npz", input=rows, logits=logits, rtol=np.array(1e-3), atol=np.array(1e-3 * np.ptp(logits))
    )
    (folder / "card.json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))
    return folder


def test_device_memory_does_not_grow_with_requests_nor_with_swaps(
    tmp_path: Path, on_gpu: Serving, used_mib: Callable[[], float]
) -> None:
    model = networks.resnet50(size=64, width=8, classes=10)
    networks.publish(tmp_path, {FOREIGN: model})
    pixels = np.random.default_rng(3).integers(0, 256, (40, 3, 64, 64)).astype(np.uint8)
    readings = {"before": used_mib()}
    with (
        on_gpu(tmp_path, "--poll-s", "0.2") as running,
        frostline.connect(running.address) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        readings["ready"] = used_mib()
        for number in range(1000):
            pool.submit(client.predict, FOREIGN, pixels[: 1 + number % 40], outputs=["argmax"])
        pool.shutdown()
        readings["1000 requests"] = used_mib()
        for version in range(2, 22):
            proved_version(tmp_path / "staged", model, pixels[:8]).rename(tmp_path / FOREIGN / str(version))
            running.wait_for(partial(serves_only, client, str(version)))
            client.predict(FOREIGN, pixels, outputs=["argmax"])
            readings[f"version {version}"] = used_mib()
        shutil.rmtree(tmp_path / FOREIGN)
        running.wait_for(lambda: not any(model.ready for model in client.models()))
        readings["unloaded"] = used_mib()
    readings["after"] = used_mib()
    assert readings["1000 requests"] <= readings["ready"] + 16, readings
    assert readings["version 21"] <= readings["version 7"] + 16, readings
    assert readings["unloaded"] <= readings["ready"], readings
    assert readings["after"] <= readings["before"] + 16, readings


# A device that dies


def breaking() -> onnx.ModelProto:
    """Input `input` [rows, 1], how many of 16 numbers to turn round, to logits [rows, 16].

    ONNX Runtime's kernel believes what it is told: a large number makes it read memory that is nobody's.
    """
    constants = [
        numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(1, 16), "numbers"),
        numpy_helper.from_array(np.array([1]), "last"),
    ]
    nodes = [
        helper.make_node("Sub", ["input", "input"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["zeros"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["zeros", "numbers"], ["rows"]),
        helper.make_node("Squeeze", ["input", "last"], ["lengths"]),
        helper.make_node("ReverseSequence", ["rows", "lengths"], ["logits"], batch_axis=0, time_axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "breaking",
        [helper.make_tensor_value_info("input", TensorProto.INT64, ["rows", 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 16])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def break_device(client: frostline.Client) -> str:
    """Send the request that breaks the device, and return what its sender is told."""
    good = client.predict("breaking", np.array([[3]]), outputs=["logits"]).logits
    np.testing.assert_array_equal(good, [[2, 1, 0, *range(3, 16)]])
    with pytest.raises(frostline.FrostlineError) as caught:
        client.predict("breaking", np.array([[1 << 29]]), outputs=["logits"])
    return str(caught.value)


def serve_until_it_breaks(models: Path, on_gpu: Serving, events: list[Any]) -> None:
    with (
        on_gpu(models, "--probe-s", "0.5", "--exit-on-fault") as running,
        frostline.connect(running.address) as client,
    ):
        events.append(running.events)
        assert "illegal memory access" in break_device(client)
        running.wait_for(lambda: not alive(running.served.pid))


def test_a_device_that_died_ends_the_server_where_that_is_asked(tmp_path: Path, on_gpu: Serving) -> None:
    networks.publish(tmp_path, {"breaking": breaking(), "other": onnx_models.linear()})
    events: list[Any] = []
    with pytest.raises(server_process.ServerFailed, match="ended with code 1 instead of 0"):
        serve_until_it_breaks(tmp_path, on_gpu, events)
    assert [event for event in events[0] if "level" not in event] == []


def test_a_device_that_died_turns_the_server_unwell_and_nothing_is_loaded_on_it(
    tmp_path: Path, on_gpu: Serving
) -> None:
    networks.publish(tmp_path, {"breaking": breaking(), "other": onnx_models.linear()})
    with (
        on_gpu(tmp_path, "--probe-s", "0.5", "--poll-s", "0.2", "--grace-s", "5") as running,
        frostline.connect(running.address) as client,
    ):
        break_device(client)
        running.wait_for(lambda: unwell(f"{running.served.metrics}/readyz"))
        assert 0.0 in running.metric("frostline_model_healthy", "other").values()
        networks.publish(tmp_path, {"late": onnx_models.linear()})
        running.wait_for(lambda: any(model.name == "late" and model.reason for model in client.models()))
        (late,) = [model for model in client.models() if model.name == "late"]
        assert "only a new process can use it again: CUDA error 700" in late.reason
        assert alive(running.served.pid)


def unwell(url: str) -> bool:
    try:
        with urlopen(url, timeout=30):
            return False
    except HTTPError as error:
        return error.code == 503


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nvidias_libraries_are_found_where_pip_puts_them() -> None:
    assert load_cuda_libraries() == ""
