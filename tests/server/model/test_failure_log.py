"""The log of failed runs: it says what fails and how often, and does not grow with the traffic."""

import structlog

from frostline_server.errors import InvalidData, OutOfMemory, RunFailed
from frostline_server.model.failure_log import PERIOD_S, FailureLog


def test_a_failure_is_told_with_its_model_its_kind_and_its_words() -> None:
    with structlog.testing.capture_logs() as lines:
        FailureLog("m", "3")(RunFailed("the network failed: CUDA failure 700"), 2)
    assert lines == [
        {
            "event": "run failed",
            "log_level": "error",
            "model": "m",
            "version": "3",
            "kind": "run_failed",
            "requests": 2,
            "reason": "the network failed: CUDA failure 700",
        }
    ]


def test_bad_data_is_told_at_level_info_and_what_is_the_servers_as_an_error() -> None:
    log = FailureLog("m", "3")
    with structlog.testing.capture_logs() as lines:
        for error in (InvalidData("idx=9"), OutOfMemory("no room"), RunFailed("gone")):
            log(error, 1)
    assert [(line["kind"], line["log_level"]) for line in lines] == [
        ("invalid_data", "info"),
        ("out_of_memory", "error"),
        ("run_failed", "error"),
    ]


def test_a_failure_that_goes_on_is_told_now_and_then_with_all_requests_since() -> None:
    now_s = 0.0
    log = FailureLog("m", "3", lambda: now_s)
    with structlog.testing.capture_logs() as lines:
        for n in range(100):
            log(RunFailed(f"failure {n}"), 1)
        log(InvalidData("idx=9"), 1)
        now_s = PERIOD_S
        log(RunFailed("failure 100"), 5)
    assert [(line["reason"], line["requests"]) for line in lines] == [
        ("failure 0", 1),
        ("idx=9", 1),
        ("failure 100", 99 + 5),
    ]
