"""Which requests share a page, and how often one is made."""

import asyncio
import itertools
import threading
from types import MappingProxyType

import pytest

from frostline_server.metrics.http_pages import Page, Pages, Response, text
from frostline_server.metrics.http_request import Request

TIMEOUT_S = 10.0


class Numbered:
    """A page with a number; the first one waits until it is let go."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.begun = threading.Event()
        self.go = threading.Event()

    def make(self, _: Request) -> Response:
        number = next(self.numbers)
        self.begun.set()
        assert self.go.wait(TIMEOUT_S)
        return text(200, str(number))


def _request(query: str = "", **fields: str) -> Request:
    return Request("GET", "/page", query, MappingProxyType(fields), True)


def test_who_waited_when_a_page_was_begun_gets_the_same_one_if_the_same_was_asked_for() -> None:
    page = Numbered()

    async def ask() -> list[bytes]:
        pages = Pages({"/page": Page(page.make, at_once=1)}, TIMEOUT_S)

        async def answer(request: Request) -> bytes:
            sent: list[Response] = []

            async def send(response: Response) -> None:
                sent.append(response)

            await pages.answer(request, send)
            return sent[0].body.strip()

        first = asyncio.create_task(answer(_request()))
        await asyncio.to_thread(page.begun.wait, TIMEOUT_S)
        waiting = [_request(), _request(), _request("name[]=up"), _request(accept="text/plain"), _request()]
        others = [asyncio.create_task(answer(request)) for request in waiting]
        await asyncio.sleep(0)  # now they wait
        page.go.set()
        answers = [await task for task in (first, *others)]
        return [*answers, await answer(_request())]

    # The first one was begun before the others came; the one after the last asks for a page that is as new as it.
    assert asyncio.run(ask()) == [b"1", b"2", b"2", b"3", b"4", b"5", b"6"]


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_page_is_made_a_tenth_of_the_time_at_most(at_once: int) -> None:
    class Clock(asyncio.SelectorEventLoop):
        """Time passes only while a page is made, or where nothing is to be done before a time."""

        now_s = 0.0

        def time(self) -> float:
            return self.now_s

        def call_later(self, delay, callback, *args, context=None):  # type: ignore[no-untyped-def, override]
            rests.append(delay)
            return super().call_later(0, callback, *args, context=context)

    rests: list[float] = []
    loop = Clock()

    def make(_: Request) -> Response:
        loop.now_s += 0.004
        return text(200, "")

    async def send(_: Response) -> None: ...

    pages = Pages({"/page": Page(make, at_once=at_once)}, TIMEOUT_S)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(pages.answer(_request(), send))
    assert rests == [pytest.approx(0.004 * (10 * at_once - 1))]
