"""Which versions are served, in which state, and what is said when one is not."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching
from frostline_server.errors import (
    BatcherClosed,
    InvalidInput,
    LoadError,
    ModelNotFound,
    ModelNotReady,
    PredictionError,
    RunFailed,
)
from frostline_server.model.artifact import read_card, read_labels
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.warmup import batch_sizes
from frostline_server.regular_files import FileReader
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.scan import Model, scan
from frostline_server.runtime.devices import CPU, CUDA
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, Replies, batching, make_entry

BATCHING = batching(max_batch_size=16)
Watcher = Callable[[ModelVersion], None]


class Shelf:
    """A repository over a folder, and what it tells.

    Attributes:
        changes: name, version and state of every change, in order.
        warnings: model and text of every warning.
    """

    def __init__(self, root: Path, watch: Watcher | None, batching: Batching) -> None:
        self.changes: list[tuple[str, str, str]] = []
        self.warnings: list[tuple[str, str]] = []
        self._watcher = watch
        self.repository = Repository()
        self.reconciler = Reconciler(
            root,
            self.repository,
            Loader([(CPU, {})], strict=True, threads=1, batching=batching),
            on_change=self._changed,
            on_warning=lambda model, text: self.warnings.append((model, text)),
        )

    def _changed(self, version: ModelVersion) -> None:
        self.changes.append((version.name, version.version, version.state))
        if self._watcher is not None:
            self._watcher(version)

    def get(self, name: str, version: str = "") -> LoadedModel:
        return self.repository.get(name, version)

    def states(self, name: str = "") -> dict[str, str]:
        return {version.version: version.state for version in self.repository.versions(name)}

    def reason(self, name: str, version: str) -> str:
        (found,) = [entry for entry in self.repository.versions(name) if entry.version == version]
        assert found.state == "FAILED"
        return found.reason


@pytest.fixture
def open_shelf(tmp_path: Path) -> Iterator[Callable[..., Shelf]]:
    """Builds loaded repositories over the test's folder, and closes them."""
    shelves: list[Shelf] = []

    def build(watch: Watcher | None = None, *, batching: Batching = BATCHING, load: bool = True) -> Shelf:
        shelves.append(Shelf(tmp_path, watch, batching))
        if load:
            shelves[-1].reconciler.reconcile()
        return shelves[-1]

    yield build
    for shelf in shelves:
        assert shelf.reconciler.close(TIMEOUT_S)


Open = Callable[..., Shelf]


def refusal(shelf: Shelf, name: str, version: str, error: type[PredictionError]) -> str:
    with pytest.raises(error) as caught:
        shelf.get(name, version)
    return str(caught.value)


def damage(folder: Path) -> None:
    """Change a logit of a version's golden sample."""
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    arrays["logits"][3, 1] += 0.5
    np.savez(folder / "golden.npz", **arrays)


def configure(root: Path, name: str, text: str) -> None:
    (root / name / "config.pbtxt").write_text(text, encoding="utf-8")


# Which versions


def test_only_folders_with_a_plain_number_for_a_name_are_versions(tmp_path: Path) -> None:
    for name in ("1", "12", "0", "01", "-1", "1.0", "v2", "latest", ".staging-7", "٣", "1e3", " 4"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "5").write_text("a file")
    (model,) = scan(tmp_path).values()
    assert (model.name, set(model.versions), model.problem) == ("m", {1, 12}, "")


