"""The `frostline token` command: it makes a bearer token, and its entry for the server's access file."""

# ruff: noqa: PLC0415 - the command line imports this module for its options alone

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from frostline.cli.usage import BadUsage, CannotDo


def token(
    name: Annotated[str, typer.Argument(help="Whose token it is, as the server's log will say.", show_default=False)],
    *,
    roles: Annotated[
        str, typer.Option(help="What its owner may do: predict, observe and control, separated by commas.")
    ] = "predict",
    requests_per_s: Annotated[
        float | None, typer.Option(help="How many requests a second its owner may send.  [default: any number]")
    ] = None,
    burst: Annotated[
        float | None, typer.Option(help="How many of them may come at once.  [default: those of one second]")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The access file to which the entry is added.")] = None,
) -> None:
    """Make a token with which a client of the server says who it is.

    The token goes to standard output, once: only its hash is stored. Its entry is added to --file, or shown so that you
    can add it. A server that is started with --access-file notices the change.

    Clients send the token as the metadata "authorization: Bearer TOKEN".
    """
    from frostline_server.access import tokens
    from frostline_server.errors import StartError

    if burst is not None and requests_per_s is None:
        raise BadUsage("--burst has no effect without --requests-per-s")
    wanted = [role.strip() for role in roles.split(",") if role.strip()]
    try:
        made, entry = tokens.new_token(name, wanted, requests_per_s, burst)
        # Shown first, as an entry for a token that nobody has seen could not be told from one that somebody uses.
        with nullcontext() if file is None else tokens.appending(tokens.addition(entry, file), file):
            _show(made)
    except StartError as error:
        raise BadUsage(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"cannot add the token to {file}: {error}") from error
    where = f"added to {file}" if file is not None else f"add this to the access file of the server:\n\n{entry}"
    sys.stderr.write(f"the token of {name}, shown only here; {where}\n")


def _show(made: str) -> None:
    try:
        sys.stdout.write(f"{made}\n")
        sys.stdout.flush()
    except OSError as error:
        raise CannotDo(
            f"the token cannot be written to standard output ({error.strerror}), so nobody has it, and it has no entry; make "
            "another one"
        ) from error
