"""Large answers in chunks: the same bytes as in one piece."""

import tracemalloc
import zlib

import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.codec.chunks import CHUNK_BYTES, Chunks, chunks_of, copied
from frostline_server.rpc.h2.framing import deflated, pieces, prefixed
from frostline_server.rpc.stream_messages import answer_message

MESSAGE = pb.ModelInferResponse(model_name="m", raw_output_contents=[bytes(range(256)) * 400]).SerializeToString()
CHUNKED = Chunks([MESSAGE[:1], MESSAGE[1:70_000], MESSAGE[70_000:]])


@pytest.mark.parametrize("shape", [(0,), (1, 3), (CHUNK_BYTES // 4,), (7, CHUNK_BYTES // 7)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_an_array_is_copied_in_chunks(shape: tuple[int, ...], turned: bool) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    array = array.T if turned else array
    found = list(copied(array))
    assert b"".join(found) == array.tobytes()
    assert all(len(chunk) <= CHUNK_BYTES for chunk in found)


def test_bytes_are_copied_in_chunks() -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 128) + b"more"
    assert b"".join(copied(memoryview(data))) == data
    assert list(copied(memoryview(b""))) == []


def test_chunks_are_copied_one_at_a_time() -> None:
    array = np.zeros(16 * CHUNK_BYTES, np.uint8)
    tracemalloc.start()
    assert sum(map(len, copied(array))) == array.nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * CHUNK_BYTES


def test_chunks_have_the_length_and_the_bytes_of_the_whole() -> None:
    assert len(CHUNKED) == len(MESSAGE)
    assert bytes(CHUNKED) == MESSAGE
    assert chunks_of(MESSAGE) == (MESSAGE,)
    assert list(chunks_of(CHUNKED)) == [MESSAGE[:1], MESSAGE[1:70_000], MESSAGE[70_000:]]


def test_chunks_are_framed_without_a_copy() -> None:
    framed = pieces(CHUNKED)
    assert b"".join(framed) == prefixed(MESSAGE)
    assert [a is b for a, b in zip(framed[1:], CHUNKED, strict=True)] == [True] * 3


def test_chunks_are_packed_as_the_whole() -> None:
    assert zlib.decompress(deflated(CHUNKED, b"deflate", level=1)) == MESSAGE


def test_the_answer_of_a_stream_is_of_the_same_chunks() -> None:
    assert bytes(answer_message(CHUNKED, b"")) == answer_message(MESSAGE)
