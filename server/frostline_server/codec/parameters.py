"""The parameters of a request, of its inputs and of its outputs, as typed values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from frostline_server.errors import InvalidInput, Unsupported

Parameters = Mapping[str, Any]
"""Names to `InferParameter` messages."""

_REQUEST = frozenset(("priority", "timeout", "sequence_id", "sequence_start", "sequence_end"))
_PLACE = frozenset(("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"))
_CLASSES = frozenset(("classification",))
_KNOWN = _REQUEST | _PLACE | _CLASSES


@dataclass(frozen=True, slots=True)
class Place:
    """Where in shared memory a tensor lies.

    Attributes:
        region: the region's registered name.
        offset: where in it the tensor begins, in bytes.
        byte_size: how long the tensor is, or at most.
    """

    region: str
    offset: int
    byte_size: int


def scheduling(parameters: Parameters) -> tuple[int, float | None]:
    """A request's own priority and timeout.

    Returns:
        The priority, 0 for the model's default; and how many seconds it may wait in the queue, None for as long as any.

    Raises:
        InvalidInput: a value is of the wrong type or negative, or a parameter belongs elsewhere.
        Unsupported: it is part of a sequence.
    """
    _check(parameters, _REQUEST, "the request")
    _refuse_sequences(parameters)
    priority = _number(parameters, "priority", "", ("int64_param", "uint64_param")) or 0
    timeout_us = _number(parameters, "timeout", "", ("int64_param", "uint64_param")) or 0
    return priority, timeout_us / 1e6 if timeout_us else None


def place(parameters: Parameters, tensor: str) -> Place | None:
    """Where in shared memory an input lies; None if it does not.

    Raises:
        InvalidInput: a value is of the wrong type, missing, negative, or belongs elsewhere.
    """
    _check(parameters, _PLACE, f"an input such as '{tensor}'")
    return _place(parameters, tensor)


def delivery(parameters: Parameters, tensor: str) -> tuple[int, Place | None]:
    """How an output is to be delivered.

    Returns:
        How many of its best classes are wanted, 0 for the tensor itself; and where in shared memory it goes, or None.

    Raises:
        InvalidInput: a value is of the wrong type, missing, or out of range, or a parameter belongs elsewhere.
    """
    _check(parameters, _PLACE | _CLASSES, f"an output such as '{tensor}'")
    where = _place(parameters, tensor)
    if "classification" not in parameters:
        return 0, where
    if where is not None:
        raise InvalidInput(f"output '{tensor}' can't set both 'shared_memory_region' and 'classification'")
    count = _value(parameters, "classification", f" for output '{tensor}'", ("int64_param",))
    if count <= 0:
        raise InvalidInput(
            f"invalid value for 'classification' parameter for output '{tensor}', expected how many classes, > 0, got "
            f"{count}"
        )
    return count, None


def _check(parameters: Iterable[str], taken: frozenset[str], here: str) -> None:
    """Refuse what would change the answer and stands in the wrong place; any other parameter is a hint, and ignored."""
    for name in parameters:
        if name in _KNOWN and name not in taken:
            owner = "the request" if name in _REQUEST else "an output" if name in _CLASSES else "an input or output"
            raise InvalidInput(f"parameter '{name}' belongs to {owner}, not to {here}")
        if name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidInput(f"parameter keys starting with 'triton_' are reserved for Triton usage, got '{name}'")


def _refuse_sequences(parameters: Parameters) -> None:
    """What says that this is no sequence is taken: a client that always fills the fields in must not fail."""
    none: dict[str, tuple[str, ...]] = {
        "sequence_id": ("int64_param", "string_param"),
        "sequence_start": ("bool_param",),
        "sequence_end": ("bool_param",),
    }
    for name, types in none.items():
        if name in parameters and _value(parameters, name, "", types):
            raise Unsupported(
                f"parameter '{name}' is not supported: this server keeps no state between requests, so it has no "
                "sequences; send each sequence whole, in one request"
            )


def _place(parameters: Parameters, tensor: str) -> Place | None:
    note = f" for tensor '{tensor}'"
    if "shared_memory_region" not in parameters:
        for name in ("shared_memory_offset", "shared_memory_byte_size"):
            if name in parameters:
                raise InvalidInput(f"'{name}' can not be specified without 'shared_memory_region' parameter{note}")
        return None
    region = _value(parameters, "shared_memory_region", note, ("string_param",))
    size = _number(parameters, "shared_memory_byte_size", note, ("int64_param",))
    if size is None:
        raise InvalidInput(
            f"'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter{note}"
        )
    return Place(region, _number(parameters, "shared_memory_offset", note, ("int64_param",)) or 0, size)


def _number(parameters: Parameters, name: str, note: str, types: tuple[str, ...]) -> int | None:
    if name not in parameters:
        return None
    value: int = _value(parameters, name, note, types)
    if value < 0:
        raise InvalidInput(f"invalid value for '{name}'{note}, expected value >= 0, got {value}")
    return value


def _value(parameters: Parameters, name: str, note: str, types: tuple[str, ...]) -> Any:
    # Asked for only where the name is there: protobuf's maps grow by being looked into.
    parameter = parameters[name]
    given = parameter.WhichOneof("parameter_choice")
    if given not in types:
        raise InvalidInput(
            f"invalid value type for '{name}' parameter{note}, expected {' or '.join(types)}, got {given or 'no value'}"
        )
    return getattr(parameter, given)
