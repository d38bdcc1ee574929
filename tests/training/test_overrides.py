"""Recipes changed on the command line, and recipes in files."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from frostline_training.config import Cnn, LeastCost, Rnn, find_recipe
from frostline_training.errors import SettingError, UnknownRecipeError
from frostline_training.overrides import choose, precisions, settings, with_settings
from frostline_training.sources import CsvFile


def test_settings_are_found_wherever_they_belong_and_keep_their_type() -> None:
    recipe = choose("digits-lstm", ["epochs=5", "learning_rate=1e-4", "hidden=64,32", "bidirectional=false", "seed=9"])
    assert isinstance(recipe.network, Rnn)
    assert (recipe.network.hidden, recipe.network.bidirectional, recipe.network.kind) == ((64, 32), False, "lstm")
    assert (recipe.hyperparameters.epochs, recipe.hyperparameters.learning_rate, recipe.seed) == (5, 1e-4, 9)


def test_a_whole_number_is_a_number_and_a_truth_may_be_pythons() -> None:
    changed = choose("digits", ["learning_rate=1", "calibrate=False", "baselines=no", "class_weights=1"])
    assert changed.hyperparameters.learning_rate == 1
    assert (changed.calibrate, changed.baselines, changed.hyperparameters.class_weights) == (False, False, True)


def test_no_layers_can_be_said() -> None:
    network = choose("digits", ["hidden="]).network
    assert isinstance(network, Cnn)
    assert network.hidden == ()


def test_what_is_not_named_stays() -> None:
    recipe = find_recipe("digits")
    assert with_settings(recipe, []) == recipe
    assert settings(with_settings(recipe, ["epochs=1"])) == settings(recipe) | {"epochs": 1}


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("epochs=0", "epochs: Input should be greater than 0"),
        ("epochs=2.5", "epochs: Input should be a valid integer"),
        ("epochs=true", "^epochs: expected a whole number, got true$"),
        ("seed=False", "^seed: expected a whole number, got False$"),
        ("learning_rate=true", "^learning_rate: expected a number, got true$"),
        ("test=false", "^test: expected a number, got false$"),
        ("calibrate=perhaps", "calibrate: Input should be a valid boolean"),
        ('threshold={"recall": true}', r"threshold: write .* with a share above 0 and up to 1"),
        ('threshold={"cost": [1, true]}', r"threshold: write .* with the costs"),
        ("hidden=64,wide", "hidden: Input should be a valid integer"),
        ("activation=swish", "activation: Input should be 'relu', 'sigmoid', 'tanh' or 'gelu'"),
        ("validation=0.9", r"validation \(0.9\) and test \(0.2\) leave no rows"),
        ("threshold=best", r'threshold: write "max-f1", .*; not \'best\''),
        ('threshold={"recall": 1.5}', r"threshold: write .* with a share above 0 and up to 1"),
        ('threshold={"cost": [1]}', r"threshold: write .* or {\"cost\": \[1, 20\]} with the costs"),
        ("epochs", "--set epochs: write it as name=value"),
        ("name=x", "digits has no setting 'name'; there are: activation, baselines, batch_size"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(assignment: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        choose("digits", [assignment])


def test_a_setting_with_two_values_is_refused_with_both() -> None:
    with pytest.raises(SettingError, match=r"^--set epochs=1 and --set epochs=2 set the same: leave out one of them$"):
        choose("digits", ["epochs=1", "hidden=8", "epochs=2"])


def test_the_threshold_and_the_positive_class_can_be_set() -> None:
    changed = choose("breast-cancer", ['threshold={"cost": [1, 20]}', "positive=benign"])
    assert changed.threshold == LeastCost(cost=(1, 20))
    assert changed.positive == "benign"
    assert choose("breast-cancer", ["threshold=max-f1"]).threshold == "max-f1"
    for label in ("1", "true", "1.50", "null"):
        assert choose("breast-cancer", [f"positive={label}"]).positive == label
    assert choose("breast-cancer", ["positive="]).positive is None


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UnknownRecipeError, match="no recipe is called 'nowhere'"):
        choose("nowhere")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must hold one Recipe, and holds none"),
        (
            "from frostline_training.config import *; a = find_recipe('iris'); b = find_recipe('wine')",
            "one Recipe, and holds 2",
        ),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("def (", "fails: SyntaxError: invalid syntax"),
        (
            "from frostline_training.config import Mlp; Mlp(hidden=(0,))",
            "Mlp, hidden.0: Input should be greater than 0",
        ),
    ],
)
def test_a_file_without_one_recipe_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(SettingError, match=sentence) as refusal:
        choose(str(path))
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("from training import publish", "from frostline import publish"),
        ("from training.config import Mlp, Recipe", "from frostline_training.config import Mlp, Recipe"),
        ("from training.sources import (\n    CsvFile,\n)", "from frostline_training.sources import ..."),
        ("import training.config as recipes", "import frostline_training.config as recipes"),
        ("import server.app", "import frostline_server.app"),
        ("def later():\n    from server import config\nlater()", "from frostline_server import config"),
    ],
)
def test_an_import_of_version_0_1_is_refused_with_what_to_write_now(tmp_path: Path, text: str, instead: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(SettingError) as refusal:
        choose(str(path))
    assert str(refusal.value).startswith(f"{path} fails: ")
    assert "Error: " in str(refusal.value)
    assert str(refusal.value).endswith(f"; since version 0.2, write: {instead}")


def test_an_old_import_that_finds_a_package_of_the_users_is_refused_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "training", ModuleType("training"))
    path = tmp_path / "mine.py"
    path.write_text("from training import publish")
    with pytest.raises(SettingError, match=r"ImportError: cannot import name 'publish'.*write: from frostline import"):
        choose(str(path))


def test_another_import_that_fails_is_not_called_an_old_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import trainings")
    with pytest.raises(SettingError, match=r"No module named 'trainings'$"):
        choose(str(path))


def test_precisions_are_known_and_each_once() -> None:
    assert precisions(["int8", "fp16", "int8"]) == ("fp16", "int8")
    with pytest.raises(SettingError, match="precision 'fp4' is not one of fp16, int8"):
        precisions(["fp4"])


@pytest.mark.parametrize(("written", "read"), [("rows.csv", "{folder}/rows.csv"), ("/data/rows.csv", "/data/rows.csv")])
def test_a_path_is_relative_to_the_recipes_file(tmp_path: Path, written: str, read: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from frostline_training.config import Mlp, Recipe\nfrom frostline_training.sources import CsvFile\n"
        f"recipe = Recipe(name='mine', data=CsvFile(path={written!r}, target='y'), network=Mlp())\n"
    )
    chosen = choose(str(path), ["epochs=2"]).data
    assert isinstance(chosen, CsvFile)
    assert chosen.path == Path(read.format(folder=tmp_path))
