"""Run one ONNX file on one device, and vouch for it: providers as asked for, warm, and proved against its golden sample."""

import ctypes
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from server.errors import LoadError, RunFailed, StartError
from server.heads import Heads, add_heads
from server.tuning import Tuning

Array = np.ndarray[Any, Any]
Provider = tuple[str, dict[str, str]]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_DTYPES: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "tensor(bool)": ("BOOL", np.dtype(np.bool_)),
    "tensor(uint8)": ("UINT8", np.dtype(np.uint8)),
    "tensor(uint16)": ("UINT16", np.dtype("<u2")),
    "tensor(uint32)": ("UINT32", np.dtype("<u4")),
    "tensor(uint64)": ("UINT64", np.dtype("<u8")),
    "tensor(int8)": ("INT8", np.dtype(np.int8)),
    "tensor(int16)": ("INT16", np.dtype("<i2")),
    "tensor(int32)": ("INT32", np.dtype("<i4")),
    "tensor(int64)": ("INT64", np.dtype("<i8")),
    "tensor(float16)": ("FP16", np.dtype("<f2")),
    "tensor(float)": ("FP32", np.dtype("<f4")),
    "tensor(double)": ("FP64", np.dtype("<f8")),
    "tensor(string)": ("BYTES", np.dtype(object)),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: its name in the graph.
        datatype: the protocol's name of its element type, such as FP32.
        dtype: the same for numpy.
        shape: the shape of one row, or of the whole tensor without a batch axis, as clients see it; None is an axis of
            any size.
        reshape: the same as the network sees it, where the model's configuration gives clients another.
        ranked: whether the graph says how many axes there are.
    """

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    reshape: tuple[int | None, ...] | None = None
    ranked: bool = True

    @property
    def graph_shape(self) -> tuple[int | None, ...]:
        """`shape` as the network sees it."""
        return self.shape if self.reshape is None else self.reshape


@dataclass(frozen=True, slots=True)
class Signature:
    """What a network takes and gives.

    Attributes:
        inputs: in graph order.
        outputs: those clients may ask for, in graph order, appended heads last.
        own_outputs: names of the outputs that answer a request which names none: the file's own.
        batched: whether every input and output has a free first axis, so that rows of several requests may share a run.
        heads: the names that read the last layer, when heads were appended.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    own_outputs: tuple[str, ...]
    batched: bool
    heads: Heads | None

    @property
    def classes(self) -> int | None:
        """How many classes a network that ends at logits tells apart; None for others, and where the graph does not say."""
        logits = next((spec for spec in self.outputs if self.heads and spec.name == self.heads.logits), None)
        return logits.graph_shape[0 if self.batched else 1] if logits else None


@dataclass(frozen=True, slots=True)
class Golden:
    """Real samples, and the logits PyTorch computed for them.

    Attributes:
        inputs: for each input of the network, [R, ...].
        logits: [R, C].
        rtol: allowed relative difference.
        atol: allowed absolute difference.
    """

    inputs: dict[str, Array]
    logits: Array
    rtol: float
    atol: float


def cuda_devices() -> int:
    """How many CUDA devices the driver shows; 0 where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose_providers(device: str, available: Sequence[str], devices: int) -> list[Provider]:
    """The execution providers to ask for, best first.

    Args:
        device: auto, cpu, cuda or cuda:N.
        available: the providers this ONNX Runtime was built with.
        devices: how many CUDA devices there are.

    Raises:
        StartError: a CUDA device was demanded and cannot be had.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise StartError(f"device must be auto, cpu, cuda or cuda:N, got '{device}'")
    if device == "cpu":
        return [(CPU, {})]
    index = int(match[1] or 0)
    if CUDA not in available:
        obstacle = "this ONNX Runtime was built without CUDA; install onnxruntime-gpu"
    elif index >= devices:
        obstacle = f"{devices} CUDA devices were found" if devices else "no CUDA device was found"
    else:
        # The graph's own order of allocation, not powers of two: what a batch needs is what it takes.
        return [(CUDA, {"device_id": str(index), "arena_extend_strategy": "kSameAsRequested"}), (CPU, {})]
    if device == "auto":
        return [(CPU, {})]
    raise StartError(f"device {device} was demanded, but {obstacle}; use --device auto to fall back to the CPU")


