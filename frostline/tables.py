"""Text output: predictions and models as tables, JSON and CSV."""

import csv
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from frostline.client.catalog import Model

if TYPE_CHECKING:
    from rich.table import Table

# For each row its best classes: label or index, and probability.
RankedRows = Sequence[tuple[tuple[str | int, float], ...]]


def write_predictions(rows: RankedRows, sources: Sequence[str], model: Model, form: str, out: TextIO) -> None:
    """Writes the best classes of each row.

    Args:
        rows: The classes.
        sources: The file each row is from; shown when there are several.
        model: Who predicted.
        form: `table`, `json` or `csv`.
        out: Where to write.
    """
    if form == "json":
        document = {
            "model": model.name,
            "version": model.version,
            "rows": [
                {"row": number, "input": source, "top": [{"prediction": what, "probability": p} for what, p in row]}
                for number, (row, source) in enumerate(zip(rows, sources, strict=True))
            ],
        }
        out.write(json.dumps(document) + "\n")
        return
    several = len(set(sources)) > 1
    ranked = max((len(row) for row in rows), default=0) > 1
    header = ["row", *["input"] * several, *["rank"] * ranked, "prediction", "probability"]
    lines = [
        [str(number), *[source] * several, *[str(rank)] * ranked, str(what), f"{p:.4f}" if form == "table" else repr(p)]
        for number, (row, source) in enumerate(zip(rows, sources, strict=True))
        for rank, (what, p) in enumerate(row, start=1)
    ]
    if form == "csv":
        csv.writer(out, lineterminator="\n").writerows([header, *lines])
    else:
        write_table(header, lines, out, numbers=("row", "rank", "probability"))


def write_models(models: Sequence[Model], form: str, out: TextIO) -> None:
    """Writes what a server has.

    Args:
        models: The model versions.
        form: `table` or `json`.
        out: Where to write.
    """
    if form == "json":
        documents = [
            {
                "name": m.name,
                "version": m.version,
                "state": m.state,
                "reason": m.reason,
                "inputs": list(map(str, m.inputs)),
                "version_labels": list(m.version_labels),
                "share": m.share,
                "shadow_of": m.shadow_of,
                "rollout_problem": m.rollout_problem,
            }
            for m in models
        ]
        out.write(json.dumps(documents) + "\n")
        return
    rollout = any(m.version_labels or m.shadow_of for m in models)
    lines = [
        [m.name, m.version, m.state, *[_part(m)] * rollout, m.reason or "; ".join(map(str, m.inputs))] for m in models
    ]
    header = ["name", "version", "state", *["traffic"] * rollout, "input, or the reason"]
    write_table(header, lines, out, numbers=("version",))
    problems = dict.fromkeys((m.name, m.rollout_problem) for m in models if m.rollout_problem)
    out.writelines(f"{name}: {problem}\n" for name, problem in problems)


def _part(model: Model) -> str:
    """A version's part in a rollout."""
    share = f"{100 * model.share:.4g} %" if model.share else ""
    shadow = f"shadow of {model.shadow_of}" if model.shadow_of else ""
    return ", ".join(filter(None, [share, *model.version_labels, shadow]))


def write_table(
    header: Sequence[str], lines: Sequence[Sequence[str]], out: TextIO, numbers: Sequence[str] = ()
) -> None:
    """Writes a table.

    Args:
        header: The columns' names.
        lines: The cells.
        out: Where to write.
        numbers: The columns to set flush right.
    """
    # Only people's tables need it, and importing it takes as long as a prediction.
    from rich.console import Console  # noqa: PLC0415

    Console(file=out, highlight=False).print(table(header, lines, numbers))


def table(header: Sequence[str], lines: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> "Table":
    """Makes a table without frames.

    Args:
        header: The columns' names.
        lines: The cells, in which nothing is markup.
        numbers: The columns to set flush right.

    Returns:
        Rich's table.
    """
    # As above.
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name in header:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for line in lines:
        made.add_row(*map(Text, line))
    return made
