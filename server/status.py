"""The one table from a failed prediction to the gRPC status its client sees."""

import grpc

from server.errors import PredictionError


def status(error: PredictionError, request_id: str = "") -> tuple[grpc.StatusCode, str]:
    """The status code and message of an error; the message starts with the request's id if it has one."""
    message = f"[request id: {request_id}] {error}" if request_id else str(error)
    return grpc.StatusCode[error.code], message


def status_number(error: PredictionError) -> int:
    """The status code as it goes over the wire."""
    number: int = grpc.StatusCode[error.code].value[0]
    return number
