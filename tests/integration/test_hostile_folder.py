"""A server whose models folder has odd models in it: it serves and updates the others, shows nothing, and ends in time."""

import os
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, running

CARD = "1/card.json"


def odd_models(models: Path, secret: Path) -> None:
    """Models that come before and after the good one, each with something odd."""
    for name, place in (
        ("a-pipe", CARD),
        ("n-pipe", "rollout.json"),
        ("y-pipe", "1/golden.npz"),
        ("z-pipe", "config.pbtxt"),
    ):
        onnx_models.write_artifact(models, name, 1, golden=False, card=False)
        os.mkfifo(models / name / place)
    for name in ("a-deep", "z-deep"):
        onnx_models.write_artifact(models, name, 1, golden=False, card=False)
        (models / name / CARD).write_text('{"a":' * 100_000)
    onnx_models.write_artifact(models, "a-link", 1, golden=False, card=False)
    (models / "a-link" / "config.pbtxt").write_text('output { name: "logits" label_filename: "labels.txt" }')
    (models / "a-link" / "labels.txt").symlink_to(secret)
    (models / "a-device").symlink_to("/dev")


def index(stub: inference_pb2_grpc.GRPCInferenceServiceStub) -> dict[str, tuple[str, str]]:
    answer = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S)
    return {f"{entry.name}:{entry.version}": (entry.state, entry.reason) for entry in answer.models}


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_odd_models_fail_by_themselves_and_the_server_goes_on(tmp_path: Path, when: str) -> None:
    models, secret, waited = tmp_path / "models", tmp_path / "secret", threading.Event()
    secret.write_text("root:secret\nuser:secret\nother:secret\n")
    onnx_models.write_artifact(models, "m", 1)
    if when == "at the start":
        odd_models(models, secret)
    events: list[server_process.Event] = []
    flags = ["--models", str(models), "--require", "m", "--poll-s", "0.2", "--allow-anonymous", "all"]
    with (
        server_process.serve(flags, events.append) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        if when == "later":
            odd_models(models, secret)
        onnx_models.write_artifact(models / ".staging", "m", 2).rename(models / "m" / "2")
        for _ in range(int(TIMEOUT_S * 20)):
            found = index(stub)
            if found.get("m:2") == ("READY", "") and len(found) == 9 and "LOADING" not in dict(found.values()):
                break
            waited.wait(0.05)
        failed = {name.partition(":")[0]: reason for name, (_, reason) in found.items() if reason}
        assert failed.keys() == {"a-pipe", "y-pipe", "z-pipe", "a-deep", "z-deep", "a-link", "a-device"}
        assert found["n-pipe:1"] == ("READY", "")
        assert found["m:2"] == ("READY", "")
        assert "nested too deeply" in failed["a-deep"]
        assert f"the link {models}/a-link/labels.txt leads to {secret}" in failed["a-link"]
        assert f"the link {models}/a-device leads to /dev, outside" in failed["a-device"]
        assert not any("secret:" in reason or ":secret" in reason for reason in failed.values())
        page = urllib.request.urlopen(f"{served.metrics}/metrics", timeout=TIMEOUT_S).read().decode()
        looked = dict(line.split() for line in page.splitlines() if line.startswith("frostline_repository_last_look"))
        assert 0 <= time.time() - float(looked["frostline_repository_last_look_timestamp_seconds"]) < TIMEOUT_S
        assert urllib.request.urlopen(f"{served.metrics}/readyz", timeout=TIMEOUT_S).read() == b"ready\n"
    told = {event["model"]: event["reason"] for event in events if event.get("state") == "FAILED"}
    assert told.keys() == failed.keys()
    assert events[-1]["event"] == "stopped"


@pytest.mark.parametrize(("control", "shown"), [("watch", True), ("poll", True), ("none", False), ("explicit", False)])
def test_the_last_look_is_shown_where_there_will_be_another(tmp_path: Path, control: str, shown: bool) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    with running(tmp_path, model_control=control, load_models="m" if control == "explicit" else None) as server:
        page = urllib.request.urlopen(f"{server.server.metrics_url}/metrics", timeout=TIMEOUT_S).read().decode()
    assert ("\nfrostline_repository_last_look_timestamp_seconds " in page) == shown
