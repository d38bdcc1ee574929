"""Calls on several connections whose frames are cut and interleaved at random: each gets its own answer, and only that.

`make fuzz` does the same with broken frames and messages, a million of them, against a server in a process of its own.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from tests.support import wire as w
from tests.support.wire import Peer, data, headers, literal, message, request, rst_stream
from tests.support.wires import Wire, assert_answers, assert_response, question

UNKNOWN = w.frame(0xFA, 0xFF, 0, b"to be ignored")
UNARY, STREAM, RESET = "unary", "stream", "reset"
BLOCKS = {
    kind: literal(request(MODEL_STREAM_INFER if kind == STREAM else MODEL_INFER)) for kind in (UNARY, STREAM, RESET)
}


@dataclass(frozen=True)
class Plan:
    """One call.

    Attributes:
        kind: how it goes.
        cuts: the sizes of its DATA frames.
        split: where its headers continue in another frame.
        questions: how many it asks, if it is a stream.
    """

    kind: str
    cuts: tuple[int, ...]
    split: int
    questions: int


PLANS = st.builds(
    Plan,
    kind=st.sampled_from((UNARY, UNARY, STREAM, RESET)),
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=5).map(tuple),
    split=st.integers(1, 60),
    questions=st.integers(0, 3),
)


@dataclass(frozen=True)
class Call:
    """A call on its stream: its frames, and the numbers of the questions in them."""

    plan: Plan
    stream: int
    numbers: tuple[int, ...]

    def frames(self) -> list[bytes]:
        """Its frames in order."""
        block, split = BLOCKS[self.plan.kind], self.plan.split
        found = [headers(self.stream, block[:split], rest=[block[split:]])]
        body = b"".join(message(question(number)) for number in self.numbers)
        if self.plan.kind == RESET:
            return [*found, data(self.stream, body[: sum(self.plan.cuts)]), rst_stream(self.stream)]
        at = 0
        for size in self.plan.cuts:
            found.append(data(self.stream, body[at : at + size]))
            at += size
        return [*found, data(self.stream, body[at:]), UNKNOWN, data(self.stream, b"", end=True)]

    def check(self, peer: Peer) -> None:
        """That its questions were answered, each once."""
        if self.plan.kind == UNARY:
            assert_answers(peer.answer(self.stream), *self.numbers)
        elif self.plan.kind == STREAM:
            answer = peer.answer(self.stream)
            assert answer.status == 0
            said = [pb.ModelStreamInferResponse.FromString(one).infer_response for one in answer.messages]
            assert sorted(one.id for one in said) == sorted(f"question {number}" for number in self.numbers)
            for one in said:
                assert_response(one, int(one.id.split()[1]))


def interleaved(calls: Sequence[Call], draw: st.DataObject) -> bytes:
    """The frames of a connection's calls, which begin in order, and go on in any."""
    waiting = [call.frames() for call in calls]
    begun, sent = 0, b""
    while any(waiting):
        choices = [index for index, frames in enumerate(waiting) if frames and index <= begun]
        chosen = draw.draw(st.sampled_from(choices))
        begun = max(begun, chosen + 1)
        sent += waiting[chosen].pop(0)
    return sent


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    connections=st.lists(st.lists(PLANS, min_size=1, max_size=4), min_size=1, max_size=3),
    window=st.sampled_from((0, 1, 50, 65535)),
    draw=st.data(),
)
def test_each_call_gets_its_own_answer(
    wire: Wire, connections: list[list[Plan]], window: int, draw: st.DataObject
) -> None:
    number = 0
    with ExitStack() as closing:
        talks: list[tuple[Peer, list[Call], bytes]] = []
        for plans in connections:
            calls = []
            for index, plan in enumerate(plans):
                asked = plan.questions if plan.kind == STREAM else 1
                calls.append(Call(plan, 2 * index + 1, tuple(range(number, number + asked))))
                number += asked
            peer = closing.enter_context(wire.greeted((w.INITIAL_WINDOW_SIZE, window)))
            talks.append((peer, calls, interleaved(calls, draw)))
        left = {index: sent for index, (_, _, sent) in enumerate(talks)}
        while left:
            index = draw.draw(st.sampled_from(sorted(left)))
            size = draw.draw(st.integers(1, 400))
            talks[index][0].send(left[index][:size])
            left[index] = left[index][size:]
            if not left[index]:
                del left[index]
        for peer, _, _ in talks:
            peer.set((w.INITIAL_WINDOW_SIZE, 65535))
        for peer, calls, _ in talks:
            for call in calls:
                call.check(peer)
            peer.turn()
            assert peer.goaway is None
