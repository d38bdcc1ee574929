"""The files of TLS are read as files, before OpenSSL opens them."""

import os
from pathlib import Path

import pytest

from frostline_server.errors import StartError
from frostline_server.tls import server_context


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_pipe_in_place_of_a_file_stops_the_start_and_not_the_process(tmp_path: Path, which: int) -> None:
    files = [tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"]
    for place, file in enumerate(files):
        os.mkfifo(file) if place == which else file.touch()
    with pytest.raises(StartError, match=f"cannot read the TLS files: .*Not a regular file: '{files[which]}'"):
        server_context(*files)
