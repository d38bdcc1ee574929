"""The credential store: the access file, looked at once a second."""

import hashlib
import hmac
import threading
from collections.abc import Collection
from pathlib import Path

from frostline_server.access.access_file import Entries, read
from frostline_server.access.identity import Identity
from frostline_server.reloaded import Reloaded

LOOK_S = 1.0
"""Seconds between two looks at the file."""


class Credentials:
    """Whose a token or a certificate is.

    A thread of its own looks at the file, because a network file system may keep it waiting. Calls read what it left.

    Args:
        file: the access file.
    """

    def __init__(self, file: Path) -> None:
        self.entries = Entries()
        self.generation = 0
        """Grows when the entries have changed. Whoever remembers an identity asks again then."""
        self._file = Reloaded("access", [file], lambda: read(file, self.entries))
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the file, and go on looking at it.

        Raises:
            StartError: it cannot be read, or makes no sense.
        """
        self.entries = self._file.start()
        self._thread = threading.Thread(target=self._keep_looking, name="access-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Read the file again if it has changed. A file that is not valid changes nothing and is logged once."""
        fresh = self._file.look()
        if fresh is not self.entries:
            # In this order: who sees the new generation gets the new entries.
            self.entries = fresh
            self.generation += 1

    def of_token(self, token: bytes) -> Identity | None:
        """Whose a token is. Every token takes the same time, one that nobody has too."""
        digest = hashlib.sha256(token).digest()
        found = None
        for known, identity in self.entries.tokens:
            if hmac.compare_digest(known, digest):
                found = identity
        return found

    def of_certificate(self, names: Collection[str]) -> Identity | None:
        """Whose a certificate with these names is; its signature is checked already."""
        for subjects, identity in self.entries.certificates:
            if not subjects.isdisjoint(names):
                return identity
        return None

    def _keep_looking(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self.look()
