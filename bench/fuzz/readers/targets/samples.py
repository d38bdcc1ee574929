"""Valid inference messages of all kinds, from which others are made."""

from typing import Any

import numpy as np

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import pack_bytes


def _tensor(name: str, datatype: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def _request(model: str, inputs: list[dict[str, Any]], *raw: bytes, **more: Any) -> bytes:
    return pb.ModelInferRequest(
        model_name=model, id="id-1", inputs=inputs, raw_input_contents=raw, **more
    ).SerializeToString()


_ROW = np.arange(4, dtype=np.float32).tobytes()

_IN_REGION = {"shared_memory_region": {"string_param": "region"}, "shared_memory_byte_size": {"int64_param": 16}}

INFERS = (
    _request("row", [_tensor("input", "FP32", 1, 4)], _ROW),
    _request("row", [_tensor("input", "FP32", 2, 4)], _ROW * 2, outputs=[{"name": "softmax"}, {"name": "logits"}]),
    _request(
        "row",
        [_tensor("input", "UINT8", 1, 4)],
        b"abcd",
        parameters={"priority": {"uint64_param": 1}, "timeout": {"int64_param": 9}},
        outputs=[{"name": "logits", "parameters": {"classification": {"int64_param": 2}}}],
    ),
    _request("row", [_tensor("input", "FP32", 1, 4, contents={"fp32_contents": [1, 2, 3, 4]})]),
    _request("row", [_tensor("input", "FP32", 1, 4, parameters=_IN_REGION)]),
    _request(
        "row",
        [_tensor("input", "FP32", 1, 4)],
        _ROW,
        outputs=[{"name": "logits", "parameters": {**_IN_REGION, "shared_memory_offset": {"int64_param": 64}}}],
    ),
    *(
        _request("row", [_tensor("input", "FP32", 1, 4, parameters=place)])
        for place in (
            {"shared_memory_region": {"string_param": "none"}, "shared_memory_byte_size": {"int64_param": 16}},
            {"shared_memory_region": {"string_param": "region"}},
            {"shared_memory_offset": {"int64_param": 4}},
            {**_IN_REGION, "shared_memory_offset": {"int64_param": 4090}},
            {"shared_memory_region": {"int64_param": 3}, "shared_memory_byte_size": {"int64_param": -16}},
            {"classification": {"int64_param": 1}},
        )
    ),
    *(
        _request("row", [_tensor("input", "FP32", 1, 4)], _ROW, parameters=more)
        for more in (
            {"sequence_id": {"string_param": "a"}, "sequence_start": {"bool_param": True}},
            {"sequence_id": {"int64_param": 0}, "sequence_end": {"bool_param": False}},
            {"triton_x": {"bool_param": True}},
            {"priority": {"int64_param": -1}},
            {"classification": {"int64_param": 1}},
        )
    ),
    *(
        _request("row", [_tensor("input", "FP32", 1, 4)], _ROW, outputs=[{"name": "logits", "parameters": delivery}])
        for delivery in (
            {**_IN_REGION, "classification": {"int64_param": 1}},
            {"classification": {"int64_param": 0}},
            {**_IN_REGION, "shared_memory_byte_size": {"int64_param": 11}},
        )
    ),
    _request("image", [_tensor("image", "UINT8", 1, 2, 2, 3)], bytes(12)),
    _request("image", [_tensor("image", "UINT8", 1, 2, 2, 3, contents={"uint_contents": range(12)})]),
    _request("text", [_tensor("text", "BYTES", 1, 2)], pack_bytes(("a", "größe"))),
    _request("text", [_tensor("text", "BYTES", 1, 2, contents={"bytes_contents": [b"a", b"b"]})]),
    _request("pair", [_tensor("right", "INT64", 1, 1), _tensor("left", "INT64", 1, 2)], bytes(8), bytes(16)),
    _request(
        "pair",
        [
            _tensor("left", "INT64", 1, 2, contents={"int64_contents": [1, -2]}),
            _tensor("right", "INT64", 1, 1, contents={"int64_contents": [3]}),
        ],
        model_version="1",
    ),
    _request("any", [_tensor("input", "FP32", 1, 2, 2)], _ROW),
    _request("any", [_tensor("input", "FP16", 1, 0, 2)], b""),
    _request("whole", [_tensor("input", "FP32", 3, 1)], _ROW[:12]),
    _request("half", [_tensor("h", "FP16", 1, 2), _tensor("b", "BOOL", 1)], bytes(4), b"\1"),
)


def _typed(model: str, *inputs: dict[str, Any], **more: Any) -> bytes:
    # As the client sends it: the input last.
    head = typed.PredictRequest(model=model, id="id-1", **more)
    return head.SerializeToString() + typed.PredictRequest(inputs=inputs).SerializeToString()


PREDICTS = (
    _typed("row", {"dtype": typed.FP32, "shape": [1, 4], "data": _ROW}),
    _typed("row", {"name": "input", "dtype": typed.UINT8, "shape": [2, 4], "data": bytes(8)}, top_k=2),
    _typed(
        "row",
        {"name": "input", "dtype": typed.FP16, "shape": [1, 4], "data": bytes(8)},
        outputs=[typed.LOGITS, typed.ARGMAX],
        top_k=300,
        version="1",
    ),
    _typed("image", {"name": "image", "dtype": typed.UINT8, "shape": [1, 2, 2, 3], "data": bytes(12)}),
    _typed("pair", {"name": "left", "dtype": typed.INT64, "shape": [1, 2], "data": bytes(16)}),
)
