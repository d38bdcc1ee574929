"""Text output: predictions and models as tables, JSON and CSV."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from frostline.client.catalog import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table


@dataclass(frozen=True)
class PredictedRow:
    """What a model answered for one row.

    Attributes:
        source: The file that the row is from.
        number: Its number in that file, from 0.
        probabilities: The probability of each class, in the network's own precision.
        decided: The class that a threshold of the model decides on; None where the most probable class is the answer.
    """

    source: str
    number: int
    probabilities: "NDArray[Any]"
    decided: int | None = None

    @property
    def id(self) -> str:
        """The file and the number."""
        return f"{self.source}:{self.number}"

    def best(self, count: int) -> list[int]:
        """The most probable classes, the best first and the lower index first on a tie."""
        return [int(index) for index in (-self.probabilities).argsort(kind="stable")[:count]]

    def answer(self, top: int | None) -> list[int]:
        """The classes to write: the answer, or the `top` most probable."""
        return self.best(top or 1) if top is not None or self.decided is None else [self.decided]


def write_predictions(
    rows: Sequence[PredictedRow], labels: Sequence[str], model: Model, form: str, out: TextIO, *, top: int | None = None
) -> None:
    """Writes what was predicted for each row.

    As a table or CSV that is a line for each row, with the probability of every class; or with `top`, a line for each of
    the row's best classes. A table leaves out all but the best class where the line has no room. JSON has the best classes, and null
    for a probability that is no finite number.

    Args:
        rows: The rows.
        labels: The names of the classes, in their order; without one, a class goes by its index.
        model: Who predicted.
        form: `table`, `json` or `csv`.
        out: Where to write.
        top: How many of the most probable classes to write; None for the best, beside the probabilities of all.
    """

    def name(index: int) -> str | int:
        return (labels[index] if index < len(labels) else "") or index

    if form == "json":
        document = {
            "model": model.name,
            "version": model.version,
            "rows": [
                {
                    "row": number,
                    "input": row.source,
                    "id": row.id,
                    "top": [
                        {"prediction": name(index), "probability": _json_number(row.probabilities[index])}
                        for index in row.answer(top)
                    ],
                }
                for number, row in enumerate(rows)
            ],
        }
        out.write(json.dumps(document, allow_nan=False) + "\n")
        return

    def number(value: Any) -> str:
        # NumPy's text is the shortest that no other number of the same precision has.
        return f"{value:.4f}" if form == "table" else str(value)

    classes = max((len(row.probabilities) for row in rows), default=0)
    if top is not None:
        header = ["id", "rank", "prediction", "probability"]
        lines = [
            [row.id, str(rank), str(name(index)), number(row.probabilities[index])]
            for row in rows
            for rank, index in enumerate(row.best(top), start=1)
        ]
    else:
        header = _header([labels[index] if index < len(labels) else "" for index in range(classes)])
        lines = []
        for row in rows:
            best = [[str(name(index)), number(row.probabilities[index])] for index in row.answer(None)] or [["", ""]]
            each = [number(p) for p in row.probabilities]
            lines.append([row.id, *best[0], *each, *[""] * (classes - len(each))])
    if form == "csv":
        csv.writer(out, lineterminator="\n").writerows([header, *lines])
        return
    if top is None and not _fits(header, lines, out):
        header, lines = header[:3], [line[:3] for line in lines]
    write_table(header, lines, out, numbers=("rank", *header[2 if top is None else 3 :]))


def _fits(header: Sequence[str], lines: Sequence[Sequence[str]], out: TextIO) -> bool:
    """Whether a table has room where it will be shown."""
    from rich.console import Console  # noqa: PLC0415  as for `write_table`

    gaps = 3 * (len(header) - 1)
    return sum(max(map(len, column)) for column in zip(header, *lines, strict=True)) + gaps <= Console(file=out).width


def _header(labels: Sequence[str]) -> list[str]:
    header = ["id", "prediction", "probability"]
    for index, label in enumerate(labels):
        header.append(label if label and label not in header and labels.count(label) == 1 else f"class_{index}")
    return header


def _json_number(value: Any) -> float | None:
    # JSON has neither NaN nor infinity.
    return float(str(value)) if math.isfinite(value) else None


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
