"""`frostline open`: which address the browser is started on, and what is said where no page is."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer

from frostline.cli import main as cli


class _Answers(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _HasNoPage(_Answers):
    status = 404


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", _Answers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []

    def launch(url: str) -> int:
        urls.append(url)
        return 0

    monkeypatch.setattr(typer, "launch", launch)
    return urls


def test_the_browser_is_started_on_the_page(
    address: str, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["open", "--address", address]) == 0
    assert opened == [f"http://{address}/"]
    assert capsys.readouterr().out == f"http://{address}/\n"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("gpu-box:8000", "http://gpu-box:8000/"),
        ("[::1]:8000", "http://[::1]:8000/"),
        ("https://models.example", "https://models.example/"),
        ("https://example.org/frostline/", "https://example.org/frostline/"),
    ],
)
def test_print_only_prints_the_url_and_asks_nobody(
    given: str, url: str, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["open", "--print", "--address", given]) == 0
    assert capsys.readouterr().out == f"{url}\n"
    assert opened == []


def test_without_an_address_it_is_that_of_a_server_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["open", "--print"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:8000/\n"


def test_where_nothing_answers_it_says_how_to_start_a_server(
    opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening, so it refuses
        assert cli.run(["open", "--address", f"127.0.0.1:{bound.getsockname()[1]}"]) == 1
    said = capsys.readouterr().err
    assert "nothing answers at http://127.0.0.1:" in said
    assert "frostline serve --models models" in said
    assert opened == []


@pytest.mark.parametrize("address", [_HasNoPage], indirect=True)
def test_a_port_without_a_page_is_told_apart(
    address: str, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["open", "--address", address]) == 1
    assert "is this the metrics port?" in capsys.readouterr().err
    assert opened == []


def test_where_no_browser_starts_the_url_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typer, "launch", lambda _: 1)
    assert cli.run(["open", "--address", address]) == 1
    assert f"open http://{address}/ in one" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["gpu-box", "ftp://gpu-box:21", "gpu-box:port", "http://"])
def test_what_is_no_address_is_refused_with_what_is_one(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["open", "--address", given]) == 2
    assert "give host:port" in capsys.readouterr().err
