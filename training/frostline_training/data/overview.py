"""The overview of a user's data, printed before training: what each column was taken for, and what was left out."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from frostline_training.data.rows import Dataset, Inferred

_MOST_ROWS = 60  # of a table on a terminal; the card has all of them


def overview(dataset: Dataset) -> list[RenderableType]:
    """Return what to print of `dataset`: a table of its columns, if it has a schema, and its notes."""
    parts: list[RenderableType] = []
    if dataset.schema:
        table = Table(title=f"columns of {dataset.name}", title_justify="left")
        for name in ("column", "type", "missing", "values"):
            table.add_column(name, justify="right" if name == "missing" else "left", overflow="fold")
        for row in rows(dataset)[:_MOST_ROWS]:
            table.add_row(*(Text(cell) for cell in row))
        if len(dataset.schema) > _MOST_ROWS:
            table.caption = f"and {len(dataset.schema) - _MOST_ROWS} more"
        parts.append(table)
    return [*parts, *(Text(f"{note}.") for note in dataset.notes)]


def rows(dataset: Dataset) -> list[tuple[str, str, str, str]]:
    """Return each column of the user's file as texts: its name, its type, how many cells are missing, its values."""
    return [(column.name, column.kind, str(column.missing or ""), _values(column)) for column in dataset.schema]


def _values(column: Inferred) -> str:
    if column.categories is not None:
        left = column.categories - len(column.examples)
        return f"{column.categories}: {', '.join(column.examples)}{f' and {left} more' if left else ''}"
    return "" if column.lowest is None else f"{column.lowest} to {column.highest}"
