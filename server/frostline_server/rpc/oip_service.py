"""The services on grpc.aio, the Open Inference Protocol's and Frostline's: every method except inference.

It parses the request, calls the object that implements the method, and translates its errors.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2
from frostline_server.codec.codec import parse
from frostline_server.errors import PredictionError
from frostline_server.rpc.grpc_status import status, trailers
from frostline_server.rpc.methods import Methods

Context = grpc.aio.ServicerContext[Any, Any]

SERVICES = (
    pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    predictor_pb2.DESCRIPTOR.services_by_name["Predictor"],
)


class InferenceService:
    """Serves every method that is not inference.

    Args:
        parts: objects that implement methods, each under the method's name. An implementation takes the
            request and returns the response, or raises a `PredictionError`. If it blocks, it is a coroutine.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def register(self, methods: Methods) -> None:
        """Add the methods' handlers; a damaged message is refused as in inference."""
        for service in SERVICES:
            handlers = {}
            for method in service.methods:
                for part in self._parts:
                    answer = getattr(part, method.name, None)
                    if answer is not None:
                        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                            _handler(GetMessageClass(method.input_type), answer),
                            response_serializer=GetMessageClass(method.output_type).SerializeToString,
                        )
            methods.add_registered_method_handlers(service.full_name, handlers)


def _handler(message: type[Any], answer: Callable[[Any], Any]) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def call(payload: bytes, context: Context) -> Any:
        try:
            response = answer(parse(message, payload))
            return await response if inspect.isawaitable(response) else response
        except PredictionError as error:
            end = *status(error), trailers(error)
        # gRPC keeps an abort's exception, and with it this frame, until the next call: no message in it.
        del payload
        return await context.abort(*end)

    return call
