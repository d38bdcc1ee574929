"""One stream of inference requests as a test holds it: send a request, take an answer, close one's side."""

import queue
from typing import Any

import numpy as np

from frostline.pb import inference_pb2 as pb
from tests.support.servers import TIMEOUT_S

Array = np.ndarray[Any, Any]

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


class Conversation:
    """An open stream.

    Attributes:
        call: the client's end of it.
    """

    def __init__(self, channel: Any, **options: Any) -> None:
        self._requests: queue.SimpleQueue[pb.ModelInferRequest | bytes | None] = queue.SimpleQueue()
        stream = channel.stream_stream(METHOD, _serialized, pb.ModelStreamInferResponse.FromString)
        self.call = stream(iter(self._requests.get, None), **{"timeout": TIMEOUT_S, **options})

    def send(self, *requests: pb.ModelInferRequest | bytes) -> None:
        """Send requests, or bytes in the place of one."""
        for request in requests:
            self._requests.put(request)

    def close(self) -> None:
        """Send nothing more."""
        self._requests.put(None)

    def take(self, count: int) -> list[pb.ModelStreamInferResponse]:
        """The next answers."""
        return [next(self.call) for _ in range(count)]

    def rest(self) -> list[pb.ModelStreamInferResponse]:
        """Close, and take every answer that is left."""
        self.close()
        return list(self.call)


def _serialized(request: pb.ModelInferRequest | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def logits(answer: pb.ModelStreamInferResponse) -> Array:
    """The first output of an answer, as it was shaped."""
    assert not answer.error_message, answer.error_message
    response = answer.infer_response
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)
