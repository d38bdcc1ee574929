"""The relay of control calls: what one process was asked to do, every process does.

Calls of one topic are done one after the other, in the same order everywhere. A process that starts is told what holds
before it becomes a member, so all members are alike.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import structlog

from frostline.pb import inference_pb2 as pb
from frostline_server.errors import PredictionError, ProcessSilent
from frostline_server.processes import merge
from frostline_server.processes.journal import Journal
from frostline_server.rpc.grpc_status import status, trailers
from frostline_server.rpc.supervised import CONTROL, QUESTIONS, SERVICE, UNLIMITED, Gone, path_of

_ANSWER_S = 10.0
"""How long a process may take to answer a question."""

_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Member = Callable[[str, bytes], Awaitable[bytes]]
"""Calls one process: the path of a method, and its request; raises as `supervised.call`."""


class Relay:
    """Does what one process was asked for in all of them."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._journal = Journal()
        self._locks = {topic: asyncio.Lock() for topic in sorted(set(CONTROL.values()))}
        # Work goes on when the client that asked for it is gone.
        self._tasks: set[asyncio.Task[bytes]] = set()

    async def start(self, socket: str) -> None:
        """Answer the processes on a Unix socket."""
        self._server = grpc.aio.server(options=UNLIMITED)
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in (*CONTROL, *QUESTIONS)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Answer no more."""
        await self._server.stop(0)

    async def admit(self, number: int, member: Member) -> None:
        """Make a process like the others, and a member; a call that it refuses is logged.

        Raises:
            Gone: it ended meanwhile.
        """
        async with AsyncExitStack() as stack:
            for lock in self._locks.values():
                await stack.enter_async_context(lock)
            for method, request in self._journal.calls():
                try:
                    await member(path_of(method), request)
                except PredictionError as error:
                    _log.warning("a control call was not repeated", process=number, method=method, reason=str(error))
            self._members[number] = member

    def forget_log(self) -> None:
        """Drop what clients have changed about the log, as all processes do on SIGHUP."""
        self._journal.forget_log()

    def dismiss(self, number: int) -> None:
        """Forget a process that has ended."""
        self._members.pop(number, None)

    def _handler(self, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(request: bytes, context: Context) -> bytes:
            task = asyncio.create_task(
                self.ask(method, request) if method in QUESTIONS else self.order(method, request)
            )
            self._tasks.add(task)
            task.add_done_callback(self._done)
            try:
                return await asyncio.shield(task)
            except PredictionError as error:
                return await context.abort(*status(error), trailers(error))
            except Gone as error:
                return await context.abort(grpc.StatusCode.UNAVAILABLE, f"no process is left: {error}")

        return answer

    def _done(self, task: "asyncio.Task[bytes]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Read, so that asyncio does not report it as never retrieved.
            task.exception()

    async def order(self, method: str, request: bytes) -> bytes:
        """Have every process do something.

        Returns:
            The answer of the first; all are alike.

        Raises:
            PredictionError: a process refused it; the message says in how many it was refused.
            Gone: no process is left.
        """
        async with self._locks[CONTROL[method]]:
            answers, refusals = await self._all(method, request, None)
            if answers:
                self._journal.record(method, request)
        if refusals:
            raise _joined(refusals, asked=len(answers) + len(refusals))
        return next(iter(answers.values()))

    async def ask(self, method: str, request: bytes) -> bytes:
        """Put the answers of all processes together.

        Raises:
            PredictionError: no process has an answer, or one does not answer in time.
            Gone: no process is left.
        """
        if method == "RepositoryIndex":
            # What is ready here may not be there.
            answers, refusals = await self._all(method, pb.RepositoryIndexRequest().SerializeToString(), _ANSWER_S)
        else:
            answers, refusals = await self._all(method, request, _ANSWER_S)
        if not answers:
            raise _joined(refusals, asked=len(refusals))
        if method == "RepositoryIndex":
            said = {number: pb.RepositoryIndexResponse.FromString(answer) for number, answer in answers.items()}
            return merge.index(pb.RepositoryIndexRequest.FromString(request), said).SerializeToString()
        counted = [pb.ModelStatisticsResponse.FromString(answer) for answer in answers.values()]
        return merge.statistics(counted).SerializeToString()

    async def _all(
        self, method: str, request: bytes, timeout_s: float | None
    ) -> tuple[Mapping[int, bytes], Sequence[PredictionError]]:
        """The answers by process, and the refusals; what a process would have said that has ended is not missed.

        Args:
            method: what is asked.
            request: its message.
            timeout_s: how long a process may take, in seconds; None where it may take any time.

        Raises:
            ProcessSilent: a process that has not ended does not answer in time; without it, an answer would be wrong.
            Gone: no process is left.
        """
        members = dict(self._members)
        # Timed here, because a deadline of gRPC's ends as if the process had: with `Gone`.
        calls = (asyncio.wait_for(member(path_of(method), request), timeout_s) for member in members.values())
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        answers: dict[int, bytes] = {}
        refusals: list[PredictionError] = []
        silent: list[int] = []
        gone = Gone("none has loaded its models")
        for number, outcome in zip(members, outcomes, strict=True):
            match outcome:
                case bytes():
                    answers[number] = outcome
                case PredictionError():
                    refusals.append(outcome)
                case TimeoutError():
                    silent.append(number)
                case Gone():
                    gone = outcome
                case _:
                    raise outcome
        if silent:
            raise ProcessSilent(
                f"process {', '.join(map(str, silent))} has not ended and does not answer within {timeout_s:g} s, and what the "
                "others say would not be all; ask again later"
            )
        if not answers and not refusals:
            raise gone
        return answers, refusals


def _joined(refusals: Sequence[PredictionError], *, asked: int) -> PredictionError:
    """One error for all that were refused of `asked`."""
    first = refusals[0]
    if len(refusals) == asked:
        return first
    return type(first)(f"in {len(refusals)} of {asked} processes: {first}")