def test_files_hidden_folders_and_what_is_being_published_are_no_models(tmp_path: Path) -> None:
    (tmp_path / ".git" / "1").mkdir(parents=True)
    (tmp_path / "new" / ".staging-7").mkdir(parents=True)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README.md").write_text("models")
    (tmp_path / "b" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1").mkdir(parents=True)
    assert list(scan(tmp_path)) == ["a", "b"]


EMPTY = "the folder has no version; put the network into 1/model.onnx, or remove the folder"
NAME = "is not a version; the name of a version is a whole number above 0 without leading zeros, so rename it, for example to"


@pytest.mark.parametrize(
    ("entries", "remarks", "problem"),
    [
        (["1/model.onnx", "warmup/1.onnx", "notes.txt", ".2/model.onnx", "drafts/x.txt"], [], ""),
        ([], [EMPTY], ""),
        (["notes.txt"], [EMPTY], ""),
        (["config.pbtxt"], [EMPTY], EMPTY),
        (["model.onnx"], ["'model.onnx' is not served, because it is in no version's folder; move it to 1/model.onnx"], None),
        (["01/model.onnx"], [f"the folder '01' {NAME} '1'"], None),
        (["v2/net.onnx"], [f"the folder 'v2' {NAME} '2'"], None),
        (["0/model.onnx"], [f"the folder '0' {NAME} '1'"], None),
        (["latest/model.onnx"], [f"the folder 'latest' {NAME} '1'"], None),
        (["007/readme.txt"], [f"the folder '007' {NAME} '7'"], None),
        (["3/model.onnx", "03/model.onnx"], [f"the folder '03' {NAME} '4'"], ""),
        (["1"], ["'1' is not a version, because it is a file; a version is a folder with model.onnx"], None),
        (["1/model.onnx", "2 -> nowhere"], ["'2' is not a version, because it is a link to nothing"], ""),
    ],
)  # fmt: skip
def test_what_looks_like_a_version_and_is_none_is_remarked_with_what_to_do(
    tmp_path: Path, entries: list[str], remarks: list[str], problem: str | None
) -> None:
    (tmp_path / "m").mkdir()
    for entry in entries:
        name, _, target = entry.partition(" -> ")
        path = tmp_path / "m" / name
        path.parent.mkdir(exist_ok=True)
        if target:
            path.symlink_to(target)
        else:
            path.write_text("")
    (model,) = scan(tmp_path).values()
    assert list(model.remarks) == remarks
    assert model.problem == ("; ".join(remarks) if problem is None else problem)


# Loading


def test_a_version_is_loading_before_it_is_ready_and_answers_once_it_says_so(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "digits")
    answers: list[str] = []

    def watch(version: ModelVersion) -> None:
        try:
            answers.append(f"{version.state}: {shelf.get('digits').version}")
        except PredictionError as error:
            answers.append(f"{version.state}: {error}")

    shelf = open_shelf(watch, load=False)
    shelf.reconciler.reconcile()
    assert answers == [
        "LOADING: Request for unknown model: 'digits' version 1 is not at ready state",
        "READY: 1",
    ]


def test_a_ready_version_is_proved_and_says_what_it_is(tmp_path: Path, open_shelf: Open) -> None:
    folder = write_artifact(tmp_path, "digits", 3)
    (version,) = open_shelf().repository.versions()
    assert (version.name, version.version, version.path, version.state) == ("digits", "3", folder, "READY")
    assert version.served is not None
    assert version.served.golden is not None
    assert version.served.sha256 == json.loads((folder / "card.json").read_text())["sha256"]
    assert version.served.labels == list(onnx_models.LABELS)
    assert version.load_s > 0
    assert version.reason == ""


def test_a_bare_onnx_file_is_served_unproved(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "bare", golden=False, card=False)
    (version,) = open_shelf().repository.versions()
    assert version.served is not None
    assert (version.state, version.served.golden, version.served.labels) == ("READY", None, None)


def test_labels_may_come_with_the_onnx_file(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "digits", model=onnx_models.linear(labels=["x", "y", "z"]), labels=None)
    assert open_shelf().get("digits").labels == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (onnx_models.two_inputs, {"left": onnx_models.rows(3), "right": onnx_models.rows(3, 2, 2)}),
        (onnx_models.dynamic_inner, {"input": onnx_models.rows(4, 5, 4)}),
        (onnx_models.half, {"input": onnx_models.rows(4, dtype=np.float16)}),
        (onnx_models.dense, {"input": onnx_models.rows(2, 2, 3, 3)}),
        (onnx_models.already_softmax, {"input": onnx_models.rows(4)}),
        (onnx_models.fixed_batch, {"input": onnx_models.rows(1)}),
    ],
)
def test_networks_of_every_kind_are_proved_and_served(
    tmp_path: Path, open_shelf: Open, build: Callable[[], onnx.ModelProto], inputs: dict[str, Any]
) -> None:
    write_artifact(tmp_path, "m", model=build(), inputs=inputs, labels=None)
    (version,) = open_shelf().repository.versions()
    assert version.served is not None
    assert version.served.golden is not None
    assert (version.state, version.reason) == ("READY", "")


@pytest.mark.parametrize("build", [onnx_models.strings, onnx_models.no_batch_axis, onnx_models.two_outputs])
def test_networks_without_a_golden_sample_are_served(
    tmp_path: Path, open_shelf: Open, build: Callable[[], onnx.ModelProto]
) -> None:
    write_artifact(tmp_path, "m", model=build(), golden=False, labels=None)
    assert open_shelf().states() == {"1": "READY"}


def test_a_network_that_cannot_be_warmed_up_is_served_with_a_warning(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.unranked(), golden=False, labels=None)
    shelf = open_shelf()
    assert shelf.states() == {"1": "READY"}
    assert shelf.warnings == [
        (
            "m",
            "no row is known that the network answers, so it could not be warmed up; add a golden.npz or a model_warmup",
        )
    ]


def test_a_folder_without_models_is_no_error(open_shelf: Open) -> None:
    assert open_shelf().repository.versions() == []


def test_versions_are_listed_by_name_and_number(tmp_path: Path, open_shelf: Open) -> None:
    for name, version in (("b", 1), ("a", 10), ("a", 9)):
        write_artifact(tmp_path, name, version, golden=False)
    configure(tmp_path, "a", "version_policy { all { } }")
    repository = open_shelf().repository
    assert [(v.name, v.version) for v in repository.versions()] == [("a", "9"), ("a", "10"), ("b", "1")]
    assert [v.version for v in repository.versions("a")] == ["9", "10"]
    assert repository.versions("c") == []
    assert repository.ready_versions("a") == ["9", "10"]


