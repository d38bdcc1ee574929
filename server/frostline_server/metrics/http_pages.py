"""HTTP pages: what answers a path, how many of one are made at once, and how often.

Pages that take long are made in threads of their own, so that none holds up another one, or the end of the process. However
many ask for one, to make it takes at most a tenth of the time of one processor, as long as it takes less than 25 ms: who
waited when it was begun gets the same one.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from frostline_server.metrics.http_request import Request

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_SHARE = 0.1
"""The part of the time in which a page is made."""
_LONGEST_REST_S = 1.0


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: such as 200.
        body: what is sent.
        fields: header fields, besides those of every answer.
    """

    status: int
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()


def text(status: int, sentence: str, *fields: tuple[str, str]) -> Response:
    """A line of text as an answer."""
    return Response(status, f"{sentence}\n".encode(), (("Content-Type", "text/plain; charset=utf-8"), *fields))


@dataclass(frozen=True, slots=True)
class Page:
    """What answers a path.

    Attributes:
        make: makes the answer.
        at_once: how many of them are made and sent at the same time, each in a thread of its own; 0 for one that takes no
            time, which is made by the thread that owns the connections. Others depend on the query and on the fields
            Accept and Accept-Encoding alone.
        refuse: asked before, in that thread; gives the answer to whoever may not have the page.
    """

    make: Callable[[Request], Response]
    at_once: int = 0
    refuse: Callable[[Request], Response | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Made:
    asked: tuple[str | None, ...]
    begun_s: float
    response: Response


class Pages:
    """The pages of a server; for one event loop.

    Args:
        pages: by path.
        wait_s: seconds that a request waits for its turn to have its page made.
    """

    def __init__(self, pages: Mapping[str, Page], wait_s: float) -> None:
        self._pages = pages
        self._wait_s = wait_s
        self._turns = {path: asyncio.Semaphore(page.at_once) for path, page in pages.items() if page.at_once}
        self._last: dict[str, _Made] = {}

    async def answer(self, request: Request, send: Callable[[Response], Awaitable[None]]) -> None:
        """Answer a request.

        Args:
            request: the request.
            send: sends the answer.
        """
        page = self._pages.get(request.path)
        if page is None:
            *others, last = self._pages
            await send(text(404, f"the paths are {', '.join(others)} and {last}"))
            return
        refusal = page.refuse(request)
        if refusal is not None:
            await send(refusal)
            return
        if not page.at_once:
            await send(page.make(request))
            return
        loop = asyncio.get_running_loop()
        turn, asked, came_s, rest_s = self._turns[request.path], _asked(request), loop.time(), 0.0
        try:
            async with asyncio.timeout(self._wait_s):
                await turn.acquire()
        except TimeoutError:
            await send(text(503, "too many requests for this page at once", ("Retry-After", "1")))
            return
        try:
            shared = self._last.get(request.path)
            if shared is None or shared.begun_s < came_s or shared.asked != asked:
                begun_s = loop.time()
                shared = _Made(asked, begun_s, await _made(page, request))
                self._last[request.path] = shared
                rest_s = min((loop.time() - begun_s) * (page.at_once / _SHARE - 1), _LONGEST_REST_S)
            # Its turn ends when it has left: until then it takes memory.
            await send(shared.response)
        finally:
            loop.call_later(rest_s, self._end, request.path)

    def _end(self, path: str) -> None:
        """End a turn, and keep the last page only for whoever waits for it."""
        turn = self._turns[path]
        if not turn.locked():
            self._last.pop(path, None)
        turn.release()


def _asked(request: Request) -> tuple[str | None, ...]:
    """What a page depends on."""
    return (request.query, *map(request.fields.get, ("accept", "accept-encoding")))


async def _made(page: Page, request: Request) -> Response:
    try:
        return await in_thread(lambda: page.make(request))
    except Exception:  # noqa: BLE001  a page that fails is one answer, and a line of the log
        _log.exception("a page failed", path=request.path)
        return text(500, "the server's log says why")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function that may block in a thread that keeps nobody waiting, not even the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: Any) -> None:
        if not done.done():
            how(what)

    def run() -> None:
        how: Callable[[Any], None] = done.set_result
        what: Any
        try:
            what = function()
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            how, what = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(tell, how, what)

    threading.Thread(target=run, name="http-page", daemon=True).start()
    return await done
