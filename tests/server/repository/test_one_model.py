"""A models folder that is one model itself: which layouts are, how it is named, and what is refused."""

from pathlib import Path

import pytest

from frostline_server.repository.layout import why_no_folder
from frostline_server.repository.scan import Model, scan


def layout(root: Path, *files: str) -> dict[str, Model]:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return scan(root)


@pytest.mark.parametrize(
    ("root", "files", "name", "folders"),
    [
        ("digits", ["1/model.onnx", "2/model.onnx"], "digits", {1: "1", 2: "2"}),
        ("digits", ["1/model.onnx", "2/model.onnx", "warmup/row", "figures/a.png"], "digits", {1: "1", 2: "2"}),
        ("digits", ["model.onnx", "card.json", "model.onnx.data", "config.pbtxt"], "digits", {1: "."}),
        ("digits/3", ["model.onnx"], "digits", {3: "."}),
    ],
)
def test_a_folder_with_versions_or_with_a_network_right_in_it_is_one_model(
    tmp_path: Path, root: str, files: list[str], name: str, folders: dict[int, str]
) -> None:
    (model,) = layout(tmp_path / root, *files).values()
    assert (model.name, model.problem, model.remarks) == (name, "", ())
    assert {number: model.version_folder(number) for number in model.versions} == {
        number: tmp_path / root / folder for number, folder in folders.items()
    }


@pytest.mark.parametrize("file", ["model.onnx", "1/model.onnx"])
def test_one_model_has_the_name_that_it_is_given(tmp_path: Path, file: str) -> None:
    layout(tmp_path, file)
    assert list(scan(tmp_path, name="fraud")) == ["fraud"]


def test_a_model_whose_name_is_a_number_is_a_model_in_a_folder_of_models(tmp_path: Path) -> None:
    found = layout(tmp_path, "1/1/model.onnx", "2/1/model.onnx")
    assert [(model.name, list(model.versions)) for model in found.values()] == [("1", [1]), ("2", [1])]


@pytest.mark.parametrize("file", ["model.onnx", "1/model.onnx"])
def test_a_folder_that_is_a_model_and_holds_models_says_so_and_serves_those(tmp_path: Path, file: str) -> None:
    found = layout(tmp_path / "mixed", file, "digits/1/model.onnx")
    assert found["mixed"].problem == (
        f"the folder {tmp_path}/mixed is a model itself, because model.onnx or versions lie right in it, and it holds "
        "models, such as 'digits'; put each model into a folder of its own, as <name>/<version>/model.onnx"
    )
    assert [name for name, model in found.items() if not model.problem] == ["digits"]


def test_a_network_beside_the_versions_of_one_model_is_remarked(tmp_path: Path) -> None:
    (model,) = layout(tmp_path, "1/model.onnx", "model.onnx").values()
    assert list(model.versions) == [1]
    assert model.remarks == (
        "'model.onnx' is not served, because it is in no version's folder; move it to 2/model.onnx",
    )


def test_a_configuration_that_names_another_model_says_which_setting_names_this_one(tmp_path: Path) -> None:
    layout(tmp_path, "model.onnx")
    (tmp_path / "config.pbtxt").write_text('name: "digits"')
    assert scan(tmp_path, name="fraud")["fraud"].problem == (
        "config.pbtxt names the model 'digits', but model_name is 'fraud'"
    )
    assert scan(tmp_path, name="digits")["digits"].problem == ""


def test_one_model_is_looked_at_by_its_name_and_changes_with_its_files(tmp_path: Path) -> None:
    before = layout(tmp_path, "model.onnx", "config.pbtxt")
    (name,) = before
    assert scan(tmp_path, before, only=name) == before
    (tmp_path / "model.onnx").write_text("another")
    after = scan(tmp_path, before, only=name)
    assert after[name].versions != before[name].versions
    (tmp_path / "model.onnx").unlink()
    assert scan(tmp_path, after, only=name) == {}


def test_versions_that_are_written_anew_stay_versions(tmp_path: Path) -> None:
    before = layout(tmp_path, "1/model.onnx")
    (tmp_path / "1" / "model.onnx").rename(tmp_path / "1" / "card.json")
    assert list(scan(tmp_path, before)) == list(before)
    # Without a past, nothing says that this is a version.
    assert list(scan(tmp_path)) == ["1"]


def test_a_path_that_is_no_folder_is_called_so_with_the_folder_to_give(tmp_path: Path) -> None:
    version = tmp_path / "digits" / "1"
    version.mkdir(parents=True)
    for file in (version / "model.onnx", version / "card.json", tmp_path / "model.onnx"):
        file.touch()

    assert why_no_folder(tmp_path) == ""
    nowhere = tmp_path / "nowhere"
    assert why_no_folder(nowhere) == f"no such models folder: {nowhere}; train one with `frostline train digits`"
    for path in (Path("/dev/null"), version / "card.json"):
        assert why_no_folder(path).startswith(f"{path} is no folder; `models` is the folder that has <name>/<version>/")
        assert "for this file" not in why_no_folder(path)
    assert why_no_folder(version / "model.onnx").endswith(f": for this file, {tmp_path} or {tmp_path / 'digits'}")
    assert why_no_folder(tmp_path / "model.onnx").endswith(f": for this file, {tmp_path}")


def test_a_file_is_named_from_where_the_server_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    (tmp_path / "digits" / "1" / "model.onnx").touch()
    monkeypatch.chdir(tmp_path / "digits" / "1")
    assert why_no_folder(Path("model.onnx")).endswith(f"{tmp_path} or {tmp_path / 'digits'}")
