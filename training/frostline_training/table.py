"""The table of recipes in docs/training.md, made by `make recipes`.

It trains every built-in recipe, or those that are named, and writes the results into the document.
"""

import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from frostline_training import pipeline, report
from frostline_training.config import RECIPES, Recipe

BEGIN = "<!-- recipes: written by `make recipes` -->"
END = "<!-- end of recipes -->"

_HEADER = (
    "recipe",
    "network",
    "data",
    "parameters",
    "seconds",
    "test score",
    "baseline",
    "export difference",
    "size",
)


def measure(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Train, prove and publish `recipe` inside `folder`, and return its line of the table."""
    started = time.perf_counter()
    published = pipeline.run(recipe, models=folder, device="cpu", console=Console(file=io.StringIO()), runs=None)
    seconds = time.perf_counter() - started
    card: Mapping[str, Any] = json.loads((published.path / "card.json").read_text(encoding="utf-8"))
    scores = card["scores"]
    key = next(key for key in scores if key.startswith("test_"))
    name = "" if key == "test_accuracy" else f"{report.WORDS[key.removeprefix('test_')]} "
    simplest = next(iter(scores["baselines"].values()))[key]
    kind = getattr(recipe.network, "kind", recipe.network.family)
    size = (published.path / "model.onnx").stat().st_size
    return (
        f"`{recipe.name}`",
        str(kind),
        str(card["data"]["name"]),
        f"{card['parameters']:,}",
        f"{seconds:.0f}",
        f"{name}{scores[key]:.1%} of {published.rows}",
        f"{simplest:.1%}",
        f"{published.max_abs_difference:.0e}",
        f"{size / 1000:.0f} kB",
    )


def with_table(text: str, lines: list[tuple[str, ...]]) -> str:
    """Return `text` with the table of `lines` between its two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}")
    table = [f"| {' | '.join(cells)} |" for cells in (_HEADER, ("---",) * len(_HEADER), *lines)]
    return "\n".join([f"{before}{begin}", "", *table, "", f"{end}{after}"])


def lines_of(text: str) -> dict[str, tuple[str, ...]]:
    """Return the lines of the table in `text`, by the names of the recipes."""
    written = text.partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [
        tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in written if line.startswith("| `")
    ]
    return {each[0].strip("`"): each for each in cells}


def main(document: Path, names: Sequence[str]) -> None:
    """Write the table of all built-in recipes into `document`; lines of recipes that are not in `names` stay, if some are."""
    text = document.read_text(encoding="utf-8")
    lines = lines_of(text) if names else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or RECIPES:
            lines[name] = measure(RECIPES[name], Path(folder))
            sys.stdout.write("  ".join(lines[name]) + "\n")
            sys.stdout.flush()
    document.write_text(with_table(text, [lines[name] for name in RECIPES if name in lines]), encoding="utf-8")


if __name__ == "__main__":
    main(Path("docs/training.md"), sys.argv[1:])
