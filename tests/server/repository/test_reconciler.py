"""Versions that come, change and go while others are served: nothing wrong is ever handed out, and nothing good is taken away."""

import contextlib
import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from frostline.pb import inference_pb2, model_config_pb2
from frostline.protocol import MODEL_INFER
from frostline_server.batching.request_queue import Batching
from frostline_server.errors import (
    BatcherClosed,
    LoadFailed,
    ModelControlOff,
    ModelNotFound,
    ModelNotReady,
    PredictionError,
)
from frostline_server.inference import Inference, Refused
from frostline_server.model.artifact import whole
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.stats import Unrouted
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository import scan
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.stability import SETTLE_S
from frostline_server.runtime.devices import CPU
from tests.support import cycles, onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, Replies, batching, make_entry
from tests.support.signatures import NOWHERE

Array = np.ndarray[Any, Any]

BATCHING = batching(max_batch_size=16)


def apart_from(root: Path) -> Path:
    """A folder beside a models folder, to which links may lead."""
    return root.with_name(f"{root.name}-apart")


class Shelf:
    """A repository over a folder, with a clock that moves when told.

    Attributes:
        told: "name:version STATE" for every change, in order.
        warnings: the text of every warning.
        now_s: what the clock says.
        watch: called at every change, before it is noted.
    """

    def __init__(self, root: Path, *, explicit: bool = False, batching: Batching = BATCHING) -> None:
        self.told: list[str] = []
        self.warnings: list[str] = []
        self.now_s = 0.0
        self.watch: Callable[[ModelVersion], None] = lambda version: None
        self.repository = Repository()
        self.reconciler = Reconciler(
            root,
            self.repository,
            Loader(
                [(CPU, {})],
                strict=True,
                threads=1,
                batching=batching,
                devices=0,
                files=FileReader(root, (apart_from(root),)),
            ),
            explicit=explicit,
            on_change=self._changed,
            on_warning=lambda _, text: self.warnings.append(text),
            clock=lambda: self.now_s,
        )

    def _changed(self, version: ModelVersion) -> None:
        self.watch(version)
        self.told.append(f"{version.name}:{version.version} {version.state}")

    def look(self) -> bool:
        """Reconcile, and forget what was told before."""
        self.told.clear()
        return self.reconciler.reconcile()

    def look_later(self) -> None:
        """Reconcile, and again when what was seen then has been left alone for long enough."""
        self.look()
        self.now_s += SETTLE_S
        self.look()

    def states(self, name: str = "m") -> dict[str, str]:
        return {version.version: version.state for version in self.repository.versions(name)}

    def answer(self, x: Array, version: str = "") -> Array:
        """What the model `m` answers now."""
        return ask(self.repository.get("m", version), x)


def ask(served: LoadedModel, x: Array) -> Array:
    replies = Replies()
    served.batcher.submit(make_entry(x, reply=replies, wanted=("logits",)))
    (entry,) = replies.wait_for(1)
    assert entry.error is None
    return entry.outputs[0]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    built = Shelf(tmp_path)
    yield built
    assert built.reconciler.close(TIMEOUT_S)


@pytest.fixture
def explicit(tmp_path: Path) -> Iterator[Shelf]:
    """A shelf on which models stand only when asked for."""
    built = Shelf(tmp_path, explicit=True)
    yield built
    assert built.reconciler.close(TIMEOUT_S)


def damage(folder: Path) -> None:
    """Change a logit of a version's golden sample."""
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    arrays["logits"][3, 1] += 0.5
    np.savez(folder / "golden.npz", **arrays)


def rewrite(folder: Path, shift: float) -> None:
    """Put another network into a version's folder, its logits moved by `shift`."""
    name, version, root = folder.parent.name, int(folder.name), folder.parent.parent
    shutil.rmtree(folder)
    write_artifact(root, name, version, onnx_models.linear(shift=shift))


X = onnx_models.rows(3)


def test_a_newer_version_takes_over_once_it_answers_and_only_then_the_old_one_goes(
    tmp_path: Path, shelf: Shelf
) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    write_artifact(tmp_path, "m", 2, onnx_models.linear(shift=10))
    answering: list[str] = []
    shelf.watch = lambda version: answering.append(shelf.repository.get("m", "").version)
    shelf.look()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]
    assert answering == ["1", "2", "2", "2"]
    assert shelf.states() == {"2": "READY"}
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X) + 10, rtol=1e-5)


def test_the_old_version_is_announced_as_going_while_it_still_answers(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    write_artifact(tmp_path, "m", 2)
    old: list[str] = []

    def watch(version: ModelVersion) -> None:
        if (version.version, version.state) == ("1", "UNLOADING"):
            old.append(shelf.repository.get("m", "1").version)

    shelf.watch = watch
    shelf.look()
    assert old == ["1"]
    with pytest.raises(ModelNotFound):
        shelf.repository.get("m", "1")


def test_a_newer_version_that_fails_leaves_the_old_one_serving_and_is_not_tried_again(
    tmp_path: Path, shelf: Shelf
) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    damage(write_artifact(tmp_path, "m", 2))
    shelf.look()
    assert shelf.told == ["m:2 LOADING", "m:2 FAILED"]
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X), rtol=1e-5)
    shelf.look()
    assert shelf.told == []


def test_a_version_that_failed_is_tried_again_when_its_files_change(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    damage(write_artifact(tmp_path, "m", 2))
    shelf.look()
    assert shelf.states() == {"1": "READY", "2": "FAILED"}
    rewrite(tmp_path / "m" / "2", shift=1)
    shelf.look_later()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]


