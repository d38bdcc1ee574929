"""The command line's process: its arguments, its signals and its exit code."""

# ruff: noqa: PLC0415 - a server's signals are held back before anything slow is imported

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def run(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after `frostline`.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.
    """
    import typer

    from frostline.cli.commands import app
    from frostline.cli.usage import BadUsage, CannotDo
    from frostline.client.errors import FrostlineError

    try:
        code = app(list(arguments), prog_name="frostline", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(_as_ours(error.format_message()), error.exit_code)
    except BadUsage as error:
        return _refuse(str(error), 2)
    except (CannotDo, FrostlineError) as error:
        return _refuse(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return int(code or 0)


def _refuse(sentence: str, code: int) -> int:
    from frostline.terminal import visible

    # In one line, in which names keep their spaces.
    words = " ".join(filter(None, map(str.strip, sentence.splitlines()))).rstrip(".")
    sys.stderr.write(f"frostline: {visible(words)}\n")
    return code


def _as_ours(sentence: str) -> str:
    """A sentence of the library that reads the command line, written as all others are: it has a capital and a full stop."""
    words = sentence.replace("Value error, ", "")
    return words[0].lower() + words[1:] if words.partition(" ")[0].istitle() else words


def held() -> set[int]:
    """The signals of `frostline_server.signals.HANDLED`, which is not imported yet."""
    names = ["TERM", "INT", "QUIT", "HUP", "PWR", "XCPU", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "STKFLT"]
    found = {int(getattr(signal, f"SIG{name}")) for name in names if hasattr(signal, f"SIG{name}")}
    return found | set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ())


def main() -> NoReturn:
    """Runs the command line with the arguments of this process, and exits."""
    if sys.argv[1:2] == ["serve"]:
        # The kernel keeps them until the server's event loop takes them, a second from now. Without a handler they
        # would end the process without a drain, or be lost where it is PID 1 of a container.
        signal.pthread_sigmask(signal.SIG_BLOCK, held())
    sys.exit(run(sys.argv[1:]))