class Session:
    """One network on one device.

    Args:
        session: ONNX Runtime's own session.
        signature: what the network takes and gives.
        external: names of the files beside the ONNX file that hold its weights.
        device: where it runs, such as cpu or cuda:0.
        run_options: options of every run.

    Attributes:
        metadata: the file's metadata properties.
        providers: the execution providers that are bound, best first.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        external: tuple[str, ...],
        device: str,
        run_options: ort.RunOptions | None,
    ) -> None:
        self._session = session
        self.signature = signature
        self.external = external
        self.device = device
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self._run_options = run_options
        self._names = [spec.name for spec in signature.inputs]

    @property
    def provider(self) -> str:
        """The first execution provider that is bound."""
        return self.providers[0]

    def run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the network once.

        Args:
            inputs: one array for each input, in graph order; [rows, ...] when batched.
            outputs: names of the outputs to compute.

        Returns:
            One array for each name.

        Raises:
            RunFailed: the network refused the batch.
        """
        try:
            arrays: list[Array] = self._session.run(
                outputs, dict(zip(self._names, inputs, strict=True)), self._run_options
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise RunFailed(f"the network failed: {error}") from error
        return arrays

    def warm_up(
        self,
        sizes: Sequence[int],
        golden: Golden | None,
        sample: Sequence[Array] | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> bool:
        """Run every batch size once, so that no request pays for a first time, and see that the batch axis is one.

        Args:
            sizes: numbers of rows.
            golden: where real rows come from.
            sample: where rows come from without it: for each input one row, [1, ...] when batched. Zeros of the
                input's shape stand in when there is neither.
            go_on: called before each run; raises when that is no longer wanted.

        Returns:
            False when the shape of a row is not known and so nothing could be run.

        Raises:
            LoadError: the network failed on a size, or answered with something else than it says it gives.
        """
        row = self._sample_row(golden) if golden is not None or sample is None else sample
        if row is None:
            return False
        for size in sizes if self.signature.batched else (1,):
            go_on()
            inputs = [np.repeat(array, size, axis=0) if self.signature.batched else array for array in row]
            self.rehearse(inputs, size)
        return True

    def probe(self, golden: Golden | None) -> None:
        """Run one row (or as many as the graph fixes), and compare it with what PyTorch computed if that is known.

        Raises:
            RunFailed: the device failed.
            LoadError: the answer is wrong.
        """
        row = self._sample_row(golden)
        if row is None:  # nothing that fits is known
            return
        if golden is None:
            self.run(row, list(self.signature.own_outputs))
            return
        (got,) = self.run(row, [self._logits()])
        _compare(got, golden.logits[: len(row[0])], golden, 0, len(row[0]))

    def _logits(self) -> str:
        return self.signature.heads.logits if self.signature.heads else self.signature.outputs[0].name

    def rehearse(self, inputs: Sequence[Array], rows: int) -> None:
        """Run once with everything that can be asked for, and check what comes out.

        Raises:
            LoadError: the network failed, or answered with something else than it says it gives.
        """
        heads = self.signature.heads
        outputs = [spec.name for spec in self.signature.outputs]
        try:
            arrays = self.run(inputs, [*outputs, heads.confidence] if heads and heads.confidence else outputs)
        except RunFailed as error:
            raise LoadError(f"warm-up with {rows} rows failed: {error}") from error
        for spec, array in zip(self.signature.outputs, arrays, strict=False):
            self._check_answer(spec, array, rows)

    def _check_answer(self, spec: TensorSpec, array: Array, rows: int) -> None:
        if self.signature.batched and array.shape[:1] != (rows,):
            raise LoadError(
                f"output '{spec.name}' has shape {list(array.shape)} for a batch of {rows} rows, so its first axis is not the "
                "batch; write `max_batch_size: 0` into config.pbtxt to serve each request alone"
            )
        expected = (rows, *spec.graph_shape) if self.signature.batched else spec.graph_shape
        if len(array.shape) != len(expected) or any(
            want not in (None, got) for want, got in zip(expected, array.shape, strict=True)
        ):
            raise LoadError(
                f"output '{spec.name}' has shape {list(array.shape)} where the graph or config.pbtxt says "
                f"{[-1 if size is None else size for size in expected]}; declare its dims in config.pbtxt, -1 for any size"
            )

    def _sample_row(self, golden: Golden | None) -> list[Array] | None:
        if golden is not None:
            return [golden.inputs[name][: self._golden_step] for name in self._names]
        lead = (1,) if self.signature.batched else ()
        row = []
        for spec in self.signature.inputs:
            shape = [size for size in spec.graph_shape if size is not None]
            if len(shape) != len(spec.graph_shape):
                return None
            row.append(np.full((*lead, *shape), "" if spec.dtype.hasobject else 0, spec.dtype))
        return row

    @property
    def _golden_step(self) -> int:
        """Rows of a golden sample that make the smallest run: as many as a fixed batch axis has, or one."""
        leads = {spec.graph_shape[0] if spec.graph_shape else None for spec in self.signature.inputs}
        lead = leads.pop() if len(leads) == 1 else None
        return 1 if self.signature.batched or not lead else lead

    def check_golden(self, golden: Golden, max_batch_size: int) -> None:
        """Prove that this session answers as PyTorch did, one row at a time and in full batches.

        Raises:
            LoadError: it does not, with the largest difference and the row it is in.
        """
        logits = self._logits()
        rows, step = len(golden.logits), self._golden_step
        if rows % step:
            raise LoadError(
                f"golden check failed: {rows} golden rows do not fill batches of {step}, which the graph fixes"
            )
        for size in sorted({step, min(rows, max_batch_size)}) if self.signature.batched else (step,):
            # One row at a time shows a broken batch axis as well as the first few rows do.
            for start in range(0, min(rows, 4) if size == 1 else rows, size):
                part = slice(start, start + size)
                try:
                    (got,) = self.run([golden.inputs[name][part] for name in self._names], [logits])
                except RunFailed as error:
                    raise LoadError(f"golden check failed: {error}") from error
                _compare(got, golden.logits[part], golden, start, size)


def _compare(got: Array, expected: Array, golden: Golden, start: int, size: int) -> None:
    if got.shape != expected.shape:
        raise LoadError(
            f"golden check failed: logits have shape {list(got.shape)}, golden.npz has {list(expected.shape)}"
        )
    difference = np.abs(got.astype(np.float64) - expected)
    # Written so that a NaN on either side counts as a difference.
    # An infinite logit would allow any answer.
    wrong = ~(difference <= golden.atol + golden.rtol * np.abs(expected)) | ~np.isfinite(expected)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1.0)), wrong.shape)
        row, *rest = (int(index) for index in worst)
        raise LoadError(
            f"golden check failed: the logits differ from PyTorch's by {difference[worst]:.3g} at row {start + row}, class "
            f"{rest[0] if rest else 0} (batch of {size}; served {got[worst]:.6g}, trained {expected[worst]:.6g}; "
            f"allowed {golden.atol:g} + {golden.rtol:g} x |trained|); {int(wrong.reshape(len(wrong), -1).any(axis=1).sum())} rows of the batch differ"
        )


