"""The command line's process: its arguments, its signals and its exit code."""

# ruff: noqa: PLC0415 - a server's signals are held back before anything slow is imported

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

_OUTPUT = "standard output"

_SHOWING = {"predict", "models", "show", "token"}
"""The commands that do nothing but to print."""


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
        if sys.stdout is not None:
            sys.stdout.flush()  # what fails later, at the end of the process, fails with Python's words
    except typer.TyperException as error:
        return _refuse(_as_ours(error.format_message()), error.exit_code)
    except BadUsage as error:
        return _refuse(str(error), 2)
    except (CannotDo, FrostlineError) as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.filename == _OUTPUT:
            _drop_output()
        return _refuse(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        if error.filename != _OUTPUT:
            raise
        _drop_output()
        # A reader that has gone, such as head, has had what it wanted.
        return 1 if error.errno == errno.EPIPE else _refuse(f"cannot write to {_OUTPUT}: {error.strerror}", 1)
    return int(code or 0)


class _Output(io.FileIO):
    """Standard output, whose errors say that they are its own: those of other files have no name either, once these are open."""

    def write(self, data: Any, /) -> int:
        """Writes, as `FileIO` does."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = _OUTPUT
            raise


def _drop_output() -> None:
    """Sends what standard output still holds nowhere, so that the end of the process does not fail to write it again."""
    with suppress(OSError):  # of an output that is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


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
    if sys.stdout is None and sys.argv[1:2] and sys.argv[1] in _SHOWING:
        sys.exit(_refuse("standard output is closed, so nothing can be shown; open it, or send it to /dev/null", 1))
    if isinstance(sys.stdout, io.TextIOWrapper):
        was = sys.stdout
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(was.fileno(), "wb", closefd=False)),
            was.encoding,
            # A character that the terminal's encoding lacks shall not cost the answer.
            "backslashreplace" if was.errors == "strict" else was.errors,
            line_buffering=was.line_buffering,
            write_through=was.write_through,
        )
    sys.exit(run(sys.argv[1:]))