def test_a_failure_whose_folder_is_deleted_is_forgotten(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    damage(write_artifact(tmp_path, "m", 2))
    shelf.look()
    shutil.rmtree(tmp_path / "m" / "2")
    shelf.look()
    assert shelf.states() == {"1": "READY"}


def test_what_the_old_version_accepted_is_answered_by_it(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    # The device would wait for more rows, so the entries are surely still queued when the new version comes.
    shelf = Shelf(tmp_path, batching=batching(max_batch_size=16, max_queue_delay_s=3600))
    shelf.look()
    replies = Replies()
    old = shelf.repository.get("m", "")
    for _ in range(3):
        old.batcher.submit(make_entry(X, reply=replies, wanted=("logits",)))
    write_artifact(tmp_path, "m", 2, onnx_models.linear(shift=10))
    shelf.look()
    assert [entry.error for entry in replies.entries] == [None] * 3
    np.testing.assert_allclose(replies.entries[0].outputs[0], onnx_models.logits_of(X), rtol=1e-5)
    assert shelf.repository.answered_before == 3
    with pytest.raises(BatcherClosed):
        old.batcher.submit(make_entry(X, reply=replies))
    assert shelf.reconciler.close(TIMEOUT_S)


def test_a_version_whose_folder_is_deleted_goes_once_the_one_before_it_is_back(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    write_artifact(tmp_path, "m", 2)
    shelf.look()
    shutil.rmtree(tmp_path / "m" / "2")
    answering: list[str] = []
    shelf.watch = lambda version: answering.append(shelf.repository.get("m", "").version)
    shelf.look()
    assert shelf.told == ["m:1 LOADING", "m:1 READY", "m:2 UNLOADING", "m:2 UNLOADED"]
    assert answering == ["2", "2", "2", "1"]


def test_a_model_whose_folder_is_deleted_is_withdrawn_a_moment_later(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    shutil.rmtree(tmp_path / "m")
    assert shelf.look()
    assert (shelf.told, shelf.states()) == ([], {"1": "READY"})
    shelf.now_s += SETTLE_S
    assert not shelf.look()
    assert shelf.told == ["m:1 UNLOADING", "m:1 UNLOADED"]
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'm' is not found"):
        shelf.repository.get("m", "")


# Swaps


def link_swap(root: Path, new: Path) -> None:
    """As git-sync, or a ConfigMap's `..data`: one rename puts everything new in place of everything old."""
    (root / "next").symlink_to(new)
    (root / "next").rename(root / "m")


def copy_then_delete(root: Path, new: Path) -> None:
    """As `rsync --delete` with a model's folder."""
    shutil.copytree(new / "2", root / "m" / "2")
    shutil.rmtree(root / "m" / "1")


def delete_then_copy(root: Path, new: Path) -> None:
    """As a careless script."""
    shutil.rmtree(root / "m" / "1")
    shutil.copytree(new / "2", root / "m" / "2")


SWAPS = [link_swap, copy_then_delete, delete_then_copy]


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """A folder beside the shelf's own."""
    folder = apart_from(tmp_path)
    folder.mkdir()
    return folder


def swapped_shelf(shelf: Shelf, root: Path, apart: Path, swap: Callable[[Path, Path], None], **artifact: Any) -> None:
    """Serve version 1, and have version 2 replace it on disk in one step."""
    if swap is link_swap:
        write_artifact(apart, "old", 1)
        (root / "m").symlink_to(apart / "old")
    else:
        write_artifact(root, "m", 1)
    shelf.look()
    write_artifact(apart, "new", 2, onnx_models.linear(shift=10), **artifact)
    swap(root, apart / "new")


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("proved", [True, False])
def test_a_version_that_is_replaced_in_one_step_answers_until_its_successor_does(
    tmp_path: Path, apart: Path, shelf: Shelf, swap: Callable[[Path, Path], None], proved: bool
) -> None:
    swapped_shelf(shelf, tmp_path, apart, swap, golden=proved, card=proved)
    answering: list[str] = []
    shelf.watch = lambda version: answering.append(shelf.repository.get("m", "").version)
    if not proved:
        assert shelf.look()
        assert (shelf.told, shelf.states()) == ([], {"1": "READY"})
        with pytest.raises(ModelNotReady, match="'m' version 2 is not at ready state"):
            shelf.repository.get("m", "2")
        shelf.now_s += SETTLE_S
    shelf.look()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]
    assert answering == ["1", "2", "2", "2"]
    assert not shelf.look()


@pytest.mark.parametrize("swap", SWAPS)
def test_a_successor_that_fails_leaves_what_it_replaced_in_service_and_says_so(
    tmp_path: Path, apart: Path, shelf: Shelf, swap: Callable[[Path, Path], None]
) -> None:
    swapped_shelf(shelf, tmp_path, apart, swap)
    damage(tmp_path / "m" / "2")
    shelf.look_later()
    shelf.look()
    assert shelf.told == []
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X), rtol=1e-5)
    old, new = shelf.repository.versions()
    assert (old.state, new.state) == ("READY", "FAILED")
    assert old.reason.startswith("its folder is gone; it stays in service because")
    # The next one takes over, and what failed and what is gone are forgotten.
    rewrite(tmp_path / "m" / "2", shift=5)
    shelf.look_later()
    assert shelf.states() == {"2": "READY"}
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X) + 5, rtol=1e-5)


