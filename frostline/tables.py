"""Text output: predictions and models as tables, JSON and CSV."""

import csv
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from frostline.client.catalog import Model
from frostline.terminal import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table


@dataclass(frozen=True)
class PredictedRow:
    """What a model answered for one row.

    Attributes:
        source: The file that the row is from.
        number: Its number in that file, from 0.
        probabilities: The probability of each class or label, in the network's own precision.
        decided: What a threshold of the model decides: a class, or the labels that hold. None where the most probable class
            is the answer.
    """

    source: str
    number: int
    probabilities: "NDArray[Any]"
    decided: int | tuple[Any, ...] | None = None

    @property
    def id(self) -> str:
        """The file and the number."""
        return f"{self.source}:{self.number}"

    @property
    def answer(self) -> int | tuple[Any, ...] | None:
        """The class, or the labels that hold; None where a probability is NaN, which decides nothing."""
        if not self.probabilities.size or np.isnan(self.probabilities).any():
            return None
        return self.best(1)[0] if self.decided is None else self.decided

    def best(self, count: int) -> list[int]:
        """The most probable classes, the best first and the lower index first on a tie; none where all are NaN."""
        order = [int(index) for index in (-self.probabilities).argsort(kind="stable")[:count]]
        return [] if order and math.isnan(self.probabilities[order[0]]) else order


def write_predictions(
    rows: Sequence[PredictedRow],
    labels: Sequence[str],
    model: Model,
    form: str,
    out: TextIO,
    *,
    top: int | None = None,
    decision: str = "",
) -> None:
    """Writes what was predicted for each row.

    As a table or CSV that is a line for each row, with the probability of every class; or with `top`, a line for each of
    the row's best classes. A table leaves out all but the answer where the line has no room. JSON has the answer and the best
    classes, and null for a probability that is no finite number.

    A row whose probabilities are NaN has no answer: null in JSON, empty in CSV, and `-` in a table.

    Args:
        rows: The rows.
        labels: The names of the classes, in their order; without one, a class goes by its index.
        model: Who predicted.
        form: `table`, `json` or `csv`.
        out: Where to write.
        top: How many of the most probable classes to write; None for the best, beside the probabilities of all.
        decision: What a threshold decides for each row, `prediction` or `labels`; with `top` a column of its own. "" where the
            most probable class is the answer.
    """

    def name(index: int) -> str | int:
        return (labels[index] if index < len(labels) else "") or index

    def said(answer: int | tuple[Any, ...] | None) -> Any:
        return name(answer) if isinstance(answer, int) else answer

    if form == "json":
        entries = []
        for place, row in enumerate(rows):
            answer = row.answer
            entry = {"row": place, "input": row.source, "id": row.id, decision or "prediction": said(answer)}
            if decision != "labels":
                entry["probability"] = _json_number(row.probabilities[answer]) if isinstance(answer, int) else None
            entry["top"] = [
                {"class": name(index), "probability": _json_number(row.probabilities[index])}
                for index in row.best(top or 1)
            ]
            entries.append(entry)
        document = {"model": model.name, "version": model.version, "rows": entries}
        out.write(json.dumps(document, allow_nan=False) + "\n")
        return
    nothing = "-" if form == "table" else ""

    def number(value: Any) -> str:
        # NumPy's text is the shortest that no other number of the same precision has.
        return f"{value:.4f}" if form == "table" else str(value)

    def text(answer: int | tuple[Any, ...] | None) -> str:
        value = said(answer)
        return nothing if value is None else joined(value) if isinstance(value, tuple) else str(value)

    lines = []
    if top is not None:
        header = ["id", *[decision] * bool(decision), "rank", "class", "probability"]
        for row in rows:
            lead = [row.id, *[text(row.answer)] * bool(decision)]
            ranked = [
                (str(rank), str(name(at)), number(row.probabilities[at])) for rank, at in enumerate(row.best(top), 1)
            ]
            lines += [
                [*lead, *cells]
                for cells in ranked or [(nothing, nothing, number(math.nan) if row.probabilities.size else nothing)]
            ]
    else:
        header = ["id", "prediction", "probability"]
        classes = max((len(row.probabilities) for row in rows), default=0)
        header += column_names([labels[at] if at < len(labels) else "" for at in range(classes)], header, "class")
        for row in rows:
            answer, shares = row.answer, [number(p) for p in row.probabilities]
            chosen = shares[answer] if isinstance(answer, int) else number(math.nan) if shares else nothing
            lines.append([row.id, text(answer), chosen, *shares, *[""] * (classes - len(shares))])
    if form == "csv":
        csv.writer(out, lineterminator="\n").writerows([header, *lines])
        return
    if top is None and not fits(header, lines, out):
        header, lines = header[:3], [line[:3] for line in lines]
    write_table(header, lines, out, numbers=header[2:] if top is None else ("rank", "probability"))


def fits(header: Sequence[str], lines: Sequence[Sequence[str]], out: TextIO) -> bool:
    """Whether a table has room where it will be shown."""
    from rich.console import Console  # noqa: PLC0415  as for `write_table`

    gaps = 3 * (len(header) - 1)
    return (
        sum(max(len(visible(cell)) for cell in column) for column in zip(header, *lines, strict=True)) + gaps
        <= Console(file=out).width
    )


def column_names(names: Sequence[str], taken: Sequence[str], kind: str) -> list[str]:
    """Names for columns, of which no two are alike.

    Args:
        names: What each is called, in order; "" where it is not.
        taken: The names of other columns.
        kind: What to call a column that has no name, with its place: such as `class_0`.

    Returns:
        The names in order; one that is taken, or was there before, with the next free number: `id_2`.
    """
    given = [name or f"{kind}_{at}" for at, name in enumerate(names)]
    used, reserved, unique = set(taken), {*taken, *given}, []
    for name in given:
        free = (f"{name}_{count}" for count in itertools.count(2))
        own = next(other for other in free if other not in reserved) if name in used else name
        used.add(own)
        reserved.add(own)
        unique.append(own)
    return unique


def joined(labels: Sequence[Any]) -> str:
    """Several labels as one text: a line of CSV that `; ` separates, in which a label with a semicolon is in quotes."""
    return "; ".join(
        '"' + text.replace('"', '""') + '"' if not text or text != text.strip() or set(text) & set(';"\r\n') else text
        for text in map(str, labels)
    )


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
                "columns": list(m.columns),
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
    lines = [[m.name, m.version, m.state, *[_part(m)] * rollout, m.reason or _taken(m)] for m in models]
    header = ["name", "version", "state", *["traffic"] * rollout, "input, or the reason"]
    write_table(header, lines, out, numbers=("version",))
    problems = dict.fromkeys((m.name, m.rollout_problem) for m in models if m.rollout_problem)
    out.writelines(visible(f"{name}: {problem}") + "\n" for name, problem in problems)


def _taken(model: Model) -> str:
    """What a version takes."""
    count = len(model.columns)
    return f"{count} column{'s' * (count > 1)}" if count else "; ".join(map(str, model.inputs))


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
        lines: The cells. Nothing is markup in them or in the names, and control characters are shown.
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
        made.add_column(Text(visible(name)), justify="right" if name in numbers else "left", overflow="fold")
    for line in lines:
        made.add_row(*[Text(visible(cell)) for cell in line])
    return made
