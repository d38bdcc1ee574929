"""Pages of other sites: what they may make a visitor's browser do, and what they may read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frostline_server.http.security import Origins
from frostline_server.http.statuses import Failure
from tests.support.http_port import INFER, ROW, Port, head, port, write_models
from tests.support.tokens import TOKENS, write_access_file

ATTACKER = "https://attacker.example"
APP = "https://app.example.org"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trusting(models: Path) -> Iterator[Port]:
    """A server that trusts whoever reaches it, as it does on loopback."""
    with port(models, allow_anonymous="auto") as served:
        yield served


@pytest.fixture(scope="module")
def open_to_app(models: Path) -> Iterator[Port]:
    """The same, which one application's pages may use."""
    with port(models, allow_anonymous="auto", http_cors_origins=f"{APP}, http://other.example") as served:
        yield served


def asked(served: Port, *lines: str, method: str = "POST", host: str = "") -> bytes:
    """A request for a prediction, or the list of what is there."""
    path, body = (INFER, ROW) if method == "POST" else ("/v2", b"")
    return head(method, path, f"Host: {host or served.host}", f"Content-Length: {len(body)}", *lines) + body


# Hosts


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8000",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "0x7f.1",
        "a@127.0.0.1",
        "[::1",
        "127.0.0.1/",
        "localhost#",
        "127.0.0.1:x",
    ],
)
def test_another_name_that_leads_here_is_refused(trusting: Port, method: str, host: str) -> None:
    before = trusting.refused("wrong_host")
    with trusting.client() as client:
        client.send(asked(trusting, method=method, host=host))
        answer = client.answer(head_only=method == "HEAD")

    assert answer.status == 421
    assert answer.headers["frostline-error"] == "wrong_host"
    assert trusting.refused("wrong_host") == before + 1


def test_whoever_names_the_hosts_wants_no_others_wherever_the_port_is() -> None:
    anywhere = Origins(["models.example.org"], [], trusted=False)
    anywhere.check("GET", {"host": "models.example.org:8000"})
    with pytest.raises(Failure, match="is no name of this server"):
        anywhere.check("GET", {"host": "attacker.example"})
    # Without any, a service behind a name of its own works as it is.
    Origins([], [], trusted=False).check("GET", {"host": "frostline.default.svc:8000"})
    Origins(["*"], [], trusted=True).check("GET", {"host": "attacker.example"})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "10.1.2.3"])
def test_its_own_names_and_addresses_are_answered(trusting: Port, host: str) -> None:
    assert trusting.ask(asked(trusting, host=host)).status == 200


def test_what_names_no_host_comes_from_no_browser(trusting: Port) -> None:
    assert trusting.ask(head("GET", "/v2", version="HTTP/1.0")).status == 200
    assert trusting.ask(head("GET", "/v2", "Host:")).status == 200


def test_names_that_the_operator_has_said_are_answered(models: Path) -> None:
    with port(models, allow_anonymous="auto", http_hosts="models.example.org, Other.example") as served:
        assert served.ask(asked(served, host="models.example.org:8000")).status == 200
        assert served.ask(asked(served, host="other.EXAMPLE")).status == 200
        assert served.ask(asked(served, host="example.org")).status == 421


def test_the_name_does_not_matter_where_callers_show_who_they_are(models: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"access_file": write_access_file(tmp_path / "access.toml"), "allow_anonymous": "none"}
    token = f"Authorization: Bearer {TOKENS['predict']}"
    with port(models, **settings) as served:
        assert served.ask(asked(served, token, host="models.example.org")).status == 200
        assert served.ask(asked(served, host="models.example.org")).status == 401


# What pages cause


@pytest.mark.parametrize(
    "lines",
    [
        (f"Origin: {ATTACKER}",),
        ("Origin: null",),
        ("Sec-Fetch-Site: cross-site",),
        ("Sec-Fetch-Site: same-site",),
        (f"Origin: {ATTACKER}", "Sec-Fetch-Site: cross-site"),
        ("Origin: http://localhost.attacker.example",),
    ],
)
def test_what_a_page_of_another_site_sends_is_refused(trusting: Port, lines: tuple[str, ...]) -> None:
    before = trusting.refused("cross_site")
    answer = trusting.ask(asked(trusting, *lines))

    assert answer.status == 403
    assert answer.headers["frostline-error"] == "cross_site"
    assert trusting.refused("cross_site") == before + 1
    assert "access-control-allow-origin" not in answer.headers


def test_what_its_own_page_and_other_programs_send_is_answered(trusting: Port) -> None:
    assert trusting.ask(asked(trusting)).status == 200
    assert trusting.ask(asked(trusting, f"Origin: http://{trusting.host}")).status == 200
    assert trusting.ask(asked(trusting, f"Origin: http://{trusting.host}", "Sec-Fetch-Site: same-origin")).status == 200
    assert trusting.ask(asked(trusting, "Sec-Fetch-Site: none")).status == 200


def test_its_own_page_behind_what_ends_tls_is_answered(trusting: Port) -> None:
    assert (
        trusting.ask(asked(trusting, f"Origin: https://{trusting.host}", "Sec-Fetch-Site: same-origin")).status == 200
    )
    assert trusting.ask(asked(trusting, f"Origin: https://{trusting.host}")).status == 200


