"""The front end as a whole: what its helper threads do for it."""

import socket
import threading
from pathlib import Path

import pytest
import structlog.testing

from frostline_server.rpc.listening import bound
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, running, until


def test_what_fails_in_a_helper_thread_is_in_the_log_and_the_next_is_done(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    done = threading.Event()

    def defect() -> None:
        raise ZeroDivisionError

    with running(tmp_path, transport="h2") as server, structlog.testing.capture_logs() as lines:
        front_end = server.server._transport._h2
        assert front_end is not None
        front_end._elsewhere(defect, lambda _: None)
        front_end._elsewhere(lambda: None, lambda _: done.set())
        assert done.wait(TIMEOUT_S)
        until(lambda: lines)

    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["front end failed unexpectedly"]


def test_a_name_that_stands_for_one_address_twice_is_bound_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * 2)
    (listening,) = bound("twice:0")
    listening.close()
