"""New bearer tokens: random, shown once, and kept as a hash."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frostline_server.access.access_file import Entries, parse

_PREFIX = "frostline_"
"""So that tools that look for secrets in repositories and logs can find one."""


def new_token(
    name: str, roles: Sequence[str], requests_per_s: float | None = None, burst: float | None = None
) -> tuple[str, str]:
    """Make a token of 256 random bits.

    Returns:
        The token, and its entry for an access file, which does not show it.

    Raises:
        StartError: the entry would not be valid.
    """
    token = _PREFIX + secrets.token_urlsafe(32)
    fields = {
        "name": name,
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "roles": list(roles),
        "requests_per_s": requests_per_s,
        "burst": burst,
    }
    # What JSON writes of these is TOML too.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items() if value is not None]
    entry = "\n".join(["[[tokens]]", *lines, ""])
    parse(entry, "entry", Entries())
    return token, entry


def addition(entry: str, file: Path) -> str:
    """What to append to an access file, which need not be there yet, so that it has an entry more.

    Raises:
        StartError: the file would not be valid with the entry.
        OSError: it cannot be read.
    """
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    parse(before + gap + entry, f"access file {file} with the new entry", Entries())
    return gap + entry


@contextmanager
def appending(text: str, file: Path) -> Iterator[None]:
    """Append to an access file, which is made if it is not there, unless the block fails.

    It is written into the file itself, because a file that took its place would not be seen in a container into which
    this one is mounted. A server that reads it half written keeps what it had, and reads it again.

    Raises:
        OSError: it cannot be written; nothing in the block is done where it cannot be opened.
    """
    made = not file.exists()
    with file.open("a", encoding="utf-8") as opened:
        try:
            yield
        except BaseException:
            if made and not os.fstat(opened.fileno()).st_size:
                file.unlink()
            raise
        opened.write(text)
