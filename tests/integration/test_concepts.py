"""docs/concepts.md quotes the code: every quoted line exists in the file that the page names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts.md"
FAMILIES = "training/frostline_training/networks/families.py"


def code(path: str) -> set[str]:
    """The lines of a file, without indentation and trailing comments."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return {line.partition("  #")[0].strip() for line in lines}


def test_every_quoted_line_of_code_stands_in_the_file_that_the_page_names() -> None:
    quotes = re.findall(
        r"^`(\S+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(quotes) >= 13
    assert [(path, line) for path, lines in quotes for line in lines.splitlines() if line not in code(path)] == []


def test_every_block_of_code_names_its_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^`\S+\.py`:\n\n```python", text, re.MULTILINE)) == text.count("```python")


def test_every_network_family_is_named_with_the_code_that_builds_it() -> None:
    families = PAGE.read_text(encoding="utf-8").partition("three more kinds of network")[2].partition("![")[0]
    quoted = re.findall(r"`([^`]+)`", families)
    assert len(quoted) == 5
    assert [line for line in quoted if line not in code(FAMILIES)] == []


def test_the_page_shows_four_pictures() -> None:
    assert len(re.findall(r"!\[[^\]]+\]\(images/[a-z-]+\.png\)", PAGE.read_text(encoding="utf-8"))) == 4
