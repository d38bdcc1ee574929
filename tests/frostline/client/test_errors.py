"""From gRPC statuses to errors that say what to do."""

import pytest

import frostline
from frostline.client.errors import from_status

QUEUE = "[request id: 7] Exceeds maximum queue size"
UPSTREAM = "upstream connect error. reset reason: connection termination"


@pytest.mark.parametrize(
    ("code", "details", "kind", "sentence"),
    [
        ("NOT_FOUND", "Request for unknown model: 'm' is not found", frostline.ModelNotFound, "is not found"),
        ("INVALID_ARGUMENT", "unexpected shape.", frostline.InvalidInput, "unexpected shape"),
        ("INTERNAL", "CUDA is gone", frostline.PredictionFailed, "the server failed while answering: CUDA is gone"),
        ("RESOURCE_EXHAUSTED", "too big", frostline.MessageTooLarge, "too big; send fewer rows"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", frostline.DeadlineExceeded, "no answer from box:1 within 2.5 s"),
        ("UNAVAILABLE", QUEUE, frostline.Overloaded, "box:1 is overloaded: send less at once"),
        ("UNAVAILABLE", "version 1 is not at ready state", frostline.ModelNotReady, "frostline models --server box:1"),
        ("UNAVAILABLE", "failed: OK", frostline.ServerUnavailable, r"box:1 was dropped \(OK\); is TLS on"),
        ("UNIMPLEMENTED", "model 'm' does not end", frostline.InvalidInput, "^model 'm' does not end$"),
        ("UNAVAILABLE", "Server is stopping", frostline.ServerUnavailable, "the server at box:1 is stopping"),
        ("UNAVAILABLE", UPSTREAM, frostline.ServerUnavailable, r"no Frostline server.*\(connection termination\)"),
        ("UNIMPLEMENTED", "Method not found!", frostline.FrostlineError, "box:1 is not a Frostline server"),
        ("UNAUTHENTICATED", "", frostline.FrostlineError, "UNAUTHENTICATED from box:1: UNAUTHENTICATED"),
    ],
)
def test_each_status_has_its_error_with_the_way_out(
    code: str, details: str, kind: type[frostline.FrostlineError], sentence: str
) -> None:
    error = from_status(code, details, address="box:1", timeout_s=2.5)
    assert type(error) is kind
    assert error.code == code
    with pytest.raises(frostline.FrostlineError, match=sentence):
        raise error