def read_golden(path: Path, signature: Signature) -> Golden:
    """Read a golden sample and check that it fits the network.

    Raises:
        LoadError: the file is damaged, or does not fit.
    """
    names = [spec.name for spec in signature.inputs]
    keys = {name: "input" if len(names) == 1 else f"input.{name}" for name in names}
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in (*keys.values(), "logits", "rtol", "atol")}
    except KeyError as error:
        raise LoadError(f"golden check failed: {path.name} lacks {error.args[0]}") from error
    except Exception as error:  # a damaged archive raises from zipfile, zlib, struct or numpy
        raise LoadError(f"golden check failed: {path.name} cannot be read: {error}") from error
    logits = arrays["logits"]
    rtol, atol = arrays["rtol"], arrays["atol"]
    if any(array.dtype.kind not in "fiu" for array in (logits, rtol, atol)) or not np.isfinite(logits).all():
        raise LoadError(f"golden check failed: {path.name} has logits or tolerances that are no finite numbers")
    if rtol.ndim or atol.ndim or not (0 <= rtol < np.inf and 0 <= atol < np.inf):
        raise LoadError(f"golden check failed: {path.name} has tolerances that are no finite numbers >= 0")
    for spec in signature.inputs:
        rows = arrays[keys[spec.name]]
        if not rows.ndim or not logits.ndim or len(rows) != len(logits) or len(logits) == 0 or rows.dtype != spec.dtype:
            raise LoadError(
                f"golden check failed: {path.name} has input {rows.dtype} {list(rows.shape)} for logits {list(logits.shape)}; "
                f"expected {spec.dtype} with as many rows"
            )
    inputs = {name: arrays[key] for name, key in keys.items()}
    return Golden(inputs, logits, float(rtol), float(atol))


