"""docs/architecture.md against the repository: the paths it names, the modules on its map, its table of changes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
SERVER = ROOT / "server" / "frostline_server"
TRAINING = ROOT / "training" / "frostline_training"
NAMED = re.compile(r"(?<![\w/.*<])(?:[\w.-]+/)*(?:[\w-]+\.(?:py|proto|md|yml|cc)|(?<=/))(?![\w/])")


def section(title: str) -> str:
    """The text below a heading of the second level."""
    return DOCUMENT.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def rooms(text: str) -> dict[str, set[str]]:
    """The modules that the list items of a map name, by room; the room of the folder itself is ""."""
    items = re.findall(r"^- \*\*(?:`([\w/]+)/`|top)\*\*:((?:.|\n(?!- |\n))*)", text, flags=re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", modules))) for room, modules in items}


def modules(folder: Path) -> dict[str, set[str]]:
    """The modules of a package and of the packages in it, by package."""
    packages = {str(path.parent.relative_to(folder)): path.parent for path in folder.rglob("__init__.py")}
    packages[""] = packages.pop(".")
    return {
        room: {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
        for room, package in packages.items()
    }


def test_every_path_that_the_document_names_exists() -> None:
    named = set(NAMED.findall(DOCUMENT.read_text(encoding="utf-8")))
    assert len(named) > 60
    bases = (ROOT, SERVER, TRAINING, DOCUMENT.parent)
    assert sorted(path for path in named if not any((base / path).exists() for base in bases)) == []


@pytest.mark.parametrize(("title", "folder"), [("The server", SERVER), ("Training", TRAINING)])
def test_the_map_names_every_module_in_its_room_and_no_other(title: str, folder: Path) -> None:
    assert rooms(section(title)) == modules(folder)


def test_every_row_of_the_table_of_changes_names_a_file_or_folder() -> None:
    table = section("The server").split("### To change X, open Y")[1].split("\n### ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    assert [change for change, *files in rows if not NAMED.search(" ".join(files))] == []
