"""How log lines look, on standard error and nowhere else."""

import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from frostline_server import logs
from tests.support import process_logging

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    with process_logging.untouched():
        yield


def test_a_json_line_is_one_object_with_event_level_time_and_fields(capsys: Capture) -> None:
    logs.configure("json", "info")
    structlog.get_logger().info("ready", address="127.0.0.1:8001", models=["digits:1"], seconds=0.5)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    fields = json.loads(line)
    moment = datetime.fromisoformat(fields.pop("timestamp"))
    assert moment.tzinfo is not None
    assert fields == {
        "event": "ready", "level": "info", "address": "127.0.0.1:8001", "models": ["digits:1"], "seconds": 0.5
    }  # fmt: skip
    assert captured.out == ""


def test_a_line_that_cannot_be_written_is_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open("/dev/full", "w") as full, os.fdopen(read) as reader, os.fdopen(write, "w") as pipe:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        logs.configure("json", "info")
        structlog.get_logger().info("draining")
        logging.getLogger("library").warning("beware")
        assert logs.lost_lines() == 2
        # There is room again.
        os.dup2(pipe.fileno(), full.fileno())
        structlog.get_logger().info("ready", name="\udc80")
        assert json.loads(reader.readline())["event"] == "ready", "nothing of what was lost comes later"
        assert logs.lost_lines() == 2
        reader.close()
        pipe.close()
        structlog.get_logger().info("nobody reads any more")
        assert logs.lost_lines() == 3


def test_a_line_of_one_of_several_processes_has_its_number(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.WORKER, "1")
    logs.configure("json", "info")
    structlog.get_logger().info("ready")
    logging.getLogger("library").warning("beware")
    assert [json.loads(line)["process"] for line in capsys.readouterr().err.splitlines()] == [1, 1]


def test_a_line_is_written_at_once_so_that_those_of_other_processes_do_not_come_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    logs.configure("json", "info")
    structlog.get_logger().info("ready")
    (line,) = written
    assert line.endswith("}\n")


def test_a_json_line_stays_one_line_whatever_is_in_it(capsys: Capture) -> None:
    logs.configure("json", "info")
    structlog.get_logger().error("model", reason="first\nsecond é", path=object)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["reason"] == "first\nsecond é"


def test_an_exception_is_part_of_its_json_line(capsys: Capture) -> None:
    logs.configure("json", "info")
    try:
        int("bad weather")
    except ValueError:
        structlog.get_logger().exception("request failed")
    (line,) = capsys.readouterr().err.splitlines()
    (exception,) = json.loads(line)["exception"]
    assert exception["exc_type"] == "ValueError"
    assert "bad weather" in exception["exc_value"]


def test_a_console_line_has_no_colours_where_nobody_sees_them(capsys: Capture) -> None:
    logs.configure("console", "info")
    structlog.get_logger().info("ready", address="127.0.0.1:8001")
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "ready" in line
    assert "address=127.0.0.1:8001" in line
    assert "\x1b" not in line
    assert captured.out == ""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_less_severe_lines_than_asked_for_are_left_out(capsys: Capture, level: str, shown: list[str]) -> None:
    logs.configure("json", level)
    log = structlog.get_logger()
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize("levels", [("error",), ()])
def test_what_is_about_security_and_the_end_is_logged_at_any_level(capsys: Capture, levels: tuple[str, ...]) -> None:
    logs.show("json", levels)
    log = structlog.get_logger()
    logs.audit(method="LogSettings")
    for event in ("access", "certificate", "signal", "draining", "stopped", "model"):
        log.info(event)
        log.debug(event)
    told = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert told == ["audit", "access", "certificate", "signal", "draining", "stopped"]


def test_what_may_happen_often_is_a_line_now_and_then_that_says_how_often() -> None:
    now_s = 0.0
    seldom = logs.Seldom(60, lambda: now_s)
    assert [seldom.times() for _ in range(3)] == [1, 0, 0]
    now_s = 60.0
    assert [seldom.times() for _ in range(2)] == [3, 0]


def test_a_logger_made_before_still_follows_the_latest_configuration(capsys: Capture) -> None:
    log = structlog.get_logger()
    logs.configure("console", "info")
    log.info("first")
    logs.configure("json", "info")
    log.info("second")
    first, second = capsys.readouterr().err.splitlines()
    assert not first.startswith("{")
    assert json.loads(second)["event"] == "second"


