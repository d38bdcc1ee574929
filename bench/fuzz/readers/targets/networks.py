"""Small real networks of several kinds, and their signatures as the server reads them."""

from pathlib import Path

import onnx

from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.signature import Signature

_GRAPHS = {
    "row": "(float[N,4] input) => (float[N,3] logits) "
    "<float[4,3] w = {1,0,-1, 0,2,1, 3,-1,0, -2,1,1}> { logits = MatMul(input, w) }",
    "image": "(uint8[N,2,2,3] image) => (float[N,2,2,3] out) { out = Cast<to=1>(image) }",
    "text": "(string[N,2] text) => (string[N,2] echo) { echo = Identity(text) }",
    "pair": "(int64[N,2] left, int64[N,1] right) => (int64[N,2] sum) { sum = Add(left, right) }",
    "any": "(float[N,A,B] input) => (float[N,A,B] out) { out = Relu(input) }",
    "whole": "(float[3,A] input) => (float[3,A] out) { out = Relu(input) }",
    "half": "(float16[N,2] h, bool[N] b) => (float16[N,2] g, bool[N] c) { g = Identity(h) c = Not(b) }",
}


def signatures(folder: Path) -> dict[str, Signature]:
    """The signature of each network, by its name.

    Args:
        folder: for their files.
    """
    found = {}
    for name, graph in _GRAPHS.items():
        path = folder / f"{name}.onnx"
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {name} {graph}'), path)
        found[name] = load_session(path, [(CPU, {})], threads=1, strict=False).signature
    return found
