"""The access file: what it says, what is wrong with it, and that it is read again."""

import hashlib
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from frostline_server.access import credentials as credentials_module
from frostline_server.access.credentials import Credentials
from frostline_server.errors import RateLimited, StartError

SECRET = "correct-horse-battery-staple"


def table(name: str, token: str, more: str = "") -> str:
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nroles = ["predict"]\n{more}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(table("one", "first"))
    return path


@pytest.fixture
def store(file: Path) -> Credentials:
    credentials = Credentials(file)
    credentials.start()
    credentials.close()  # the tests look themselves
    return credentials


def named(store: Credentials, token: str) -> str:
    found = store.of_token(token.encode())
    return found.name if found else ""


def test_a_changed_file_is_read_and_whoever_remembers_is_told(store: Credentials, file: Path) -> None:
    store.look()
    assert store.generation == 0
    file.write_text(table("two", "second"))
    with capture_logs() as logged:
        store.look()
    assert (store.generation, named(store, "first"), named(store, "second")) == (1, "", "two")
    assert [(line["event"], line["log_level"], line["files"]) for line in logged] == [("access", "info", [str(file)])]


def test_a_link_that_is_swapped_is_a_change_too(tmp_path: Path) -> None:
    # As Kubernetes mounts a secret: the file is a link through a link that is replaced.
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "access.toml").write_text(table(name, name))
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "access.toml").symlink_to("data/access.toml")
    store = Credentials(tmp_path / "access.toml")
    store.start()
    store.close()
    assert named(store, "one") == "one"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    store.look()
    assert (named(store, "one"), named(store, "two")) == ("", "two")


@pytest.mark.parametrize(
    "broken", ["[[tokens", "tokens = 3", None, "a = " + "[" * 10_000, "a = " + "9" * 5000, "#" * (9 << 20)]
)
def test_a_broken_file_is_logged_once_and_the_last_one_stays(
    store: Credentials, file: Path, broken: str | None
) -> None:
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    with capture_logs() as logged:
        store.look()
        store.look()
    assert [(line["event"], line["log_level"]) for line in logged] == [("access", "error")]
    assert logged[0]["reason"].endswith("; the last one that was valid stays in use")
    assert (named(store, "first"), store.generation) == ("one", 0)
    file.write_text(table("two", "second"))
    store.look()
    assert (named(store, "second"), store.generation) == ("two", 1)


def test_the_thread_looks_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_module, "LOOK_S", 0.005)
    store = Credentials(file)
    store.start()
    file.write_text(table("two", "second"))
    for _ in range(6000):
        if store.generation or store._stopped.wait(0.005):
            break
    store.close()
    assert named(store, "second") == "two"


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^cannot read the access file .*absent.toml.*No such file"):
        Credentials(tmp_path / "absent.toml").start()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (table("x", "t").replace("predict", "admin"), "tokens.0.roles.0 must be a list of at least one of predict, observe and control"),
        (table("", "t"), "tokens.0.name: string should have at least 1 character"),
        (table("x", "t").replace("sha256", "token"), "tokens.0.sha256 is missing; there is no setting 'tokens.0.token'"),
        (f'[[tokens]]\nname = "x"\nsha256 = "{SECRET}"\nroles = ["predict"]', "tokens.0.sha256 must be 64 hexadecimal digits, the SHA-256 of a token; `frostline token` makes both"),
        (table("x", "t", "requests_per_s = 0"), "tokens.0.requests_per_s: input should be greater than 0"),
        (table("x", "t", "requests_per_s = 5\nburst = 0.5"), "tokens.0.burst: input should be greater than or equal to 1"),
        (table("x", "t") * 2, "the token of 'x' is there twice"),
        (table("anonymous", "t"), "the name 'anonymous' is taken"),
        ('[[certificates]]\nname = "x"\nsubjects = []\nroles = ["predict"]', "certificates.0.subjects: list should have at least 1 item"),
        ("[tokens]\nx = 1", "tokens: input should be a valid list"),
        ("x = " + "[" * 700, "it is nested too deeply"),
        ("x = " + "1" * 5000, "Exceeds the limit"),
        (f'secret = "{SECRET}"', "there is no setting 'secret'"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_stops_the_start_with_its_place_and_without_its_secrets(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(StartError) as caught:
        Credentials(tmp_path / "a.toml").start()
    assert f"the access file {tmp_path / 'a.toml'} is not valid: " in str(caught.value)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_text_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="it is not UTF-8 text"):
        Credentials(tmp_path / "a.toml").start()


def test_two_tokens_may_have_one_name_so_that_one_can_follow_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(table("shop", "old") + table("shop", "new"))
    store = Credentials(tmp_path / "a.toml")
    store.start()
    store.close()
    assert named(store, "old") == named(store, "new") == "shop"


def test_a_limit_that_has_not_changed_goes_on_over_a_change_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(table("shop", "t", "requests_per_s = 1\nburst = 1"))
    store = Credentials(file)
    store.start()
    store.close()

    def admit() -> None:
        found = store.of_token(b"t")
        assert found is not None
        found.admit(10.0)

    admit()
    file.write_text(table("shop", "t", "requests_per_s = 1\nburst = 1") + table("other", "o"))
    store.look()
    with pytest.raises(RateLimited):
        admit()
    file.write_text(table("shop", "t", "requests_per_s = 100\nburst = 1"))
    store.look()
    admit()


def test_a_pipe_is_no_access_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(StartError, match=r"^cannot read the access file .*a.toml: .*Not a regular file"):
        Credentials(tmp_path / "a.toml").start()
