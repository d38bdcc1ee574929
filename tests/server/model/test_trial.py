"""A version is loaded in a child process first: what ends the child is the version's reason, and passes by the server."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.errors import LoadError
from frostline_server.model.artifact import check_artifact
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.trial import Outcome, Trials
from frostline_server.regular_files import FileReader
from frostline_server.runtime.devices import CPU, CUDA
from tests.support import hostile_models, onnx_models
from tests.support.processes import children_of, wait_until_gone
from tests.support.servers import TIMEOUT_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux can bound a child and end it with its parent"
)

CONFIG = model_config_pb2.ModelConfig()
MIB = 1 << 20


def trials_of(**options: Any) -> Trials:
    return Trials(**{"always": False, "timeout_s": TIMEOUT_S, "memory_bytes": 128 * MIB, **options})


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    """With time enough, and little memory."""
    shared = trials_of()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def brief() -> Iterator[Trials]:
    """With little time, and memory enough."""
    shared = trials_of(timeout_s=0.5, memory_bytes=8 << 30)
    yield shared
    shared.close()


def arguments() -> dict[str, Any]:
    return {"providers": [(CPU, {})], "strict": False, "threads": 1, "batching": Batching(8, (QueuePolicy(100),))}


def loader_with(trials: Trials | None, **options: Any) -> Loader:
    return Loader(**{**arguments(), **options}, trials=trials)


def write(root: Path, model: onnx.ModelProto | bytes) -> Path:
    """A version without a card."""
    folder = root / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return folder


def load(
    trials: Trials | None, folder: Path, warn: Callable[[str], None] = lambda _: None, **options: Any
) -> LoadedModel:
    loader = loader_with(trials, **options)
    artifact = loader.check(folder, CONFIG)
    tried = loader.try_first(folder, "m", CONFIG, artifact.sha256) if loader.needs_trial(artifact, CONFIG) else None
    served = loader.load(folder, "m", CONFIG, warn, tried=tried)
    assert served.batcher.close(TIMEOUT_S)
    return served


def refusal(trials: Trials | None, folder: Path, **options: Any) -> str:
    with pytest.raises(LoadError) as caught:
        load(trials, folder, **options)
    return str(caught.value)


# What a file may do

TOO_MUCH = "loading it takes more than 128 MiB of memory, the limit load_memory_bytes, or what is free"
TOO_LONG = "loading it takes longer than 0.5 s, the limit load_timeout_s"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (hostile_models.folded, TOO_MUCH),
        (hostile_models.expanded, TOO_MUCH),
        (hostile_models.wide, TOO_MUCH),
        (hostile_models.growing, TOO_MUCH),
        (hostile_models.chained_functions, "loading it ended its process with SIGSEGV"),
        (
            hostile_models.without_features,
            "loading it ended its process with SIGABRT: terminate called without an active exception",
        ),
        (hostile_models.overflowing, "loading it ended its process with SIGFPE"),
        (
            hostile_models.nested_graphs,
            "model.onnx cannot be read: Error parsing message with type 'onnx.ModelProto'",
        ),
    ],
)
def test_a_file_that_fills_or_ends_its_process_is_refused(
    build: Callable[[], onnx.ModelProto | bytes], reason: str, trials: Trials, tmp_path: Path
) -> None:
    assert refusal(trials, write(tmp_path, build())) == reason


@pytest.mark.parametrize(
    "build", [hostile_models.endless, hostile_models.slowly_optimised, hostile_models.nested_functions]
)
def test_a_file_that_never_gets_to_an_end_is_refused(
    build: Callable[[], onnx.ModelProto], brief: Trials, tmp_path: Path
) -> None:
    assert refusal(brief, write(tmp_path, build())) == TOO_LONG


def test_never_more_memory_is_taken_than_is_free(tmp_path: Path) -> None:
    trials = trials_of(memory_bytes=8 << 30, available=lambda: 100 * MIB)
    reason = refusal(trials, write(tmp_path, hostile_models.folded()))
    trials.close()
    assert reason.startswith("loading it takes more than 90 MiB of memory")


# What passes, and what is refused as without a trial


def test_what_passes_is_served_and_every_warning_is_told_once(trials: Trials, tmp_path: Path) -> None:
    told: list[str] = []
    folder = write(tmp_path, onnx_models.averaging())
    served = load(trials, folder, told.append)
    assert served.sha256 == check_artifact(folder, CONFIG, FileReader(folder.parent.parent)).sha256
    assert len(told) == 1
    assert told[0].startswith("each request runs alone")


def test_what_is_refused_has_the_same_reason_as_without_a_trial(trials: Trials, tmp_path: Path) -> None:
    folder = write(tmp_path, onnx_models.unknown_operator())
    assert refusal(trials, folder) == refusal(None, folder)


def test_an_exception_that_nobody_expected_is_a_reason_too(trials: Trials, tmp_path: Path) -> None:
    folder = write(tmp_path, onnx_models.linear())
    reason = refusal(trials, folder, slo_s="soon")
    assert reason.startswith("unexpected TypeError while loading: ")


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is asked whether to go on before any trial has ended."""
    monkeypatch.setattr("frostline_server.model.trial.POLL_S", 0.0005)


