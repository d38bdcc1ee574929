"""The attacks on the metrics port: idle connections, requests that come byte by byte, and clients that hang up."""

import itertools
import select
import socket
import time
from collections.abc import Iterable

from bench.attacks.target import Sent, Target

CONNECTIONS = 1_000
_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"


def connect(target: Target, sent: Sent, address: tuple[str, int]) -> socket.socket | None:
    """A connection to an address; None if there is none to be had."""
    made = socket.socket()
    try:
        made.settimeout(2.0)
        if target.source:
            made.bind((target.source, 0))
        made.connect(address)
        made.setblocking(False)
    except OSError as error:
        made.close()
        sent.ends[f"not connected: {type(error).__name__}"] += 1
        return None
    sent.connections += 1
    return made


def ended(sent: Sent, begin: float, open_ones: Iterable[socket.socket]) -> Sent:
    """Hang up, and note how long the attack took."""
    for each in open_ones:
        each.close()
    sent.seconds = time.monotonic() - begin
    return sent


def _living(sent: Sent, open_ones: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has not closed."""
    poll = select.poll()
    by_number = {each.fileno(): each for each in open_ones}
    for number in by_number:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(0):
        try:
            if by_number[number].recv(65536):
                continue
        except OSError:
            pass
        by_number.pop(number).close()
        sent.ends["closed"] += 1
    return list(by_number.values())


def held(target: Target, address: tuple[str, int], first: bytes, drip: bytes) -> Sent:
    """1 000 connections to an address that say something at first, and a byte every half second; those that are closed come again."""
    sent = Sent("connections")
    begin = time.monotonic()
    open_ones: list[socket.socket] = []
    bytes_left = itertools.cycle(drip) if drip else None
    while time.monotonic() < begin + target.seconds:
        while len(open_ones) < CONNECTIONS and time.monotonic() < begin + target.seconds:
            made = connect(target, sent, address)
            if made is None:
                break
            sent.count += 1
            _say(made, first)
            open_ones.append(made)
        time.sleep(0.5)
        if bytes_left is not None:
            byte = bytes([next(bytes_left)])
            for each in open_ones:
                _say(each, byte)
        open_ones = _living(sent, open_ones)
    return ended(sent, begin, open_ones)


def _say(each: socket.socket, data: bytes) -> None:
    try:
        if data:
            each.send(data)
    except OSError:
        # The server has closed it, which is counted when it is read.
        pass


def idle(target: Target) -> Sent:
    """1 000 idle connections."""
    return held(target, target.metrics, b"", b"")


def dripping(target: Target) -> Sent:
    """1 000 requests whose headers come byte by byte and never end."""
    return held(target, target.metrics, _REQUEST, b"x: y\r\n")


def hang_ups(target: Target) -> Sent:
    """Whole requests by clients that do not wait for the page."""
    return hung_up(target, target.metrics, _REQUEST + b"\r\n")


def hung_up(target: Target, address: tuple[str, int], request: bytes) -> Sent:
    """Whole requests to an address by clients that do not wait for the answer."""
    sent = Sent("requests")
    begin = time.monotonic()
    while time.monotonic() < begin + target.seconds:
        made = connect(target, sent, address)
        if made is None:
            time.sleep(0.05)
            continue
        _say(made, request)
        # With what it has not read, the kernel resets the connection.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        time.sleep(0.002)
        made.close()
        sent.count += 1
    return ended(sent, begin, ())
