"""Signatures of networks that need not exist: what the codec knows of a model."""

from dataclasses import replace

from frostline_server.codec.shared_memory import Regions
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.signature import Signature, TensorSpec

HEADS = Heads("logits", "softmax", "argmax", "frostline_confidence")


def spec(name: str, datatype: str, *shape: int | None) -> TensorSpec:
    """One input or output; `shape` is that of a row."""
    return TensorSpec(name, datatype, DTYPES[datatype], shape)


def classifier(*inputs: TensorSpec, element: str = "FP32", classes: int = 3, places: tuple[int, ...] = ()) -> Signature:
    """A network of three classes with heads; one input FP32 [-1, 4] unless said otherwise; a class at each of `places`."""
    row = (classes, *places)
    outputs = (spec("logits", element, *row), spec("softmax", element, *row), spec("argmax", "INT64", *places))
    heads = replace(HEADS, confidence="") if places else HEADS
    return Signature(inputs or (spec("input", "FP32", 4),), outputs, ("logits",), batched=True, heads=heads)


def plain(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...] = (spec("out", "FP32", 3),), *, batched: bool = True
) -> Signature:
    """A network without heads."""
    return Signature(inputs, outputs, tuple(output.name for output in outputs), batched=batched, heads=None)


CLASSIFIER = classifier()
PAIR = classifier(spec("left", "FP32", 4), spec("right", "INT64", 2))
"""Two inputs."""
TEXT = plain((spec("text", "BYTES", 2),), (spec("echo", "BYTES", 2), spec("size", "INT64")))
"""Strings in and out."""
WHOLE = plain((spec("input", "FP32", 4, None),), batched=False)
"""No batch axis."""
NOWHERE = Regions(enabled=False, max_tensor_bytes=0)
"""No shared memory."""
