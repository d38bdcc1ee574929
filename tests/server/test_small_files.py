"""Small files of the operator's: what is none is refused at once."""

import os
from pathlib import Path

import pytest

from frostline_server.access.access_file import Entries, read
from frostline_server.errors import StartError
from frostline_server.reloaded import Reloaded
from frostline_server.rpc.certificate import Certificate
from frostline_server.small_files import MAX_BYTES, read_small
from frostline_server.tls import server_context
from tests.support.https import Files


def pipe(path: Path) -> Path:
    """A pipe that nobody writes into."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_small(tmp_path / "link") == b"content"


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "folder"])
def test_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        pipe(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        path.write_bytes(bytes(MAX_BYTES + 1))
    else:
        path.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"Not a regular file|Larger than") as caught:
        read_small(path)
    assert str(path) in str(caught.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_pipe_in_the_place_of_a_certificate_keeps_nobody_waiting(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write("first.example")
    chain, key = files.settings["tls_cert"], files.settings["tls_key"]
    context = Reloaded("certificate", (chain, key), lambda: server_context(chain, key))
    before = context.start()
    of_grpc = Certificate(chain, key)
    of_grpc.credentials()
    pipe(key)
    assert context.look() is before
    of_grpc.look()
    with pytest.raises(StartError, match=r"cannot read the TLS files: .*Not a regular file"):
        server_context(chain, key)


def test_a_pipe_in_the_place_of_an_access_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot read the access file .*Not a regular file"):
        read(pipe(tmp_path / "access.toml"), Entries())
