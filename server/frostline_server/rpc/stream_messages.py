"""The messages of `ModelStreamInfer`: an answer or an error of one request, as bytes."""

from frostline.pb import inference_pb2 as pb
from frostline.protocol import ERROR_KIND, varint
from frostline_server.batching.entry import Entry
from frostline_server.codec.chunks import Chunks, Serialised
from frostline_server.errors import PredictionError
from frostline_server.rpc.grpc_status import status

MAX_OPEN = 256
"""The most accepted requests of one stream whose answers have not left; beyond it the stream is not read."""

MAX_OPEN_BYTES = 64 << 20
"""The largest size of those requests and answers together; beyond it the stream is not read."""

_FIRST_BYTES = MAX_OPEN_BYTES // 16
"""What an answer may have if neither the network's file nor an earlier answer says how large it is."""


class Expected:
    """How large the answers of a stream will be: as the network's file says, or like the last ones."""

    __slots__ = ("_usual",)

    def __init__(self) -> None:
        self._usual = _FIRST_BYTES

    def of(self, entry: Entry) -> int:
        """The bytes that an entry's answer may have."""
        known: int | None = entry.call.served.codec.answer_bytes(entry.wanted, entry.rows)
        return self._usual if known is None else known

    def came(self, size: int) -> None:
        """Learn from an answer of so many bytes."""
        half = self._usual >> 1
        self._usual = size if size > half else half  # noqa: FURB136  for each answer; max() takes twice as long


# ModelStreamInferResponse.infer_response: field 2, wire type 2 (length-delimited).
_RESPONSE_TAG = bytes([2 << 3 | 2])

# Triton marks each answer of a stream as its request's last. Two concatenated messages are one with both's fields.
_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()


def answer_message(response: Serialised, error: bytes = b"") -> Serialised:
    """The message of a serialised `ModelInferResponse`, which is not serialised again."""
    head = (error, _RESPONSE_TAG, varint(len(response) + len(_FINAL)))
    if isinstance(response, Chunks):
        return Chunks((*head, *response, _FINAL))
    return b"".join((*head, response, _FINAL))


def error_message(error: PredictionError, request_id: str, model: str) -> Serialised:
    """The message of a request that failed. It names its request, because the answers of a stream come in any order."""
    _, message = status(error, request_id)
    response = pb.ModelInferResponse(
        model_name=model, id=request_id, parameters={ERROR_KIND: pb.InferParameter(string_param=error.kind)}
    )
    error_field = pb.ModelStreamInferResponse(error_message=message).SerializeToString()
    return answer_message(response.SerializeToString(), error_field)
