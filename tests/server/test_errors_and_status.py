"""Every way a prediction can fail, the status its client sees, and the reason Triton's counter files it under."""

import os
import re
from pathlib import Path

import grpc
import pytest

from frostline_server import errors
from frostline_server.errors import ConfigError, LoadError, PredictionError, StartError
from frostline_server.metrics.families import REASONS
from frostline_server.rpc.grpc_status import GRPC_PUSHBACK, PUSHBACK, status, trailers

CLIENTS = Path(__file__).parents[2] / "docs" / "clients.md"

TABLE: list[tuple[type[PredictionError], str, grpc.StatusCode, int, str]] = [
    (errors.PredictionError, "unknown", grpc.StatusCode.UNKNOWN, 2, "OTHER"),
    (errors.InvalidInput, "invalid_input", grpc.StatusCode.INVALID_ARGUMENT, 3, "OTHER"),
    (errors.MessageTooLarge, "message_too_large", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.MetadataTooLarge, "metadata_too_large", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.TooManyCalls, "too_many_calls", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.NetworkFull, "network_full", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.Unsupported, "unsupported", grpc.StatusCode.UNIMPLEMENTED, 12, "OTHER"),
    (errors.ModelNotFound, "model_not_found", grpc.StatusCode.NOT_FOUND, 5, "OTHER"),
    (errors.RegionNotFound, "region_not_found", grpc.StatusCode.NOT_FOUND, 5, "OTHER"),
    (errors.AlreadyExists, "already_exists", grpc.StatusCode.ALREADY_EXISTS, 6, "OTHER"),
    (errors.TooManyRegions, "too_many_regions", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.ModelNotReady, "model_not_ready", grpc.StatusCode.UNAVAILABLE, 14, "OTHER"),
    (errors.QueueFull, "queue_full", grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.Overloaded, "overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.QueueTimeout, "queue_timeout", grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.ProcessSilent, "process_silent", grpc.StatusCode.UNAVAILABLE, 14, "OTHER"),
    (errors.ServerStopping, "server_stopping", grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.BatcherClosed, "version_closing", grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.Unauthenticated, "unauthenticated", grpc.StatusCode.UNAUTHENTICATED, 16, "REJECTED"),
    (errors.PermissionDenied, "permission_denied", grpc.StatusCode.PERMISSION_DENIED, 7, "REJECTED"),
    (errors.RateLimited, "rate_limited", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.ModelControlOff, "model_control_off", grpc.StatusCode.UNAVAILABLE, 14, "OTHER"),
    (errors.LoadFailed, "load_failed", grpc.StatusCode.INVALID_ARGUMENT, 3, "OTHER"),
    (errors.DeadlineExceeded, "deadline_exceeded", grpc.StatusCode.DEADLINE_EXCEEDED, 4, "CANCELED"),
    (errors.Cancelled, "cancelled", grpc.StatusCode.CANCELLED, 1, "CANCELED"),
    (errors.RunFailed, "run_failed", grpc.StatusCode.INTERNAL, 13, "BACKEND"),
    (errors.RunTimedOut, "run_timed_out", grpc.StatusCode.DEADLINE_EXCEEDED, 4, "BACKEND"),
    (errors.RunStopped, "run_stopped", grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.InvalidData, "invalid_data", grpc.StatusCode.INVALID_ARGUMENT, 3, "BACKEND"),
    (errors.OutOfMemory, "out_of_memory", grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "BACKEND"),
]


@pytest.mark.parametrize(("failure", "kind", "code", "number", "reason"), TABLE)
def test_every_failure_has_its_kind_its_status_its_number_and_its_reason(
    failure: type[PredictionError], kind: str, code: grpc.StatusCode, number: int, reason: str
) -> None:
    error = failure("what happened")
    assert trailers(error) == (("frostline-error", kind),)
    assert status(error) == (code, "what happened")
    assert status(error)[0].value[0] == number
    assert error.reason == reason


def test_no_failure_is_missing_from_the_table() -> None:
    defined = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PredictionError)
    }
    assert defined == {kind for kind, *_ in TABLE}


def test_no_two_failures_are_of_one_kind_and_the_page_for_clients_has_each() -> None:
    kinds = [kind for _, kind, *_ in TABLE]
    assert len(set(kinds)) == len(kinds)
    documented = re.findall(r"^\| `(\w+)` \|", CLIENTS.read_text(), re.MULTILINE)
    assert set(kinds) - {"unknown"} <= set(documented)


def test_every_reason_is_one_that_tritons_counter_has() -> None:
    assert {kind.reason for kind, *_ in TABLE} <= set(REASONS)


def test_a_push_back_is_trailing_metadata_beside_the_kind() -> None:
    kind = ("frostline-error", "overloaded")
    assert trailers(errors.Overloaded("later", 12), PUSHBACK) == (kind, ("retry-pushback-ms", "12"))
    assert trailers(errors.Overloaded("later", 12), PUSHBACK, GRPC_PUSHBACK) == (
        kind,
        ("retry-pushback-ms", "12"),
        ("grpc-retry-pushback-ms", "12"),
    )
    assert trailers(errors.QueueFull("later"), PUSHBACK) == (("frostline-error", "queue_full"),)


def test_the_message_starts_with_the_clients_id_if_it_gave_one() -> None:
    _, message = status(errors.QueueFull("try later"), "é7")
    assert message == "[request id: é7] try later"


def test_failures_of_loading_starting_and_settings_are_no_predictions() -> None:
    for kind in (LoadError, ConfigError, StartError):
        assert not issubclass(kind, PredictionError)


def test_text_that_utf8_cannot_hold_is_escaped_and_not_another_failure() -> None:
    error = errors.ModelNotFound(f"no such file: {os.fsdecode(b'caf' + bytes([0xE9]))}")
    assert status(error) == (grpc.StatusCode.NOT_FOUND, "no such file: caf\\udce9")
