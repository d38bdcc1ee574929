"""The trial load: a version is loaded in a child process before it is loaded in the server.

ONNX Runtime runs whatever a file says, in the process that opens it: a kernel that aborts, a graph that never finishes
optimising, a constant of 12 GB end the process with all its models. In a trial they end the child, which has a clock
and a bound for memory, and the version is FAILED with the reason. What passes is loaded in the server, if its bytes
are those that were tried.
"""

import json
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import onnx

from frostline_server.errors import LoadError
from frostline_server.model.artifact import Artifact, model_folder
from frostline_server.regular_files import FileReader
from frostline_server.runtime.graph.external_data import external_files
from frostline_server.runtime.host_limits import memory_available_bytes

IDLE_S = 10.0
"""How long the process that makes the children waits for the next version, in seconds."""
POLL_S = 0.05
"""How often a trial is asked for whether it is still wanted."""
_LATE_S = 5.0
"""How much longer than the child may take its maker may need to say so."""
_SPARE = 0.9
"""How much of the memory that is free a child may take: the rest is for the server, which goes on meanwhile."""
_TRIES = 3
_MOST_FILES = 20_000
"""Of a version and its warm-up; what only just is no more for a look at the folder may be by now."""
_LARGEST_ELEMENT = 8
_PROCESS = "frostline_server.model.trial_process"


