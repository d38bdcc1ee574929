"""The examples in docs/training.md run as they stand, and its table is what `make recipes` writes."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from frostline_training import table
from frostline_training.config import RECIPES

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


def _example(having: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    (found,) = [block for block in blocks if having in block]
    return str(found)


@pytest.mark.parametrize(
    ("having", "name"),
    [
        ("class BasicBlock", "resnet-digits"),
        ("class PictureAndFacts", "picture-and-facts"),
        ("class Churn", "my-churn"),
        ("class Bag", "bag"),
    ],
)
def test_a_whole_example_publishes_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], having: str, name: str
) -> None:
    script = tmp_path / "example.py"
    script.write_text(_example(having), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # Weights at random may give answers that look like probabilities, which are asked about.
    torch.manual_seed(0)
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "models" / name / "1" / "model.onnx").exists()
    if name == "resnet-digits":
        version, accuracy, difference = capsys.readouterr().out.split()
        assert (version, float(accuracy) > 0.9, float(difference) < 1e-4) == ("1", True, True)


@pytest.mark.parametrize("name", ["churn", "parcels"])
def test_the_recipe_for_a_users_own_table_is_a_recipe(name: str) -> None:
    values: dict[str, object] = {}
    exec(_example(f'name="{name}",\n    data=CsvFile('), values)
    assert type(values["recipe"]).__name__ == "Recipe"


def test_the_table_goes_between_its_markers_and_nowhere_else() -> None:
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    line = ("`a`", *"bcdefghi")
    written = table.with_table(text, [line])
    assert written.startswith(f"before\n{table.BEGIN}\n\n| recipe |")
    assert written.endswith(f"| `a` | b | c | d | e | f | g | h | i |\n\n{table.END}\nafter\n")
    assert table.with_table(written, [line]) == written


def test_a_document_without_the_markers_is_not_touched() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        table.with_table("nothing", [])


def test_a_recipes_line_says_how_it_did(tmp_path: Path) -> None:
    quick = RECIPES["iris"].model_copy(
        update={"hyperparameters": RECIPES["iris"].hyperparameters.model_copy(update={"epochs": 3})}
    )
    line = table.measure(quick, tmp_path)
    assert line[:4] == ("`iris`", "mlp", "iris", "1,315")
    assert line[5].endswith(" of 30")
    assert line[6] == "33.3%"  # of the same 30 rows: 10 have the class that most training rows have
    assert len(line) == len(table._HEADER)


def test_the_line_of_one_recipe_is_written_beside_those_that_stay(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    text = DOCUMENT.read_text(encoding="utf-8")
    document.write_text(text, encoding="utf-8")
    table.main(document, ["iris"])
    before, after = (table.lines_of(each) for each in (text, document.read_text(encoding="utf-8")))
    assert after.pop("iris")[5] == before.pop("iris")[5]
    assert after == before


def test_every_recipe_has_its_line_in_the_document() -> None:
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(table.BEGIN)
    lines = rest.partition(table.END)[0]
    assert re.findall(r"^\| `(\S+)` \|", lines, flags=re.MULTILINE) == list(RECIPES)
