"""Mutated messages in good calls, many in flight on a few connections, beside an honest caller whose answers are checked."""

import random
import selectors
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from bench.fuzz import oracle
from bench.fuzz.mutations import mutated
from bench.fuzz.oracle import Found
from bench.load.workload import framed
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT
from frostline.tune.http2 import Answer, Connection, ConnectionBroken

PATIENCE_S = 30.0
"""Longer than any answer takes; a server that says nothing for so long hangs."""

_IN_FLIGHT = 32
_UNMUTATED = 0.1
_METADATA = "/inference.GRPCInferenceService/ModelMetadata"
_FAULTS = frozenset({2, 13, 15})
"""UNKNOWN, INTERNAL and DATA_LOSS: what no message of a client's may cause."""


@dataclass
class Tally:
    """What came of everything that was sent.

    Attributes:
        statuses: answers to broken messages, by method and status code.
        faults: a message for each method and status that blames the server.
        honest: good calls that were answered rightly.
        slowest_s: the longest of them took.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[tuple[str, int], bytes] = field(default_factory=dict)
    honest: int = 0
    slowest_s: float = 0.0


class Honest:
    """A caller of good requests, one connection with a few in flight, whose every answer must be right.

    Args:
        address: of the server.
        tally: counts its answers.
    """

    def __init__(self, address: str, tally: Tally) -> None:
        self.connection = Connection(address, MODEL_INFER)
        self._tally = tally
        self._asked: dict[int, tuple[int, bytes, float]] = {}
        self._number = 0

    def ask(self) -> None:
        """Keep four requests in flight.

        Raises:
            Found: one of them has not been answered for too long.
        """
        now_s = time.monotonic()
        while len(self._asked) < 4:
            self._number += 1
            message = oracle.infer(self._number, f"honest {self._number}")
            self._asked[self.connection.request(framed(message))] = self._number, message, now_s
        self.connection.flush()
        if now_s - next(iter(self._asked.values()))[2] > PATIENCE_S:
            raise Found("an honest call is not answered")

    def receive(self) -> None:
        """Take what has come.

        Raises:
            Found: it is no answer, or not the right one.
        """
        for answer in self.connection.receive():
            number, message, asked_s = self._asked.pop(answer.stream)
            if answer.status != 0:
                raise Found(f"an honest call ended with status {answer.status}: {answer.trailers}", message)
            response = pb.ModelInferResponse.FromString(answer.messages()[0])
            if response.id != f"honest {number}" or not response.outputs:
                raise Found(f"an honest call got {response}", message)
            oracle.check_infer(message, response)
            self._tally.honest += 1
            self._tally.slowest_s = max(self._tally.slowest_s, time.monotonic() - asked_s)


class _Lane:
    """One connection of broken messages to one method."""

    def __init__(
        self,
        address: str,
        method: str,
        tally: Tally,
        make: Callable[[], list[bytes]],
        check: Callable[[list[bytes], Answer], None],
    ) -> None:
        self.connection = Connection(address, method)
        self.sent = self.done = 0
        self._method = method.rpartition("/")[2]
        self._tally = tally
        self._make = make
        self._check = check
        self._asked: dict[int, list[bytes]] = {}
        self._heard_s = time.monotonic()

    def ask(self, most: int) -> None:
        """Fill the connection with at most so many messages more."""
        while len(self._asked) < _IN_FLIGHT and most > 0:
            messages = self._make()
            most -= len(messages)
            self.sent += len(messages)
            self._asked[self.connection.request(b"".join(framed(message) for message in messages))] = messages
        self.connection.flush()
        if self._asked and time.monotonic() - self._heard_s > PATIENCE_S:
            raise Found(f"calls of {self._method} are not answered", self.in_flight())

    def in_flight(self) -> bytes:
        """The messages that are not answered."""
        return b"".join(framed(message) for messages in self._asked.values() for message in messages)

    def receive(self) -> None:
        """Take what has come."""
        for answer in self.connection.receive():
            self._heard_s = time.monotonic()
            messages = self._asked.pop(answer.stream)
            self.done += len(messages)
            key = (self._method, answer.status)
            self._tally.statuses[key] += 1
            if answer.status in _FAULTS:
                self._tally.faults.setdefault(key, b"".join(framed(message) for message in messages))
            if answer.status == 0:
                self._check(messages, answer)


def send_messages(
    address: str, count: int, rng: random.Random, tally: Tally, on_progress: Callable[[int], None]
) -> None:
    """Send so many messages, most of them broken.

    Raises:
        Found: an answer was wrong, a connection broke, or nothing came any more.
    """
    corpus = oracle.inputs()
    # One for each method, so that the messages of a seed are the same however fast each method is.
    rngs = {
        method: random.Random(rng.getrandbits(64)) for method in (MODEL_INFER, PREDICT, MODEL_STREAM_INFER, _METADATA)
    }
    make = {
        MODEL_INFER: lambda: [_message(rngs[MODEL_INFER], corpus.infer, fresh=0.5)],
        PREDICT: lambda: [_message(rngs[PREDICT], corpus.predict)],
        MODEL_STREAM_INFER: lambda: [
            _message(rngs[MODEL_STREAM_INFER], corpus.infer, fresh=0.5)
            for _ in range(rngs[MODEL_STREAM_INFER].randint(1, 8))
        ],
        _METADATA: lambda: [_message(rngs[_METADATA], [b"\x0a\x06fuzzed\x12\x011"])],
    }
    check = {MODEL_INFER: _infer, PREDICT: _predict, MODEL_STREAM_INFER: _stream, _METADATA: lambda *_: None}
    lanes = {method: _Lane(address, method, tally, make[method], check[method]) for method in make}
    # Other methods are not this server's own work, and take most of its time.
    share = {MODEL_INFER: 0.45, PREDICT: 0.25, MODEL_STREAM_INFER: 0.28, _METADATA: 0.02}
    honest = Honest(address, tally)
    with ExitStack() as closing, selectors.DefaultSelector() as selector:
        callers: tuple[Honest | _Lane, ...] = (honest, *lanes.values())
        for caller in callers:
            caller.connection.open()
            closing.callback(caller.connection.close)
            selector.register(caller.connection, selectors.EVENT_READ, caller)
        while any(lane.done < share[method] * count for method, lane in lanes.items()):
            for method, lane in lanes.items():
                lane.ask(round(share[method] * count) + 1 - lane.sent)
            honest.ask()
            for key, _ in selector.select(0.01):
                try:
                    key.data.receive()
                except (ConnectionBroken, ConnectionError) as error:
                    sent = key.data.in_flight() if isinstance(key.data, _Lane) else b""
                    raise Found(f"the connection broke: {error}", sent) from error
            on_progress(sum(lane.done for lane in lanes.values()))


def _message(rng: random.Random, messages: Sequence[bytes], fresh: float = 0.0) -> bytes:
    """One of the messages, or with some probability one that is like no other; most often mutated."""
    if rng.random() < fresh:
        number = rng.randrange(1_000_000)
        message = oracle.infer(number, f"mutant {number}")
    else:
        message = rng.choice(messages)
    return message if rng.random() < _UNMUTATED else mutated(rng, message, messages)


def _infer(messages: list[bytes], answer: Answer) -> None:
    oracle.check_infer(messages[0], pb.ModelInferResponse.FromString(answer.messages()[0]))


def _predict(messages: list[bytes], answer: Answer) -> None:
    oracle.check_predict(messages[0], answer.messages()[0])


def _stream(messages: list[bytes], answer: Answer) -> None:
    """Each answer is to a message of its own; a message whose id was broken may have any of them."""
    said = [pb.ModelStreamInferResponse.FromString(payload) for payload in answer.messages()]
    if len(said) != len(messages):
        raise Found(f"{len(said)} answers in a stream of {len(messages)} messages", b"".join(map(framed, messages)))
    left = list(messages)
    for one in said:
        if one.error_message:
            continue
        for index, message in enumerate(left):
            if _answers(message, one.infer_response):
                del left[index]
                break
        else:
            raise Found(f"{one.infer_response} answers no message of its stream", b"".join(map(framed, messages)))


def _answers(message: bytes, response: pb.ModelInferResponse) -> bool:
    try:
        if pb.ModelInferRequest.FromString(message).id != response.id:
            return False
        oracle.check_infer(message, response)
    except (Found, DecodeError, ValueError, IndexError):
        return False
    return True
