"""Versions that must be tried first: each holds up its own model and no other, and what has become of it meanwhile counts."""

import hashlib
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frostline_server.errors import LoadFailed
from frostline_server.model.artifact import Artifact
from frostline_server.model.loader import Loader
from frostline_server.model.trial import Outcome, Trials
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import Repository
from frostline_server.repository.stability import SETTLE_S
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, batching

ENDLESS = Outcome(ended="loading it takes longer than 120 s, the limit load_timeout_s")


class Judge(Trials):
    """Trials of all versions without a card, each of which goes on until the test says how it ends."""

    def __init__(self) -> None:
        super().__init__(always=False, timeout_s=1, memory_bytes=1 << 30)
        self._begun: queue.Queue[str] = queue.Queue()
        self._given_up: queue.Queue[str] = queue.Queue()
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue()

    def needed(self, artifact: Artifact, rows: int) -> bool:
        return not artifact.card

    def run(self, folder: Path, name: str, config: bytes, loader: Any, go_on: Callable[[], None]) -> Outcome:
        sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        self._begun.put(f"{name}:{folder.name}")
        while True:
            try:
                return self._outcomes.get(timeout=0.01) or Outcome(sha256=sha256)
            except queue.Empty:
                try:
                    go_on()
                except Exception:
                    self._given_up.put(f"{name}:{folder.name}")
                    raise

    def tries(self) -> str:
        """Which version is tried next, once it is."""
        return self._begun.get(timeout=TIMEOUT_S)

    def gave_up(self) -> str:
        """Which trial was given up next, once it was."""
        return self._given_up.get(timeout=TIMEOUT_S)

    def end(self, outcome: Outcome | None = None) -> None:
        """Let the trial that goes on end; without an outcome, the version may be loaded."""
        self._outcomes.put(outcome)


class Shelf:
    """A repository over a folder, with trials that end when told, and a clock that moves when told."""

    def __init__(self, root: Path, *, explicit: bool = False) -> None:
        self.root, self.judge, self.repository, self.now_s = root, Judge(), Repository(), 0.0
        self._told: queue.Queue[str] = queue.Queue()
        self.reconciler = Reconciler(
            root,
            self.repository,
            Loader([(CPU, {})], strict=True, threads=1, batching=batching(max_batch_size=16), trials=self.judge),
            explicit=explicit,
            on_change=lambda version: self._told.put(f"{version.name}:{version.version} {version.state}"),
            on_warning=lambda _name, _text: None,
            clock=lambda: self.now_s,
        )

    def until(self, change: str) -> None:
        """Wait for a change of state."""
        while self._told.get(timeout=TIMEOUT_S) != change:
            pass

    def look_later(self) -> None:
        """Look twice, so that what is new has settled."""
        self.reconciler.reconcile()
        self.now_s += SETTLE_S
        self.reconciler.reconcile()

    def states(self) -> dict[str, str]:
        return {f"{version.name}:{version.version}": version.state for version in self.repository.versions()}

    def reasons(self) -> list[str]:
        return [version.reason for version in self.repository.versions()]

    def write(self, *names: str, version: int = 1, card: bool = False, shift: float = 0.0) -> None:
        for name in names:
            write_artifact(self.root, name, version, onnx_models.linear(shift=shift), card=card)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    built = Shelf(tmp_path)
    yield built
    assert built.reconciler.close(TIMEOUT_S)


@pytest.fixture
def explicit(tmp_path: Path) -> Iterator[Shelf]:
    built = Shelf(tmp_path, explicit=True)
    yield built
    assert built.reconciler.close(TIMEOUT_S)


# Who waits


def test_what_needs_no_trial_is_loaded_whatever_is_tried(shelf: Shelf) -> None:
    shelf.write("a", "b")
    shelf.write("z", card=True)
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "a:1"
    assert shelf.states() == {"a:1": "LOADING", "b:1": "LOADING", "z:1": "READY"}
    assert shelf.reasons() == ["is being tried in a child process", "waits to be tried in a child process", ""]
    shelf.write("y", card=True)
    shelf.reconciler.reconcile()
    assert shelf.states()["y:1"] == "READY", "published while another is tried"
    assert not shelf.reconciler.busy


def test_what_passes_is_loaded_and_what_does_not_is_failed_with_no_further_look(shelf: Shelf) -> None:
    shelf.write("a", "b")
    shelf.reconciler.reconcile()
    shelf.judge.end()
    shelf.until("a:1 READY")
    shelf.judge.end(ENDLESS)
    shelf.until("b:1 FAILED")
    assert shelf.reasons() == ["", ENDLESS.ended]


def test_a_further_look_changes_nothing_about_a_trial(shelf: Shelf) -> None:
    shelf.write("a")
    for _ in range(3):
        shelf.look_later()
    assert shelf.judge.tries() == "a:1"
    shelf.judge.end()
    shelf.until("a:1 READY")
    assert shelf.judge._begun.empty()


def test_a_model_that_ended_badly_waits_behind_those_that_have_not(shelf: Shelf) -> None:
    for version in (1, 2):
        shelf.write("hostile", version=version)
    shelf.write("patient")
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "hostile:2"
    shelf.judge.end(ENDLESS)
    assert shelf.judge.tries() == "patient:1"
    shelf.judge.end()
    shelf.until("patient:1 READY")
    assert shelf.judge.tries() == "hostile:1"


def test_what_is_served_answers_until_its_successor_has_been_tried(shelf: Shelf) -> None:
    shelf.write("m", card=True)
    shelf.reconciler.reconcile()
    before = shelf.repository.get("m", "")
    shelf.write("m", version=2)
    shelf.look_later()
    assert shelf.judge.tries() == "m:2"
    assert shelf.repository.get("m", "") is before
    shelf.judge.end()
    shelf.until("m:1 UNLOADED")
    assert shelf.repository.get("m", "").version == "2"


