"""The metrics port with TLS, and with a token as Prometheus sends it."""

import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from frostline_server.errors import ConfigError, StartError
from tests.support.https import Files, get, name_seen
from tests.support.onnx_models import write_artifact
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.tokens import TOKENS, entry, write_access_file


@pytest.fixture
def files(tmp_path: Path) -> Files:
    written = Files(tmp_path)
    written.write("first.example")
    return written


@pytest.fixture
def server(files: Files, tmp_path: Path) -> Iterator[Running]:
    write_artifact(tmp_path / "models", "m")
    more = entry("few", "few", "observe", requests_per_s=0.001, burst=1)
    access = write_access_file(tmp_path / "access.toml", more)
    settings = {"access_file": access, "metrics_access": "observe", "allow_anonymous": "none", "log_level": "error"}
    with running(tmp_path / "models", **files.settings, **settings) as instance:
        yield instance


def test_the_metrics_are_for_who_may_observe_and_the_probes_for_everyone(server: Running) -> None:
    url = server.metrics_url
    assert url.startswith("https://")
    status, said, headers = get(f"{url}/metrics")
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert said.startswith("metrics needs the role observe; you are taken for an anonymous caller")
    assert get(f"{url}/metrics", "wrong")[0] == 401
    assert get(f"{url}/metrics", TOKENS["predict"])[0] == 403
    status, said, _ = get(f"{url}/metrics", TOKENS["observe"])
    assert status == 200
    assert "frostline_ready 1.0" in said
    assert [get(f"{url}/{page}")[0] for page in ("healthz", "readyz")] == [200, 200]
    assert [get(f"{url}/metrics", "few")[0] for _ in range(2)] == [200, 429]


def test_by_default_everyone_who_reaches_the_port_reads_the_metrics_and_without_tls(tmp_path: Path) -> None:
    access = write_access_file(tmp_path / "access.toml")
    (tmp_path / "models").mkdir()
    with running(tmp_path / "models", access_file=access, allow_anonymous="none", log_level="error") as instance:
        assert instance.metrics_url.startswith("http://")
        assert get(f"{instance.metrics_url}/metrics")[0] == 200


def test_a_new_connection_gets_the_certificate_that_is_in_the_files(server: Running, files: Files) -> None:
    assert name_seen(server.metrics_url) == "first.example"
    files.write("second.example")
    assert name_seen(server.metrics_url) == "second.example"
    files.key.write_text("no key")
    assert name_seen(server.metrics_url) == "second.example"


def test_the_metrics_tell_when_the_certificate_in_use_expires(server: Running, files: Files) -> None:
    def expiry_s() -> float:
        page = get(f"{server.metrics_url}/metrics", TOKENS["observe"])[1]
        [value] = re.findall(r"^frostline_certificate_expiry_timestamp_seconds (\S+)$", page, flags=re.MULTILINE)
        return float(value)

    soon = datetime(2040, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert expiry_s() != soon.timestamp()
    files.write("second.example", expires=soon)
    assert expiry_s() == soon.timestamp()
    # Of another key: it is not used, so what it says does not count.
    key = files.key.read_bytes()
    files.write("third.example")
    files.key.write_bytes(key)
    assert expiry_s() == soon.timestamp()


def test_without_tls_the_metrics_tell_of_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running(tmp_path / "models", log_level="error") as instance:
        page = get(f"{instance.metrics_url}/metrics")[1]
    assert "frostline_certificate_expiry_timestamp_seconds " not in re.sub(r"^#.*$", "", page, flags=re.MULTILINE)


def test_a_handshake_that_is_not_finished_keeps_nobody_waiting(server: Running) -> None:
    host, _, port = server.metrics_url.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as silent:
        silent.sendall(b"\x16\x03\x01")
        assert get(f"{server.metrics_url}/healthz")[0] == 200


def test_a_handshake_that_fails_is_a_line_of_the_log_and_no_traceback(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    host, _, port = server.metrics_url.removeprefix("https://").partition(":")
    with capture_logs() as logged, socket.create_connection((host, int(port)), TIMEOUT_S) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        waited = threading.Event()
        for _ in range(int(TIMEOUT_S * 100)):
            if logged:
                break
            waited.wait(0.01)
    assert [(line["event"], line["log_level"]) for line in logged] == [("a TLS handshake failed", "info")]
    assert capsys.readouterr().err == ""


def test_tls_of_the_metrics_port_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metrics_tls needs tls_cert and tls_key"):
        Running(tmp_path, metrics_tls=True)


def test_a_certificate_that_cannot_be_read_stops_the_start(files: Files, tmp_path: Path) -> None:
    files.key.write_text("no key")
    instance = Running(tmp_path, **files.settings)
    with pytest.raises(StartError, match="are not a certificate and its private key"):
        instance.start()
    instance.close_loop()