def test_a_folder_that_comes_back_takes_the_remark_with_it(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    served = shelf.repository.get("m", "")
    (tmp_path / "m" / "1").rename(tmp_path / "m" / ".kept")
    damage(write_artifact(tmp_path, "m", 2))
    shelf.look_later()
    assert shelf.repository.of("m")[1].reason != ""
    (tmp_path / "m" / ".kept").rename(tmp_path / "m" / "1")
    shelf.look()
    assert (shelf.told, shelf.repository.of("m")[1].reason) == (["m:1 READY"], "")
    assert shelf.repository.get("m", "") is served


def test_a_model_that_is_deleted_and_written_anew_keeps_answering_with_its_labels(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    labels = json.dumps({"labels": {"stable": 1}})
    (tmp_path / "m" / "rollout.json").write_text(labels)
    shelf.look()
    shutil.rmtree(tmp_path / "m")
    shelf.look()
    (tmp_path / "m").mkdir()
    shelf.look()
    assert shelf.repository.get("m", "stable").version == "1"
    shelf.now_s += SETTLE_S / 2
    write_artifact(tmp_path, "m", 2)
    (tmp_path / "m" / "rollout.json").write_text(labels.replace("1", "2"))
    shelf.look()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]
    assert shelf.repository.get("m", "stable").version == "2"


def test_a_stable_version_whose_folder_is_gone_answers_until_its_successor_does(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    (tmp_path / "m" / "rollout.json").write_text(json.dumps({"labels": {"stable": 1}}))
    shelf.look()
    shutil.rmtree(tmp_path / "m" / "1")
    damage(write_artifact(tmp_path, "m", 2))
    shelf.look()
    assert shelf.states() == {"1": "READY", "2": "FAILED"}
    assert shelf.repository.get("m", "").version == shelf.repository.get("m", "stable").version == "1"


def test_a_version_that_is_deleted_beside_others_goes_at_once(tmp_path: Path, shelf: Shelf) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, "m", version)
    (tmp_path / "m" / "config.pbtxt").write_text("version_policy { all { } }")
    shelf.look()
    shutil.rmtree(tmp_path / "m" / "1")
    shelf.look()
    assert shelf.states() == {"2": "READY"}


def test_a_folder_that_is_replaced_while_its_successor_is_loaded_is_no_gap_either(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    write_artifact(tmp_path, "m", 2)

    def watch(version: ModelVersion) -> None:
        if (version.version, version.state) == ("2", "READY"):
            shutil.rmtree(tmp_path / "m")

    shelf.watch = watch
    assert shelf.look()
    assert "2" in shelf.states()
    assert shelf.repository.get("m", "").version == "2"


# Files that change


def test_a_version_whose_files_change_is_replaced_without_a_gap(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1)
    shelf.look()
    before = shelf.repository.get("m", "1")
    rewrite(folder, shift=5)
    shelf.look_later()
    # It was READY all the time, under the same number.
    assert shelf.told == ["m:1 READY"]
    np.testing.assert_allclose(shelf.answer(X, "1"), onnx_models.logits_of(X) + 5, rtol=1e-5)
    with pytest.raises(BatcherClosed):
        before.batcher.submit(make_entry(X, reply=Replies()))


def test_a_version_whose_files_are_spoilt_goes_on_from_memory_and_says_so(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1)
    shelf.look()
    (folder / "model.onnx").write_bytes(b"spoilt")
    shelf.look_later()
    (version,) = shelf.repository.versions()
    assert version.state == "READY"
    assert version.reason.startswith(
        "its files changed after it was loaded, and the new ones cannot be served: model.onnx is not"
    )
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X), rtol=1e-5)
    shelf.look()
    assert shelf.told == []
    rewrite(folder, shift=5)
    shelf.look_later()
    (version,) = shelf.repository.versions()
    assert (version.state, version.reason) == ("READY", "")
    np.testing.assert_allclose(shelf.answer(X), onnx_models.logits_of(X) + 5, rtol=1e-5)


