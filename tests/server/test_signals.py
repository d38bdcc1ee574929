"""Which signals the server takes."""

import signal

from frostline.cli import main
from frostline_server import signals

CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}
CANNOT_BE_TAKEN = {"SIGKILL", "SIGSTOP"}
ENDS_NOTHING = {"SIGCHLD", "SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
IGNORED_BY_PYTHON = {"SIGPIPE", "SIGXFSZ"}


def test_every_signal_that_would_end_a_process_is_taken_but_those_of_a_crash() -> None:
    left = CRASHES | CANNOT_BE_TAKEN | ENDS_NOTHING | IGNORED_BY_PYTHON
    assert set(signals.HANDLED) == {number for number in signal.valid_signals() if signals.name(number) not in left}
    assert {signal.getsignal(getattr(signal, name)) for name in IGNORED_BY_PYTHON} == {signal.SIG_IGN}


def test_the_command_line_holds_back_exactly_those_that_the_server_takes() -> None:
    assert main.held() == set(signals.HANDLED)


def test_a_signal_has_a_name() -> None:
    assert [signals.name(number) for number in (signal.SIGTERM, signal.SIGRTMIN, signal.SIGRTMIN + 3)] == [
        "SIGTERM",
        "SIGRTMIN",
        "SIGRTMIN+3",
    ]
