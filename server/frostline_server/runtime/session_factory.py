"""The session factory: it opens an ONNX file as an inference session.

It finds the weights, appends the classification heads, and tries the requested execution providers in order.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import onnx
import onnxruntime as ort

from frostline_server.errors import LoadError
from frostline_server.regular_files import read_regular
from frostline_server.runtime.cuda_buckets import NO_GRAPH, cast_network
from frostline_server.runtime.cuda_options import graphs_wanted, with_graphs, with_precision
from frostline_server.runtime.cuda_runner import DeviceRunner
from frostline_server.runtime.cuda_thread import Captures, CudaThread
from frostline_server.runtime.devices import CPU, CUDA, Provider, cuda_error, why_unbound
from frostline_server.runtime.graph.divisions import guard_divisions
from frostline_server.runtime.graph.external_data import external_files
from frostline_server.runtime.graph.heads import add_heads
from frostline_server.runtime.graph.traits import traits_of
from frostline_server.runtime.run_errors import cleaned
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import Signature, signature_of
from frostline_server.runtime.tuning import Tuning

_MAX_BYTES = 2**31 - 1
"""As many as a protobuf message can have."""


class Files(Protocol):
    """The content of a version's files."""

    def read(self) -> bytes:
        """The ONNX file's content, of which nobody else keeps a copy."""
        ...

    def weights(self, name: str) -> bytes:
        """The content of a file of weights."""
        ...


