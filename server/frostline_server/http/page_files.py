"""The files of the page: read once, at the start, and sent with what they may load and do."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frostline_server.http.security import PAGE_POLICY
from frostline_server.http.statuses import Failure

_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"


class PageFiles:
    """The endpoints of the page's files."""

    def __init__(self) -> None:
        found = files("frostline_server.http").joinpath("page")
        self._contents = {
            file.name: file.read_bytes() for file in found.iterdir() if "." in file.name and _type(file.name)
        }
        self._tags = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in self._contents.items()}

    def routes(self) -> list[Route]:
        """Each path with what answers it."""
        return [Route("/", self.file), Route("/page/{file}", self.file)]

    async def file(self, request: Request) -> Response:
        """A file of the page, or the page itself."""
        name = request.path_params.get("file", _INDEX)
        content = self._contents.get(name)
        if content is None:
            raise Failure(404, f"the page has no file {name[:100]!r}", "not_found")
        said = {
            "content-security-policy": PAGE_POLICY,
            "x-frame-options": "DENY",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-cache",
            "etag": self._tags[name],
        }
        if request.headers.get("if-none-match") == said["etag"]:
            return Response(status_code=304, headers=said)
        return Response(content, media_type=_type(name), headers=said)


def _type(name: str) -> str:
    return _TYPES.get(f".{name.rpartition('.')[2]}", "")
