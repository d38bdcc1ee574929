"""Certificates that are replaced while clients call: no call fails, and new connections get the new ones."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support import https, onnx_models
from tests.support.calls import row_request, stub
from tests.support.servers import TIMEOUT_S, running

ROTATIONS = 20


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_no_call_fails_over_twenty_rotations_under_load(tmp_path: Path, transport: str) -> None:
    files = https.Files(tmp_path)
    files.write("0.example")
    onnx_models.write_artifact(tmp_path / "models", "linear", 1)
    x = onnx_models.rows(2)
    expected = onnx_models.logits_of(x)
    credentials = grpc.ssl_channel_credentials(files.authority.read_bytes())
    settings = {"transport": transport, "tls_cert": files.chain, "tls_key": files.key, "log_level": "error"}
    with running(tmp_path / "models", **settings) as server:
        port = int(server.address.rpartition(":")[2])
        over, wrong, answered = threading.Event(), [], [0, 0]

        def call(which: int) -> None:
            # A connection for some calls each, so that handshakes and rotations meet.
            while not over.is_set():
                options = [("grpc.use_local_subchannel_pool", 1)]
                with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
                    for _ in range(5):
                        try:
                            answer = stub(channel).ModelInfer(row_request(x), timeout=TIMEOUT_S)
                            got = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, -1)
                            np.testing.assert_allclose(got, expected, rtol=1e-5)
                            answered[which] += 1
                        except (grpc.RpcError, AssertionError) as error:
                            wrong.append(error)

        threads = [threading.Thread(target=call, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for number in range(1, ROTATIONS + 1):
            before = list(answered)
            files.write(f"{number}.example")
            assert https.name_seen(f"https://127.0.0.1:{port}") == f"{number}.example"
            # Each caller has an answer under each certificate.
            while not wrong and any(now <= then for now, then in zip(answered, before, strict=True)):
                over.wait(0.001)
        over.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert wrong == []
    assert min(answered) >= ROTATIONS
