"""The processes of a trial load: one that waits with everything imported, and a child of it for each version.

The first has a single thread, so that it may fork, and watches the child's time and memory. It ends when the server
does, whose end closes their connection, and the child ends with it.
"""

import contextlib
import ctypes
import gc
import json
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper

from frostline.pb import model_config_pb2
from frostline_server import signals
from frostline_server.errors import LoadError
from frostline_server.model.loader import Loader
from frostline_server.model.trial import Job
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.graph.shape_inference import inferred

_LOOK_S = 0.01
"""How often the child's memory is looked at: in that time it may take a hundred MiB or so."""
_NICENESS = 10
_LAST_WORDS = 4096
"""So many of the last bytes that the child wrote to standard error are kept."""
_MOST_WARNINGS = 100
_DEFAULT_STACK = 2 << 20
_PR_SET_PDEATHSIG = 1


def serve(server: Connection) -> None:
    """Try one version after the other, until the server closes the connection.

    Args:
        server: gives jobs, and is told how each went.
    """
    while True:
        try:
            job = pickle.loads(server.recv_bytes())  # noqa: S301  from the server, which started this process
        except (EOFError, OSError):
            return
        try:
            outcome = _tried(job, server)
        except OSError as error:
            outcome = {"ended": f"it could not be tried in a child process: {error}"}
        with contextlib.suppress(OSError):  # it is gone
            server.send_bytes(json.dumps(outcome).encode())


def _tried(job: Job, server: Connection) -> dict[str, Any]:
    """How the child went, as the fields of an `Outcome`."""
    (report, reported), (errors, written) = os.pipe(), os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            server.close()
            os.close(report)
            os.close(errors)
            os.dup2(written, sys.stderr.fileno())
            _confine(parent)
            _load_in_thread(job, reported)
        finally:
            os._exit(0)
    os.close(reported)
    os.close(written)
    try:
        stopped = _watch(pid, job, {report: bytearray(), errors: bytearray()}, server)
    finally:
        os.close(report)
        os.close(errors)
    return stopped


def _watch(pid: int, job: Job, said: dict[int, bytearray], server: Connection) -> dict[str, Any]:
    """Wait for the child's end, or end it when it takes too long, too much, or is wanted no more.

    Args:
        pid: the child.
        job: with its limits.
        said: the pipes on which it reports and complains, in this order, with what it said.
        server: that it has closed the connection means that the trial is wanted no more.
    """
    until_s, before = time.monotonic() + job.timeout_s, _anonymous_bytes(pid)
    report, errors = said
    stopped, poller = "", select.poll()
    for descriptor in said:
        poller.register(descriptor, select.POLLIN)
    poller.register(server.fileno(), select.POLLRDHUP)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(_LOOK_S * 1000)}
        if errors in ready:
            if not _read(errors, said[errors]):
                poller.unregister(errors)
            del said[errors][:-_LAST_WORDS]
        if report in ready and not _read(report, said[report]):
            break
        if time.monotonic() > until_s:
            stopped = f"loading it takes longer than {job.timeout_s:g} s, the limit load_timeout_s"
        elif _anonymous_bytes(pid) - before > job.memory_bytes:
            stopped = _too_much(job)
        if stopped or server.fileno() in ready:
            os.kill(pid, signal.SIGKILL)
            break
    # Only the child has the other end of its report, so it has ended.
    _, status = os.waitpid(pid, 0)
    if stopped:
        return {"ended": stopped}
    if os.WIFSIGNALED(status):
        return {"ended": _killed(os.WTERMSIG(status), errors, said[errors])}
    try:
        outcome: dict[str, Any] = json.loads(bytes(said[report]))
    except ValueError:
        return {"ended": f"loading it ended its process{_last_words(errors, said[errors])}"}
    return outcome


def _too_much(job: Job) -> str:
    return f"loading it takes more than {job.memory_bytes >> 20} MiB of memory, the limit load_memory_bytes, or what is free"


def _killed(number: int, errors: int, words: bytearray) -> str:
    """Why the child ended with this signal, which is not ours."""
    if number == signal.SIGKILL:
        return "loading it had its process killed (SIGKILL), as the system does when there is no memory left"
    return f"loading it ended its process with {signal.Signals(number).name}{_last_words(errors, words)}"


def _last_words(errors: int, words: bytearray) -> str:
    """The last line on standard error, with what was not read yet."""
    os.set_blocking(errors, False)
    with contextlib.suppress(BlockingIOError):
        while _read(errors, words):
            pass
    lines = words.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:500]}" if last else ""


def _read(descriptor: int, into: bytearray) -> bool:
    """Read what is there; returns whether there may be more."""
    part = os.read(descriptor, 1 << 16)
    into += part
    return bool(part)


def _anonymous_bytes(pid: int) -> int:
    """Memory of its own that a process has, in bytes: files that it maps can be given up, and do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    fields = ("RssAnon:", "VmSwap:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) * 1024


def _confine(parent: int) -> None:
    """Have this child end with its parent, give way to the server, and be the first to go when memory runs out."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked
        os._exit(0)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No limit on what it may ask for: memory that cannot be had is an error that warm-up gets over with fewer rows, and the
    # server, which has no such limit, would then take it.


def _load_in_thread(job: Job, reported: int) -> None:
    """Load in a thread with less stack than the server's have: what is nested too deep for those must not pass."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    whole = _DEFAULT_STACK if stack == resource.RLIM_INFINITY else stack
    threading.stack_size(max(1 << 18, whole // 4 * 3 & ~0xFFFF))
    thread = threading.Thread(target=_load, args=(job, reported))
    thread.start()
    thread.join()


def _load(job: Job, reported: int) -> None:
    """Load the version as the server would, and report."""
    warnings: list[str] = []
    config = model_config_pb2.ModelConfig.FromString(job.config)
    outcome: dict[str, Any]
    try:
        loaded = Loader(**job.loader).load(job.folder, job.name, config, warnings.append)
        outcome = {"sha256": loaded.sha256}
    except LoadError as error:
        outcome = {"refused": str(error)}
    except Exception as error:  # noqa: BLE001  whatever is in its folder, it is refused
        outcome = {"refused": f"unexpected {type(error).__name__} while loading: {error}"}
    outcome["warnings"] = warnings[:_MOST_WARNINGS]
    with os.fdopen(reported, "wb") as report:
        report.write(json.dumps(outcome).encode())


def _warm() -> None:
    """Do once what takes longer than most loads: onnx and ONNX Runtime learn their operators when they are first used."""
    tensor = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows"])
    given = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows"])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "warm", [tensor], [given]))
    model.opset_import[0].version, model.ir_version = 18, 8
    inferred(model)
    options = onnxruntime.SessionOptions()
    # More would be a pool of threads, and what has threads cannot fork.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])


def main(descriptor: int) -> None:
    """Serve on this descriptor until the server is gone."""
    for number in signals.HANDLED:
        # Sent to all processes of a terminal or a unit; this one ends with the server.
        signal.signal(number, signal.SIG_IGN)
    # Whoever started it may have held some back.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    onnxruntime.set_default_logger_severity(4)
    _warm()
    gc.freeze()
    with Connection(descriptor) as server:
        serve(server)


if __name__ == "__main__":
    main(int(sys.argv[1]))
