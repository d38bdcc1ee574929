"""The delivery of outputs that do not simply go into the response.

They are ranked as classes, as Triton's classification extension writes them, or written into shared memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.pb import inference_pb2
from frostline.protocol import pack_bytes
from frostline_server.codec import parameters
from frostline_server.codec.shared_memory import Region, Regions
from frostline_server.errors import InvalidInput
from frostline_server.runtime.dtypes import NAMES
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]
Outputs = Sequence[inference_pb2.ModelInferRequest.InferRequestedOutputTensor]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one output is delivered.

    Attributes:
        classes: how many of each row's best classes are wanted; 0 for the tensor itself.
        region: where in shared memory it goes; None for into the answer.
        offset: where in the region it begins, in bytes.
        byte_size: the most bytes it may have there.
    """

    classes: int = 0
    region: Region | None = None
    offset: int = 0
    byte_size: int = 0


def plan_deliveries(
    model: str, signature: Signature, outputs: Outputs, rows: int, regions: Regions, *, task: str = ""
) -> tuple[Delivery, ...]:
    """What a request's parameters say of its outputs, for each of them.

    Args:
        model: the model's name, for messages.
        signature: what the network gives.
        outputs: those asked for; their names have been checked.
        rows: how many rows the request has.
        regions: the shared memory there is.
        task: what the network was published for.

    Raises:
        InvalidInput: a parameter is wrong, or an output has no room in its shared memory.
        RegionNotFound: an output is to go to shared memory that is not known.
    """
    specs = {spec.client_name: spec for spec in signature.outputs}
    deliveries = []
    for output in outputs:
        spec = specs[output.name]
        classes, place = parameters.delivery(output.parameters, output.name)
        if classes:
            check_classes(model, spec, task)
        if place is None:
            deliveries.append(Delivery(classes))
            continue
        region = regions.find(place.region)
        region.check(place.offset, place.byte_size)
        row = [size for size in spec.shape if size is not None]
        if spec.ranked and len(row) == len(spec.shape) and not spec.dtype.hasobject:
            # Known before anything is computed.
            needed = math.prod(row) * spec.dtype.itemsize * (rows if signature.batched else 1)
            _check_room(output.name, place.byte_size, needed)
        deliveries.append(Delivery(0, region, place.offset, place.byte_size))
    return tuple(deliveries)


def deliver(
    response: inference_pb2.ModelInferResponse,
    names: Sequence[str],
    arrays: Sequence[Array],
    deliveries: Sequence[Delivery],
    labels: Mapping[str, Sequence[str]],
    *,
    batched: bool,
) -> None:
    """Add outputs to a response, each delivered as was planned.

    As in Triton, an output in shared memory has an empty entry among the raw contents: clients count them.

    Args:
        response: takes them.
        names: the outputs' names.
        arrays: what was computed.
        deliveries: how each is delivered.
        labels: names of the classes of each output that has any.
        batched: whether the arrays' first axis is that of the rows.

    Raises:
        InvalidInput: an output has no room in its shared memory; nothing was written to any.
    """
    writes: list[tuple[Region, int, bytes]] = []
    for name, computed, delivery in zip(names, arrays, deliveries, strict=True):
        array = computed
        if delivery.classes:
            array = best_classes(computed, delivery.classes, labels.get(name), batched=batched)
        output = response.outputs.add(name=name, datatype=NAMES[array.dtype.str], shape=array.shape)
        elements = pack_bytes(array.ravel()) if array.dtype.hasobject else array.tobytes()
        if delivery.region is None:
            response.raw_output_contents.append(elements)
            continue
        _check_room(name, delivery.byte_size, len(elements))
        response.raw_output_contents.append(b"")
        output.parameters["shared_memory_region"].string_param = delivery.region.name
        output.parameters["shared_memory_byte_size"].int64_param = len(elements)
        if delivery.offset:
            output.parameters["shared_memory_offset"].int64_param = delivery.offset
        writes.append((delivery.region, delivery.offset, elements))
    for region, offset, elements in writes:
        region.write(offset, elements)


def _check_room(output: str, room: int, needed: int) -> None:
    if needed > room:
        raise InvalidInput(
            f"shared memory size specified with the request for output '{output}' ({room} bytes) should be at least "
            f"{needed} bytes to hold the results"
        )


def check_classes(model: str, spec: TensorSpec, task: str = "") -> None:
    """Check that the elements of an output can be ranked.

    Raises:
        InvalidInput: they are no numbers, or the only one of a row decides between two classes: ranked alone, its index would
            be that of the first.
    """
    if task == "binary":
        raise InvalidInput(
            f"class result not available for output '{spec.client_name}' of model '{model}': it is one number for each row, "
            "which decides between two classes; ask for the output without classification, and read 'probabilities', the "
            "probability of the second class"
        )
    if spec.dtype.kind not in "fiu":
        raise InvalidInput(
            f"class result not available for output '{spec.client_name}' of model '{model}' due to unsupported type "
            f"'{spec.datatype}'"
        )


def best_classes(array: Array, count: int, labels: Sequence[str] | None, *, batched: bool) -> Array:
    """The best classes of each row, the best first.

    Args:
        array: numbers; [rows, ...] if batched. What follows the first axis are the classes, row-major.
        count: how many classes are wanted.
        labels: names of the classes, or None. They are used where a row is one number for each class.
        batched: whether the first axis is that of the rows.

    Returns:
        Strings `value:index` or `value:index:label`, [rows, min(count, classes)], or without the first axis. Equal
        values are in order of their index, and what is not a number comes last.
    """
    rows = array.shape[0] if batched else 1
    values = array.reshape(rows, math.prod(array.shape[1:] if batched else array.shape))
    classes = values.shape[1]
    # Both turn the order round without overflow; a stable sort then keeps equal values in order of their index.
    descending = -values if values.dtype.kind == "f" else ~values
    order = np.argsort(descending, axis=1, kind="stable")[:, :count]
    # As C's %f and %d print them.
    pattern = "{:.6f}:{}" if values.dtype.kind == "f" else "{}:{}"
    names: Sequence[str] = labels or ()
    # A row of several axes has a class at each of many places, and one of a single number has none; a list of labels
    # that ends early names the first classes, as in Triton.
    one_axis = array.ndim == 1 + batched
    if len(names) > classes or (len(names) < classes and not one_axis):
        names = ()
    ranked = np.empty(order.shape, object)
    best = np.take_along_axis(values, order, axis=1)
    for row, (indices, numbers) in enumerate(zip(order.tolist(), best.tolist(), strict=True)):
        for at, (index, number) in enumerate(zip(indices, numbers, strict=True)):
            text = pattern.format(number, index)
            label = names[index] if index < len(names) else ""
            ranked[row, at] = f"{text}:{label}" if label else text
    return ranked if batched else ranked[0]
