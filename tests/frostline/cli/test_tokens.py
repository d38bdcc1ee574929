"""`frostline token`: a token that is shown once, and an entry that does not show it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from frostline.cli import main as cli
from frostline_server.access.credentials import Credentials


def owner(file: Path, token: str) -> tuple[str, list[str]]:
    """Whose a token is, for a server with this file."""
    store = Credentials(file)
    store.start()
    store.close()
    found = store.of_token(token.encode())
    assert found is not None
    return found.name, sorted(found.roles)


def test_the_token_is_all_of_standard_output_and_the_entry_is_shown_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["token", "shop", "--roles", "predict, observe", "--requests-per-s", "5"]) == 0
    shown = capsys.readouterr()
    token = shown.out.removesuffix("\n")
    assert token.startswith("frostline_")
    assert len(token) >= 50
    assert token not in shown.err
    sentence, _, entry = shown.err.partition("\n\n")
    assert sentence == "the token of shop, shown only here; add this to the access file of the server:"
    (tmp_path / "access.toml").write_text(entry)
    assert owner(tmp_path / "access.toml", token) == ("shop", ["observe", "predict"])
    assert tomllib.loads(entry)["tokens"][0]["requests_per_s"] == 5


def test_entries_are_added_to_a_file_and_what_is_there_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "access.toml"
    tokens = []
    for name, roles in (("shop", "predict"), ('o\'neil "jo"', "control")):
        assert cli.run(["token", name, "--roles", roles, "--file", str(file)]) == 0
        shown = capsys.readouterr()
        tokens.append(shown.out.strip())
        assert shown.err == f"the token of {name}, shown only here; added to {file}\n"
    inode = file.stat().st_ino
    file.write_text("# ours\n" + file.read_text() + "# no line end")
    assert cli.run(["token", "third", "--file", str(file)]) == 0
    assert file.read_text().startswith("# ours\n[[tokens]]")
    assert file.stat().st_ino == inode
    assert [owner(file, token) for token in tokens] == [("shop", ["predict"]), ('o\'neil "jo"', ["control"])]
    assert owner(file, capsys.readouterr().out.strip()) == ("third", ["predict"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--roles", "root"], "roles.0 must be a list of at least one of predict, observe and control"),
        (["x", "--roles", ""], "roles must be a list of at least one of predict, observe and control"),
        (["anonymous"], "the name 'anonymous' is taken; choose another"),
        (["", "--roles", "predict"], "tokens.0.name: string should have at least 1 character"),
        (["x", "--burst", "3"], "--burst has no effect without --requests-per-s"),
        (["x", "--requests-per-s", "-1"], "requests_per_s: input should be greater than 0"),
        (["x", "--file", "/no/such/folder/access.toml"], "cannot add the token to /no/such/folder/access.toml"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_and_no_token_is_shown(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert cli.run(["token", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err


def test_a_file_that_is_not_valid_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "access.toml"
    file.write_text("tokens = []\n")
    assert cli.run(["token", "x", "--file", str(file)]) == 2
    assert "with the new entry is not valid" in capsys.readouterr().err
    assert file.read_text() == "tokens = []\n"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Runs `frostline ...` in a shell, which can close or redirect its standard output."""
    line = f'"{sys.executable}" -m {command}'
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("before", [None, "", "# ours\n", "# no line end"])
@pytest.mark.parametrize(
    ("output", "says"), [(">/dev/full", "No space left on device"), (">&-", "standard output is closed")]
)
def test_a_token_that_cannot_be_shown_has_no_entry(tmp_path: Path, before: str | None, output: str, says: str) -> None:
    file = tmp_path / "access.toml"
    if before is not None:
        file.write_text(before)
    done = shell(f'frostline token shop --file "{file}" {output}')
    assert done.returncode == 1
    assert done.stderr.startswith("frostline: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert (file.read_text() if file.exists() else None) == before
