"""The correctness probe: it checks a server's answers while the server is under load."""

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.load.workload import Asked, WrongAnswer, framed
from frostline.protocol import MODEL_STREAM_INFER
from frostline.tune.http2 import Answer, Connection

PAUSE_S = 0.1
PATIENCE_S = 30.0
_UNIMPLEMENTED = 12


class NotMeasured(Exception):
    """The server under test does not support what a row measures."""


def ask_one(connection: Connection, questions: Asked, index: int) -> Answer:
    """Send one request and check the answer.

    Raises:
        WrongAnswer: the server answered wrongly, with an error, or not at all.
        NotMeasured: the server does not know the method.
    """
    connection.request(framed(questions.messages[index]))
    connection.flush()
    deadline = time.monotonic() + PATIENCE_S
    answers: list[Answer] = []
    while not answers:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise WrongAnswer(f"no answer within {PATIENCE_S:g} s")
        blocked = [connection] if connection.blocked else []
        select.select([connection], blocked, (), left_s)
        connection.flush()
        answers = connection.receive()
    (answer,) = answers
    message = answer.trailers.get("grpc-message", "")
    if answer.status == _UNIMPLEMENTED:
        raise NotMeasured(f"the server says UNIMPLEMENTED: {message}")
    if answer.status != 0:
        raise WrongAnswer(f"a request ended with status {answer.status}: {message}")
    (body,) = answer.messages()
    questions.check(index, body, stream=connection.method == MODEL_STREAM_INFER)
    return answer


@contextmanager
def probing(address: str, method: str, questions: Asked) -> Iterator[int]:
    """Probe before the block and, from a thread, during it; yields the size of an answer in bytes, with its prefix.

    Raises:
        WrongAnswer: at the end of the block, if any answer was wrong.
        NotMeasured: the server does not know the method.
    """
    connection = Connection(address, method)
    connection.open()
    try:
        size = len(ask_one(connection, questions, 0).body)
        over = threading.Event()
        failures: list[Exception] = []

        def ask() -> None:
            index = 0
            try:
                while not over.wait(PAUSE_S):
                    index += 1
                    ask_one(connection, questions, index % len(questions.messages))
            except Exception as error:  # noqa: BLE001  raised again below, in the thread that measures
                failures.append(error)

        thread = threading.Thread(target=ask, name="probe")
        thread.start()
        try:
            yield size
        finally:
            over.set()
            thread.join()
        if failures:
            raise failures[0]
    finally:
        connection.close()
