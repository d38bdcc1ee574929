"""The table of recipes in docs/training.md, made by `make recipes`.

It trains every built-in recipe and writes the results into the document.
"""

import io
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from frostline_training import pipeline
from frostline_training.config import RECIPES, Recipe

BEGIN = "<!-- recipes: written by `make recipes` -->"
END = "<!-- end of recipes -->"

_HEADER = (
    "recipe",
    "network",
    "data",
    "parameters",
    "seconds",
    "test accuracy",
    "majority",
    "export difference",
    "size",
)


def measure(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Train, prove and publish `recipe` inside `folder`, and return its line of the table."""
    started = time.perf_counter()
    published = pipeline.run(recipe, models=folder, device="cpu", console=Console(file=io.StringIO()), runs=None)
    seconds = time.perf_counter() - started
    card: Mapping[str, dict[str, float]] = json.loads((published.path / "card.json").read_text(encoding="utf-8"))
    kind = getattr(recipe.network, "kind", recipe.network.family)
    size = (published.path / "model.onnx").stat().st_size
    return (
        f"`{recipe.name}`",
        str(kind),
        str(card["data"]["name"]),
        f"{card['parameters']:,}",
        f"{seconds:.0f}",
        f"{published.accuracy:.1%} of {published.rows}",
        f"{card['data']['majority_baseline']:.1%}",
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


def main(document: Path) -> None:
    """Write the table of all built-in recipes into `document`."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RECIPES.values():
            lines.append(measure(recipe, Path(folder)))
            sys.stdout.write("  ".join(lines[-1]) + "\n")
            sys.stdout.flush()
    document.write_text(with_table(document.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path("docs/training.md"))