def test_a_load_that_is_told_to_stop_gives_up_the_version_it_is_at_and_says_nothing_against_it(
    tmp_path: Path, open_shelf: Open
) -> None:
    for version in (1, 2, 3):
        write_artifact(tmp_path, "m", version, golden=False)
    configure(tmp_path, "m", "version_policy { all { } }")
    shelf: Shelf = open_shelf(lambda version: shelf.reconciler.stop_loading(), load=False)
    shelf.reconciler.reconcile()
    assert (shelf.states(), shelf.changes) == ({}, [("m", "3", "LOADING")])


# Failing


def test_a_version_that_fails_its_golden_check_says_why_and_the_one_before_it_serves(
    tmp_path: Path, open_shelf: Open
) -> None:
    write_artifact(tmp_path, "digits", 1)
    write_artifact(tmp_path, "digits", 2)
    damage(write_artifact(tmp_path, "digits", 3))
    shelf = open_shelf()
    assert shelf.changes == [
        ("digits", "3", "LOADING"),
        ("digits", "3", "FAILED"),
        ("digits", "2", "LOADING"),
        ("digits", "2", "READY"),
    ]
    assert shelf.get("digits").version == "2"
    assert "the logits differ from PyTorch's by 0.5 at row 3, class 1" in shelf.reason("digits", "3")


def test_two_latest_versions_that_fail_fall_back_on_two_older_ones(tmp_path: Path, open_shelf: Open) -> None:
    for version in (1, 2, 3, 4):
        folder = write_artifact(tmp_path, "m", version)
        if version > 2:
            damage(folder)
    configure(tmp_path, "m", "version_policy { latest { num_versions: 2 } }")
    assert open_shelf().states() == {"1": "READY", "2": "READY", "3": "FAILED", "4": "FAILED"}