@dataclass(frozen=True, slots=True)
class Job:
    """What a child is to load.

    Attributes:
        folder: the version's folder.
        name: the model's name.
        config: its configuration, serialised.
        loader: the arguments of the `Loader`.
        timeout_s: how long it may take, in seconds.
        memory_bytes: how much memory it may take.
    """

    folder: Path
    name: str
    config: bytes
    loader: Mapping[str, Any]
    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial went.

    Attributes:
        ended: why the child did not get to an end; "" if it did.
        refused: why the version cannot be loaded; "" if it can.
        sha256: of the ONNX file that was loaded.
        warnings: what could not be done and is no failure.
    """

    ended: str = ""
    refused: str = ""
    sha256: str = ""
    warnings: tuple[str, ...] = ()


class Trials:
    """Trial loads, one at a time, on Linux.

    The first starts a process that has imported everything and makes a child for each trial, which costs milliseconds
    where a new interpreter would cost a second. It ends when there was nothing to try for a while, and with the server.

    Args:
        always: whether every version is tried, also those that Frostline published.
        timeout_s: how long a version may take, in seconds.
        memory_bytes: how much memory it may take; never more than is free.
        available: gives the memory that is free, in bytes.
    """

    def __init__(
        self,
        *,
        always: bool,
        timeout_s: float,
        memory_bytes: int,
        available: Callable[[], int] = memory_available_bytes,
    ) -> None:
        self._always = always
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._available = available
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._idle: threading.Timer | None = None

    def needed(self, artifact: Artifact, rows: int) -> bool:
        """Whether a version must be tried before it is loaded.

        Args:
            artifact: the version's files.
            rows: the most rows of a run.
        """
        return self._always or not _ours(artifact, rows, self._memory_bytes // 4)

    def run(
        self,
        folder: Path,
        name: str,
        config: bytes,
        loader: Mapping[str, Any],
        go_on: Callable[[], None],
    ) -> Outcome:
        """Load a version in a child.

        Args:
            folder: the version's folder.
            name: the model's name.
            config: its configuration, serialised.
            loader: the arguments of the `Loader`.
            go_on: called again and again; raises when it is wanted no more.

        Raises:
            LoadError: there can be no child, or the files never stay the same; or from `go_on`.
        """
        free = int(self._available() * _SPARE)
        job = Job(folder, name, config, loader, self._timeout_s, min(self._memory_bytes, free))
        # What comes from a deployment may get its owner and its times last.
        files = loader.get("files") or FileReader(model_folder(folder).parent)
        for _ in range(_TRIES):
            before = _state(folder, files)
            outcome = self._ask(job, go_on)
            if before == _state(folder, files):
                return outcome
        raise LoadError("its files change again and again while they are tried")

    def close(self) -> None:
        """End the process that makes the children; the next trial starts another."""
        with self._lock:
            self._end()

    def _ask(self, job: Job, go_on: Callable[[], None]) -> Outcome:
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                connection = self._started()
                connection.send_bytes(pickle.dumps(job))
                answer = json.loads(_awaited(connection, job.timeout_s + _LATE_S, go_on))
            except (OSError, EOFError) as error:
                self._end()
                raise LoadError(f"it could not be tried in a child process: {error or 'that process ended'}") from error
            except LoadError:
                self._end()
                raise
            self._idle = threading.Timer(IDLE_S, self.close)
            self._idle.daemon = True
            self._idle.start()
        return Outcome(**{**answer, "warnings": tuple(answer.get("warnings", ()))})

    def _started(self) -> Connection:
        """The connection to the process that makes the children."""
        if self._connection is None:
            ours, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  the command is this very program
                    # -P: as the command `frostline` does, import nothing from the folder that it is started in.
                    [sys.executable, "-P", "-m", _PROCESS, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # It must have no other thread when it makes a child, and numpy's library would start one for each core.
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                    # Ctrl-C goes to the whole group of a terminal; this process ends with the server.
                    process_group=0,
                )
            self._connection = ours
        return self._connection

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            # Its child ends with it.
            self._process.kill()
            self._process.wait()
        self._connection = self._process = self._idle = None


def _awaited(connection: Connection, timeout_s: float, go_on: Callable[[], None]) -> bytes:
    """The answer.

    Raises:
        LoadError: there is none; or from `go_on`.
        EOFError: the process has ended.
    """
    for _ in range(math.ceil(timeout_s / POLL_S)):
        if connection.poll(POLL_S):
            return connection.recv_bytes()
        go_on()
    raise LoadError("it could not be tried in a child process: that process does not answer")


def _ours(artifact: Artifact, rows: int, bound_bytes: int) -> bool:
    """Whether a version is as Frostline publishes it, with its files, its inputs and its outputs within bounds.

    Its card then has the SHA-256 of the ONNX file and of all files of weights, and it has a golden sample: whoever
    published it has loaded and run it.

    Args:
        artifact: the version's files.
        rows: the most rows of a run.
        bound_bytes: for its files, and for the inputs and outputs of a run.
    """
    listed = artifact.card.get("files", {})
    if "sha256" not in artifact.card or artifact.golden_file is None or not isinstance(listed, Mapping):
        return False
    content = artifact.peek()
    if len(content) > bound_bytes:
        return False
    try:
        model = onnx.load_model_from_string(content)
        weights = external_files(model, artifact.file)
        files_bytes = len(content) + sum((artifact.file.parent / name).stat().st_size for name in weights)
    except Exception:  # noqa: BLE001  protobuf's and onnx's own errors, and the file system's: the child says what is wrong
        return False
    # How large functions become when they are put in place of their calls, the size of the file does not say.
    if model.functions or not set(weights) <= set(listed) or files_bytes > bound_bytes:
        return False
    return sum(_bytes(value, rows) for value in (*model.graph.input, *model.graph.output)) <= bound_bytes


def _bytes(value: onnx.ValueInfoProto, rows: int) -> int:
    """What an input or output of a run with so many rows takes at most, in bytes, where the file says."""
    dims = value.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims]
    free = bool(dims) and not dims[0].HasField("dim_value")
    return abs(math.prod(sizes)) * (rows if free else 1) * _LARGEST_ELEMENT


def _state(folder: Path, files: FileReader) -> list[tuple[str, int, int, int, int]]:
    """The path, inode, size and times of every file that loading reads and that no SHA-256 stands for.

    Args:
        folder: the version's folder.
        files: reads what is in it.

    Raises:
        LoadError: they are too many.
    """
    found: list[tuple[str, int, int, int, int]] = []
    for top in (folder, model_folder(folder) / "warmup"):
        # A walk follows no links, but it would follow this one, and loading reads nothing that lies outside.
        if files.outside(top):
            continue
        for parent, _, names in os.walk(top):
            for name in names:
                path = os.path.join(parent, name)  # noqa: PTH118  as os.walk has it
                try:
                    about = os.stat(path)  # noqa: PTH116  as above
                except OSError:
                    continue
                found.append((path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
            if len(found) > _MOST_FILES:
                raise LoadError(f"it has more than {_MOST_FILES} files")
    return sorted(found)
