"""A models folder in which anything may be: one model's trouble is its own, and the others are served and updated."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frostline_server.errors import ModelNotFound
from frostline_server.model.loader import Loader
from frostline_server.regular_files import FileReader
from frostline_server.repository import fingerprint, reconciler
from frostline_server.repository.models_folder import ModelsFolder
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository
from frostline_server.repository.rollout import STABLE, Rollout, write
from frostline_server.repository.scan import scan
from frostline_server.repository.watcher import places_of
from frostline_server.runtime.devices import CPU
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, batching

LABELLED = 'output { name: "logits" label_filename: "labels.txt" }'


class Shelf:
    """A repository over a folder with a model before and one after all others, which are always served.

    Attributes:
        told: "name:version STATE" for every change, in order.
        warnings: the text of every warning.
        now_s: the time of day.
    """

    def __init__(self, root: Path, linked: tuple[Path, ...] = ()) -> None:
        self.root = root
        self.told: list[str] = []
        self.warnings: list[str] = []
        self.now_s = 1.7e9
        self.watch: Callable[[ModelVersion], None] = lambda _: None
        self.clock_s = 0.0
        self.repository = Repository()
        loader = Loader(
            [(CPU, {})], strict=True, threads=1, batching=batching(max_batch_size=4), files=FileReader(root, linked)
        )
        self.reconciler = Reconciler(
            root,
            self.repository,
            loader,
            on_change=self._changed,
            on_warning=lambda _, text: self.warnings.append(text),
            clock=lambda: self.clock_s,
            now=lambda: self.now_s,
        )
        for name in ("aaa", "zzz"):
            write_artifact(root, name, 1, golden=False, card=False)

    def _changed(self, version: ModelVersion) -> None:
        self.told.append(f"{version.name}:{version.version} {version.state}")
        self.watch(version)

    def look(self) -> None:
        """Look, also at what was seen for the first time."""
        self.told.clear()
        while self.reconciler.reconcile():
            self.clock_s += 1

    def update(self) -> None:
        """Publish another version of the good models, and look."""
        for name in ("aaa", "zzz"):
            versions = len(list((self.root / name).iterdir()))
            write_artifact(self.root, name, versions + 1, golden=False, card=False)
        self.look()
        for name in ("aaa", "zzz"):
            assert self.repository.ready_versions(name) == [str(versions + 1)]

    def reason(self, name: str) -> str:
        """Why a model has FAILED, which has nothing in service."""
        (version,) = self.repository.versions(name)
        assert (version.state, bool(version.reason)) == ("FAILED", True)
        return version.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def shelf(root: Path) -> Iterator[Shelf]:
    built = Shelf(root)
    yield built
    assert built.reconciler.close(TIMEOUT_S)


def bare(root: Path, name: str = "m", version: int = 1) -> Path:
    """A version that is nothing but a network."""
    return write_artifact(root, name, version, golden=False, card=False)


# Files


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    """Larger than anything may be, and no byte of it on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


def nested(path: Path) -> None:
    path.write_text('{"a":' * 100_000)


def nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nothing")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


ODD = [pipe, device, endless, nothing, folder]
PLACES = ["1/card.json", "1/golden.npz", "config.pbtxt", "labels.txt"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_fails_its_own_model_with_a_reason_until_it_is_mended(
    root: Path, shelf: Shelf, odd: Callable[[Path], None], place: str
) -> None:
    bare(root)
    if place == "labels.txt":
        (root / "m" / "config.pbtxt").write_text(LABELLED)
    odd(root / "m" / place)
    shelf.look()
    assert "cannot be read" in shelf.reason("m")
    shelf.update()
    if odd is folder:
        (root / "m" / place).rmdir()
    else:
        (root / "m" / place).unlink()
    (root / "m" / "config.pbtxt").unlink(missing_ok=True)
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]


