"""The parser of HTTP/1.1 request heads (RFC 9112), for requests without a body."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

METHODS = ("GET", "HEAD")
_MAX_FIELDS = 100
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
# Without the folding of long lines, which nobody should send any more.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*")


class BadRequest(Exception):
    """A request that is not answered.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request.

    Attributes:
        method: such as GET.
        path: of the target, without the query, as it was sent.
        query: what is behind the question mark.
        fields: the header fields by name, in lower case; those of one name joined by commas.
        keeps: whether the connection may be used for another one.
    """

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    keeps: bool


def parse(head: bytes) -> Request:
    """Parse the head of a request, up to its empty line.

    Raises:
        BadRequest: it is none, or one that has a body.
    """
    line, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadRequest(400, "this is no HTTP request")
    method, target, major, minor = (part.decode("latin-1") for part in found.groups())
    if major != "1":
        raise BadRequest(505, "this server speaks HTTP/1.1")
    fields = _fields(rest)
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        raise BadRequest(413, "no request here has a body")
    if method not in METHODS:
        raise BadRequest(405, f"the methods are {' and '.join(METHODS)}")
    if not target.startswith("/"):  # as a proxy writes it: http://host/path
        target = f"/{target.partition('://')[2].partition('/')[2]}"
    path, _, query = target.partition("?")
    options = [option.strip().lower() for option in fields.get("connection", "").split(",")]
    return Request(method, path, query, fields, keeps=minor != "0" and "close" not in options)


def _fields(lines: list[bytes]) -> Mapping[str, str]:
    if len(lines) > _MAX_FIELDS:
        raise BadRequest(431, f"a request has at most {_MAX_FIELDS} header fields")
    fields: dict[str, str] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise BadRequest(400, "a header field is malformed")
        name, value = found[1].decode("latin-1").lower(), found[2].decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