def test_a_form_of_another_site_changes_nothing(trusting: Port) -> None:
    form = ("Content-Type: text/plain", f"Origin: {ATTACKER}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    body = b"{}"
    lines = (f"Host: {trusting.host}", f"Content-Length: {len(body)}", *form)

    assert trusting.ask(head("POST", "/v2/repository/models/digits/unload", *lines) + body).status == 403


# CORS


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_no_page_of_another_site_reads_an_answer_by_default(trusting: Port, method: str) -> None:
    lines = (f"Origin: {ATTACKER}", "Access-Control-Request-Method: POST")
    answer = trusting.ask(asked(trusting, *lines, method=method))

    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert method == "OPTIONS" or answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_pages_that_the_operator_has_allowed_ask_and_read(open_to_app: Port) -> None:
    lines = (f"Origin: {APP}", "Sec-Fetch-Site: cross-site")
    preflight = open_to_app.ask(asked(open_to_app, *lines, "Access-Control-Request-Method: POST", method="OPTIONS"))
    answer = open_to_app.ask(asked(open_to_app, *lines))

    assert preflight.status == 204
    assert preflight.headers["access-control-allow-methods"] == "GET, POST"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert answer.status == 200
    for each in (preflight, answer):
        assert each.headers["access-control-allow-origin"] == APP
        assert "access-control-allow-credentials" not in each.headers
        assert each.headers["vary"] == "origin"


def test_a_failure_can_be_read_by_them_too(open_to_app: Port) -> None:
    answer = open_to_app.ask(head("GET", "/nowhere", f"Host: {open_to_app.host}", f"Origin: {APP}"))

    assert answer.status == 404
    assert answer.headers["access-control-allow-origin"] == APP


REFUSED_BY_THE_READER = {
    "too long": (413, ["POST {path} HTTP/1.1", "Host: {host}", "Content-Length: 99999999999"]),
    "coding": (501, ["POST {path} HTTP/1.1", "Host: {host}", "Transfer-Encoding: br, chunked"]),
    "no host": (400, ["POST {path} HTTP/1.1"]),
    "chunk": (400, ["POST {path} HTTP/1.1", "Host: {host}", "Transfer-Encoding: chunked"]),
}
"""What the reader of HTTP refuses, before the application sees it or while it waits for the body."""


@pytest.mark.parametrize(("status", "lines"), REFUSED_BY_THE_READER.values(), ids=REFUSED_BY_THE_READER)
@pytest.mark.parametrize("origin", [APP, ATTACKER])
def test_they_read_what_is_refused_before_anything_else_sees_it(
    open_to_app: Port, status: int, lines: list[str], origin: str
) -> None:
    told = [
        line.format(path=INFER, host=open_to_app.host) for line in (*lines, f"Origin: {origin}", "", "no chunk\r\n")
    ]
    answer = open_to_app.ask("\r\n".join(told).encode())

    assert answer.status == status
    assert answer.headers.get("access-control-allow-origin") == (APP if origin == APP else None)


def test_they_read_that_their_body_came_too_slowly(open_to_app: Port) -> None:
    with open_to_app.client() as client:
        client.send(asked(open_to_app, f"Origin: {APP}")[:-1])
        open_to_app.wait_until(lambda: open_to_app.front_end.budget.used > 0)
        open_to_app.look(61.0)
        answer = client.answer()

    assert answer.status == 408
    assert answer.headers["access-control-allow-origin"] == APP


def test_a_refusal_behind_another_answer_is_for_the_page_that_asked_it(open_to_app: Port) -> None:
    with open_to_app.client() as client:
        first = asked(open_to_app)
        client.send(first + asked(open_to_app, f"Origin: {APP}").replace(b"Length: ", b"Length: 99999999"))

        assert "access-control-allow-origin" not in client.answer().headers
        second = client.answer()

    assert second.status == 413
    assert second.headers["access-control-allow-origin"] == APP


def test_headers_that_were_not_read_to_their_end_allow_nothing(open_to_app: Port) -> None:
    """Neither those of a head that is too long, nor those of the request before."""
    whole = asked(open_to_app, f"Origin: {APP}")
    with open_to_app.client() as client:
        client.send(whole.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 1))
        long = client.answer()
    with open_to_app.client() as client:
        client.send(whole + b"\0\r\n\r\n")
        client.answer()
        broken = client.answer()

    assert (long.status, broken.status) == (431, 400)
    for each in (long, broken):
        assert "access-control-allow-origin" not in each.headers


@pytest.mark.parametrize(
    "origin", [ATTACKER, f"{APP}.attacker.example", "http://app.example.org", f"{APP}:444", "null"]
)
def test_others_are_refused_all_the_same(open_to_app: Port, origin: str) -> None:
    answer = open_to_app.ask(asked(open_to_app, f"Origin: {origin}"))

    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("lines", [[], [f"Origin: {ATTACKER}"]])
def test_an_answer_that_no_page_asked_for_says_to_caches_that_others_differ(
    open_to_app: Port, trusting: Port, lines: list[str]
) -> None:
    for request in (
        head("GET", "/v2", f"Host: {open_to_app.host}", *lines),
        head("GET", "/nowhere", f"Host: {open_to_app.host}", *lines),
        head("OPTIONS", "/v2", f"Host: {open_to_app.host}", *lines),
        head("POST", INFER, f"Host: {open_to_app.host}", f"Content-Length: {1 << 40}", *lines),
    ):
        answer = open_to_app.ask(request)
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-origin" not in answer.headers
    # Where no page of another site may read anything, all answers are alike.
    assert "vary" not in trusting.ask(head("GET", "/v2", f"Host: {trusting.host}", *lines)).headers


def test_any_origin_is_a_choice() -> None:
    origins = Origins([], ["*"], trusted=True)

    origins.check("POST", {"host": "localhost", "origin": ATTACKER, "sec-fetch-site": "cross-site"})
    assert dict(origins.cors({"origin": ATTACKER}))[b"access-control-allow-origin"] == b"*"
    with pytest.raises(Failure):
        # A page of another site says so; it has no origin to be allowed.
        origins.check("POST", {"host": "localhost", "sec-fetch-site": "cross-site"})