def test_a_named_version_that_fails_has_no_stand_in(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", 1)
    damage(write_artifact(tmp_path, "m", 2))
    configure(tmp_path, "m", "version_policy { specific { versions: [2] } }")
    assert open_shelf().states() == {"2": "FAILED"}


def test_a_model_that_fails_does_not_keep_the_others_from_loading(tmp_path: Path, open_shelf: Open) -> None:
    damage(write_artifact(tmp_path, "a"))
    write_artifact(tmp_path, "b")
    shelf = open_shelf()
    assert (shelf.states("a"), shelf.states("b")) == ({"1": "FAILED"}, {"1": "READY"})


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return act


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read: "),
        (write("model.onnx", "garbage"), "model.onnx is not the file its card describes: sha256 "),
        (write("card.json", "{"), "card.json cannot be read: "),
        (write("card.json", b"\xff"), "card.json cannot be read: "),
        (write("card.json", "[]"), "card.json holds no JSON object"),
        (write("card.json", '{"labels": "abc"}'), "labels must be a list of texts"),
        (write("card.json", '{"labels": [1, 2]}'), "labels must be a list of texts"),
        (write("card.json", '{"sha256": "00"}'), "card says 00"),
        (write("card.json", "[" * 100_000), "card.json cannot be read: it is nested too deeply"),
        (write("card.json", '{"a":' * 100_000), "card.json cannot be read: it is nested too deeply"),
        (write("card.json", '{"a": ' + "9" * 5000 + "}"), "card.json cannot be read: Exceeds the limit"),
        (
            write("card.json", '{"sha256": "00", "sha256": "11"}'),
            "card.json cannot be read: the key 'sha256' is there twice",
        ),
        (
            write("card.json", '{"labels": ["\\ud800"]}'),
            "labels must be a list of texts, and one has a part of a character",
        ),
        (
            write("card.json", b" " * (8 << 20) + b"{}"),
            "card.json cannot be read: it has 8388610 bytes; the most is 8388608",
        ),
        (
            lambda folder: os.truncate(folder / "model.onnx", 20 << 30),
            "model.onnx cannot be read: it has 21474836480 bytes",
        ),
        (write("golden.npz", "garbage"), "golden check failed: golden.npz cannot be read: "),
    ],
)
def test_a_version_whose_folder_is_damaged_fails_with_a_reason(
    tmp_path: Path, open_shelf: Open, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(write_artifact(tmp_path, "m"))
    assert why in open_shelf().reason("m", "1")


def test_labels_in_the_onnx_file_that_are_no_json_fail_the_version(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.linear(labels="a, b"), card=False)
    assert open_shelf().reason("m", "1").startswith("the ONNX file's frostline.labels cannot be read: ")


def test_labels_in_the_onnx_file_that_are_nested_too_deeply_fail_the_version(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.linear(labels="[" * 10_000), card=False)
    assert open_shelf().reason("m", "1").startswith("the ONNX file's frostline.labels cannot be read: ")


def test_a_card_without_a_digest_is_believed(tmp_path: Path, open_shelf: Open) -> None:
    write("card.json", '{"labels": ["a", "b", "c"]}')(write_artifact(tmp_path, "m"))
    assert open_shelf().states() == {"1": "READY"}


# config.pbtxt


def test_a_model_may_set_its_own_limits(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    configure(
        tmp_path,
        "m",
        """
        name: "m"
        max_batch_size: 4
        input { name: "input" data_type: TYPE_FP32 dims: 4 }
        output { name: "softmax" data_type: TYPE_FP32 dims: 3 }
        dynamic_batching { max_queue_delay_microseconds: 2500 default_queue_policy { max_queue_size: 7 } }
        """,
    )
    assert open_shelf().get("m").batching == batching(max_batch_size=4, max_queue_size=7, max_queue_delay_s=0.0025)


def test_what_a_model_does_not_set_is_the_servers(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", "dynamic_batching { }")
    assert open_shelf().get("m").batching == BATCHING


def test_a_network_without_a_batch_axis_takes_one_row_at_a_time(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.no_batch_axis(), golden=False)
    assert open_shelf().get("m").batching.max_batch_size == 1


def test_a_model_may_name_its_file(tmp_path: Path, open_shelf: Open) -> None:
    folder = write_artifact(tmp_path, "m")
    (folder / "model.onnx").rename(folder / "network.onnx")
    configure(tmp_path, "m", 'default_model_filename: "network.onnx"')
    assert open_shelf().states() == {"1": "READY"}


def test_an_option_that_is_not_honoured_is_a_warning_and_the_rest_is_honoured(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", "response_cache { enable: true }\nmax_batch_size: 4\n")
    shelf = open_shelf()
    assert shelf.get("m").batching.max_batch_size == 4
    assert shelf.warnings == [("m", "config.pbtxt has fields that this server does not support: response_cache.enable")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max_batch_size: 4 }", "config.pbtxt is not a model configuration: "),
        ("max_batch_size: many", "config.pbtxt is not a model configuration: "),
        ('name: "other"', "config.pbtxt names the model 'other', but its folder is 'm'"),
    ],
)
def test_a_configuration_that_cannot_be_followed_fails_the_model(
    tmp_path: Path, open_shelf: Open, text: str, why: str
) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", text)
    shelf = open_shelf()
    assert shelf.reason("m", "0").startswith(why)
    assert refusal(shelf, "m", "", ModelNotFound).startswith(
        f"Request for unknown model: 'm' has no available versions (version 0 is FAILED: {why}"
    )


def test_a_configuration_in_no_known_encoding_fails_the_model(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert open_shelf().reason("m", "0").startswith("config.pbtxt cannot be read: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('input { name: "pixels" }', "config.pbtxt names the input 'pixels', but the graph has ['input']"),
        ('output { name: "scores" }', "config.pbtxt names the output 'scores', but the graph has ['logits', 'softmax', 'argmax']"),
    ],
)  # fmt: skip
def test_a_configuration_that_contradicts_the_graph_fails_the_version(
    tmp_path: Path, open_shelf: Open, text: str, why: str
) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", text)
    assert open_shelf().reason("m", "1") == why


def test_batches_cannot_be_demanded_of_a_network_without_a_batch_axis(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.no_batch_axis(), golden=False)
    configure(tmp_path, "m", "max_batch_size: 8")
    assert (
        open_shelf().reason("m", "1").startswith("config.pbtxt sets max_batch_size 8, but the graph has no free batch")
    )


def test_a_model_with_several_instances_has_each_loaded_warmed_and_proved(
    tmp_path: Path, open_shelf: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", "max_batch_size: 2\ninstance_group { count: 2 kind: KIND_CPU }")
    done: list[tuple[str, Session]] = []
    for step in ("bind", "check_golden"):
        original = getattr(Session, step)

        def watched(self: Session, *arguments: Any, step: str = step, original: Any = original) -> Any:
            done.append((step, self))
            return original(self, *arguments)

        monkeypatch.setattr(Session, step, watched)
    served = open_shelf().get("m")
    first, second = served.sessions
    assert first is not second
    assert done == [("bind", first), ("check_golden", first), ("bind", second), ("check_golden", second)]
    assert (served.device, served.provider, served.fell_back) == ("cpu", CPU, False)
    replies = Replies()
    for _ in range(8):
        served.batcher.submit(make_entry(onnx_models.rows(2), reply=replies, wanted=("logits",)))
    for entry in replies.wait_for(8):
        np.testing.assert_allclose(entry.outputs[0], onnx_models.logits_of(onnx_models.rows(2)), rtol=1e-6)
    assert served.batcher.close(TIMEOUT_S)
    assert served.stats.snapshot().rows == 16


def test_an_instance_that_should_be_on_a_gpu_and_is_on_the_cpu_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_artifact(tmp_path, "m")
    asked: list[str] = []

    def without_gpu(path: Path, providers: Any, **options: Any) -> Session:
        asked.append(providers[0][0])
        return load_session(path, [(CPU, {})], **options)

    monkeypatch.setattr("frostline_server.model.loader.load_session", without_gpu)
    loader = Loader([(CUDA, {"device_id": "0"}), (CPU, {})], strict=False, threads=1, batching=BATCHING, devices=1)
    for text, places, fell_back in (
        ("instance_group { kind: KIND_CPU }", [CPU], False),
        ("instance_group { kind: KIND_CPU } instance_group { gpus: 0 }", [CPU, CUDA], True),
    ):
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        served = loader.load(folder, "m", config, pytest.fail)
        assert served.batcher.close(TIMEOUT_S)
        assert asked == places
        assert served.fell_back == fell_back
        asked.clear()


def test_one_row_that_a_network_fails_on_does_not_fail_those_it_shared_a_batch_with(
    tmp_path: Path, open_shelf: Open
) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.two_outputs(), golden=False)
    served = open_shelf(batching=batching(max_queue_delay_s=3600)).get("m")
    replies = Replies()
    fine = make_entry(onnx_models.rows(1), reply=replies, wanted=("total",))
    guilty = make_entry(onnx_models.rows(1), reply=replies, wanted=("no such output",))
    served.batcher.submit(fine)
    served.batcher.submit(guilty)
    assert served.batcher.close(TIMEOUT_S)
    assert fine.error is None
    np.testing.assert_allclose(fine.outputs[0], onnx_models.rows(1).sum(axis=1))
    assert isinstance(guilty.error, RunFailed)
    snapshot = served.stats.snapshot()
    assert (snapshot.rows, snapshot.executions, dict(snapshot.codes)) == (1, 1, {"OK": 1, "INTERNAL": 1})
    assert dict(snapshot.reasons) == {"BACKEND": 1}


def test_a_group_of_more_gpus_than_there_are_fails_the_version(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    configure(tmp_path, "m", "instance_group { gpus: [0, 1] }")
    assert open_shelf().reason("m", "1") == (
        "config.pbtxt has an instance_group with gpus [0, 1], but no CUDA device was found"
    )


# Handing out


def test_without_a_number_the_highest_ready_version_answers(tmp_path: Path, open_shelf: Open) -> None:
    for version in (2, 9, 10):
        write_artifact(tmp_path, "m", version, golden=False)
    damage(write_artifact(tmp_path, "m", 11))
    configure(tmp_path, "m", "version_policy { all { } }")
    shelf = open_shelf()
    assert [shelf.get("m", version).version for version in ("", "latest", "2", "9")] == ["10", "10", "2", "9"]


@pytest.mark.parametrize(
    ("name", "version", "error", "message"),
    [
        ("nobody", "", ModelNotFound, "Request for unknown model: 'nobody' is not found"),
        ("nobody", "1", ModelNotFound, "Request for unknown model: 'nobody' is not found"),
        ("", "", ModelNotFound, "Request for unknown model: '' is not found"),
        ("good", "99", ModelNotFound, "Request for unknown model: 'good' version 99 is not found"),
        ("good", "-1", InvalidInput, "failed to get model version from specified version string '-1' for model 'good', version should be an integer > 0"),
        ("good", "01", InvalidInput, "failed to get model version from specified version string '01'"),
        ("good", "0", InvalidInput, "failed to get model version from specified version string '0'"),
        ("good", "newest", InvalidInput, "failed to get model version from specified version string 'newest'"),
        ("bad", "1", ModelNotReady, "Request for unknown model: 'bad' version 1 is not at ready state (it is FAILED: golden check failed: "),
        ("bad", "", ModelNotFound, "Request for unknown model: 'bad' has no available versions (version 1 is FAILED: golden check failed: "),
    ],
)  # fmt: skip
def test_a_version_that_cannot_answer_is_explained(
    tmp_path: Path, open_shelf: Open, name: str, version: str, error: type[PredictionError], message: str
) -> None:
    write_artifact(tmp_path, "good", golden=False)
    damage(write_artifact(tmp_path, "bad"))
    assert refusal(open_shelf(), name, version, error).startswith(message)


def test_a_label_of_a_model_without_a_rollout_is_refused_with_where_labels_come_from_and_the_versions_there_are(
    tmp_path: Path, open_shelf: Open
) -> None:
    for version in range(1, 13):
        write_artifact(tmp_path, "many", version, golden=False)
    configure(tmp_path, "many", "version_policy { all { } }")
    write_artifact(tmp_path, "one", 3, golden=False)
    damage(write_artifact(tmp_path, "bad"))
    shelf = open_shelf()
    expected = {
        "one": "version 3",
        "many": "versions 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and lower ones",
        "bad": "no version",
    }
    for name, told in expected.items():
        assert refusal(shelf, name, "stable", InvalidInput) == (
            f"failed to get model version from specified version string 'stable' for model '{name}', version should be an "
            "integer > 0; the model has no labels, as it has no rollout.json, which `frostline promote` writes, and it is "
            f"served in {told}"
        )


def test_predictions_are_counted_whatever_the_clients_asked_for(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    served = open_shelf().get("m")
    x = onnx_models.rows(3)
    replies = Replies()
    softmax, argmax = onnx_models.HEADS.softmax, onnx_models.HEADS.argmax
    for count, wanted in enumerate((("logits",), (argmax,), (softmax, argmax), ("logits",)), 1):
        served.batcher.submit(make_entry(x, reply=replies, wanted=wanted))
        entries = replies.wait_for(count)
    logits = onnx_models.logits_of(x)
    assert [entry.error for entry in entries] == [None] * 4
    np.testing.assert_allclose(entries[0].outputs[0], logits, rtol=1e-6)
    assert entries[1].outputs[0].tolist() == logits.argmax(axis=1).tolist()
    # Counted once the answers have left.
    assert served.batcher.close(TIMEOUT_S)
    by_label, confidence = served.predictions.counts()
    counts = np.bincount(logits.argmax(axis=1), minlength=3) * 4
    expected = {label: int(n) for label, n in zip(onnx_models.LABELS, counts, strict=True) if n}
    assert by_label == expected
    assert confidence.count == 12
    assert confidence.total == pytest.approx(4 * onnx_models.softmax_of(logits).max(axis=1).sum(), rel=1e-5)


def test_a_network_without_heads_counts_no_predictions(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", model=onnx_models.two_outputs(), golden=False)
    served = open_shelf().get("m")
    replies = Replies()
    served.batcher.submit(make_entry(onnx_models.rows(2), reply=replies, wanted=("total",)))
    (entry,) = replies.wait_for(1)
    np.testing.assert_allclose(entry.outputs[0], onnx_models.rows(2).sum(axis=1))
    assert served.predictions.counts()[0] == {}


def test_warming_up_and_proving_count_as_no_traffic(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m")
    served = open_shelf().get("m")
    assert (served.stats.snapshot().executions, served.predictions.counts()[0]) == (0, {})


# Closing


def test_closing_finishes_what_was_accepted_and_then_hands_nothing_out(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "a")
    write_artifact(tmp_path, "b")
    # The device would wait for more rows, so the entries are surely still queued when the repository closes.
    shelf = open_shelf(batching=batching(max_batch_size=16, max_queue_delay_s=3600))
    replies = Replies()
    a, b = shelf.get("a"), shelf.get("b")
    for served in (a, b):
        for _ in range(3):
            served.batcher.submit(make_entry(onnx_models.rows(2), reply=replies, wanted=("logits",)))
    assert shelf.reconciler.close(TIMEOUT_S)
    assert [entry.error for entry in replies.entries] == [None] * 6
    assert shelf.states("a") == shelf.states("b") == {"1": "UNLOADING"}
    assert shelf.changes[-2:] == [("a", "1", "UNLOADING"), ("b", "1", "UNLOADING")]
    assert refusal(shelf, "a", "", ModelNotReady) == "Request for unknown model: 'a' version 1 is not at ready state"
    assert refusal(shelf, "b", "1", ModelNotReady) == (
        "Request for unknown model: 'b' version 1 is not at ready state (it is UNLOADING)"
    )
    with pytest.raises(BatcherClosed):
        a.batcher.submit(make_entry(onnx_models.rows(1), reply=replies))


def test_closing_leaves_failed_versions_failed(tmp_path: Path, open_shelf: Open) -> None:
    damage(write_artifact(tmp_path, "m"))
    shelf = open_shelf()
    assert shelf.reconciler.close(TIMEOUT_S)
    assert shelf.states() == {"1": "FAILED"}


# Values


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (64, [1, 2, 4, 8, 16, 32, 64]), (65, [1, 2, 4, 8, 16, 32, 64, 65])],
)  # fmt: skip
def test_powers_of_two_and_the_largest_batch_are_warmed(most: int, sizes: list[int]) -> None:
    assert batch_sizes(batching(max_batch_size=most)) == sizes


def test_a_version_without_a_card_has_an_empty_one(tmp_path: Path) -> None:
    assert read_card(FileReader(tmp_path), tmp_path / "card.json") == {}


def test_labels_come_from_the_card_or_from_the_file() -> None:
    metadata = {"frostline.labels": '["a", "b"]'}
    assert read_labels({"labels": ["a", "b"]}, {}, 2) == ["a", "b"]
    assert read_labels({"labels": ["a", "b"]}, metadata, 2) == ["a", "b"]
    assert read_labels({"labels": None}, metadata, 2) == ["a", "b"]
    assert read_labels({"labels": ["a"]}, {}, None) == ["a"]
    assert read_labels({}, {}, 2) is None


@pytest.mark.parametrize(
    ("card", "metadata", "message"),
    [
        ({"labels": ["a"]}, {}, "there are 1 labels for 2 classes"),
        ({"labels": []}, {}, "there are 0 labels for 2 classes"),
        ({}, {"frostline.labels": '["a", "b", "c"]'}, "there are 3 labels for 2 classes"),
        ({"labels": ["b", "a"]}, {"frostline.labels": '["a", "b"]'}, "the card's labels are not the ONNX file's: "),
    ],
)
def test_labels_that_cannot_be_right_are_refused(card: Any, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read_labels(card, metadata, 2)


def test_labels_of_the_file_must_be_texts_too() -> None:
    with pytest.raises(LoadError, match="labels must be a list of texts"):
        read_labels({}, {"frostline.labels": "[1]"}, None)


def test_a_negative_batch_size_has_its_own_reason(tmp_path: Path, open_shelf: Open) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "linear" / "config.pbtxt").write_text("max_batch_size: -1")
    (version,) = open_shelf().repository.versions()
    assert version.reason == "config.pbtxt sets max_batch_size -1; it must not be negative"


def test_a_version_that_is_named_and_absent_is_a_warning(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "linear" / "config.pbtxt").write_text("version_policy { specific { versions: [1, 9] } }")
    (model,) = scan(tmp_path).values()
    assert model.warnings == ("config.pbtxt asks for versions that do not exist: [9]",)
    assert model.problem == ""


def test_a_folder_whose_name_is_not_text_fails_under_an_escaped_name(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / os.fsdecode(b"bad\xff") / "1").mkdir(parents=True)
    (tmp_path / "new\nline" / "1").mkdir(parents=True)
    found = {name: model.problem for name, model in scan(tmp_path).items()}
    assert found == {
        "bad\\udcff": "the folder's name is not printable text; rename it",
        "linear": "",
        "new\\nline": "the folder's name is not printable text; rename it",
    }


def test_a_version_that_cannot_be_read_fails_alone(
    tmp_path: Path, open_shelf: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        write_artifact(tmp_path, "m", version)
    configure(tmp_path, "m", "version_policy { all { } }")
    shut = [str(tmp_path / "m" / "2"), str(tmp_path / "m" / "2" / "card.json")]
    scandir, opened = os.scandir, os.open

    def denied(path: Any) -> Any:
        if str(path) in shut:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    def unread(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path) in shut:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **keywords)

    with monkeypatch.context() as locked:
        locked.setattr(os, "scandir", denied)
        locked.setattr(os, "open", unread)
        shelf = open_shelf()
        assert shelf.states() == {"1": "READY", "2": "FAILED", "3": "READY"}
        assert shelf.reason("m", "2") == "card.json cannot be read: [Errno 13] Permission denied"
        before = scan(tmp_path)
    # That it can be read now is a change of its files.
    assert scan(tmp_path)["m"].versions[2] != before["m"].versions[2]
    assert scan(tmp_path)["m"].versions[3] == before["m"].versions[3]


def test_what_may_not_be_looked_at_hides_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path, "linear")
    (tmp_path / "elsewhere").symlink_to(tmp_path / ".secret")
    (tmp_path / "nowhere").symlink_to(tmp_path / ".nowhere")
    looked = Path.stat

    def denied(self: Path, **keywords: Any) -> Any:
        if self.name == "elsewhere":
            raise PermissionError(errno.EACCES, "Permission denied")
        return looked(self, **keywords)

    monkeypatch.setattr(Path, "stat", denied)
    found = {name: model.problem for name, model in scan(tmp_path).items()}
    assert found == {"linear": "", "elsewhere": "the folder cannot be read: Permission denied"}


def test_a_folder_whose_files_may_not_be_looked_at_hides_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, "linear")
    write_artifact(tmp_path, "shut")
    looked = Path.stat

    def denied(self: Path, **keywords: Any) -> Any:
        # As in a folder that may be listed and not entered.
        if self.parent.name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return looked(self, **keywords)

    monkeypatch.setattr(Path, "stat", denied)
    found = {name: model.problem for name, model in scan(tmp_path).items()}
    assert found == {"linear": "", "shut": "the folder cannot be read: Permission denied"}


def test_a_pipe_among_the_files_of_a_version_fails_that_version_alone(tmp_path: Path, open_shelf: Open) -> None:
    write_artifact(tmp_path, "m", 1)
    for name, file in (("network", "model.onnx"), ("card", "card.json"), ("sample", "golden.npz")):
        folder = write_artifact(tmp_path, name, 1)
        (folder / file).unlink()
        os.mkfifo(folder / file)
    os.mkfifo(tmp_path / "m" / "rollout.json")
    shelf = open_shelf()
    assert shelf.states("m") == {"1": "READY"}
    for name in ("network", "card", "sample"):
        assert "Not a regular file" in shelf.reason(name, "1")


def test_a_file_that_may_not_be_read_has_changed_when_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path, "m")
    before = scan(tmp_path)
    with monkeypatch.context() as locked:
        locked.setattr(os, "access", lambda path, mode: not str(path).endswith("model.onnx"))
        assert scan(tmp_path)["m"].versions != before["m"].versions
    assert scan(tmp_path)["m"].versions == before["m"].versions


def test_what_vanishes_while_it_is_looked_at_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, "m", version)
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        if str(path).endswith("m/2"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    (model,) = scan(tmp_path).values()
    assert (model.problem, model.versions[2][1:]) == ("", ())
    assert set(scan(tmp_path)["m"].versions) == {1}


def test_links_that_lead_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, "m", 1)
    write_artifact(tmp_path, "m", 2)
    plain = {path: rest for path, *rest in scan(tmp_path)["m"].versions[2]}
    for name, target in (("self", "."), ("again", "."), ("up", ".."), ("loop", "loop")):
        (folder / name).symlink_to(target)
    (model,) = scan(tmp_path).values()
    assert model.problem == ""
    assert {path: rest for path, *rest in model.versions[2]} == plain