def test_versions_beside_one_in_trial_are_loaded(shelf: Shelf) -> None:
    shelf.write("m", version=1, card=True)
    shelf.write("m", version=2)
    (shelf.root / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    shelf.reconciler.reconcile()
    assert shelf.states() == {"m:1": "READY", "m:2": "LOADING"}


# What changes meanwhile


def test_a_trial_of_files_that_changed_is_given_up_and_the_new_ones_count(shelf: Shelf) -> None:
    shelf.write("m")
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "m:1"
    (shelf.root / "m" / "1" / "model.onnx").write_bytes(onnx_models.linear(shift=1).SerializeToString())
    (shelf.root / "m" / "1" / "golden.npz").unlink()
    shelf.reconciler.reconcile()
    assert shelf.judge.gave_up() == "m:1"
    shelf.now_s += SETTLE_S
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "m:1"
    shelf.judge.end()
    shelf.until("m:1 READY")


def test_new_files_of_a_served_version_are_tried_while_it_answers(shelf: Shelf) -> None:
    shelf.write("m", card=True)
    shelf.reconciler.reconcile()
    before = shelf.repository.get("m", "")
    shutil.rmtree(shelf.root / "m" / "1")
    shelf.write("m", shift=1)
    shelf.look_later()
    assert shelf.judge.tries() == "m:1"
    assert shelf.repository.get("m", "") is before
    shelf.judge.end()
    while shelf.repository.get("m", "") is before:
        shelf.until("m:1 READY")


@pytest.mark.parametrize("gone", ["waiting", "tried"])
def test_a_model_that_vanishes_is_not_tried_any_more(shelf: Shelf, gone: str) -> None:
    shelf.write("tried", "waiting")
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "tried:1"
    shutil.rmtree(shelf.root / gone)
    shelf.look_later()
    assert set(shelf.states()) == {"tried:1", "waiting:1"} - {f"{gone}:1"}
    if gone == "tried":
        assert shelf.judge.gave_up() == "tried:1"
        assert shelf.judge.tries() == "waiting:1"
    shelf.judge.end()
    shelf.until(f"{next(iter(shelf.states()))} READY")


def test_a_version_that_a_newer_one_has_overtaken_is_not_tried_any_more(shelf: Shelf) -> None:
    shelf.write("m")
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "m:1"
    shelf.write("m", version=2, card=True)
    shelf.reconciler.reconcile()
    assert shelf.judge.gave_up() == "m:1"
    assert shelf.states() == {"m:2": "READY"}


def test_a_file_that_was_not_tried_is_not_loaded(shelf: Shelf) -> None:
    shelf.write("m")
    shelf.reconciler.reconcile()
    shelf.judge.end(Outcome(sha256="of another file"))
    shelf.until("m:1 FAILED")
    assert shelf.reasons() == ["model.onnx changed while it was being loaded"]


def test_a_trial_is_given_up_when_the_server_ends(shelf: Shelf) -> None:
    shelf.write("m", "n")
    shelf.reconciler.reconcile()
    assert shelf.judge.tries() == "m:1"
    waited = shelf.reconciler.tried("m")
    shelf.reconciler.stop_loading()
    assert shelf.judge.gave_up() == "m:1"
    waited.result(TIMEOUT_S)
    assert shelf.reconciler.tried("n").done(), "nobody waits for what will not be tried"
    assert "FAILED" not in shelf.states().values()


# At a client's request


def test_a_client_waits_for_its_own_trial_and_others_do_not(explicit: Shelf) -> None:
    explicit.write("mine")
    explicit.write("other", card=True)
    waiting = threading.Thread(target=explicit.reconciler.load_model, args=("mine",), daemon=True)
    waiting.start()
    assert explicit.judge.tries() == "mine:1"
    explicit.reconciler.load_model("other")
    explicit.reconciler.unload_model("other")
    assert waiting.is_alive()
    explicit.judge.end()
    waiting.join(TIMEOUT_S)
    assert explicit.states() == {"mine:1": "READY"}


def test_a_client_is_told_why_a_trial_failed(explicit: Shelf) -> None:
    explicit.write("m")
    explicit.judge.end(ENDLESS)
    with pytest.raises(LoadFailed, match="failed to load 'm', version 1: loading it takes longer than 120 s"):
        explicit.reconciler.load_model("m")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda reconciler: reconciler.unload_model("m"), "it was unloaded meanwhile"),
        (lambda reconciler: reconciler.stop_loading(), "the server ends"),
    ],
)
def test_a_client_is_told_that_its_load_was_given_up(
    explicit: Shelf, end: Callable[[Reconciler], None], why: str
) -> None:
    explicit.write("m")
    explicit.reconciler.start_load("m")
    waited = explicit.reconciler.tried("m")
    assert explicit.judge.tries() == "m:1"
    end(explicit.reconciler)
    waited.result(TIMEOUT_S)
    assert explicit.judge.gave_up() == "m:1"
    with pytest.raises(LoadFailed, match=f"failed to load 'm', {why}"):
        explicit.reconciler.finish_load("m")


# Many versions


def test_a_model_whose_versions_all_fail_lets_others_load_after_its_first(shelf: Shelf) -> None:
    for version in range(1, 6):
        (shelf.root / "empty" / str(version)).mkdir(parents=True)
    shelf.write("good", card=True)
    told: list[str] = []
    shelf.reconciler._on_change = lambda version: told.append(f"{version.name}:{version.version} {version.state}")
    shelf.reconciler.reconcile()
    assert told.index("good:1 READY") < told.index("empty:4 FAILED")
    assert list(shelf.states().values()) == ["FAILED"] * 5 + ["READY"]
