"""Triton's raw binary request: a body that is the elements of a model's only input, without any JSON.

The shape is not said, so it is what the model takes: one row, with the one size that is free as the bytes tell it.
"""

import math
from collections.abc import Sequence

from frostline.pb import inference_pb2 as pb
from frostline_server.http.infer import Form, Header
from frostline_server.http.statuses import invalid
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.runtime.signature import TensorSpec

_REMEDY = "send it with JSON in front of it, which says what it is"


def raw_request(version: str, served: LoadedModel, body: memoryview) -> tuple[Header, memoryview]:
    """What the JSON of such a request would have said, and the bytes behind it.

    Args:
        version: the model's version, as the path has it; may be empty.
        served: what answers it.
        body: the elements; of a text or a file, just that, without the length that texts have elsewhere.

    Raises:
        Failure: they are not the only input of this model, or do not tell its shape.
    """
    inputs, what = served.inputs, f"a raw binary request to model '{served.name}'"
    if len(inputs) != 1:
        names = ", ".join(spec.client_name for spec in inputs) or "none"
        raise invalid(f"{what} has one input, and the model has {len(inputs)} ({names}); {_REMEDY}")
    (spec,) = inputs
    lead = [1] if served.session.signature.batched else []
    shape = [*lead, *_row_shape(spec, len(body), what)]
    message = pb.ModelInferRequest(model_name=served.name, model_version=version)
    message.inputs.add(name=spec.client_name, datatype=spec.datatype, shape=shape)
    if spec.datatype == "BYTES":
        body = memoryview(b"".join((len(body).to_bytes(4, "little"), body)))
    return Header(message.SerializeToString(), (len(body),), Form(binary=True)), body


def _row_shape(spec: TensorSpec, size: int, what: str) -> Sequence[int]:
    shape = [-1 if each is None else each for each in spec.shape]
    if not spec.ranked:
        raise invalid(f"{what} cannot tell the shape of input '{spec.client_name}', which may be any; {_REMEDY}")
    if spec.datatype == "BYTES":
        if shape not in ([], [1]):
            raise invalid(
                f"{what} is one text or file, and input '{spec.client_name}' has the shape {shape}; {_REMEDY}"
            )
        return shape
    free = shape.count(-1)
    if free > 1:
        raise invalid(f"{what} cannot tell the {free} free sizes of input '{spec.client_name}' {shape}; {_REMEDY}")
    if free:
        step = spec.dtype.itemsize * math.prod(each for each in shape if each >= 0)
        if not step or size % step:
            raise invalid(
                f"{what} has {size} bytes, and input '{spec.client_name}' {spec.datatype} {shape} has a multiple of {step}"
            )
        return [size // step if each < 0 else each for each in shape]
    return shape