def test_a_folder_that_cannot_be_read_for_a_moment_keeps_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path, "m")
    before, listing = scan(tmp_path), Path.iterdir

    def denied(self: Path) -> Any:
        if self.name == "m":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing(self)

    with monkeypatch.context() as locked:
        locked.setattr(Path, "iterdir", denied)
        unreadable = scan(tmp_path, before)
    assert unreadable["m"].problem == "the folder cannot be read: Permission denied"
    assert unreadable["m"].versions == before["m"].versions
    assert scan(tmp_path, unreadable) == before


def test_a_folder_that_cannot_be_read_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    onnx_models.write_artifact(tmp_path, "locked")
    listing = Path.iterdir

    def denied(self: Path) -> Any:
        # Tests may run as root, whom no permission stops.
        if self.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", denied)
    found = {name: model.problem for name, model in scan(tmp_path).items()}
    assert found == {"linear": "", "locked": "the folder cannot be read: Permission denied"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("max_batch_size: 2000000000", "config.pbtxt sets max_batch_size 2000000000; at most 65536 is possible"),
        (
            'default_model_filename: "../../other/1/model.onnx"',
            "config.pbtxt names the file '../../other/1/model.onnx'; it must be one in the version's own folder",
        ),
    ],
)
def test_a_configuration_cannot_reach_beyond_its_model(
    tmp_path: Path, open_shelf: Open, line: str, reason: str
) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "linear" / "config.pbtxt").write_text(line)
    (version,) = open_shelf().repository.versions()
    assert version.reason == reason


