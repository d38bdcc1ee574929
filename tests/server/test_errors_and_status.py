"""Every way a prediction can fail, the status its client sees, and the reason Triton's counter files it under."""

import os

import grpc
import pytest

from frostline_server import errors
from frostline_server.errors import ConfigError, LoadError, PredictionError, StartError
from frostline_server.metrics.families import REASONS
from frostline_server.rpc.grpc_status import GRPC_PUSHBACK, PUSHBACK, status, status_number, trailers

TABLE: list[tuple[type[PredictionError], grpc.StatusCode, int, str]] = [
    (errors.PredictionError, grpc.StatusCode.UNKNOWN, 2, "OTHER"),
    (errors.InvalidInput, grpc.StatusCode.INVALID_ARGUMENT, 3, "OTHER"),
    (errors.MessageTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.Unsupported, grpc.StatusCode.UNIMPLEMENTED, 12, "OTHER"),
    (errors.ModelNotFound, grpc.StatusCode.NOT_FOUND, 5, "OTHER"),
    (errors.RegionNotFound, grpc.StatusCode.NOT_FOUND, 5, "OTHER"),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS, 6, "OTHER"),
    (errors.TooManyRegions, grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.ModelNotReady, grpc.StatusCode.UNAVAILABLE, 14, "OTHER"),
    (errors.QueueFull, grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, 8, "REJECTED"),
    (errors.QueueTimeout, grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.ServerStopping, grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.BatcherClosed, grpc.StatusCode.UNAVAILABLE, 14, "REJECTED"),
    (errors.ModelControlOff, grpc.StatusCode.UNAVAILABLE, 14, "OTHER"),
    (errors.LoadFailed, grpc.StatusCode.INVALID_ARGUMENT, 3, "OTHER"),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED, 4, "CANCELED"),
    (errors.Cancelled, grpc.StatusCode.CANCELLED, 1, "CANCELED"),
    (errors.RunFailed, grpc.StatusCode.INTERNAL, 13, "BACKEND"),
]


@pytest.mark.parametrize(("kind", "code", "number", "reason"), TABLE)
def test_every_failure_has_its_status_its_number_and_its_reason(
    kind: type[PredictionError], code: grpc.StatusCode, number: int, reason: str
) -> None:
    error = kind("what happened")
    assert status(error) == (code, "what happened")
    assert status_number(error) == number
    assert error.reason == reason


def test_no_failure_is_missing_from_the_table() -> None:
    defined = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PredictionError)
    }
    assert defined == {kind for kind, *_ in TABLE}


def test_every_reason_is_one_that_tritons_counter_has() -> None:
    assert {kind.reason for kind, *_ in TABLE} <= set(REASONS)


def test_a_push_back_is_trailing_metadata_and_nothing_else_is() -> None:
    assert trailers(errors.Overloaded("later", 12), PUSHBACK) == (("retry-pushback-ms", "12"),)
    assert trailers(errors.Overloaded("later", 12), PUSHBACK, GRPC_PUSHBACK) == (
        ("retry-pushback-ms", "12"),
        ("grpc-retry-pushback-ms", "12"),
    )
    assert trailers(errors.QueueFull("later"), PUSHBACK) == ()


def test_the_message_starts_with_the_clients_id_if_it_gave_one() -> None:
    _, message = status(errors.QueueFull("try later"), "é7")
    assert message == "[request id: é7] try later"


def test_failures_of_loading_starting_and_settings_are_no_predictions() -> None:
    for kind in (LoadError, ConfigError, StartError):
        assert not issubclass(kind, PredictionError)


def test_text_that_utf8_cannot_hold_is_escaped_and_not_another_failure() -> None:
    error = errors.ModelNotFound(f"no such file: {os.fsdecode(b'caf' + bytes([0xE9]))}")
    assert status(error) == (grpc.StatusCode.NOT_FOUND, "no such file: caf\\udce9")
