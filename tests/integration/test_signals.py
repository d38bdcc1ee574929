"""Signals to a real process: none is lost while it starts, also as PID 1, and SIGHUP has it look at its files again."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import stub
from tests.support.kubelet import free_ports
from tests.support.servers import TIMEOUT_S

EARLY = """
import os, sys
from frostline.cli import main
run = main.run
def told(arguments):
    # After the first thing that the process does, and before it has imported anything of the server.
    assert not any(name.startswith(("frostline_server", "typer")) for name in sys.modules)
    os.kill(os.getpid(), {number})
    return run(arguments)
main.run = told
sys.argv.insert(1, "serve")
main.main()
"""
FLAGS = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--log-format", "json"]
AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child"]


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    assert process.stderr is not None
    for line in process.stderr:
        yield json.loads(line)


def can_unshare() -> bool:
    program = shutil.which("unshare")
    return program is not None and subprocess.run([*AS_PID_1, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("prefix", [[], AS_PID_1], ids=["with a parent", "as PID 1"])
def test_a_signal_before_the_first_import_ends_the_server_in_order(
    tmp_path: Path, prefix: list[str], number: signal.Signals
) -> None:
    if prefix and not can_unshare():
        pytest.skip("needs root, for a PID namespace")
    onnx_models.write_artifact(tmp_path, "m")
    program = [*prefix, sys.executable, "-c", EARLY.format(number=int(number)), "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        names = [event["event"] for event in events(process)]
        assert process.wait(TIMEOUT_S) == 0
    assert "ready" not in names
    assert names[0] == "signal"
    assert names[-2:] == ["draining", "stopped"]


@pytest.mark.parametrize("control", ["watch", "none"])
def test_hanging_up_has_the_server_read_the_models_folder_again(tmp_path: Path, control: str) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(tmp_path), *FLAGS]
    program += ["--model-control", control, *(["--poll-s", "3600"] if control == "watch" else [])]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        told = events(process)
        assert next(event for event in told if event["event"] == "ready")["models"] == ["m:1"]
        onnx_models.write_artifact(tmp_path / ".staging", "m", 2).rename(tmp_path / "m" / "2")
        process.send_signal(signal.SIGHUP)
        ready = next(event for event in told if event["event"] == "model" and event["state"] == "READY")
        assert ready["version"] == "2"
        process.send_signal(signal.SIGTERM)
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0


NOTED = ["SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGSTKFLT", "SIGRTMIN", "SIGRTMAX"]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("end", [signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU])
def test_no_signal_ends_the_server_without_a_drain(tmp_path: Path, processes: int, end: signal.Signals) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen([*program, "--processes", str(processes)], stderr=subprocess.PIPE, text=True) as process:
        told = events(process)
        address = next(event for event in told if event["event"] == "ready")["address"]
        for name in NOTED:
            process.send_signal(getattr(signal, name))
        noted = {next(event for event in told if event["event"] == "signal")["signal"] for _ in NOTED}
        assert noted == set(NOTED)
        with grpc.insecure_channel(str(address)) as channel:
            answer = stub(channel).ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S)
            assert answer.ready
        process.send_signal(end)
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN])
def test_a_signal_before_the_first_import_that_means_nothing_ends_nothing(tmp_path: Path, number: int) -> None:
    onnx_models.write_artifact(tmp_path, "m")
    program = [sys.executable, "-c", EARLY.format(number=int(number)), "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        told = events(process)
        assert next(told)["event"] == "signal"
        assert any(event["event"] == "ready" for event in told)
        process.terminate()
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_hanging_up_undoes_what_clients_have_changed_about_the_log(tmp_path: Path, processes: int) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(tmp_path), *FLAGS]
    flags = ["--allow-anonymous", "all", "--processes", str(processes)]
    with subprocess.Popen([*program, *flags], stderr=subprocess.PIPE, text=True) as process:
        told = events(process)
        address = str(next(event for event in told if event["event"] == "ready")["address"])
        settings = {"log_info": pb.LogSettingsRequest.SettingValue(bool_param=False)}
        with grpc.insecure_channel(address) as channel:
            answer = stub(channel).LogSettings(pb.LogSettingsRequest(settings=settings), timeout=TIMEOUT_S)
            assert answer.settings["log_info"].bool_param is False
            process.send_signal(signal.SIGHUP)
            reread = list(itertools.islice(lines_of(told, "reading"), processes))
            assert len(reread) == processes
            answer = stub(channel).LogSettings(pb.LogSettingsRequest(), timeout=TIMEOUT_S)
            assert answer.settings["log_info"].bool_param is True
        process.terminate()
        assert [event["event"] for event in told][-1] == "stopped"
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_signals_that_come_while_the_server_ends_change_nothing_of_its_exit_code(
    tmp_path: Path, processes: int
) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    program = [sys.executable, "-m", "frostline", "serve", "--models", str(tmp_path), *FLAGS]
    with subprocess.Popen([*program, "--processes", str(processes)], stderr=subprocess.PIPE, text=True) as process:
        told = events(process)
        next(event for event in told if event["event"] == "ready")
        process.terminate()
        next(event for event in told if event["event"] == "stopped" and "process" not in event)
        pause = threading.Event()
        while process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                process.send_signal(number)
            pause.wait(0.001)
        assert process.returncode == 0


def lines_of(told: Iterator[dict[str, object]], beginning: str) -> Iterator[dict[str, object]]:
    return (event for event in told if str(event["event"]).startswith(beginning))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, processes: str) -> None:
    models, port = tmp_path / "models", free_ports("127.0.0.1", "grpc")["grpc"]
    address = f"127.0.0.1:{port}"
    onnx_models.write_artifact(models, "m")
    flags = ["--models", str(models), *FLAGS, "--no-http", "--port", str(port), "--processes", processes]
    allowed = ["--allow-anonymous", "predict,observe,control", "--model-control", "explicit", "--load-models", "*"]
    program = [sys.executable, "-m", "frostline", "serve", *flags, *allowed]
    with open("/dev/full", "w") as full, subprocess.Popen(program, stderr=full) as process:  # noqa: PTH123
        try:
            with grpc.insecure_channel(address) as channel:
                calls = stub(channel)
                assert calls.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S, wait_for_ready=True).ready
                # Each of these writes an audit line.
                for _ in range(3):
                    calls.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"), timeout=TIMEOUT_S)
                    calls.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=TIMEOUT_S)
                assert calls.ModelReady(pb.ModelReadyRequest(name="m"), timeout=TIMEOUT_S).ready
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