def test_files_that_never_stay_the_same_are_not_loaded(trials: Trials, asked_often: None, tmp_path: Path) -> None:
    folder = write(tmp_path, onnx_models.linear())

    def meddle() -> None:
        with (folder / "weights.bin").open("ab") as file:
            file.write(b"more")

    with pytest.raises(LoadError, match="its files change again and again while they are tried"):
        trials.run(folder, "m", b"", arguments(), meddle)


def test_files_that_get_their_owner_last_are_tried_again(trials: Trials, asked_often: None, tmp_path: Path) -> None:
    folder = write(tmp_path, onnx_models.linear())
    touched: list[bool] = []

    def touch() -> None:
        if not touched:
            (folder / "model.onnx").chmod(0o640)
            touched.append(True)

    assert trials.run(folder, "m", b"", arguments(), touch).sha256
    assert touched


def test_an_onnx_file_that_changed_before_it_was_tried_is_not_loaded(trials: Trials, tmp_path: Path) -> None:
    folder, loader = write(tmp_path, onnx_models.linear()), loader_with(trials)
    artifact = loader.check(folder, CONFIG)
    (folder / "model.onnx").write_bytes(onnx_models.linear(shift=1).SerializeToString())
    tried = loader.try_first(folder, "m", CONFIG, artifact.sha256)
    with pytest.raises(LoadError, match=r"model\.onnx changed while it was being loaded"):
        loader.load(folder, "m", CONFIG, lambda _: None, artifact=artifact, tried=tried)


def test_an_onnx_file_that_changed_after_it_was_tried_is_not_loaded(trials: Trials, tmp_path: Path) -> None:
    folder, loader = write(tmp_path, onnx_models.linear()), loader_with(trials)
    tried = loader.try_first(folder, "m", CONFIG, "")
    (folder / "model.onnx").write_bytes(onnx_models.linear(shift=1).SerializeToString())
    with pytest.raises(LoadError, match=r"model\.onnx changed while it was being loaded"):
        loader.load(folder, "m", CONFIG, lambda _: None, tried=tried)


# Which versions are tried


def needed(folder: Path, *, always: bool = False, memory_bytes: int = 1 << 30) -> bool:
    trials = trials_of(always=always, memory_bytes=memory_bytes)
    return trials.needed(check_artifact(folder, CONFIG, FileReader(folder.parent.parent)), rows=64)


def test_a_version_with_its_card_and_golden_sample_is_not_tried_unless_all_are(tmp_path: Path) -> None:
    folder = onnx_models.write_artifact(tmp_path, "m")
    assert (needed(folder), needed(folder, always=True)) == (False, True)


def test_a_version_without_a_card_or_a_golden_sample_is_tried(tmp_path: Path) -> None:
    assert needed(onnx_models.write_artifact(tmp_path, "no-card", card=False))
    assert needed(onnx_models.write_artifact(tmp_path, "no-golden", golden=False))


@pytest.mark.parametrize("card", ['{"labels": null}', "files"])
def test_a_card_that_does_not_list_the_files_is_none(card: str, tmp_path: Path) -> None:
    folder = onnx_models.write_artifact(tmp_path, "m")
    if card == "files":
        card = (folder / "card.json").read_text().replace("{", '{"files": 3, ', 1)
    (folder / "card.json").write_text(card)
    assert needed(folder)