def load_session(
    path: Path,
    providers: Sequence[Provider],
    *,
    threads: int,
    strict: bool,
    tuning: Tuning | None = None,
    outputs: Collection[str] = (),
    captures: Captures | None = None,
    graphs: bool = True,
    agree: Callable[[Signature], Signature] = lambda signature: signature,
    files: Files | None = None,
    max_run_s: float = math.inf,
    probabilities: bool = False,
) -> Session:
    """Load an ONNX file, with softmax and argmax appended where the network ends at logits.

    Args:
        path: the ONNX file; weights in separate files are found beside it.
        providers: from `choose_providers`, perhaps with others before them.
        threads: threads of one run on the CPU.
        strict: refuse a session that is not bound to the GPU among the providers.
        tuning: the session options of the model's configuration.
        outputs: the file's outputs to serve, all when empty; nodes that only the others need are not computed.
        captures: shared by all sessions of the process that may be on a CUDA device.
        graphs: whether CUDA graphs may be captured, where the network and its configuration allow it.
        agree: makes the session's signature of the graph's, as the model's configuration wants it.
        files: gives the content of the files; by default they are read where they are.
        max_run_s: how long a run may take, in seconds.
        probabilities: whether the network is known to end at probabilities, also where its graph does not show it.

    Raises:
        LoadError: the file is damaged, cannot be run, or is not bound where it was demanded; or from `agree` or `files`.
    """
    tuning = tuning or Tuning()
    try:
        content = read_regular(path, _MAX_BYTES) if files is None else files.read()
        model = onnx.load_model_from_string(content)
    except LoadError:
        raise
    except Exception as error:  # protobuf's and onnx's own errors, and the file system's
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    changed = _keep(model.graph, outputs)
    if guard_divisions(model) or changed:
        content = model.SerializeToString()
    own_outputs = tuple(value.name for value in model.graph.output)
    unranked = frozenset(
        value.name
        for value in (*model.graph.input, *model.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    )
    external = external_files(model, path)
    # Not serialised as a whole again: for a large network that would hold the interpreter lock for a second.
    heads, addition = add_heads(model, probabilities=probabilities)
    options = tuning.options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    given = {} if files is None else {name: files.weights(name) for name in external}
    options.add_external_initializers_from_files_in_memory(
        list(given), list(given.values()), [len(buffer) for buffer in given.values()]
    )
    index = next((options["device_id"] for name, options in providers if name == CUDA), None)
    if index is not None and (lost := cuda_error(int(index))):
        # ONNX Runtime ends the process when it is told to open a session there.
        raise LoadError(f"the device cuda:{index} has failed, and only a new process can use it again: {lost}")
    graphs = graphs and graphs_wanted(providers, model, tuning.run)
    providers = with_graphs(with_precision(providers, model.graph), enabled=graphs)
    traits = traits_of(model)
    # ONNX Runtime parses the file once more, so what was parsed here makes room first.
    del model
    content += addition
    session, problem = _open(path.name, content, options, providers, traits.wrong_fusions, strict=strict)
    del content, given
    bound = session.get_providers()
    if strict and index is not None and CUDA not in bound:
        raise LoadError(f"{CUDA} was requested, but ONNX Runtime bound {bound[0]}: {why_unbound(CUDA)}")
    signature = agree(signature_of(session, own_outputs, heads, unranked, traits))
    if index is None or CUDA not in bound:
        return Session(session, signature, external, "cpu", RunLimit(max_run_s, tuning.run_options))
    limit = RunLimit(max_run_s, partial(tuning.device_run_options, NO_GRAPH))
    runner = DeviceRunner(
        session,
        [spec.name for spec in signature.inputs],
        partial(ort.OrtValue.ortvalue_from_shape_and_type, device_type="cuda", device_id=int(index)),
        tuning.device_run_options,
        partial(_caster, {name: options for name, options in providers if name == CUDA}),
        graphs=graphs and not problem,
        captures=captures or Captures(),
        cuda_thread=CudaThread(f"cuda-{index}"),
        limit=limit,
    )
    runner.start()
    remarks = [f"CUDA graphs are not captured: {problem}"] if problem else []
    return Session(session, signature, external, f"cuda:{index}", limit, runner, remarks)


def _keep(graph: onnx.GraphProto, wanted: Collection[str]) -> bool:
    """Remove the other outputs from the graph, unless a wanted one does not exist; returns whether any was removed."""
    kept = [value for value in graph.output if value.name in wanted]
    if len({value.name for value in kept}) < len(set(wanted)) or len(kept) in (0, len(graph.output)):
        return False
    del graph.output[:]
    graph.output.extend(kept)
    return True


def _open(
    file: str,
    model: bytes,
    options: ort.SessionOptions,
    providers: Sequence[Provider],
    without: Sequence[str],
    *,
    strict: bool,
) -> tuple[ort.InferenceSession, str]:
    """A session on the first of the `attempts` that succeeds, without some optimizers.

    With it comes why CUDA captures no graphs, if only that had to be given up, else "".
    """
    problem: Exception | None = None
    disabled = {"disabled_optimizers": list(without)} if without else {}
    for attempt, given_up in attempts(providers, strict=strict):
        try:
            # ONNX Runtime's own fallback would silently move to the first GPU or the CPU, at any run.
            session = ort.InferenceSession(model, options, providers=attempt, enable_fallback=0, **disabled)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            problem = error
        else:
            # The wrapper keeps the file's content for a fallback of its own, which is off.
            session._model_bytes = None  # noqa: SLF001  there is no other way to give it up
            return session, cleaned(str(problem)) if given_up == "graphs" else ""
    said = cleaned(str(problem))
    if locale := _LOCALE.search(said):
        said += (
            f"; the server's machine has no locale {locale[1]}: install it (Debian: package `locales`, `localedef -i en_US -f "
            "UTF-8 en_US.UTF-8`), or have the node StringNormalizer say locale='C'"
        )
    raise LoadError(f"{file} cannot be run: {said}") from problem


_LOCALE = re.compile(r"Failed to construct locale with name:\s*([\w.@-]+?):")


def _caster(cuda: Mapping[str, dict[str, str]]) -> ort.InferenceSession:
    """The network that casts bytes, on the device of these options."""
    options = ort.SessionOptions()
    # Otherwise it starts a thread for every core of the host.
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    providers = [*with_graphs(list(cuda.items()), enabled=False), (CPU, {})]
    return ort.InferenceSession(cast_network().SerializeToString(), options, providers=providers, enable_fallback=0)


def attempts(providers: Sequence[Provider], *, strict: bool) -> list[tuple[list[Provider], str]]:
    """The providers to try to open a session with, in turn.

    Each comes with what is newly given up: "", graphs, accelerators or cuda.

    Args:
        providers: all that is wanted, best first.
        strict: whether the GPU is demanded.
    """
    own = [provider for provider in providers if provider[0] in (CPU, CUDA)]
    chosen: list[tuple[list[Provider], str]] = [(list(providers), "")]
    if any(options.get("enable_cuda_graph") == "1" for _, options in providers):
        chosen.append((with_graphs(providers, enabled=False), "graphs"))
    if len(own) < len(providers):
        chosen.append((with_graphs(own, enabled=False), "accelerators"))
    if not strict and own[0][0] != CPU:
        chosen.append(([(CPU, {})], "cuda"))
    return chosen
