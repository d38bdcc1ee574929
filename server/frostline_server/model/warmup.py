"""Model warm-up: what is run before a version is READY, and the proof that it answers as PyTorch did.

Every batch size is run once, and so are the requests that the configuration wants run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching
from frostline_server.codec.tensors import unpack_strings
from frostline_server.errors import GraphsFailed, InvalidInput, LoadError
from frostline_server.model_config.tensor_config import data_type, type_name
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import Signature, TensorSpec, reshaped

Array = np.ndarray[Any, Any]

MAX_COUNT = 10_000
"""More runs of one sample are a slip of the pen."""

MAX_WARM_SIZE = 1024
"""Larger batches are not run before READY: filling memory for them would cost more than their first run."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that is run before a model is READY.

    Attributes:
        name: for messages.
        row: for each input, in graph order, one row: [1, ...], or the whole tensor without a batch axis.
        rows: how many rows the request has; 1 without a batch axis.
        count: how often it is run.
    """

    name: str
    row: tuple[Array, ...]
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
        inputs = session.signature.repeated(self.row, self.rows)
        for _ in range(self.count):
            go_on()
            try:
                session.run_and_check(inputs, self.rows)
            except LoadError as error:
                raise LoadError(f"model_warmup '{self.name}': {error}") from error


def warm_and_prove(
    session: Session,
    reopen: Callable[[], Session],
    batching: Batching,
    golden: Golden | None,
    samples: Sequence[Sample],
    warn: Callable[[str], None],
    go_on: Callable[[], None],
) -> Session:
    """Run one instance at every batch size, and compare its answers with the golden sample's.

    Args:
        session: the instance's.
        reopen: opens it again without CUDA graphs; called if they cannot be captured.
        batching: how its requests are batched.
        golden: its golden sample, if there is one.
        samples: the configuration's own.
        warn: told of what could not be done and is not a failure.
        go_on: called before each run; raises when that is no longer wanted.

    Returns:
        The session that is warm and proved: the given one, or the one opened again.

    Raises:
        LoadError: the network failed, or answered something else than PyTorch.
    """
    try:
        warmed = warm(session, batching, golden, samples, go_on)
    except GraphsFailed as error:
        warn(f"CUDA graphs are not captured: {error}")
        session = reopen()
        warmed = warm(session, batching, golden, samples, go_on)
    if not warmed:
        warn("the shape of a row is not known, so it could not be warmed up; add a golden.npz or a model_warmup")
    for remark in session.remarks:
        warn(remark)
    if golden is not None:
        session.check_golden(golden, batching.max_batch_size)
    return session


def warm(
    session: Session,
    batching: Batching,
    golden: Golden | None,
    samples: Sequence[Sample],
    go_on: Callable[[], None] = lambda: None,
) -> bool:
    """Run every batch size and every sample of the configuration.

    Args:
        session: the network.
        batching: how its requests are batched.
        golden: where rows come from, if there is one.
        samples: the configuration's own.
        go_on: called before each run; raises when that is no longer wanted.

    Returns:
        False when nothing could be run, because the shape of a row is not known.

    Raises:
        LoadError: the network failed.
    """
    warmed = session.warm_up(batch_sizes(batching), golden, samples[0].row if samples else None, go_on)
    for sample in samples:
        sample.run(session, go_on)
    return warmed


def batch_sizes(batching: Batching) -> list[int]:
    """The sizes to warm: powers of two up to the most rows of a batch, that, and the preferred sizes.

    None is above `MAX_WARM_SIZE`.
    """
    most = min(batching.max_batch_size, MAX_WARM_SIZE)
    powers = {2**power for power in range(most.bit_length()) if 2**power < most}
    return sorted(powers | {most} | {size for size in batching.preferred_sizes if size <= most})


def samples_of(
    config: model_config_pb2.ModelConfig, signature: Signature, max_batch_size: int, folder: Path
) -> list[Sample]:
    """The samples of a configuration, with their elements.

    Args:
        config: the model's configuration.
        signature: what the network takes.
        max_batch_size: the most rows of a request.
        folder: the model's folder; files of elements are in its folder `warmup`.

    Raises:
        LoadError: one does not fit the network, or its file cannot be read.
    """
    return [_sample(sample, signature, max_batch_size, folder / "warmup") for sample in config.model_warmup]


def _sample(warmup: model_config_pb2.ModelWarmup, signature: Signature, max_batch_size: int, folder: Path) -> Sample:
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
        _row(f"{about}: input '{spec.name}'", spec, warmup.inputs, random, folder, batched=signature.batched)
        for spec in signature.inputs
    )
    return Sample(warmup.name, row, rows, warmup.count or 1)


def _row(
    about: str,
    spec: TensorSpec,
    inputs: Mapping[str, model_config_pb2.ModelWarmup.Input],
    random: np.random.Generator,
    folder: Path,
    *,
    batched: bool,
) -> Array:
    given = inputs[spec.name]
    if given.data_type != data_type(spec):
        raise LoadError(f"{about} is {type_name(given.data_type)}; the network takes {type_name(data_type(spec))}")
    dims = tuple(given.dims)
    if len(dims) != len(spec.shape) or any(
        got < 0 or want not in (None, got) for got, want in zip(dims, spec.shape, strict=True)
    ):
        expected = [-1 if size is None else size for size in spec.shape]
        raise LoadError(f"{about} has dims {list(dims)}; expected {expected}, each of a certain size")
    shape = dims if spec.reshape is None else reshaped(dims, spec.shape, spec.reshape)
    return _elements(about, given, spec, math.prod(dims), random, folder).reshape((1, *shape) if batched else shape)


def _elements(
    about: str,
    given: model_config_pb2.ModelWarmup.Input,
    spec: TensorSpec,
    count: int,
    random: np.random.Generator,
    folder: Path,
) -> Array:
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        raise LoadError(f"{about} says not where its elements come from: zero_data, random_data or input_data_file")
    if kind == "input_data_file":
        return _from_file(about, given.input_data_file, spec, count, folder)
    if spec.dtype.hasobject:
        # As in Triton, random strings are empty ones.
        return np.full(count, "", object)
    if kind == "zero_data":
        return np.zeros(count, spec.dtype)
    # Whole numbers are often places in a table, and every table has these two.
    return (random.random(count) if spec.dtype.kind == "f" else random.integers(0, 2, count)).astype(spec.dtype)


def _from_file(about: str, name: str, spec: TensorSpec, count: int, folder: Path) -> Array:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise LoadError(f"{about} names the file '{name}'; it must be in the model's folder warmup")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise LoadError(f"{about}: warmup/{name} cannot be read: {error.strerror}") from error
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
