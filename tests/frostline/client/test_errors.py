"""From gRPC statuses, and the server's words for failures, to errors that say what to do."""

import socket

import pytest

import frostline
from frostline.client.errors import from_status
from frostline_server.errors import PredictionError

HTTP = (
    "failed to connect to all addresses; last error: INTERNAL: ipv4:1.2.3.4:1: Failed parsing HTTP/2 (Expected SETTINGS frame "
    "as the first frame, got frame type 80) (Trying to connect an http1.x server (HTTP status 400))"
)
GOAWAY = "Stream removed (GOAWAY received; Error code: 11; Debug Text: )"
RESET = "Stream removed (recvmsg:Connection reset by peer (104) (GOAWAY received; Error code: 9; Debug Text: ))"
STOPPED = "Stream removed (GOAWAY received; Error code: 2; Debug Text: )"
UPSTREAM = "upstream connect error. reset reason: connection termination"
HOSTNAME = "Hostname Verification Check failed"
HANDSHAKER = "Failed to create security handshaker"
UNWRAP = (
    "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:1.2.3.4:1: Unwrap failed (TSI_DATA_CORRUPTED)"
)
ALPN = "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:1: Cannot check peer: missing selected ALPN property."
TLS = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal"
LOOK_UP = "errors resolving box:1: [field:hostname lookup error:address lookup failed for box:1: Domain name not found]"
RESOLVER = "Illegal status code from resolver; original status: INVALID_ARGUMENT: Cannot parse authority: box"
ROUTER = "[request id: 7] Request for unknown model: 'queue-router' version 1 is not at ready state"


@pytest.mark.parametrize(
    ("code", "kind", "details", "error", "sentence"),
    [
        ("NOT_FOUND", "model_not_found", "'m' is not found", frostline.ModelNotFound, "is not found"),
        ("INVALID_ARGUMENT", "invalid_input", "unexpected shape.", frostline.InvalidInput, "unexpected shape"),
        ("INVALID_ARGUMENT", "invalid_data", "idx=9", frostline.InvalidInput, "^idx=9$"),
        ("INTERNAL", "run_failed", "CUDA is gone", frostline.PredictionFailed, "failed while answering: CUDA is gone"),
        ("RESOURCE_EXHAUSTED", "out_of_memory", "no", frostline.PredictionFailed, "failed while answering: no"),
        (
            "RESOURCE_EXHAUSTED",
            "network_full",
            "no room",
            frostline.Overloaded,
            "^no room; .* box:1 is overloaded: send",
        ),
        (
            "RESOURCE_EXHAUSTED",
            "metadata_too_large",
            "20000 bytes",
            frostline.MessageTooLarge,
            "^20000 bytes; send less with `metadata`$",
        ),
        ("RESOURCE_EXHAUSTED", "too_many_calls", "100 open", frostline.Overloaded, "^100 open$"),
        ("DEADLINE_EXCEEDED", "run_timed_out", "max_run_s", frostline.PredictionFailed, "while answering: max_run_s$"),
        ("RESOURCE_EXHAUSTED", "message_too_large", "big", frostline.MessageTooLarge, "big; send fewer rows"),
        ("RESOURCE_EXHAUSTED", "overloaded", "late", frostline.Overloaded, "late; the server at box:1 has more to do"),
        ("UNAVAILABLE", "queue_full", "Exceeds", frostline.Overloaded, "box:1 is overloaded: send less at once"),
        ("UNAVAILABLE", "queue_timeout", "expired", frostline.Overloaded, "box:1 is overloaded: send less at once"),
        ("UNAVAILABLE", "model_not_ready", ROUTER, frostline.ModelNotReady, "frostline models --server box:1"),
        ("UNAVAILABLE", "server_stopping", "queue", frostline.ServerUnavailable, "the server at box:1 is stopping"),
        ("UNAVAILABLE", "version_closing", "queue", frostline.ServerUnavailable, "the server at box:1 is stopping"),
        (
            "UNAVAILABLE",
            "a_later_word",
            "why",
            frostline.ServerUnavailable,
            "^the server at box:1 cannot answer now: why",
        ),
        (
            "UNAUTHENTICATED",
            "unauthenticated",
            "who are you",
            frostline.Unauthenticated,
            "^who are you; this client shows",
        ),
        ("PERMISSION_DENIED", "permission_denied", "you may not.", frostline.PermissionDenied, "^you may not$"),
        ("RESOURCE_EXHAUSTED", "rate_limited", "5 a second", frostline.RateLimited, "^5 a second$"),
        ("UNIMPLEMENTED", "unsupported", "model 'm' does not end", frostline.InvalidInput, "^model 'm' does not end$"),
        ("ABORTED", "a_later_word", "why", frostline.FrostlineError, "^ABORTED from box:1: why"),
    ],
)
def test_each_kind_of_failure_has_its_error_with_the_way_out(
    code: str, kind: str, details: str, error: type[frostline.FrostlineError], sentence: str
) -> None:
    found = from_status(code, details, kind=kind, address="box:1", timeout_s=2.5)
    assert type(found) is error
    assert (found.code, found.kind) == (code, kind)
    with pytest.raises(frostline.FrostlineError, match=sentence):
        raise found


