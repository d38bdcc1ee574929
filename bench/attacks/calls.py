"""The attacks that are honest calls, by gRPC's own client: too many of them at once, and calls that are cancelled."""

import threading
import time
from typing import Any

import grpc

from bench.attacks.target import Sent, Target
from bench.attacks.workload import questions
from bench.load.workload import WrongAnswer
from frostline.protocol import MODEL_INFER

BURST = 4_000
CANCELS = 10_000
_AT_ONCE = 20
_TIMEOUT_S = 60.0


def _channel(target: Target) -> grpc.Channel:
    # Nothing is retried unseen.
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    return grpc.insecure_channel(f"{target.address[0]}:{target.address[1]}", options)


def burst(target: Target) -> Sent:
    """4 000 honest calls at once, over and over; each must be answered, and rightly."""
    sent = Sent("calls", connections=1)
    asked = questions()
    begin = time.monotonic()
    with _channel(target) as channel:
        call: Any = channel.unary_unary(MODEL_INFER, None, None)
        while time.monotonic() < begin + target.seconds:
            futures = [
                (number % len(asked.messages), call.future(asked.messages[number % len(asked.messages)], _TIMEOUT_S))
                for number in range(BURST)
            ]
            sent.count += BURST
            for index, future in futures:
                try:
                    asked.check(index, future.result())
                    sent.ends["OK"] += 1
                except grpc.RpcError as error:
                    sent.ends[error.code().name] += 1
                    sent.harmed[error.code().name] += 1
                except WrongAnswer:
                    sent.harmed["a wrong answer"] += 1
    sent.seconds = time.monotonic() - begin
    return sent


def cancels(target: Target) -> Sent:
    """10 000 calls that the client cancels a moment later."""
    sent = Sent("cancels", connections=1)
    message = questions().messages[0]
    pause = threading.Event()
    begin = time.monotonic()
    with _channel(target) as channel:
        call: Any = channel.unary_unary(MODEL_INFER, None, None)
        while sent.count < CANCELS or time.monotonic() < begin + target.seconds:
            futures = [call.future(message, _TIMEOUT_S) for _ in range(_AT_ONCE)]
            pause.wait(0.001)
            for future in futures:
                future.cancel()
            sent.count += _AT_ONCE
            sent.ends.update(_ended(future) for future in futures)
    sent.seconds = time.monotonic() - begin
    return sent


def _ended(future: Any) -> str:
    return str(future.code().name)
