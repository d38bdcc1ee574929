"""The wire protocol beside its messages: paths of gRPC methods, the key of an error's kind, the layout of BYTES tensors."""

from collections.abc import Iterable

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/frostline.v1.Predictor/Predict"

ERROR_KIND = "frostline-error"
"""The key of an error's kind in the trailing metadata: one word, such as queue_full, where a status code says too little."""


def pack_bytes(elements: Iterable[str | bytes]) -> bytes:
    """The elements of a BYTES tensor: for each a 4-byte little-endian length, then its bytes; texts become UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        encoded = element.encode() if isinstance(element, str) else bytes(element)
        parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