def test_weights_that_the_card_does_not_list_are_tried(tmp_path: Path) -> None:
    folder = onnx_models.write_artifact(tmp_path, "m")
    card = json.loads((folder / "card.json").read_text())
    onnx.save(
        onnx_models.linear(),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    card["sha256"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    assert needed(folder)
    (folder / "card.json").write_text(json.dumps({**card, "files": {"weights.bin": "its sha256"}}))
    assert not needed(folder)


def test_a_file_with_functions_of_its_own_is_tried(tmp_path: Path) -> None:
    folder = onnx_models.write_artifact(tmp_path, "m", model=hostile_models.nested_functions(3))
    assert needed(folder)


def test_a_file_or_a_run_that_is_large_for_the_memory_is_tried(tmp_path: Path) -> None:
    folder = onnx_models.write_artifact(tmp_path, "m")
    run_bytes, file_bytes = 64 * (4 + 3) * 8, (folder / "model.onnx").stat().st_size
    most = max(run_bytes, file_bytes)
    assert not needed(folder, memory_bytes=4 * most)
    assert needed(folder, memory_bytes=4 * (run_bytes - 1))
    assert needed(folder, memory_bytes=4 * (file_bytes - 1))


# On a GPU


class Told(Trials):
    """Trials that end as they are told to."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(always=True, timeout_s=1, memory_bytes=1)
        self.outcome = outcome
        self.configs: list[model_config_pb2.ModelConfig] = []
        self.loaders: list[Any] = []

    def run(self, folder: Path, name: str, config: bytes, loader: Any, go_on: Callable[[], None]) -> Outcome:
        self.configs.append(model_config_pb2.ModelConfig.FromString(config))
        self.loaders.append(loader)
        return self.outcome


GPU: dict[str, Any] = {"providers": [(CUDA, {"device_id": "0"}), (CPU, {})], "devices": 1}


def test_a_version_for_a_gpu_is_tried_on_the_cpu_whose_refusal_does_not_count(tmp_path: Path) -> None:
    trials = Told(Outcome(refused="no such kernel on the CPU"))
    config = model_config_pb2.ModelConfig()
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    folder, loader = write(tmp_path, onnx_models.linear()), loader_with(trials, **GPU)
    tried = loader.try_first(folder, "m", config, loader.check(folder, config).sha256)
    served = loader.load(folder, "m", config, lambda _: None, tried=tried)
    assert served.batcher.close(TIMEOUT_S)
    assert trials.loaders[0]["providers"] == [(CPU, {})]
    assert not trials.configs[0].instance_group


def test_a_version_for_a_gpu_that_ends_the_child_is_refused(tmp_path: Path) -> None:
    trials = Told(Outcome(ended="loading it ended its process with SIGABRT"))
    assert refusal(trials, write(tmp_path, onnx_models.linear()), **GPU) == "loading it ended its process with SIGABRT"


# The processes


def maker_of(trials: Trials) -> int:
    """The process that makes the children."""
    assert trials._process is not None
    return trials._process.pid


def test_a_warm_up_that_lies_elsewhere_is_not_walked_through(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frostline_server.model.trial._MOST_FILES", 3)
    folder = write(tmp_path / "models", onnx_models.linear())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(5):
        (elsewhere / str(number)).touch()
    warmup = folder.parent / "warmup"
    warmup.symlink_to(elsewhere)
    assert load(trials, folder).sha256
    warmup.unlink()
    elsewhere.rename(warmup)
    assert refusal(trials, folder) == "it has more than 3 files"


def test_one_process_makes_all_children_and_ends_with_the_trials(tmp_path: Path) -> None:
    trials, folder = trials_of(), write(tmp_path, onnx_models.linear())
    load(trials, folder)
    maker = maker_of(trials)
    load(trials, folder)
    assert maker_of(trials) == maker
    trials.close()
    assert maker not in children_of(os.getpid())


def test_a_trial_gives_way_and_leaves_no_process_when_it_is_given_up(tmp_path: Path) -> None:
    trials, folder = trials_of(), write(tmp_path, hostile_models.endless())
    pids: list[int] = []

    def until_it_gives_way() -> None:
        for child in children_of(maker_of(trials)):
            nicer = os.getpriority(os.PRIO_PROCESS, child) > os.getpriority(os.PRIO_PROCESS, 0)
            # What the system kills first when memory runs out.
            if nicer and int(Path(f"/proc/{child}/oom_score_adj").read_text()) == 1000:
                pids.extend([maker_of(trials), child])
                raise LoadError("given up")

    with pytest.raises(LoadError, match="given up"):
        trials.run(folder, "m", b"", arguments(), until_it_gives_way)
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


def test_a_child_that_somebody_kills_is_a_reason(trials: Trials, tmp_path: Path) -> None:
    folder = write(tmp_path, hostile_models.endless())
    killed: list[int] = []

    def kill() -> None:
        for child in children_of(maker_of(trials)) if not killed else ():
            os.kill(child, signal.SIGKILL)
            killed.append(child)

    outcome = trials.run(folder, "m", b"", arguments(), kill)
    assert outcome.ended.startswith("loading it had its process killed (SIGKILL)")


def test_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    trials, folder = trials_of(), write(tmp_path, onnx_models.linear())
    load(trials, folder)
    os.kill(maker_of(trials), signal.SIGKILL)
    assert refusal(trials, folder).startswith("it could not be tried in a child process: ")
    assert load(trials, folder).sha256
    trials.close()


def test_the_process_ends_when_there_is_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, folder = trials_of(), write(tmp_path, onnx_models.linear())
    load(trials, folder)
    maker = maker_of(trials)
    monkeypatch.setattr("frostline_server.model.trial.IDLE_S", 0.0)
    load(trials, folder)
    wait_until_gone(maker)
    assert load(trials, folder).sha256
    trials.close()
