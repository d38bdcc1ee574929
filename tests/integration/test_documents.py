"""The documents for users and contributors: their links lead somewhere, and their lines are short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models/README.md", *sorted(ROOT.glob("docs/*.md"))]
SHORT = [
    ROOT / name for name in ("README.md", "models/README.md", "docs/clients.md", "docs/concepts.md", "docs/training.md")
]


def name_of(path: Path) -> str:
    """A page by its path in the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that a code host makes from a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if "://" not in target and (not linked.exists() or (anchor and anchor not in anchors(linked))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", SHORT, ids=name_of)
def test_no_line_is_longer_than_120_characters(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, start=1) if len(line) > 120] == []


@pytest.mark.parametrize("page", sorted(set(PAGES) - set(SHORT)), ids=name_of)
def test_no_sentence_is_on_a_line_of_more_than_120_characters(page: Path) -> None:
    written = re.sub(r"^<!-- (?:bench|settings): .*?^<!-- end of ", "", prose(page), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in written.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 120] == []