@pytest.mark.parametrize(
    ("code", "details", "error", "sentence"),
    [
        ("NOT_FOUND", "Request for unknown model: 'm' is not found", frostline.ModelNotFound, "is not found"),
        ("INVALID_ARGUMENT", "unexpected shape.", frostline.InvalidInput, "unexpected shape"),
        ("INTERNAL", "CUDA is gone", frostline.PredictionFailed, "the server failed while answering: CUDA is gone"),
        ("RESOURCE_EXHAUSTED", "Overloaded: too big", frostline.MessageTooLarge, "too big; send fewer rows"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", frostline.DeadlineExceeded, "no answer from box:1 within 2.5 s"),
        ("UNAVAILABLE", "Exceeds maximum queue size", frostline.ServerUnavailable, r"\(Exceeds maximum queue size\)"),
        ("UNAVAILABLE", ROUTER, frostline.ServerUnavailable, "no Frostline server answers at box:1"),
        ("UNAVAILABLE", "failed: OK", frostline.ServerUnavailable, r"box:1 was dropped \(OK\); is TLS on"),
        ("UNAVAILABLE", UPSTREAM, frostline.ServerUnavailable, r"no Frostline server.*\(connection termination\)"),
        ("UNIMPLEMENTED", "model 'm' does not end", frostline.FrostlineError, "box:1 is not a Frostline server"),
        (
            "UNAUTHENTICATED",
            "",
            frostline.Unauthenticated,
            "^UNAUTHENTICATED; this client shows who it is with a token",
        ),
        ("PERMISSION_DENIED", "no.", frostline.PermissionDenied, "^box:1 does not let you make this call: no$"),
        (
            "UNAVAILABLE",
            "failed: backend unhealthy",
            frostline.ServerUnavailable,
            "no server at box:1 is ready; ask one",
        ),
        (
            "UNAVAILABLE",
            f"a: {HOSTNAME}.",
            frostline.ServerUnavailable,
            "is for another name; give the .* with server_name",
        ),
        ("UNAVAILABLE", HTTP, frostline.ServerUnavailable, r"box:1 does not speak gRPC; .* its own \(8001 by"),
        ("UNAVAILABLE", GOAWAY, frostline.ServerUnavailable, r"box:1 closed the connection \(.*: 11; .* more metadata"),
        ("UNAVAILABLE", RESET, frostline.ServerUnavailable, r"box:1 closed the connection \(.*: 9; .* more metadata"),
        ("UNAVAILABLE", STOPPED, frostline.ServerUnavailable, r"\(Stream removed \(GOAWAY received; Error code: 2;"),
        (
            "UNAVAILABLE",
            UNWRAP,
            frostline.ServerUnavailable,
            r"ended TLS after .* certificate of the client.*certificate=",
        ),
        ("UNAVAILABLE", ALPN, frostline.ServerUnavailable, "speaks TLS, but not gRPC; this may be the HTTP port"),
        (
            "UNAVAILABLE",
            f"{TLS}:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            frostline.ServerUnavailable,
            "the certificate of the server at box:1 is not trusted; give a PEM file of its authority with tls=",
        ),
        (
            "UNAVAILABLE",
            f"{TLS}:WRONG_VERSION_NUMBER: Invalid certificate verification context: OK",
            frostline.ServerUnavailable,
            "what answers at box:1 does not speak TLS; leave tls out",
        ),
        ("UNAVAILABLE", LOOK_UP, frostline.ServerUnavailable, r"\(Domain name not found\)$"),
        (
            "INTERNAL",
            RESOLVER,
            frostline.ServerUnavailable,
            r"^box:1 cannot be looked up \(.*Cannot parse authority: box\)",
        ),
        ("UNAVAILABLE", f"a: {HANDSHAKER}.", frostline.ServerUnavailable, "a certificate or key given is no PEM, or"),
    ],
)
def test_without_a_kind_the_status_alone_decides(
    code: str, details: str, error: type[frostline.FrostlineError], sentence: str
) -> None:
    found = from_status(code, details, kind="", address="box:1", timeout_s=2.5)
    assert type(found) is error
    assert (found.code, found.kind) == (code, "")
    with pytest.raises(frostline.FrostlineError, match=sentence):
        raise found


def test_of_all_that_a_server_says_is_exhausted_only_a_large_message_is_too_large() -> None:
    exhausted = {each.kind for each in _kinds(PredictionError) if each.code == "RESOURCE_EXHAUSTED"}
    found = {
        kind: type(from_status("RESOURCE_EXHAUSTED", "why", kind=kind, address="box:1", timeout_s=1))
        for kind in exhausted
    }
    # Of calls that this client never makes.
    found.pop("too_many_regions")
    assert {kind for kind, error in found.items() if error is frostline.MessageTooLarge} == {
        "message_too_large",
        "metadata_too_large",
    }


def _kinds(error: type[PredictionError]) -> list[type[PredictionError]]:
    return [error, *(found for each in error.__subclasses__() for found in _kinds(each))]


@pytest.mark.parametrize(
    ("version", "last", "other"), [("6:%5B::1%5D", "[::1]:9", "127.0.0.1:9"), ("4:127.0.0.1", "127.0.0.1:9", "[::1]:9")]
)
def test_of_a_name_with_two_addresses_the_other_one_is_named(
    version: str, last: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by = [(family, socket.SOCK_STREAM, 6, "", ()) for family in (socket.AF_INET6, socket.AF_INET)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found_by)
    details = f"failed to connect to all addresses; last error: UNKNOWN: ipv{version}:9: Failed to connect to remote host: Connection refused"
    found = from_status("UNAVAILABLE", details, kind="", address="localhost:9", timeout_s=1)
    assert str(found).endswith(
        f"(Connection refused at {last}, the last of its addresses; if a server runs here, ask {other}, which tells more)"
    )
    for elsewhere in ("box:9", "mylocalhost.example:9"):
        refusal = from_status("UNAVAILABLE", details, kind="", address=elsewhere, timeout_s=1)
        assert str(refusal).endswith("(Connection refused)")
    del found_by[0]
    refusal = from_status("UNAVAILABLE", details, kind="", address="localhost:9", timeout_s=1)
    assert str(refusal).endswith("(Connection refused)")
