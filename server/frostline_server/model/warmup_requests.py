"""The requests of `model_warmup`: those that a configuration wants run before its model is READY."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.pb import model_config_pb2
from frostline_server.codec.tensors import unpack_strings
from frostline_server.errors import InvalidInput, LoadError, PredictionError
from frostline_server.model.sample_rows import Row
from frostline_server.model_config.tensor_config import data_type, type_name
from frostline_server.regular_files import MAX_TEXT_BYTES, FileReader, FileTooLarge
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import Signature, TensorSpec, reshaped

Array = np.ndarray[Any, Any]

MAX_COUNT = 10_000
"""More runs are a slip of the pen."""
MAX_BYTES = 1 << 30
"""Of one input of a request."""


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    """One request that is run before a model is READY.

    Attributes:
        name: for messages.
        row: one row of it.
        inputs: for each input, in graph order, all rows: [rows, ...], or the whole tensor without a batch axis.
        rows: how many rows it has; 1 without a batch axis.
        count: how often it is run.
    """

    name: str
    row: Row
    inputs: Row
    rows: int
    count: int

    def run(self, session: Session, go_on: Callable[[], None] = lambda: None) -> None:
        """Run it.

        Args:
            session: the network.
            go_on: called before each run; raises when that is no longer wanted.

        Raises:
            LoadError: the network failed.
        """
        for _ in range(self.count):
            go_on()
            try:
                session.run(self.inputs, session.signature.own_outputs)
            except PredictionError as error:
                raise LoadError(f"model_warmup '{self.name}': warm-up with {self.rows} rows failed: {error}") from error


def warmup_requests(
    config: model_config_pb2.ModelConfig, signature: Signature, max_batch_size: int, folder: Path, files: FileReader
) -> list[WarmupRequest]:
    """The requests of a configuration, with their elements.

    Args:
        config: the model's configuration.
        signature: what the network takes.
        max_batch_size: the most rows of a request.
        folder: the model's folder; files of elements are in its folder `warmup`.
        files: reads them.

    Raises:
        LoadError: one does not fit the network, or its file cannot be read.
    """
    runs = sum(max(1, warmup.count) for warmup in config.model_warmup)
    if len(config.model_warmup) > 1 and runs > MAX_COUNT:
        raise LoadError(f"config.pbtxt asks for {runs} runs with model_warmup; at most {MAX_COUNT} are possible")
    where = _Elements(folder / "warmup", files)
    return [_request(warmup, signature, max_batch_size, where) for warmup in config.model_warmup]


@dataclass(frozen=True, slots=True)
class _Elements:
    """Where files of elements are, and what reads them."""

    folder: Path
    files: FileReader


def _request(
    warmup: model_config_pb2.ModelWarmup, signature: Signature, max_batch_size: int, where: _Elements
) -> WarmupRequest:
    about = f"model_warmup '{warmup.name}'"
    rows = warmup.batch_size or 1
    most = max_batch_size if signature.batched else 1
    if rows > most:
        raise LoadError(f"{about} has batch_size {rows}; at most {most} is possible")
    if warmup.count > MAX_COUNT:
        raise LoadError(f"{about} has count {warmup.count}; at most {MAX_COUNT} is possible")
    names = [spec.name for spec in signature.inputs]
    if sorted(warmup.inputs) != sorted(names):
        raise LoadError(f"{about} has the inputs {sorted(warmup.inputs)}; the network takes {names}")
    # Its own seed, so that a load is the same every time.
    random = np.random.default_rng(0)
    row = tuple(
        _row(f"{about}: input '{spec.name}'", spec, warmup.inputs, random, where, rows, batched=signature.batched)
        for spec in signature.inputs
    )
    return WarmupRequest(warmup.name, row, tuple(signature.repeated(row, rows)), rows, warmup.count or 1)


def _row(
    about: str,
    spec: TensorSpec,
    inputs: Mapping[str, model_config_pb2.ModelWarmup.Input],
    random: np.random.Generator,
    where: _Elements,
    rows: int,
    *,
    batched: bool,
) -> Array:
    given = inputs[spec.name]
    if given.data_type != data_type(spec):
        raise LoadError(f"{about} is {type_name(given.data_type)}; the network takes {type_name(data_type(spec))}")
    dims = tuple(given.dims)
    if any(got < 0 for got in dims) or (
        spec.ranked
        and (
            len(dims) != len(spec.shape)
            or any(want not in (None, got) for got, want in zip(dims, spec.shape, strict=True))
        )
    ):
        expected = [-1 if size is None else size for size in spec.shape]
        raise LoadError(f"{about} has dims {list(dims)}; expected {expected}, each of a certain size")
    size = rows * math.prod(dims) * spec.dtype.itemsize
    if size > MAX_BYTES:
        raise LoadError(f"{about} has {size} bytes; at most {MAX_BYTES} are possible")
    shape = dims if spec.reshape is None else reshaped(dims, spec.shape, spec.reshape)
    return _elements(about, given, spec, math.prod(dims), random, where).reshape((1, *shape) if batched else shape)


def _elements(
    about: str,
    given: model_config_pb2.ModelWarmup.Input,
    spec: TensorSpec,
    count: int,
    random: np.random.Generator,
    where: _Elements,
) -> Array:
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        raise LoadError(f"{about} says not where its elements come from: zero_data, random_data or input_data_file")
    if kind == "input_data_file":
        return _from_file(about, given.input_data_file, spec, count, where)
    if spec.dtype.hasobject:
        # As in Triton, random strings are empty ones.
        return np.full(count, "", object)
    if kind == "zero_data":
        return np.zeros(count, spec.dtype)
    # Whole numbers are often places in a table, and every table has these two.
    return (random.random(count) if spec.dtype.kind == "f" else random.integers(0, 2, count)).astype(spec.dtype)


def _from_file(about: str, name: str, spec: TensorSpec, count: int, where: _Elements) -> Array:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise LoadError(f"{about} names the file '{name}'; it must be in the model's folder warmup")
    most_bytes = MAX_TEXT_BYTES if spec.dtype.hasobject else count * spec.dtype.itemsize
    try:
        data = where.files.read(where.folder / name, most_bytes)
    except FileTooLarge as error:
        raise LoadError(f"{about}: warmup/{name} has {error.size} bytes; expected {most_bytes} for one row") from error
    except OSError as error:
        raise LoadError(f"{about}: warmup/{name} cannot be read: {error.strerror or error}") from error
    if spec.dtype.hasobject:
        try:
            return unpack_strings(about, spec.name, count, data)
        except InvalidInput as error:
            raise LoadError(f"{about}: warmup/{name}: {error}") from error
    if len(data) != count * spec.dtype.itemsize:
        raise LoadError(
            f"{about}: warmup/{name} has {len(data)} bytes; expected {count * spec.dtype.itemsize} for one row"
        )
    return np.frombuffer(data, spec.dtype)
