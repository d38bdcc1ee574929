"""What keeps the pages of other sites from using a visitor's browser against the server.

A browser sends requests for any page that it shows, and the server may trust whoever reaches its address. So a request that
another site's page has caused is refused, and so is one for a host name that is none of the server's where anonymous callers
are trusted by their address: a name of somebody else's can lead to any address (DNS rebinding).
"""

import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from frostline_server.http.statuses import Failure

_SAFE = ("GET", "HEAD", "OPTIONS")

Headers = Mapping[str, str]
"""By their names in small letters."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""What the page may load and do: nothing but the server's own files and answers."""

ALWAYS: Sequence[tuple[bytes, bytes]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
"""Headers of every answer."""
_VARY = (b"vary", b"origin")


class Origins:
    """Which pages' requests are answered.

    Args:
        hosts: the names that the server is reached by, besides addresses and the machine's own; `*` for any.
        trusted: whether callers are trusted by their address, so that the name matters also where no host is named.
        cors: origins whose pages may use the API, such as https://app.example.org; `*` for all.
    """

    def __init__(self, hosts: Collection[str], cors: Collection[str], *, trusted: bool) -> None:
        # Who names hosts wants no others, wherever the port is.
        self._any_host = "*" in hosts or not (trusted or hosts)
        self._hosts = {host.casefold() for host in hosts} | {"localhost", socket.gethostname().casefold()}
        self._cors = frozenset(origin.casefold().rstrip("/") for origin in cors)

    def check(self, method: str, headers: Headers) -> None:
        """Refuse what a page of another site has caused.

        Args:
            method: of the request.
            headers: of the request.

        Raises:
            Failure: it is refused.
        """
        host = headers.get("host", "").strip()
        # No browser leaves it out, so without it there is no page behind the request.
        if host and not self._any_host and not self._is_own(host):
            raise Failure(
                421,
                f"the host {host[:100]!r} is no name of this server; use its address, or name it in the setting http_hosts",
                "wrong_host",
            )
        if method in _SAFE:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if site is not None:
            # The browser knows, also where what ends TLS in front of this server has changed scheme and host.
            own = site in ("none", "same-origin")
        else:
            own = origin is None or origin.casefold().partition("://")[2] == host.casefold()
        if not own and not (origin is not None and self.allows(origin)):
            raise Failure(
                403,
                f"a page of {(origin or 'another site')[:100]} has caused this request; the setting http_cors_origins names those "
                "whose pages may",
                "cross_site",
            )

    def allows(self, origin: str) -> bool:
        """Whether pages of another origin may use the API."""
        return "*" in self._cors or origin.casefold() in self._cors

    def cors(self, headers: Headers, *, preflight: bool = False) -> list[tuple[bytes, bytes]]:
        """The headers that let a page of another origin read an answer, where it may.

        Args:
            headers: of the request.
            preflight: whether it asks what it may send.
        """
        origin = headers.get("origin")
        if not self._cors:
            return []
        if origin is None or not self.allows(origin):
            # Or a cache on the way would hand this answer to a page that may.
            return [_VARY]
        said = [
            (b"access-control-allow-origin", b"*" if "*" in self._cors else origin.encode("latin-1")),
            (b"access-control-expose-headers", b"inference-header-content-length, frostline-error, retry-after"),
            (b"cross-origin-resource-policy", b"cross-origin"),
            _VARY,
        ]
        if preflight:
            said += [
                (b"access-control-allow-methods", b"GET, POST"),
                (
                    b"access-control-allow-headers",
                    b"authorization, content-type, inference-header-content-length, x-frostline",
                ),
                (b"access-control-max-age", b"600"),
            ]
        return said

    def _is_own(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str | None:
    """The name or address in a Host header; None where there is more in it than that and a port."""
    if set(host) & set("/\\@?# "):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises if it is none
    except ValueError:
        return None
    return parts.hostname
