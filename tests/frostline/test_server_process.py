"""A server in a child process: started, watched, stopped, never left behind."""

import signal
import sys
from collections.abc import Sequence

import pytest

from frostline import server_process

READY = {"event": "ready", "address": "127.0.0.1:1", "metrics": "http://127.0.0.1:2"}


def program(*body: str) -> Sequence[str]:
    """A stand-in for the server: `say` logs an event, `wait` waits for SIGTERM."""
    prelude = (
        "import json, signal, sys",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        "def say(**event): print(json.dumps(event), file=sys.stderr, flush=True)",
        "def wait(): signal.sigwait([signal.SIGTERM])",
    )
    return (sys.executable, "-c", "\n".join((*prelude, *body)))


SERVES = program(f"say(**{READY})", "wait()", "say(event='stopped', finished=True)")


def test_a_ready_server_is_handed_over_and_stopped_with_sigterm() -> None:
    events: list[server_process.Event] = []
    with server_process.serve([], events.append, program=SERVES) as served:
        assert (served.address, served.metrics) == ("127.0.0.1:1", "http://127.0.0.1:2")
        assert events == [READY]
    assert events[1:] == [{"event": "stopped", "finished": True}]


def test_the_server_gets_free_ports_and_the_flags() -> None:
    echo = program(f"say(**{READY}, flags=sys.argv[1:])", "wait()")
    with server_process.serve(["--models", "m"], lambda _: None, program=echo) as served:
        flags = served.ready["flags"]
    assert flags == ["--port", "0", "--metrics-port", "0", "--http-port", "0", "--log-format", "json", "--models", "m"]


@pytest.mark.parametrize("settings", [True, False])
def test_settings_in_the_environment_hold_unless_they_may_be_another_servers(
    monkeypatch: pytest.MonkeyPatch, settings: bool
) -> None:
    monkeypatch.setenv("FROSTLINE_REQUIRE", "other")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    names = ("FROSTLINE_REQUIRE", "CUDA_VISIBLE_DEVICES")
    echo = program("import os", f"say(**{READY}, seen=[os.environ.get(name) for name in {names}])", "wait()")
    with server_process.serve([], lambda _: None, program=echo, settings=settings) as served:
        assert served.ready["seen"] == ["other" if settings else None, "1"]


def test_a_server_that_ends_early_is_reported_with_its_log() -> None:
    events: list[server_process.Event] = []
    fails = program("print('frostline: no such models folder: m', file=sys.stderr)", "sys.exit(2)")
    with (
        pytest.raises(server_process.ServerFailed, match="ended with code 2 before it was ready"),
        server_process.serve([], events.append, program=fails),
    ):
        pytest.fail("the block must not run")
    assert events == [{"event": "frostline: no such models folder: m"}]


@pytest.mark.parametrize(
    ("code", "last", "kind"),
    [
        (2, "print('frostline: no such device', file=sys.stderr)", server_process.ServerRefused),
        (2, "say(event='cannot start', reason='no such device')", server_process.ServerRefused),
        (1, "print('no such device', file=sys.stderr)", server_process.ServerFailed),
    ],
)
def test_what_a_server_that_ends_early_said_last_is_the_reason(
    code: int, last: str, kind: type[server_process.ServerFailed]
) -> None:
    ends = program("say(event='model', reason='another')", last, f"sys.exit({code})")
    with (
        pytest.raises(server_process.ServerFailed) as failed,
        server_process.serve([], lambda _: None, program=ends),
    ):
        pytest.fail("the block must not run")
    assert type(failed.value) is kind
    assert str(failed.value) == f"the server ended with code {code} before it was ready: no such device"


def test_a_server_that_cannot_become_ready_is_stopped_and_says_why() -> None:
    events: list[server_process.Event] = []
    unready = program("say(event='not ready', unready='digits failed')", "wait()", "say(event='stopped')")
    with (
        pytest.raises(server_process.ServerFailed, match="the server is not ready: digits failed"),
        server_process.serve([], events.append, program=unready),
    ):
        pytest.fail("the block must not run")
    assert events[-1] == {"event": "stopped"}


def test_a_bad_exit_code_is_reported() -> None:
    fails = program(f"say(**{READY})", "wait()", "sys.exit(3)")
    with (
        pytest.raises(server_process.ServerFailed, match="ended with code 3 instead of 0 after SIGTERM"),
        server_process.serve([], lambda _: None, program=fails),
    ):
        pass


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt])
def test_trouble_in_the_block_stops_the_server(trouble: type[BaseException]) -> None:
    events: list[server_process.Event] = []
    with pytest.raises(trouble), server_process.serve([], events.append, program=SERVES):
        raise trouble
    assert events[-1] == {"event": "stopped", "finished": True}


def test_sigterm_to_this_process_stops_the_server_first() -> None:
    events: list[server_process.Event] = []
    with pytest.raises(SystemExit) as ended, server_process.serve([], events.append, program=SERVES):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert events[-1] == {"event": "stopped", "finished": True}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_lines_that_are_no_events_are_passed_on_as_text() -> None:
    events: list[server_process.Event] = []
    talks = program("print('Traceback', file=sys.stderr)", "print('[1]', file=sys.stderr)", f"say(**{READY})", "wait()")
    with server_process.serve([], events.append, program=talks):
        pass
    assert [event["event"] for event in events] == ["Traceback", "[1]", "ready"]