@pytest.mark.parametrize("odd", [pipe, device, endless, nested, nothing, folder])
def test_an_odd_rollout_keeps_the_one_before_in_force_and_says_so(
    root: Path, shelf: Shelf, odd: Callable[[Path], None]
) -> None:
    bare(root)
    bare(root, version=2)
    write(root / "m", Rollout({STABLE: 1}))
    shelf.look()
    odd(root / "m" / "rollout.json")
    shelf.look()
    (problem,) = shelf.repository.traffic("m").problems
    assert problem.startswith("rollout.json cannot be used: ")
    assert problem.endswith("; the previous one stays in force")
    assert shelf.repository.get("m", "").version == "1"
    shelf.update()


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": {"stable": 99999999999999999999}}',
        f'{{"labels": {{"stable": 1, "b": 1}}, "split": {{"b": {"9" * 400}}}}}',
        '{"labels": {"stable": 1, "b": 1}, "split": {"b": NaN}}',
        f'{{"labels": {{"stable": {"9" * 5000}}}}}',
        '{"labels": {"stable": 1}, "labels": {"stable": 2}}',
        '{"labels": {"\\ud800": 1}}',
        '{"\\ud800": 1}',
        f'{{"previous": {list(range(-100_000, 0))}}}',
    ],
)
def test_a_rollout_of_odd_values_is_refused_in_a_sentence_that_can_be_sent(root: Path, shelf: Shelf, text: str) -> None:
    bare(root)
    (root / "m" / "rollout.json").write_text(text)
    shelf.look()
    (problem,) = shelf.repository.traffic("m").problems
    assert problem.startswith("rollout.json cannot be used: ")
    assert problem.isprintable()
    assert len(problem) < 2100
    problem.encode()


# Links


def test_a_list_of_labels_that_is_a_link_out_of_the_folder_shows_nobody_its_lines(root: Path, shelf: Shelf) -> None:
    secret = root.parent / "shadow"
    secret.write_text("root:secret\nuser:secret\nother:secret\n")
    bare(root)
    (root / "m" / "config.pbtxt").write_text(LABELLED)
    (root / "m" / "labels.txt").symlink_to(secret)
    shelf.look()
    assert f"the link {root}/m/labels.txt leads to {secret}, outside the models folder" in shelf.reason("m")
    with pytest.raises(ModelNotFound):
        shelf.repository.get("m", "")
    (root / "m" / "labels.txt").unlink()
    (root / "m" / "labels.txt").write_text("a\nb\nc\n")
    shelf.look()
    assert shelf.repository.get("m", "").labels == ("a", "b", "c")


def links_of(root: Path, apart: Path, place: str) -> None:
    """Model `m` with a link at a place in it, which leads to the same thing apart."""
    bare(apart)
    (apart / "m" / "config.pbtxt").write_text(LABELLED)
    (apart / "m" / "labels.txt").write_text("a\nb\nc\n")
    (apart / "m" / "1" / "card.json").write_text("{}")
    (apart / place).rename(apart / "elsewhere")
    (apart / place).symlink_to(apart / "elsewhere")
    if place == "m":
        (root / "m").symlink_to(apart / "elsewhere")
    else:
        (apart / "m").rename(root / "m")


LINKS = ["m", "m/1", "m/1/model.onnx", "m/1/card.json", "m/config.pbtxt", "m/labels.txt"]


@pytest.mark.parametrize("place", LINKS)
def test_a_link_out_of_the_folder_is_refused_wherever_it_is(root: Path, shelf: Shelf, place: str) -> None:
    apart = root.parent / "apart"
    links_of(root, apart, place)
    shelf.look()
    reason = shelf.reason("m")
    assert f"the link {root}/{place} leads to {apart}/elsewhere, outside the models folder {root}" in reason
    assert "--linked-folders" in reason
    shelf.update()