def load_session(
    path: Path,
    providers: Sequence[Provider],
    *,
    threads: int,
    strict: bool,
    tuning: Tuning | None = None,
    outputs: Collection[str] = (),
) -> Session:
    """Load an ONNX file, with softmax and argmax appended where the network ends at logits.

    Args:
        path: the ONNX file; weights in files of their own are found beside it.
        providers: from `choose_providers`, perhaps with others before them.
        threads: threads of one run on the CPU.
        strict: refuse a session that is not bound to the GPU among the providers.
        tuning: what the model's configuration asks for.
        outputs: the file's outputs that are wanted, all when empty; what only the others need is not computed.

    Raises:
        LoadError: the file is damaged, cannot be run, or is not bound where it was demanded.
    """
    tuning = tuning or Tuning()
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's and onnx's own errors, and the file system's
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if _keep(model.graph, outputs):
        content = model.SerializeToString()
    own_outputs = tuple(value.name for value in model.graph.output)
    unranked = frozenset(
        value.name
        for value in (*model.graph.input, *model.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    )
    external = external_files(model, path)
    # Not serialised as a whole again: for a large network that would hold the interpreter lock for a second.
    heads, addition = add_heads(model)
    options = tuning.options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = _open(path.name, content + addition, options, providers, strict=strict)
    bound = session.get_providers()
    index = next((options["device_id"] for name, options in providers if name == CUDA), None)
    if strict and index is not None and CUDA not in bound:
        raise LoadError(f"{CUDA} was demanded, but ONNX Runtime bound {bound[0]}; its own log says why")
    device = f"cuda:{index}" if CUDA in bound else "cpu"
    return Session(session, _signature(session, own_outputs, heads, unranked), external, device, tuning.run_options())


def _keep(graph: onnx.GraphProto, wanted: Collection[str]) -> bool:
    """Take the other outputs off the graph, unless a wanted one is not among them; tells whether any was."""
    kept = [value for value in graph.output if value.name in wanted]
    if len({value.name for value in kept}) < len(set(wanted)) or len(kept) in (0, len(graph.output)):
        return False
    del graph.output[:]
    graph.output.extend(kept)
    return True


def _open(
    file: str, model: bytes, options: ort.SessionOptions, providers: Sequence[Provider], *, strict: bool
) -> ort.InferenceSession:
    """A session on the first of these that can be had: all the providers, the devices' own, the CPU unless `strict`."""
    own = [provider for provider in providers if provider[0] in (CPU, CUDA)]
    attempts = [list(providers)]
    if len(own) < len(providers):
        attempts.append(own)
    if not strict and own[0][0] != CPU:
        attempts.append([(CPU, {})])
    problem: Exception | None = None
    for attempt in attempts:
        try:
            # ONNX Runtime's own fallback would silently go to the first GPU or the CPU, at any run.
            return ort.InferenceSession(model, options, providers=attempt, enable_fallback=0)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            problem = error
    raise LoadError(f"{file} cannot be run: {problem}") from problem


def external_files(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Names of the files beside the ONNX file `path` that hold its weights.

    Raises:
        LoadError: one is missing, or is not in the same folder.
    """
    names = dict.fromkeys(
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    for name in names:
        inside = Path(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise LoadError(f"{path.name} has weights in '{name}'; they must be in the version's own folder")
        if not (path.parent / inside).is_file():
            raise LoadError(f"{path.name} has weights in '{name}', which is missing from the version's folder")
    return tuple(names)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _signature(
    session: ort.InferenceSession, own_outputs: tuple[str, ...], heads: Heads | None, unranked: frozenset[str]
) -> Signature:
    outputs = [node for node in session.get_outputs() if not (heads and node.name == heads.confidence)]
    nodes = [*session.get_inputs(), *outputs]
    batched = bool(session.get_inputs()) and all(node.shape and not isinstance(node.shape[0], int) for node in nodes)
    return Signature(
        inputs=tuple(_spec(node, unranked, batched=batched) for node in session.get_inputs()),
        outputs=tuple(_spec(node, unranked, batched=batched) for node in outputs),
        own_outputs=own_outputs,
        batched=batched,
        heads=heads,
    )


def _spec(node: Any, unranked: frozenset[str], *, batched: bool) -> TensorSpec:
    if node.type not in _DTYPES:
        raise LoadError(
            f"'{node.name}' is a {node.type}, which this server cannot pass to ONNX Runtime; it takes tensors of numbers, "
            "truth values and strings: cast it in the graph"
        )
    datatype, dtype = _DTYPES[node.type]
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    # Where ONNX Runtime has inferred the axes, it does not matter that the file does not say them.
    ranked = bool(shape) or node.name not in unranked
    return TensorSpec(node.name, datatype, dtype, shape[1:] if batched else shape, ranked=ranked)
