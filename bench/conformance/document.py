"""The generated sections of docs/conformance.md."""

from collections.abc import Sequence
from pathlib import Path

from bench.conformance.report import Floor, floors_table
from bench.measure import document
from bench.measure.report import Sheet

DOCUMENT = Path("docs/conformance.md")


def body(how: str, floors: Sequence[Floor], notes: Sequence[str], sheets: Sequence[Sheet]) -> str:
    """A section: what was checked, the floors, and the tables that have a row."""
    lines = "\n".join(f"- {note}" for note in notes)
    return "\n\n".join(
        [how, floors_table(floors).markdown(), lines, *(sheet.markdown() for sheet in sheets if sheet.rows)]
    )


def write(section: str, text: str, path: Path = DOCUMENT) -> None:
    """Write a section into the document."""
    document.write(section, text, path)
