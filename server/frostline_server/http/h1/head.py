"""The head of a request: what HTTP/1.1 demands of it before anything acts on it.

What another program on the way could read differently is refused, because two readings of one head are how requests are
smuggled (RFC 9112, section 11.2).
"""

from collections.abc import Sequence

import httptools

from frostline_server.http.statuses import Failure

Headers = Sequence[tuple[bytes, bytes]]
"""In the order they came, names in small letters."""


def check_target(method: bytes, target: bytes, headers: Headers, version: str) -> None:
    """Refuse what is requested of no resource here.

    Args:
        method: of the request.
        target: as in the request line.
        headers: of the request.
        version: of HTTP.

    Raises:
        Failure: there is something wrong with it.
    """
    if version not in ("1.0", "1.1"):
        raise Failure(505, f"the request is of HTTP/{version}; HTTP/1.1 is understood", "unsupported")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Failure(400, f"a request has exactly one Host header; this one has {len(hosts)}", "bad_request")
    if method == b"CONNECT":
        raise Failure(405, "CONNECT asks for a proxy, which this server is not", "unsupported")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        _parsed(target)
        return
    if None in _parsed(target):
        raise Failure(400, f"the target {shown(target)} is no path such as /v2/models", "bad_request")
    named = target.partition(b"//")[2].partition(b"/")[0]
    if hosts and named.lower() != hosts[0].strip().lower():
        raise Failure(400, f"the target {shown(target)} names another host than the Host header", "bad_request")


def body_size(headers: Headers, version: str) -> int | None:
    """The size of the body that a request's headers announce; None where it comes in chunks.

    Raises:
        Failure: the headers contradict each other or the protocol, or it comes on a condition that is not known.
    """
    lengths, codings = [], []
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value.strip().lower())
        elif name == b"expect" and value.strip().lower() != b"100-continue" and version == "1.1":
            raise Failure(
                417, f"the request expects {shown(value)}; of such conditions 100-continue is understood", "unsupported"
            )
    if codings and (lengths or version != "1.1"):
        raise Failure(400, "a request has Content-Length or Transfer-Encoding, not both", "bad_request")
    if codings and codings != [b"chunked"]:
        raise Failure(501, "of the transfer encodings only chunked is understood", "unsupported")
    if codings:
        return None
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise Failure(400, "Content-Length is not one whole number", "bad_request")
    return int(lengths[0][:20]) if lengths else 0


def without_upgrade(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The head of a request that does not ask for another protocol, as bytes."""
    lines = (name + b": " + value for name, value in headers if name != b"upgrade")
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", *lines, b"", b""))


def shown(data: bytes) -> str:
    """Some bytes of a client's in a sentence."""
    return ascii(data[:100].decode("latin-1"))


def _parsed(target: bytes) -> tuple[bytes | None, bytes | None]:
    """The host and the path of a target, where it has them."""
    try:
        parsed = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError as error:
        raise Failure(400, f"the target {shown(target)} is no URL", "bad_request") from error
    return parsed.host, parsed.path