def test_libraries_are_heard_from_warnings_on(capsys: Capture) -> None:
    logs.configure("json", "debug")
    library = logging.getLogger("grpc")
    library.info("chatter")
    library.warning("careful")
    captured = capsys.readouterr()
    assert "careful" in captured.err
    assert "chatter" not in captured.err


def test_what_a_thread_is_about_is_on_its_lines(capsys: Capture) -> None:
    logs.configure("json", "info")
    with structlog.contextvars.bound_contextvars(model="digits"):
        structlog.get_logger().info("loading")
    assert json.loads(capsys.readouterr().err)["model"] == "digits"


@pytest.mark.parametrize("style", ["json", "console"])
def test_logged_exceptions_do_not_hold_what_clients_sent(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure(style, "info")

    def fail(payload: str) -> None:
        int("x" + payload[:0])

    try:
        fail("secret pixels")
    except ValueError:
        structlog.get_logger().exception("request failed")
    logged = capsys.readouterr().err
    assert "ValueError" in logged
    assert "secret pixels' " not in logged.replace('fail("secret pixels")', "")
    assert '"payload"' not in logged
    assert "│" not in logged


def test_any_set_of_levels_can_be_shown(capsys: Capture) -> None:
    logs.show("json", ("debug", "error"))
    logger = structlog.get_logger()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(level)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "debug",
        "error",
        "critical",
    ]


def test_with_no_level_shown_only_the_critical_is(capsys: Capture) -> None:
    logs.show("console", ())
    structlog.get_logger().error("hidden")
    logging.getLogger("library").error("hidden")
    assert capsys.readouterr().err == ""


def events(capsys: Capture) -> list[dict[str, Any]]:
    """The lines on standard error, all of them JSON."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_libraries_lines_look_like_our_own(capsys: Capture) -> None:
    logs.configure("json", "info")
    logging.getLogger("grpc.server").error("it is %s,\nin two lines", "bad")
    try:
        int("bad weather")
    except ValueError:
        logging.getLogger("asyncio").exception("lost")
    first, second = events(capsys)
    assert datetime.fromisoformat(first.pop("timestamp")).tzinfo is not None
    assert first == {"event": "it is bad,\nin two lines", "level": "error", "logger": "grpc.server"}
    (exception,) = second["exception"]
    assert (second["event"], exception["exc_type"]) == ("lost", "ValueError")
    assert "locals" not in json.dumps(second)


def test_a_library_line_that_cannot_be_written_is_said_so(capsys: Capture) -> None:
    logs.configure("json", "info")
    logging.getLogger("library").warning("%d of %d", "one")  # noqa: PLE1206  that is the mistake
    (line,) = events(capsys)
    assert (line["event"], line["logger"], line["line"]) == ("a log line could not be written", "library", "%d of %d")


def test_libraries_are_silent_at_levels_that_are_not_shown(capsys: Capture) -> None:
    logs.show("json", ("error",))
    library = logging.getLogger("library")
    library.warning("careful")
    library.error("broken")
    library.critical("gone")
    logs.show("json", ("warning",))
    library.error("hidden")
    library.warning("seen")
    assert [line["event"] for line in events(capsys)] == ["broken", "gone", "seen"]


def test_warnings_are_lines(capsys: Capture) -> None:
    logs.configure("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = events(capsys)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "UserWarning: old ways" in line["event"]


def test_what_nothing_catches_is_a_line(capsys: Capture) -> None:
    logs.configure("json", "info")
    thread = threading.Thread(target=lambda: int("in a thread"), name="worker")
    thread.start()
    thread.join()
    quiet = threading.Thread(target=sys.exit)
    quiet.start()
    quiet.join()
    try:
        int("at the end")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
        what: Any = SimpleNamespace(exc_value=error, err_msg="Exception ignored in", object=len)
        sys.unraisablehook(what)
    in_thread, at_the_end, ignored = events(capsys)
    assert (in_thread["level"], in_thread["event"], in_thread["thread"]) == ("critical", "uncaught exception", "worker")
    assert "in a thread" in in_thread["exception"][0]["exc_value"]
    assert (at_the_end["level"], at_the_end["event"]) == ("critical", "uncaught exception")
    assert "at the end" in at_the_end["exception"][0]["exc_value"]
    assert (ignored["level"], ignored["event"], ignored["where"]) == ("error", "Exception ignored in", repr(len))
    assert "at the end" in ignored["exception"][0]["exc_value"]
