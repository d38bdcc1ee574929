"""Requests of gRPC as requests over REST, with tensors in Triton's binary form, and the answers as gRPC's."""

import http.client
import json
from collections.abc import Sequence

from bench.load.workload import Asked, WrongAnswer
from frostline.pb import inference_pb2 as pb

LENGTH = "Inference-Header-Content-Length"


def asking(message: bytes) -> tuple[str, tuple[str, ...], bytes]:
    """The path, the headers and the body that ask the same as a ModelInferRequest with raw contents."""
    request = pb.ModelInferRequest.FromString(message)
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(raw)},
        }
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = (f"{LENGTH}: {len(text)}", "Content-Type: application/octet-stream")
    return f"/v2/models/{request.model_name}/infer", headers, text + b"".join(request.raw_input_contents)


def message_of(body: bytes, length: int) -> bytes:
    """An answer in binary, whose JSON has so many bytes, as the ModelInferResponse that says the same."""
    told = json.loads(body[:length])
    outputs, raw, at = [], [], length
    for each in told["outputs"]:
        size = each["parameters"]["binary_data_size"]
        outputs.append({name: each[name] for name in ("name", "datatype", "shape")})
        raw.append(body[at : at + size])
        at += size
    message = pb.ModelInferResponse(
        model_name=told["model_name"],
        model_version=told["model_version"],
        outputs=outputs,
        raw_output_contents=raw,
    )
    return message.SerializeToString()


def answer_size(address: str, path: str, headers: Sequence[str], body: bytes, asked: Asked) -> int:
    """The size of the answer to the first question, which must be right.

    Raises:
        WrongAnswer: it is not.
    """
    connection = http.client.HTTPConnection(address.replace("0.0.0.0:", "127.0.0.1:"))
    connection.request("POST", path, body, dict(each.split(": ") for each in headers))
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    if answer.status != http.client.OK:
        raise WrongAnswer(f"REST answered {answer.status}: {told[:200]!r}")
    asked.check(0, message_of(told, int(answer.headers[LENGTH])))
    return len(told)
