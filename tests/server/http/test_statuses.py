"""Errors as HTTP statuses: the same as over gRPC, and as the documentation says."""

import json
import re
from pathlib import Path

import pytest

from frostline_server import errors
from frostline_server.http.statuses import Failure, failure_head, failure_of

PAGE = Path(__file__).parents[3] / "docs" / "clients.md"
OF_GRPC = {"cancelled", "deadline_exceeded", "metadata_too_large", "too_many_calls", "unknown"}
"""What HTTP has not: calls that clients cancel, deadlines, calls that last."""


def kinds(base: type[errors.PredictionError] = errors.PredictionError) -> dict[str, type[errors.PredictionError]]:
    """Every error by its word."""
    found = {base.kind: base}
    for each in base.__subclasses__():
        found |= kinds(each)
    return found


def test_the_page_says_which_status_each_error_has() -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## HTTP\n")[1].split("\n## ")[0]
    told: dict[str, set[int]] = {}
    for statuses, words in re.findall(r"^\| ([\d, ]+) \| (.*) \|$", section, flags=re.MULTILINE):
        for word in re.findall(r"`([a-z_]+)`", words):
            told.setdefault(word, set()).update(map(int, statuses.split(", ")))
    known = {kind: failure_of(error("no")).status for kind, error in kinds().items() if kind not in OF_GRPC}
    assert {kind: told[kind] for kind in known if kind != "unsupported"} == {
        kind: {status} for kind, status in known.items() if kind != "unsupported"
    }
    assert known["unsupported"] in told["unsupported"]


def test_a_failure_names_the_request_and_when_to_come_again() -> None:
    error = errors.RateLimited("too many", 1500)
    failure = failure_of(error, "7")
    assert (failure.status, failure.kind, failure.retry_s) == (429, "rate_limited", 2)
    assert failure.sentence == "[request id: 7] too many"
    assert json.loads(failure.body) == {"error": failure.sentence}
    assert dict(failure.headers) == {
        b"content-type": b"application/json",
        b"frostline-error": b"rate_limited",
        b"retry-after": b"2",
    }


def test_whoever_must_show_a_token_is_told_so() -> None:
    assert (b"www-authenticate", b"Bearer") in failure_of(errors.Unauthenticated("who?")).headers


@pytest.mark.parametrize("text", ["x" * 10_000, "a\ud800b"])
def test_a_sentence_can_be_sent_whatever_is_in_it(text: str) -> None:
    failure = Failure(400, text)
    assert len(failure.sentence) <= 4000
    assert json.loads(failure.body)["error"] == failure.sentence


def test_a_whole_answer_ends_the_connection() -> None:
    head, _, body = failure_head(Failure(431, "too long", "head_too_large")).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert {b"connection: close", b"content-length: %d" % len(body), b"frostline-error: head_too_large"} <= set(lines)
    assert failure_head(Failure(499, "gone")).startswith(b"HTTP/1.1 499 \r\n")
