"""The attacks by messages: valid frames around requests that cost much to parse, to refuse, to run or to answer."""

import gzip
import itertools
import time
from collections.abc import Sequence

from bench.attacks import wire
from bench.attacks.bulk import upload
from bench.attacks.floods import flood
from bench.attacks.slow import ended, hold
from bench.attacks.target import Sent, Target
from bench.attacks.wire import Wire
from bench.attacks.workload import LONG_TURNS, large_message, looping_message, wide_message
from bench.load.workload import framed
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, varint

_CALL, _STREAM = wire.block(MODEL_INFER), wire.block(MODEL_STREAM_INFER)
_LOG_SETTINGS = wire.block("/inference.GRPCInferenceService/LogSettings")
_SIZE = 62_000_000
"""Bytes of a large message, of the 64 MiB that it may have."""
_STRINGS = 11_000_000
_HEAD = pb.ModelInferRequest(model_name="mlp").SerializeToString()


def empty_inputs(count: int = _SIZE // 2) -> bytes:
    """A request of so many inputs without a field, in two bytes each."""
    return _HEAD + b"\x2a\x00" * count


def many_parameters(count: int = _SIZE // 2) -> bytes:
    """A request of so many parameters without a field, in two bytes each."""
    return _HEAD + b"\x22\x00" * count


def many_strings(count: int = _STRINGS) -> bytes:
    """A request whose input has so many strings of three bytes."""
    return _input(b"\x42\x03abc" * count, "BYTES", count)


def many_elements(count: int = _SIZE) -> bytes:
    """A request whose input has so many typed elements, a byte each."""
    return _input(_field(b"\x12", b"\x01" * count), "INT32", count)


def _input(contents: bytes, datatype: str, count: int) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="input", datatype=datatype, shape=[1, count])
    return _HEAD + _field(b"\x2a", tensor.SerializeToString() + _field(b"\x2a", contents))


def _field(key: bytes, value: bytes) -> bytes:
    return key + varint(len(value)) + value


def _uploads(target: Target, body: bytes, unit: str, block: bytes = _CALL, *, at_once: int = 1) -> Sent:
    """Send a body in one call after the other, or a few at once, until the time is over."""
    sent = Sent(unit)
    begin = time.monotonic()
    wires: list[Wire] = []
    while time.monotonic() < begin + target.seconds:
        living = [each for each in wires if not each.closed]
        if not living:
            living = _opened(target, sent, at_once)
            wires += living
        if not living:
            time.sleep(0.1)
            continue
        before = sum(sent.ends.values())
        upload(target, living, at_once, block, body)
        sent.count += at_once
        _read(living, sent, before + at_once)
    return ended(sent, begin, wires)


def _opened(target: Target, sent: Sent, count: int) -> list[Wire]:
    wires = [target.wire(sent) for _ in range(count)]
    for each in wires:
        each.open()
        each.turn(1.0)
    return [each for each in wires if not each.closed]


def _read(wires: Sequence[Wire], sent: Sent, ends: int) -> None:
    """Read what the server says until so many calls have ended, or it says nothing for 10 s."""
    until = time.monotonic() + 10.0
    while sum(sent.ends.values()) < ends and time.monotonic() < until:
        if not any([each.turn(0.01) for each in wires if not each.closed]):
            return


def empty_inputs_raw(target: Target) -> Sent:
    """31 million empty inputs, 62 MB, one message after the other."""
    return _uploads(target, framed(empty_inputs()), "messages")


def empty_inputs_packed(target: Target) -> Sent:
    """The same as 60 KB of gzip, four at a time."""
    packed = gzip.compress(empty_inputs())
    block = wire.block(MODEL_INFER, [("grpc-encoding", "gzip")])
    return _uploads(target, b"\1" + len(packed).to_bytes(4, "big") + packed, "messages", block, at_once=4)


def parameters(target: Target) -> Sent:
    """31 million empty parameters."""
    return _uploads(target, framed(many_parameters()), "messages")


def strings(target: Target) -> Sent:
    """11 million strings in one input."""
    return _uploads(target, framed(many_strings()), "messages")


def elements(target: Target) -> Sent:
    """62 million typed elements in one input."""
    return _uploads(target, framed(many_elements()), "messages")


def refused(target: Target) -> Sent:
    """60 MiB of a wrong shape, one request after the other."""
    return _uploads(target, framed(large_message(60 * 2**20)), "requests")


def shapes(target: Target) -> Sent:
    """Small requests whose shapes are beyond numbers, below them, or not there."""
    messages = []
    for shape in ([1, 2**63 - 1, 0], [-1, 784], [2**62, 4], [0] * 1000, [], [1, 784]):
        request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[b""])
        request.inputs.add(name="input", datatype="FP32", shape=shape)
        messages.append(framed(request.SerializeToString()))
    turns = itertools.cycle(messages)

    def units(each: Wire) -> tuple[bytes, int]:
        streams = [each.take_stream() for _ in range(10)]
        return b"".join(wire.headers(stream, _CALL) + wire.data(stream, next(turns)) for stream in streams), 10

    return flood(target, units, "requests", least=5_000)


def log_settings(target: Target) -> Sent:
    """Switching the log off and on, without the role for it."""
    request = pb.LogSettingsRequest()
    for name in ("log_info", "log_warning", "log_error"):
        request.settings[name].bool_param = False
    body = framed(request.SerializeToString())

    def units(each: Wire) -> tuple[bytes, int]:
        streams = [each.take_stream() for _ in range(20)]
        return b"".join(wire.headers(stream, _LOG_SETTINGS) + wire.data(stream, body) for stream in streams), 20

    return flood(target, units, "calls", least=5_000)


def hang_ups(target: Target) -> Sent:
    """Streams that ask for 20 answers of 64 MiB, read nothing, and hang up, over and over."""
    sent = Sent("streams")
    body = framed(wide_message())
    shut = wire.PREFACE + wire.settings(window=0)
    begin = time.monotonic()
    while time.monotonic() < begin + target.seconds:
        one = target.wire(sent)
        if one.open(shut):
            asked = b"".join(wire.data(1, body, end=False) for _ in range(20))
            one.unsent += wire.headers(1, _STREAM) + asked
            one.turn(0)
            hold([one], time.monotonic() + 0.5)
        one.close()
        sent.count += 1
    return ended(sent, begin, ())


def _long_runs(target: Target, block: bytes, *, end: bool) -> Sent:
    """Brief runs, and then one of seconds, of a model whose time depends on its elements."""
    sent = Sent("requests")
    begin = time.monotonic()
    wires: list[Wire] = []
    while time.monotonic() < begin + target.seconds:
        opened = _opened(target, sent, 1)
        wires += opened
        for each in opened:
            for turns in (*[1.0] * 50, LONG_TURNS):
                stream = each.take_stream()
                each.unsent += wire.headers(stream, block) + wire.data(stream, framed(looping_message(turns)), end=end)
                sent.count += 1
                each.turn(0)
                hold([each], time.monotonic() + (0.01 if turns == 1.0 else 2.0))
    return ended(sent, begin, wires)


def long_runs(target: Target) -> Sent:
    """Runs of microseconds, and then one of seconds."""
    return _long_runs(target, _CALL, end=True)


def long_runs_of_streams(target: Target) -> Sent:
    """The same in ModelStreamInfer."""
    return _long_runs(target, _STREAM, end=False)
