"""Keepalive: clients may ping, with and without calls; the network may not be flooded with pings."""

import socket
import struct
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support.calls import row_request, stub
from tests.support.onnx_models import write_artifact
from tests.support.relay import relay
from tests.support.servers import TIMEOUT_S, running

PINGS = 4
"""One more than gRPC forgives by default."""


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_clients_that_ping_keep_their_connections_with_and_without_a_call(tmp_path: Path, transport: str) -> None:
    write_artifact(tmp_path, "linear")
    request = row_request(np.ones((1, 4), np.float32))
    # As Triton's KeepAliveOptions set them, but quicker.
    options = [
        ("grpc.keepalive_time_ms", 600),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with (
        running(tmp_path, transport=transport, log_level="error") as server,
        relay(server.address) as to_idle,
        relay(server.address) as to_busy,
        grpc.insecure_channel(to_idle.address, options) as idle,
        grpc.insecure_channel(to_busy.address, options) as busy,
    ):
        stub(idle).ModelInfer(request, timeout=TIMEOUT_S)
        with server.held("linear"):
            answer = stub(busy).ModelInfer.future(request, timeout=TIMEOUT_S)
            for between in (to_idle, to_busy):
                between.wait_for_pings(PINGS)
        assert answer.result().model_name == "linear"
        stub(idle).ModelInfer(request, timeout=TIMEOUT_S)
        assert (to_idle.connections, to_busy.connections) == (1, 1)


def test_a_flood_of_pings_ends_the_connection(tmp_path: Path) -> None:
    write_artifact(tmp_path, "linear")
    ping = struct.pack(">I", 8)[1:] + struct.pack(">BBI8s", 6, 0, 0, b"pingpong")
    with running(tmp_path, transport="grpcio", log_level="error") as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)) + 100 * ping)
            received = b""
            while data := connection.recv(1 << 16):
                received += data
    assert b"too_many_pings" in received