def test_warming_up_stops_at_a_size_that_memory_bears() -> None:
    assert max(batch_sizes(batching(max_batch_size=65536))) == 1024


ROLLOUTS = [None, Rollout({"stable": 1}), Rollout({"stable": 1, "canary": 2}, {"canary": 50})]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([1, 2]),
            st.sampled_from(["READY", "LOADING", "FAILED", "forgotten"]),
            st.sampled_from(ROLLOUTS),
        ),
        max_size=12,
    )
)
def test_a_table_of_which_one_model_is_made_anew_is_the_table_that_is_made_as_a_whole(
    changes: list[tuple[str, int, str, Rollout | None]],
) -> None:
    alone, whole = Repository(draw=lambda: 0.75), Repository(draw=lambda: 0.75)
    found: dict[str, Model] = {}
    config = model_config_pb2.ModelConfig()
    for name, number, state, rollout in changes:
        found[name] = Model(name, Path(name), (), config, {1: (), 2: ()}, rollout=rollout)
        # The table only hands it out.
        served: Any = f"{name}:{number}" if state == "READY" else None
        for repository in (alone, whole):
            if state == "forgotten":
                repository.forget(name, [number])
            else:
                version = ModelVersion(name, str(number), Path(name), config, state=state, served=served)
                repository.put(version)
        alone.publish(found, name)
        whole.publish(found)
        assert {each: alone.traffic(each) for each in "abc"} == {each: whole.traffic(each) for each in "abc"}
        for each, asked in itertools.product("abc", ("", "latest", "1", "2", "stable", "canary")):
            assert answered(alone, each, asked) == answered(whole, each, asked)


def answered(repository: Repository, name: str, version: str) -> object:
    """What a request would be answered by, or told."""
    try:
        return repository.get(name, version)
    except (ModelNotFound, ModelNotReady, InvalidInput) as error:
        return str(error)


def test_a_table_of_which_one_model_is_made_anew_keeps_what_the_others_had() -> None:
    repository = Repository()
    config = model_config_pb2.ModelConfig()
    for name in "ab":
        served: Any = f"{name}:1"
        repository.put(ModelVersion(name, "1", Path(name), config, state="READY", served=served))
    repository.publish({})
    before = repository.traffic("a")
    repository.publish({}, "b")
    assert repository.traffic("a") is before
    assert answered(repository, "a", "") == "a:1"