@pytest.mark.parametrize("place", LINKS)
def test_a_link_to_a_folder_that_the_operator_allows_is_followed(root: Path, place: str) -> None:
    apart = root.parent / "apart"
    links_of(root, apart, place)
    shelf = Shelf(root, (apart,))
    shelf.look()
    assert shelf.repository.get("m", "").labels == ("a", "b", "c")
    assert shelf.reconciler.close(TIMEOUT_S)


def test_what_is_in_service_stays_when_its_folder_becomes_a_link_that_leads_out(root: Path, shelf: Shelf) -> None:
    bare(root)
    shelf.look()
    (root / "m").rename(root.parent / "apart")
    (root / "m").symlink_to(root.parent / "apart")
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]
    (failed,) = [version for version in shelf.repository.versions("m") if version.state == "FAILED"]
    assert "outside the models folder" in failed.reason
    assert shelf.repository.get("m", "").version == "1"


# Anything else


def test_whatever_happens_to_one_model_it_has_failed_with_the_reason_and_the_others_go_on(
    root: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare(root)
    on_disk = ModelsFolder.on_disk

    def failing(self: ModelsFolder, name: str, *arguments: Any) -> Any:
        if name == "m":
            raise MemoryError("no room for m")
        return on_disk(self, name, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(ModelsFolder, "on_disk", failing)
        shelf.look()
        assert shelf.reason("m") == "unexpected MemoryError while it was looked after: no room for m"
        shelf.update()
        assert [told for told in shelf.told if told.startswith("m:")] == [], "it is told once"
    shelf.look()
    assert shelf.reason("m"), "it is tried again when its files change"
    (root / "m" / "1" / "card.json").write_text("{}")
    shelf.look()
    assert [version.state for version in shelf.repository.versions("m")] == ["READY"]


@pytest.mark.parametrize("error", [MemoryError("none left"), RecursionError("too deep"), ValueError("odd\ud800")])
def test_whatever_happens_while_a_model_is_read_the_others_are_found(
    root: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bare(root)
    walk = fingerprint.Walk.fingerprint

    def failing(self: fingerprint.Walk, folder: Path, *arguments: Any) -> Any:
        if folder == root / "m":
            raise error
        return walk(self, folder, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(fingerprint.Walk, "fingerprint", failing)
        shelf.look()
        assert shelf.reason("m").startswith(f"unexpected {type(error).__name__} while it was read: ")
        shelf.update()
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]


def test_the_end_of_every_look_is_noted_and_of_no_other(
    root: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shelf.reconciler.last_look_s is None
    shelf.look()
    assert shelf.reconciler.last_look_s == 1.7e9
    shelf.now_s += 60
    root.rename(root.parent / "away")
    assert shelf.reconciler.reconcile(), "a folder that cannot be read is looked at again soon"
    assert shelf.reconciler.last_look_s == 1.7e9
    (root.parent / "away").rename(root)
    shelf.look()
    assert shelf.reconciler.last_look_s == 1.7e9 + 60


def test_a_server_that_stops_does_not_wait_for_a_look_that_does_not_end(
    root: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_UNWIND_S", 0.0)
    stuck, end = threading.Event(), threading.Event()

    def never(_: ModelVersion) -> None:
        stuck.set()
        assert end.wait(TIMEOUT_S)

    shelf.watch = never
    looking = threading.Thread(target=shelf.look)
    looking.start()
    assert stuck.wait(TIMEOUT_S)
    assert shelf.reconciler.busy
    assert shelf.reconciler.close(3600.0), "nothing that was accepted is unfinished"
    end.set()
    looking.join(TIMEOUT_S)
    assert not shelf.reconciler.busy


# Shapes


def test_no_number_is_proposed_that_no_client_can_ask_for(root: Path, shelf: Shelf) -> None:
    bare(root)
    (root / "m" / "1").rename(root / "m" / "9223372036854775807")
    (root / "m" / "0").mkdir()
    shelf.look()
    (remark,) = shelf.warnings
    assert remark.endswith("for example to '1'")


@pytest.mark.parametrize("name", ["99999999999999999999", "9223372036854775808", "1" * 255])
def test_a_number_that_no_client_can_ask_for_is_no_version_and_is_remarked(root: Path, shelf: Shelf, name: str) -> None:
    bare(root)
    (root / "m" / name).mkdir()
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]
    (remark,) = shelf.warnings
    assert remark.startswith(f"the folder '{name}' is not a version; the name of a version is a whole number above 0")
    assert "up to 9223372036854775807" in remark


def test_the_largest_number_is_a_version(root: Path, shelf: Shelf) -> None:
    bare(root, version=2**63 - 1)
    shelf.look()
    assert shelf.repository.get("m", "").version == "9223372036854775807"
    assert shelf.repository.get("m", "9223372036854775807").version == "9223372036854775807"


@pytest.mark.parametrize("shape", ["files", "versions", "folders"])
def test_a_model_of_too_many_files_is_not_followed_and_its_version_in_service_stays(
    root: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.setattr(fingerprint, "MAX_ENTRIES", 50)
    bare(root)
    shelf.look()
    for number in range(2, 60):
        if shape == "files":
            (root / "m" / "1" / f"part-{number}").touch()
        else:
            (root / "m" / (f"v{number}" if shape == "folders" else str(number))).mkdir()
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]
    (failed,) = [version for version in shelf.repository.versions("m") if version.state == "FAILED"]
    assert failed.reason.startswith(
        "the folder has more than 20000 files and folders, so changes in it are not followed"
    )
    shelf.update()
    for path in [
        *(root / "m" / "1").glob("part-*"),
        *(root / "m").glob("v*"),
        *(root / "m").glob("[2-9]*"),
        *(root / "m").glob("1?"),
    ]:
        path.unlink() if path.is_file() else path.rmdir()
    shelf.look()
    assert [version.state for version in shelf.repository.versions("m")] == ["READY"]


def test_folders_in_each_other_are_looked_at_to_a_depth_and_the_version_is_served(root: Path, shelf: Shelf) -> None:
    deep = bare(root)
    for _ in range(300):
        deep /= "d"
        deep.mkdir()
    (deep / "file").touch()
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]
    shelf.update()


def test_a_link_to_the_root_of_all_files_is_not_walked(root: Path, shelf: Shelf) -> None:
    links = [bare(root) / "all", root / "n", root / "m" / "2"]
    for link in links:
        link.symlink_to("/usr" if link.name == "2" else "/")
    found = scan(root)
    assert [len(files) for files in found["m"].versions.values()] == [2, 1]
    assert found["n"].problem.startswith(f"the link {root}/n leads to /, outside the models folder")
    assert not any(folder.is_relative_to("/usr") for folder in places_of(root, FileReader(root)).folders)
    shelf.look()
    assert shelf.repository.ready_versions("m") == ["1"]
    for link in links:  # or whatever cleans up here walks over all files
        link.unlink()


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"\xff"), "a\x1b[2J", "\u202e"])
@pytest.mark.parametrize("inside", [False, True])
def test_names_that_are_no_text_are_shown_as_text(root: Path, shelf: Shelf, name: str, inside: bool) -> None:
    if inside:
        bare(root)
        (root / "m" / f"{name}.onnx").touch()
        (root / "m" / f"{name}7").mkdir()
        (root / "m" / f"{name}7" / "x.onnx").touch()
    else:
        (root / name / "1").mkdir(parents=True)
    shelf.look()
    said = [*shelf.warnings, *(version.reason for version in shelf.repository.versions())]
    assert any(said)
    for text in (*said, *shelf.repository.names()):
        assert text.isprintable()
        text.encode()


def test_many_remarks_about_one_folder_are_cut_short(root: Path, shelf: Shelf) -> None:
    bare(root)
    for number in range(100):
        (root / "m" / f"{number}.onnx").touch()
    shelf.look()
    assert len(shelf.warnings) == 21
    assert shelf.warnings[-1] == "and more like these"
