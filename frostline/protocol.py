"""The wire protocol beside its messages: the paths of the gRPC methods, and the layout of a BYTES tensor."""

from collections.abc import Iterable

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/frostline.v1.Predictor/Predict"


def pack_bytes(elements: Iterable[str | bytes]) -> bytes:
    """The elements of a BYTES tensor: for each a 4-byte little-endian length, then its bytes; texts become UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        encoded = element.encode() if isinstance(element, str) else bytes(element)
        parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)
