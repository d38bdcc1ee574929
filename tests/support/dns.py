"""A name server on a real socket that knows one name, so that a client finds several loopback addresses under it."""

import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NAME = "pool.test"

_HEADER = 12
_IPV4 = b"\x00\x01"
# A pointer to the question's name; IPv4, internet, to be kept for one second, four bytes.
_RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04"


def _answer(question: bytes, addresses: Sequence[str]) -> bytes:
    name_end = question.index(b"\0", _HEADER) + 1
    found = addresses if question[name_end : name_end + 2] == _IPV4 else ()
    counts = b"\x00\x01" + len(found).to_bytes(2, "big") + bytes(4)
    records = [_RECORD + ipaddress.ip_address(address).packed for address in found]
    return b"".join([question[:2], b"\x81\x80", counts, question[_HEADER : name_end + 4], *records])


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[str]:
    """Answer every question with these IPv4 addresses, until the block ends.

    Yields:
        Where it is, as gRPC writes it in a target: host:port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))

        def answer_all() -> None:
            while True:
                question, asker = door.recvfrom(512)
                if not question:
                    return
                door.sendto(_answer(question, addresses), asker)

        thread = threading.Thread(target=answer_all, name="name-server")
        thread.start()
        try:
            host, port = door.getsockname()
            yield f"{host}:{port}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", door.getsockname())
            thread.join()
