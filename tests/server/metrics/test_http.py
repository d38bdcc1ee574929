"""The HTTP port over a real socket."""

import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from frostline_server.errors import StartError
from frostline_server.metrics.http import MetricsServer
from tests.support.puppet import TIMEOUT_S


@contextmanager
def scraping(unready: Callable[[], str] = str, host: str = "127.0.0.1") -> Iterator[str]:
    """A server with one counter on a free port; gives its URL."""
    registry = CollectorRegistry()
    Counter("sheep", "Sheep so far.", registry=registry).inc(7)
    server = MetricsServer(registry, host, 0, unready)
    url = server.start()
    try:
        yield url
    finally:
        server.close()


def connection(url: str) -> socket.socket:
    """A connection that says nothing."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_are_prometheus_text() -> None:
    with scraping() as url:
        status, content_type, body = get(f"{url}/metrics")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert {family.name for family in text_string_to_metric_families(body)} >= {"sheep"}


def test_metrics_are_open_metrics_for_who_asks() -> None:
    with scraping() as url:
        status, content_type, body = get(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, content_type.split(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_the_process_is_alive_even_while_it_is_not_ready() -> None:
    with scraping(lambda: "starting") as url:
        assert get(f"{url}/healthz") == (200, "text/plain; charset=utf-8", "ok\n")


def test_a_ready_server_says_so() -> None:
    with scraping(lambda: "") as url:
        assert get(f"{url}/readyz") == (200, "text/plain; charset=utf-8", "ready\n")


def test_a_server_that_is_not_ready_says_why() -> None:
    with scraping(lambda: "required models without a ready version: größe") as url:
        assert get(f"{url}/readyz") == (
            503,
            "text/plain; charset=utf-8",
            "required models without a ready version: größe\n",
        )


def test_readiness_is_asked_each_time() -> None:
    reasons = iter(["starting", "", "draining"])
    with scraping(lambda: next(reasons)) as url:
        assert [get(f"{url}/readyz")[0] for _ in range(3)] == [503, 200, 503]


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/metrics/x", "/readyz/"])
def test_any_other_path_is_not_found_and_names_the_ones_there_are(path: str) -> None:
    with scraping() as url:
        status, _, body = get(url + path)
    assert (status, body) == (404, "the paths are /metrics, /healthz and /readyz\n")


def test_a_query_does_not_hide_the_path() -> None:
    with scraping() as url:
        assert get(f"{url}/healthz?verbose=1")[0] == 200
        assert "sheep" in get(f"{url}/metrics?name[]=sheep_total")[2]


def test_a_slow_reader_keeps_nobody_waiting() -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow_once() -> str:
        if not asked.is_set():
            asked.set()
            answer.wait(TIMEOUT_S)
        return ""

    with scraping(slow_once) as url, ExitStack() as cleanup:
        slow = threading.Thread(target=get, args=(f"{url}/readyz",))
        slow.start()
        cleanup.callback(slow.join)
        cleanup.callback(answer.set)
        assert asked.wait(TIMEOUT_S)
        assert get(f"{url}/healthz")[0] == 200


def test_closing_does_not_wait_for_a_page_that_takes_long() -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow() -> str:
        asked.set()
        answer.wait(TIMEOUT_S)
        return ""

    with ExitStack() as cleanup:
        cleanup.callback(answer.set)
        with scraping(slow) as url:
            reader = cleanup.enter_context(connection(url))
            reader.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
            assert asked.wait(TIMEOUT_S)
        assert reader.recv(1) == b""
        assert not answer.is_set()


def test_requests_leave_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with scraping() as url:
        get(f"{url}/healthz")
        get(f"{url}/nowhere")
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MetricsServer(CollectorRegistry(), "127.0.0.1", port, str)
        with pytest.raises(StartError, match=f"^cannot listen on 127.0.0.1:{port} for metrics: Address already in use"):
            server.start()


def test_an_address_of_another_machine_stops_the_start() -> None:
    with pytest.raises(StartError, match=r"^cannot listen on 192\.0\.2\.1:0 for metrics: "):
        MetricsServer(CollectorRegistry(), "192.0.2.1", 0, str).start()


def test_the_port_is_free_again_once_it_is_closed() -> None:
    with scraping() as url:
        port = int(url.rpartition(":")[2])
    again = MetricsServer(CollectorRegistry(), "127.0.0.1", port, str)
    assert again.start() == url
    again.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_bracketed_in_the_url() -> None:
    with scraping(host="::1") as url:
        assert url.startswith("http://[::1]:")
        assert get(f"{url}/healthz")[0] == 200


def test_a_bracketed_ipv6_host_is_taken() -> None:
    server = MetricsServer(CollectorRegistry(), "[::1]", 0, str)
    url = server.start()
    server.close()
    assert url.startswith("http://[::1]:")


def test_a_page_that_fails_is_a_line_of_the_log_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> str:
        raise ValueError("nobody knows")

    with structlog.testing.capture_logs() as lines, scraping(broken) as url:
        status, _, body = get(f"{url}/readyz")
    assert (status, body) == (500, "the server's log says why\n")
    assert [(line["event"], line["path"], line["log_level"]) for line in lines] == [
        ("a page failed", "/readyz", "error")
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("said", [b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_a_connection_that_breaks_leaves_no_line_and_no_traceback(
    capsys: pytest.CaptureFixture[str], said: bytes
) -> None:
    with structlog.testing.capture_logs() as lines, scraping() as url:
        for _ in range(20):
            with connection(url) as rude:
                rude.sendall(said)
                # Closing sends a reset where the server waits for the rest of the line, or answers.
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert get(f"{url}/healthz")[0] == 200
    assert lines == []
    assert capsys.readouterr() == ("", "")
