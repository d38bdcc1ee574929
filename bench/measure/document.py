"""The generated sections of docs/performance.md: each between two markers, and replaced by the next measurement."""

from pathlib import Path

DOCUMENT = Path("docs/performance.md")
IMAGES = Path("docs/images")


def begin(section: str) -> str:
    """The line before a section."""
    return f"<!-- bench: {section} -->"


def end(section: str) -> str:
    """The line after a section."""
    return f"<!-- end of {section} -->"


def with_section(text: str, section: str, body: str) -> str:
    """`text` with `body` between the markers of `section`.

    Raises:
        ValueError: the text lacks a marker.
    """
    before, first, rest = text.partition(begin(section))
    _, last, after = rest.partition(end(section))
    if not (first and last):
        raise ValueError(f"the document lacks the lines {begin(section)!r} and {end(section)!r}")
    return f"{before}{first}\n\n{body.strip()}\n\n{last}{after}"


def write(section: str, body: str, document: Path = DOCUMENT) -> None:
    """Write a section into the document."""
    document.write_text(with_section(document.read_text(encoding="utf-8"), section, body), encoding="utf-8")
