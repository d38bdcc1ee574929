"""Frostline's own client against the real server: it tells apart what the server says."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import frostline
from frostline.cli import main as cli
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, running


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_the_clients_errors_follow_the_servers_sentences(tmp_path: Path, front_end: str) -> None:
    models = tmp_path
    onnx_models.write_artifact(models, "linear", 1)
    (onnx_models.write_artifact(models, "linear", 2) / "golden.npz").write_bytes(b"damaged")
    onnx_models.write_artifact(models, "text", 1, onnx_models.strings(), golden=False, labels=None)
    rows = onnx_models.rows(2)
    settings = {
        "transport": front_end,
        "require": "none",
        "max_batch_size": 2,
        "max_queue_size": 2,
        "log_level": "error",
    }
    with running(models, **settings) as server, frostline.connect(server.address, timeout_s=TIMEOUT_S) as client:
        prediction = client.predict("linear", rows)
        np.testing.assert_allclose(prediction.logits, onnx_models.logits_of(rows), rtol=1e-5)
        assert prediction.version == "1"
        with pytest.raises(frostline.ModelNotReady, match="version 2 is not at ready state"):
            client.predict("linear", rows, version="2")
        with pytest.raises(frostline.ModelNotFound, match="nobody"):
            client.predict("nobody", rows)
        with pytest.raises(frostline.InvalidInput, match=r"Expected \[-1,4\], got \[2,3\]"):
            client.predict("linear", rows[:, :3])
        with pytest.raises(frostline.InvalidInput, match="does not choose one of several classes"):
            client.predict("text", rows, outputs=["softmax"])
        with (
            server.held("linear") as device,
            frostline.connect(server.address, timeout_s=TIMEOUT_S) as other,
            ThreadPoolExecutor(1) as pool,
        ):
            fill = onnx_models.rows(2)
            waiting = pool.submit(other.predict, "linear", fill)
            device.wait_until_queued(2)
            with pytest.raises(frostline.Overloaded, match="Exceeds maximum queue size"):
                client.predict("linear", rows)
            device.release()
            np.testing.assert_allclose(waiting.result(TIMEOUT_S).logits, onnx_models.logits_of(fill), rtol=1e-5)


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
async def test_the_clients_token_opens_what_its_roles_allow(
    tmp_path: Path, front_end: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.write_artifact(tmp_path / "models", "linear", 1)
    access = str(tmp_path / "access.toml")
    assert cli.run(["token", "shop", "--requests-per-s", "0.001", "--burst", "2", "--file", access]) == 0
    token = capsys.readouterr().out.strip()
    rows = onnx_models.rows(1)
    settings = {"transport": front_end, "access_file": access, "allow_anonymous": "none", "log_level": "error"}
    with running(tmp_path / "models", **settings) as server:
        for wrong in (None, "unknown"):
            with (
                frostline.connect(server.address, token=wrong, timeout_s=TIMEOUT_S) as client,
                pytest.raises(frostline.Unauthenticated, match="this client shows who it is with a token") as caught,
            ):
                client.predict("linear", rows)
            assert caught.value.kind == "unauthenticated"
        with frostline.connect(server.address, token=token, timeout_s=TIMEOUT_S) as client:
            assert client.predict("linear", rows).version == "1"
            with pytest.raises(frostline.PermissionDenied, match="RepositoryIndex needs the role observe"):
                client.models()
        async with frostline.connect_async(server.address, token=token, timeout_s=TIMEOUT_S) as other:
            with pytest.raises(frostline.RateLimited) as limited:
                await asyncio.gather(*(other.predict("linear", rows) for _ in range(3)))
            assert limited.value.kind == "rate_limited"
        monkeypatch.setenv("FROSTLINE_TOKEN", token)
        assert cli.run(["models", "--server", server.address]) == 1
        assert "RepositoryIndex needs the role observe" in capsys.readouterr().err
