"""The trial: a server among hostile models, through start, watch, swap, runs and stop, beside one with good ones only."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.attacks.child import Child, ChildFailed, child
from bench.hostile_models import zoo
from bench.hostile_models.graphs import asked
from bench.hostile_models.server import Server, said_of, serving
from bench.hostile_models.verdict import Outcome
from bench.hostile_models.zoo import ZOO
from bench.load import versions
from bench.measure import process

ALONE_S = 10.0
SETTLE_S = 10.0
PUBLISH_EVERY_S = 0.3
PHASE_S = 5.0
"""Every phase lasts so long at least, so that its p99 is one."""
_NONE = ("--streams", "--scrapes", "--triton", "--control", "--bad", "--cancels")
_LOAD = [part for flag in _NONE for part in (flag, "0")]
_POLL_S = 0.1


class ServerEnded(Exception):
    """The server has ended; the message says how, with the last lines of its log."""


@dataclass(frozen=True)
class Setup:
    """How the trial is made.

    Attributes:
        names: of hostile models; the first half is there at the start, the others come while it serves.
        flags: of the server.
        decide_s: how long it may take to decide about all of each half.
        guard_mib: memory at which it is killed, for the machine's sake.
        on_phase: is told what is being done.
    """

    names: Sequence[str]
    flags: Sequence[str]
    decide_s: float
    guard_mib: float
    on_phase: Callable[[str], None]


def run(root: Path, setup: Setup) -> Outcome:
    """Make the trial in a folder.

    Args:
        root: an empty folder.
        setup: how.

    Raises:
        ServerEnded: it did not live with the good models alone.
    """
    trial = _Trial(root, setup)
    trial.alone()
    trial.beside()
    return trial.outcome


class _Trial:
    def __init__(self, root: Path, setup: Setup) -> None:
        self.outcome = Outcome()
        self._root = root
        self._setup = setup
        self._models = root / "models"
        self._staging = root / "staging"
        for name in versions.NAMES:
            versions.publish(self._models, name, 1)
        self._messages = {
            name: versions.infer_request(name, versions.rows(name, 1, seed=1)).SerializeToString()
            for name in versions.NAMES
        }

    def alone(self) -> None:
        """The good models by themselves."""
        self._setup.on_phase("alone")
        log, guard = self._root / "alone.log", self._setup.guard_mib
        with serving(self._models, log, self._setup.flags, guard) as server:
            self.outcome.start_s.append(self._answers_after(server))
            with child("bench.soak.caller", [server.address, *_LOAD]) as caller:
                time.sleep(3)
                caller.ask()
                time.sleep(ALONE_S)
                self.outcome.alone = caller.ask()
            self.outcome.memory_mib.append(process.memory_mib(server.pid))
            server.stop()

    def beside(self) -> None:
        """The same among the hostile ones, through all phases."""
        outcome, setup = self.outcome, self._setup
        setup.on_phase("building hostile models")
        zoo.build(self._staging, setup.names)
        first, rest = setup.names[: len(setup.names) // 2], setup.names[len(setup.names) // 2 :]
        for name in first:
            zoo.publish(self._staging, self._models, name)
        log = self._root / "beside.log"
        with ExitStack() as stack:
            server = stack.enter_context(serving(self._models, log, setup.flags, setup.guard_mib))
            try:
                outcome.start_s.append(self._answers_after(server))
                caller = stack.enter_context(child("bench.soak.caller", [server.address, *_LOAD]))
                self._phases(server, caller, first, rest)
            except (ServerEnded, ChildFailed, OSError, ValueError) as failed:
                outcome.death = server.death or str(failed)
            self._judge(server)
            outcome.memory_mib[1:1] = [server.guard.peak_mib]

    def _phases(self, server: Server, caller: Child, first: Sequence[str], rest: Sequence[str]) -> None:
        outcome, setup = self.outcome, self._setup
        with self._phase("start", caller):
            self._decided(server, first)
        with self._phase("watch", caller):
            for name in rest:
                zoo.publish(self._staging, self._models, name)
                time.sleep(PUBLISH_EVERY_S)
            self._decided(server, setup.names)
        with self._phase("swap", caller):
            for name in versions.NAMES:
                versions.publish(self._models, name, 2)
            outcome.swap_s = self._swapped(server)
        self._judge(server)
        with self._phase("runs", caller):
            self._ask_hostile(server)
        with self._phase("after", caller):
            time.sleep(SETTLE_S)
        self._judge(server)
        outcome.memory_mib.append(process.memory_mib(server.pid))
        setup.on_phase("stop")
        outcome.stop_s, outcome.code = server.stop()
        last = caller.ask("stop")
        # What it was asked after SIGTERM it need not answer; what it had, it must.
        lost = {how: count for how, count in last["lost"].items() if " UNAVAILABLE: " not in how}
        outcome.beside["stop"] = {**last, "lost": lost}

    @contextmanager
    def _phase(self, name: str, caller: Child) -> Iterator[None]:
        """What the caller sees during the block is what it saw in this phase."""
        self._setup.on_phase(name)
        begin = time.monotonic()
        yield
        time.sleep(max(0.0, begin + PHASE_S - time.monotonic()))
        self.outcome.beside[name] = caller.ask()

    def _judge(self, server: Server) -> None:
        index = {} if server.death else server.index()
        if index or not self.outcome.said:
            log = server.log()
            there = [name for name in self._setup.names if (self._models / zoo.folder_of(name)).exists()]
            self.outcome.said = {name: said_of(zoo.folder_of(name), index, log) for name in there}

    def _answers_after(self, server: Server) -> float | None:
        """Seconds until every good model answers; None if they do not within the time."""
        begin, left = time.monotonic(), set(self._messages)
        while time.monotonic() < begin + self._setup.decide_s:
            left = {name for name in left if server.ask(self._messages[name], 2.0) != "OK"}
            if not left:
                return time.monotonic() - begin
            self._pause(server)
        return None

    def _decided(self, server: Server, names: Sequence[str]) -> None:
        """Wait until it has said something of every one of these, that it does not only load."""
        until = time.monotonic() + self._setup.decide_s
        while time.monotonic() < until:
            index = server.index()
            states = {said.state for (name, _), said in index.items() if name not in versions.NAMES}
            if index and not states & {"LOADING", "UNLOADING"}:
                known = {name for name, _ in index}
                if sum(zoo.folder_of(name) in known for name in names) > len(names) // 2:
                    return
            self._pause(server, 0.5)

    def _swapped(self, server: Server) -> float | None:
        begin = time.monotonic()
        while time.monotonic() < begin + self._setup.decide_s:
            index = server.index()
            if all((said := index.get((name, "2"))) and said.state == "READY" for name in versions.NAMES):
                return time.monotonic() - begin
            self._pause(server)
        return None

    def _ask_hostile(self, server: Server) -> None:
        index = server.index()
        for name in self._setup.names:
            value = ZOO[name].asks
            said = said_of(name, index, ())
            if value is not None and said is not None and said.state == "READY":
                self.outcome.asked[name] = server.ask(asked(name, value, server.inputs(name)), 20.0)

    def _pause(self, server: Server, seconds: float = _POLL_S) -> None:
        if server.death:
            raise ServerEnded("\n".join([server.death, *server.log()[-10:]]))
        time.sleep(seconds)