def test_a_change_of_config_pbtxt_is_followed(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    write_artifact(tmp_path, "m", 2)
    shelf.look()
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 3\nversion_policy { all { } }")
    shelf.look_later()
    assert shelf.states() == {"1": "READY", "2": "READY"}
    assert {shelf.repository.get("m", version).batching.max_batch_size for version in ("1", "2")} == {3}


def test_a_config_pbtxt_that_cannot_be_followed_shows_and_what_is_served_stays(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: many")
    shelf.look()
    assert shelf.states() == {"0": "FAILED", "1": "READY"}
    assert shelf.answer(X).shape == (3, 3)
    shelf.look()
    assert shelf.told == []
    (tmp_path / "m" / "config.pbtxt").unlink()
    shelf.look()
    assert shelf.states() == {"1": "READY"}


def test_a_models_folder_that_is_away_for_a_moment_takes_nothing_with_it(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    tmp_path.rename(away)
    assert shelf.look()
    assert shelf.look()
    away.rename(tmp_path)
    # Said once, however often it is looked at.
    assert [warning[:33] for warning in shelf.warnings] == ["the models folder cannot be read:"]
    assert shelf.states() == {"1": "READY"}
    assert not shelf.look()


def test_files_that_do_not_say_what_they_must_be_are_left_alone_until_nobody_writes_them(
    tmp_path: Path, shelf: Shelf
) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    folder = write_artifact(tmp_path, "m", 2, golden=False, card=False)
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[:100])
    assert shelf.look()
    shelf.now_s += SETTLE_S
    (folder / "model.onnx").write_bytes(whole)
    assert shelf.look()
    assert shelf.told == []
    shelf.now_s += SETTLE_S
    assert not shelf.look()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]


def test_a_version_that_is_copied_slowly_is_not_tried_before_it_is_whole(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    folder = write_artifact(tmp_path, "m", 2)
    whole = (folder / "model.onnx").read_bytes()
    for size in range(10, len(whole), 100):
        (folder / "model.onnx").write_bytes(whole[:size])
        assert shelf.look()
        assert shelf.told == []
        shelf.now_s += SETTLE_S / 2
    (folder / "model.onnx").write_bytes(whole)
    shelf.look_later()
    assert shelf.told == ["m:2 LOADING", "m:2 READY", "m:1 UNLOADING", "m:1 UNLOADED"]


def test_what_was_written_while_another_model_was_loaded_counts(tmp_path: Path, shelf: Shelf) -> None:
    shelf.look()
    # Neither proves that it is complete, so both must settle, and then both are seen by one scan.
    write_artifact(tmp_path, "a", 1, golden=False)
    write_artifact(tmp_path, "m", 1, golden=False)

    def written(version: ModelVersion) -> None:
        if version.name == "a" and version.state == "READY":
            (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size = {{ lots }}", encoding="utf-8")

    shelf.watch = written
    shelf.look_later()
    shelf.look_later()
    assert shelf.states("a") == {"1": "READY"}
    assert "READY" not in shelf.states("m").values()
    assert "m:1 READY" not in shelf.told


def test_a_version_that_stays_broken_is_tried_once_and_says_why(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    (write_artifact(tmp_path, "m", 2) / "model.onnx").write_bytes(b"half")
    shelf.look_later()
    assert shelf.told == ["m:2 LOADING", "m:2 FAILED"]
    assert not shelf.look()
    assert shelf.told == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "golden.npz").write_bytes((folder / "golden.npz").read_bytes()[:-1]),
        lambda folder: (folder / "golden.npz").unlink(),
        lambda folder: (folder / "card.json").write_text("{}"),
        lambda folder: (folder / "card.json").write_text("[]"),
        lambda folder: (folder / "card.json").unlink(),
        lambda folder: (folder / "model.onnx").unlink(),
    ],
)
def test_a_version_is_whole_when_every_part_says_so(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder, config = write_artifact(tmp_path, "m", 1), model_config_pb2.ModelConfig()
    assert whole(folder, config, FileReader(folder))
    spoil(folder)
    assert not whole(folder, config, FileReader(folder))


def test_a_file_of_weights_that_is_not_there_yet_makes_a_version_not_whole(tmp_path: Path) -> None:
    folder, config = write_artifact(tmp_path, "m", 1), model_config_pb2.ModelConfig()
    card = json.loads((folder / "card.json").read_text())
    sha256 = hashlib.sha256(b"weights").hexdigest()
    (folder / "card.json").write_text(json.dumps({**card, "files": {"model.onnx.data": sha256}}))
    assert not whole(folder, config, FileReader(folder))
    (folder / "model.onnx.data").write_bytes(b"weights")
    assert whole(folder, config, FileReader(folder))


def test_files_that_are_put_back_as_they_were_take_the_complaint_with_them(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1)
    shelf.look()
    served = shelf.repository.get("m", "")
    (folder / "model.onnx").rename(tmp_path / ".kept")
    (folder / "model.onnx").write_bytes(b"spoilt")
    shelf.look_later()
    assert shelf.repository.versions()[0].reason != ""
    (tmp_path / ".kept").rename(folder / "model.onnx")
    shelf.look()
    assert (shelf.told, shelf.repository.versions()[0].reason) == (["m:1 READY"], "")
    assert shelf.repository.get("m", "") is served


def test_a_ready_version_that_is_being_rewritten_is_served_as_it_was(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1, golden=False, card=False)
    shelf.look()
    (folder / "model.onnx").write_bytes(b"half")
    assert shelf.look()
    assert (shelf.told, shelf.states()) == ([], {"1": "READY"})


def test_a_look_at_a_folder_in_which_nothing_has_changed_leaves_no_new_objects(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, "m", version)
        write_artifact(tmp_path, "other", version)
    rollouts.write(tmp_path / "m", Rollout({"stable": 1}, shadow=2))
    misnamed(tmp_path, "other", "03")
    shelf = Shelf(tmp_path)
    for _ in range(3):
        shelf.look_later()
    # Python keeps a few containers that were freed, and what is made of these is not seen.
    kept: list[Any] = [({number: number}, {}, [number]) for number in range(200)]
    tracemalloc.start(4)
    try:
        shelf.look()
        gc.collect()
        left = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/frostline_server/repository/*")])
    finally:
        tracemalloc.stop()
        shelf.reconciler.close(TIMEOUT_S)
    assert (len(kept), left.statistics("traceback")) == (200, [])


def test_warnings_are_told_once_and_again_when_they_change(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    config = tmp_path / "m" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: [1, 9] } }")
    shelf.look()
    shelf.look()
    assert shelf.warnings == ["config.pbtxt asks for versions that do not exist: [9]"]
    config.write_text("version_policy { specific { versions: [1, 8] } }")
    shelf.look()
    assert shelf.warnings[1:] == ["config.pbtxt asks for versions that do not exist: [8]"]


def test_what_was_accepted_counts_as_finished_though_a_load_goes_on(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf = Shelf(tmp_path)
    shelf.look()
    write_artifact(tmp_path, "m", 2)
    loading, go_on = threading.Event(), threading.Event()

    def watch(version: ModelVersion) -> None:
        if version.state == "LOADING":
            loading.set()
            assert go_on.wait(TIMEOUT_S)

    shelf.watch = watch
    thread = threading.Thread(target=shelf.look)
    thread.start()
    assert loading.wait(TIMEOUT_S)
    assert shelf.reconciler.close(0.05)
    assert shelf.states()["1"] == "UNLOADING"
    go_on.set()
    thread.join(TIMEOUT_S)
    # It was given up, and nothing is said against it.
    assert shelf.states() == {"1": "UNLOADING"}


def test_closing_does_not_wait_for_a_load_longer_than_it_may(tmp_path: Path) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf = Shelf(tmp_path)
    loading, go_on = threading.Event(), threading.Event()

    def watch(version: ModelVersion) -> None:
        if version.state == "LOADING":
            loading.set()
            assert go_on.wait(TIMEOUT_S)

    shelf.watch = watch
    thread = threading.Thread(target=shelf.look)
    thread.start()
    assert loading.wait(TIMEOUT_S)
    assert shelf.reconciler.close(0.001)
    go_on.set()
    thread.join(TIMEOUT_S)
    assert shelf.reconciler.close(TIMEOUT_S)


# What is no version


def misnamed(root: Path, model: str, folder: str) -> Path:
    """A version in a folder that does not have a version's name."""
    path = write_artifact(root, model, 7)
    return path.rename(root / model / folder)


def test_what_looks_like_a_version_and_is_none_is_warned_of_once_it_stays(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    folder = misnamed(tmp_path, "m", "02")
    assert shelf.look()
    # It may be a version that is about to be renamed.
    assert shelf.warnings == []
    shelf.now_s += SETTLE_S
    assert not shelf.look()
    shelf.look()
    assert [warning[:29] for warning in shelf.warnings] == ["the folder '02' is not a vers"]
    assert shelf.reconciler.remarks() == [("m", shelf.warnings[0])]
    folder.rename(tmp_path / "m" / "2")
    shelf.look()
    assert (shelf.states(), shelf.reconciler.remarks()) == ({"2": "READY"}, [])


def test_a_model_with_nothing_but_misnamed_versions_is_failed_and_says_how_to_name_them(
    tmp_path: Path, shelf: Shelf
) -> None:
    folder = misnamed(tmp_path, "m", "v7")
    shelf.look()
    (version,) = shelf.repository.versions()
    assert (version.version, version.state) == ("0", "FAILED")
    assert version.reason.endswith("so rename it, for example to '7'")
    assert shelf.warnings == []
    shelf.look_later()
    assert shelf.told == []
    folder.rename(tmp_path / "m" / "7")
    shelf.look_later()
    assert shelf.states() == {"7": "READY"}


def test_a_model_whose_versions_are_misnamed_later_is_withdrawn_and_says_why(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1).parent.joinpath("config.pbtxt").write_text("")
    shelf.look()
    (tmp_path / "m" / "1").rename(tmp_path / "m" / "old1")
    shelf.look()
    assert shelf.states() == {"1": "READY"}
    shelf.now_s += SETTLE_S
    shelf.look()
    assert shelf.told == ["m:1 UNLOADING", "m:1 UNLOADED", "m:0 FAILED"]
    shutil.rmtree(tmp_path / "m")
    shelf.look()
    assert shelf.states() == {}


def test_a_folder_with_nothing_in_it_is_a_remark_and_no_failure(tmp_path: Path, shelf: Shelf, explicit: Shelf) -> None:
    (tmp_path / "m").mkdir()
    remark = "the folder has no version; put the network into 1/model.onnx, or remove the folder"
    for each in (shelf, explicit):
        each.look()
        assert (each.warnings, each.states(), each.reconciler.remarks()) == ([remark], {}, [("m", remark)])
    assert explicit.reconciler.unloaded() == []
    with pytest.raises(ModelNotFound, match=remark):
        explicit.reconciler.load_model("m")


# By request


def test_with_explicit_control_nothing_is_served_until_it_is_asked_for(tmp_path: Path, explicit: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    write_artifact(tmp_path, "other", 1)
    explicit.look()
    assert explicit.repository.versions() == []
    assert explicit.reconciler.unloaded() == ["m", "other"]
    explicit.reconciler.load_model("m")
    assert explicit.states() == {"1": "READY"}
    assert explicit.reconciler.unloaded() == ["other"]
    # What comes later waits for the next request too.
    write_artifact(tmp_path, "m", 2)
    explicit.reconciler.load_model("m")
    assert explicit.states() == {"2": "READY"}
    explicit.reconciler.unload_model("m")
    assert explicit.told[-2:] == ["m:2 UNLOADING", "m:2 UNLOADED"]
    assert explicit.reconciler.unloaded() == ["m", "other"]


def test_an_unloaded_models_versions_go_at_once_and_none_stands_in_for_another(tmp_path: Path, explicit: Shelf) -> None:
    for version in (1, 3):
        write_artifact(tmp_path, "m", version)
    (tmp_path / "m" / "rollout.json").write_text('{"labels": {"stable": 1}}')
    explicit.reconciler.load_model("m")
    assert explicit.states() == {"1": "READY", "3": "READY"}
    answering: list[str] = []

    def watch(_: ModelVersion) -> None:
        with contextlib.suppress(ModelNotFound, ModelNotReady):
            answering.append(explicit.repository.get("m", "").version)

    explicit.watch = watch
    explicit.reconciler.unload_model("m")
    assert set(answering) == {"1"}
    assert explicit.states() == {}


def test_a_load_that_is_asked_for_and_fails_says_why_and_what_goes_on(tmp_path: Path, explicit: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    explicit.reconciler.load_model("m")
    folder = write_artifact(tmp_path, "m", 2)
    damage(folder)
    with pytest.raises(
        LoadFailed, match=r"failed to load 'm', version 2: golden check failed: .*\(ready versions: 1\)"
    ):
        explicit.reconciler.load_model("m")
    # Asked again it is tried again.
    explicit.told.clear()
    with pytest.raises(LoadFailed):
        explicit.reconciler.load_model("m")
    assert explicit.told == ["m:2 LOADING", "m:2 FAILED"]
    rewrite(folder, shift=1)
    explicit.reconciler.load_model("m")
    assert explicit.states() == {"2": "READY"}


def test_a_model_may_be_loaded_with_a_configuration_of_the_request(tmp_path: Path, explicit: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    explicit.reconciler.load_model("m", text_format.Parse("max_batch_size: 2", model_config_pb2.ModelConfig()))
    assert explicit.repository.get("m", "").batching.max_batch_size == 2
    explicit.reconciler.load_model("m")
    assert explicit.repository.get("m", "").batching.max_batch_size == BATCHING.max_batch_size


@pytest.mark.parametrize(
    "text",
    ["version_policy { specific { versions: [7] } }", 'backend: "python"', "max_batch_size: many", 'name: "other"'],
)
def test_a_configuration_of_the_request_takes_the_place_of_one_that_cannot_be_used(
    tmp_path: Path, explicit: Shelf, text: str
) -> None:
    write_artifact(tmp_path, "m", 1)
    (tmp_path / "m" / "config.pbtxt").write_text(text, encoding="utf-8")
    with pytest.raises(LoadFailed):
        explicit.reconciler.load_model("m")
    explicit.reconciler.load_model("m", text_format.Parse("max_batch_size: 2", model_config_pb2.ModelConfig()))
    assert explicit.states() == {"1": "READY"}
    with pytest.raises(LoadFailed):
        explicit.reconciler.load_model("m")
    assert explicit.states()["1"] == "READY", "what is served stays"


@pytest.mark.parametrize("act", [Reconciler.load_model, Reconciler.unload_model])
def test_models_that_do_not_exist_are_not_found(explicit: Shelf, act: Callable[[Reconciler, str], None]) -> None:
    with pytest.raises(ModelNotFound, match=r"failed to (un)?load 'nobody'"):
        act(explicit.reconciler, "nobody")


@pytest.mark.parametrize("act", [Reconciler.load_model, Reconciler.unload_model])
def test_where_the_folder_decides_requests_do_not(shelf: Shelf, act: Callable[[Reconciler, str], None]) -> None:
    with pytest.raises(ModelControlOff, match="explicit model load / unload is not allowed if polling is enabled"):
        act(shelf.reconciler, "m")


def test_a_load_that_is_asked_for_while_the_folder_is_away_says_so(tmp_path: Path, explicit: Shelf) -> None:
    tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-away"))
    with pytest.raises(LoadFailed, match="failed to load 'm', the models folder cannot be read: "):
        explicit.reconciler.load_model("m")


# What a card says


def test_labels_that_are_not_one_for_each_class_fail_the_version(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "labels": ["a", "b"]}))
    shelf.look()
    (version,) = shelf.repository.versions()
    assert (version.state, version.reason) == ("FAILED", "there are 2 labels for 3 classes")
    with pytest.raises(PredictionError) as caught:
        shelf.repository.get("m", "1")
    assert isinstance(caught.value, ModelNotReady)


# Requests that meet a swap


def infer_message(x: Array, version: str = "") -> bytes:
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    request = inference_pb2.ModelInferRequest(
        model_name="m", model_version=version, inputs=[tensor], raw_input_contents=[x.tobytes()]
    )
    return request.SerializeToString()


def test_a_request_decoded_for_a_version_that_was_replaced_is_answered_by_its_successor(
    tmp_path: Path, shelf: Shelf
) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    inference, replies, payload = Inference(shelf.repository, Unrouted(), 1 << 20, NOWHERE), Replies(), infer_message(X)
    entry = inference.prepare(MODEL_INFER, payload, None, replies, token="call")
    write_artifact(tmp_path, "m", 2, onnx_models.linear(shift=10))
    shelf.look()
    inference.submit(entry, MODEL_INFER, payload)
    assert replies.wait_for(1) == [entry]
    assert (entry.call.token, entry.call.served.version) == ("call", "2")
    np.testing.assert_allclose(entry.outputs[0], onnx_models.logits_of(X) + 10, rtol=1e-5)


def test_a_request_for_a_version_that_has_no_successor_is_refused_with_the_reason(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    inference, payload = Inference(shelf.repository, Unrouted(), 1 << 20, NOWHERE), infer_message(X, "1")
    entry = inference.prepare(MODEL_INFER, payload, None, Replies(), token=None)
    shutil.rmtree(tmp_path / "m")
    shelf.look_later()
    with pytest.raises(Refused) as caught:
        inference.submit(entry, MODEL_INFER, payload)
    assert isinstance(caught.value.error, ModelNotFound)


def test_a_request_that_meets_a_closing_queue_nothing_has_replaced_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf.look()
    inference, payload = Inference(shelf.repository, Unrouted(), 1 << 20, NOWHERE), infer_message(X)
    entry = inference.prepare(MODEL_INFER, payload, None, Replies(), token=None)
    served = shelf.repository.get("m", "")
    assert served.batcher.close(TIMEOUT_S)
    with pytest.raises(Refused) as caught:
        inference.submit(entry, MODEL_INFER, payload)
    assert isinstance(caught.value.error, BatcherClosed)
    assert served.stats.snapshot().codes["UNAVAILABLE"] == 1


# Reading and memory


def bytes_read() -> int:
    """All that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="what is read is counted by Linux's /proc")
@pytest.mark.parametrize("present", [True, False])
def test_only_the_version_that_is_served_is_read_and_only_once(tmp_path: Path, shelf: Shelf, present: bool) -> None:
    if not present:
        shelf.look()
    for version in (1, 2, 3):
        write_artifact(tmp_path / ".new", "m", version, cycles.wide())  # type: ignore[arg-type]  # onnx's helper is untyped
    size = (tmp_path / ".new" / "m" / "3" / "model.onnx").stat().st_size
    (tmp_path / ".new" / "m").rename(tmp_path / "m")
    before = bytes_read()
    shelf.look()
    assert shelf.states() == {"3": "READY"}
    assert size <= bytes_read() - before < 1.5 * size
    # Nor is anything read because one version has replaced another.
    write_artifact(tmp_path, "m", 4)
    before = bytes_read()
    shelf.look_later()
    shelf.look_later()
    assert shelf.states() == {"4": "READY"}
    assert bytes_read() - before < size / 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_two_hundred_loads_and_fifty_failed_ones_leave_memory_where_it_was(tmp_path: Path) -> None:
    # In a process of its own: the test run's memory is nobody's measure.
    script = Path(onnx_models.__file__).with_name("cycles.py")
    command = [sys.executable, str(script), str(tmp_path / "models"), "200", "50"]
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=250, env={**os.environ, "PYTHONPATH": root}
    )
    held = json.loads(done.stdout)
    assert held["last"] <= 1.1 * held["first"], held
    assert held["failed"] <= 1.1 * held["first"], held


def test_a_configuration_that_names_only_absent_versions_is_a_reason(tmp_path: Path, shelf: Shelf) -> None:
    config = write_artifact(tmp_path, "m", 1).parent / "config.pbtxt"
    config.write_text("version_policy { specific { versions: [9] } }")
    shelf.look()
    (version,) = shelf.repository.versions()
    reason = "config.pbtxt asks for versions that do not exist: [9]; the folder has [1]"
    assert (version.state, version.reason) == ("FAILED", reason)
    config.write_text("version_policy { specific { versions: [1] } }")
    shelf.look_later()
    assert shelf.states() == {"1": "READY"}
    config.write_text("version_policy { specific { versions: [9] } }")
    shelf.look_later()
    assert shelf.states()["1"] == "READY"
    assert shelf.repository.ready_versions("m") == ["1"]


def reroute(shelf: Shelf) -> None:
    """Follow the rollouts from another thread, as while this one is busy."""
    other = threading.Thread(target=shelf.reconciler.reroute)
    other.start()
    other.join(TIMEOUT_S)
    assert not other.is_alive()


@pytest.mark.parametrize("moment", ["other:1 LOADING", "other:1 UNLOADING"])
def test_a_rollback_waits_for_no_load_and_no_drain_of_another_model(tmp_path: Path, shelf: Shelf, moment: str) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    write_artifact(tmp_path, "m", 2)
    rollouts.write(folder, Rollout({"stable": 2, "before": 1}))
    shelf.look()
    seen: list[str] = []

    def watch(version: ModelVersion) -> None:
        if f"{version.name}:{version.version} {version.state}" == moment:
            rollouts.write(folder, Rollout({"stable": 1, "before": 2}))
            reroute(shelf)
            seen.extend(shelf.repository.get("m", which).version for which in ("", "stable", "before"))

    shelf.watch = watch
    write_artifact(tmp_path, "other", 1)
    shelf.look_later()
    shutil.rmtree(tmp_path / "other")
    shelf.look_later()
    assert seen == ["1", "1", "2"]
    assert shelf.repository.get("m", "").version == "1"
    assert shelf.states() == {"1": "READY", "2": "READY"}


def test_a_rollout_that_changes_while_the_folder_is_scanned_is_not_forgotten(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    write_artifact(tmp_path, "m", 2)
    rollouts.write(folder, Rollout({"stable": 2, "before": 1}))
    shelf.look()

    def late(*args: Any) -> Any:
        found = scan.scan(*args)
        rollouts.write(folder, Rollout({"stable": 1, "before": 2}))
        reroute(shelf)
        return found

    monkeypatch.setattr("frostline_server.repository.models_folder.scan", late)
    shelf.look()
    assert shelf.repository.get("m", "").version == "1"


def loading(shelf: Shelf, root: Path, then: Callable[[], None]) -> None:
    """Load another model, and do something when that begins."""
    shelf.watch = lambda version: then() if version.name == "other" and version.state == "LOADING" else None
    write_artifact(root, "other", 1)
    shelf.look_later()


def two_versions(root: Path, shelf: Shelf) -> Path:
    """A model whose stable version is 2, with 1 beside it; returns its folder."""
    folder = write_artifact(root, "m", 1).parent
    write_artifact(root, "m", 2)
    rollouts.write(folder, Rollout({"stable": 1, "next": 2}))
    shelf.look()
    return folder


def test_a_rollout_that_a_look_at_one_model_found_is_followed_too(tmp_path: Path, shelf: Shelf) -> None:
    folder = two_versions(tmp_path, shelf)
    seen: list[str] = []

    def then() -> None:
        rollouts.write(folder, Rollout({"stable": 2, "next": 1}))
        shelf.reconciler._folder.scan(only="m")
        reroute(shelf)
        seen.append(shelf.repository.get("m", "").version)

    loading(shelf, tmp_path, then)
    assert seen == ["2"]


def test_a_model_that_is_written_anew_keeps_its_labels_meanwhile(tmp_path: Path, shelf: Shelf) -> None:
    folder = two_versions(tmp_path, shelf)
    seen: list[str] = []

    def then() -> None:
        shutil.move(folder, tmp_path.with_name("apart"))
        folder.mkdir()
        reroute(shelf)
        seen.append(shelf.repository.get("m", "").version)
        folder.rmdir()
        reroute(shelf)
        seen.append(shelf.repository.get("m", "next").version)
        shutil.move(tmp_path.with_name("apart"), folder)
        (folder / "rollout.json").unlink()
        reroute(shelf)
        seen.append(shelf.repository.get("m", "").version)

    loading(shelf, tmp_path, then)
    assert seen == ["1", "2", "2"]


def test_a_folder_that_cannot_be_read_keeps_its_rollout_and_no_other_from_changing(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions(tmp_path, shelf)
    folder = write_artifact(tmp_path, "n", 1).parent
    write_artifact(tmp_path, "n", 2)
    rollouts.write(folder, Rollout({"stable": 1, "next": 2}))
    shelf.look()
    read = rollouts.read
    seen: list[str] = []

    def broken(path: Path, *rest: Any) -> Any:
        if path.name == "m":
            raise OSError(errno.EIO, "Input/output error")
        return read(path, *rest)

    def then() -> None:
        rollouts.write(folder, Rollout({"stable": 2, "next": 1}))
        with monkeypatch.context() as patched:
            patched.setattr(rollouts, "read", broken)
            reroute(shelf)
        seen.extend(shelf.repository.get(name, "").version for name in ("m", "n"))

    loading(shelf, tmp_path, then)
    assert seen == ["1", "2"]


def test_nobody_waits_while_the_rollouts_are_read(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions(tmp_path, shelf)
    read, reading, go_on = rollouts.read, threading.Event(), threading.Event()

    def hanging(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            assert go_on.wait(TIMEOUT_S)
        return read(*arguments)

    monkeypatch.setattr(rollouts, "read", hanging)
    other = threading.Thread(target=shelf.reconciler._folder.reroute)
    other.start()
    assert reading.wait(TIMEOUT_S)
    shelf.look()
    assert shelf.reconciler.close(TIMEOUT_S)
    go_on.set()
    other.join(TIMEOUT_S)


def test_while_nothing_is_in_progress_the_next_look_follows_the_rollouts(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    write_artifact(tmp_path, "m", 2)
    rollouts.write(folder, Rollout({"stable": 2, "before": 1}))
    shelf.look()
    rollouts.write(folder, Rollout({"stable": 1, "before": 2}))
    reroute(shelf)
    assert shelf.repository.get("m", "").version == "2"
    shelf.look()
    assert shelf.repository.get("m", "").version == "1"


def test_a_rollout_that_cannot_be_read_or_written_is_followed_meanwhile_as_by_a_look(
    tmp_path: Path, shelf: Shelf
) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    write_artifact(tmp_path, "m", 2)
    judged = Rollout({"stable": 2, "before": 1})
    rollouts.write(folder, judged)
    shelf.look()
    seen: list[str] = []

    def watch(version: ModelVersion) -> None:
        if version.name == "other":
            (folder / "rollout.json").write_text("{")
            reroute(shelf)
            seen.append(shelf.repository.get("m", "").version)
            rollouts.write(folder, judged)
            shelf.reconciler.use_instead("m", judged, Rollout({"stable": 1, "before": 2}))
            reroute(shelf)
            seen.append(shelf.repository.get("m", "").version)

    shelf.watch = watch
    write_artifact(tmp_path, "other", 1)
    shelf.look_later()
    assert seen[:2] == ["2", "1"]
    assert shelf.repository.get("m", "").version == "1"


def test_a_version_that_a_rollout_names_need_not_be_in_the_configuration(tmp_path: Path, shelf: Shelf) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    (folder / "config.pbtxt").write_text("version_policy { specific { versions: [9] } }")
    rollouts.write(folder, Rollout({"stable": 1}))
    shelf.look()
    assert shelf.states() == {"1": "READY"}


def test_a_model_of_which_nothing_is_chosen_is_not_loaded_and_the_caller_is_told(
    tmp_path: Path, explicit: Shelf
) -> None:
    folder = write_artifact(tmp_path, "m", 1).parent
    explicit.look()
    config = model_config_pb2.ModelConfig(name="m")
    config.version_policy.specific.versions.append(9)
    told = r"the configuration asks for versions that do not exist: \[9\]; the folder has \[1\]"
    with pytest.raises(LoadFailed, match=told):
        explicit.reconciler.load_model("m", config)
    explicit.reconciler.load_model("m")
    # Nor is one that is served, which stays as it is.
    with pytest.raises(LoadFailed, match=told):
        explicit.reconciler.load_model("m", config)
    assert explicit.states() == {"1": "READY"}
    config.version_policy.specific.versions.append(1)
    explicit.reconciler.load_model("m", config)
    assert explicit.warnings[-1].startswith("the configuration asks for versions that do not exist: [9]")
    (folder / "config.pbtxt").write_text("version_policy { specific { versions: [9] } }")
    with pytest.raises(LoadFailed, match=r"asks for versions that do not exist: \[9\]; the folder has \[1\]"):
        explicit.reconciler.load_model("m")


@pytest.mark.parametrize("when", ["LOADING", "READY"])
def test_a_folder_that_cannot_be_read_for_a_moment_while_its_model_is_loaded_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    write_artifact(tmp_path, "m", 1)
    shelf, listing, failing = Shelf(tmp_path / "m"), Path.iterdir, list[OSError]()

    def iterdir(self: Path) -> Any:
        if self == tmp_path / "m" and failing:
            raise failing.pop()
        return listing(self)

    def stale(version: ModelVersion) -> None:
        if version.state == when:
            failing.append(OSError(errno.ESTALE, "Stale file handle"))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    shelf.watch = stale
    if when == "READY":
        # Looked at before it is loaded.
        failing.append(OSError(errno.ESTALE, "Stale file handle"))
        shelf.look()
        assert shelf.states() == {}
    shelf.look()
    assert not failing
    assert shelf.states() == {"1": "READY"}
    assert shelf.answer(onnx_models.rows(1)).shape == (1, 3)
    assert shelf.reconciler.close(TIMEOUT_S)
