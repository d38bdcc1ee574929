"""The files of TLS are read as files, before OpenSSL opens them."""

import os
from pathlib import Path

import pytest

from frostline_server.errors import StartError
from frostline_server.tls import certificate_names, listed, server_context


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_pipe_in_place_of_a_file_stops_the_start_and_not_the_process(tmp_path: Path, which: int) -> None:
    files = [tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"]
    for place, file in enumerate(files):
        os.mkfifo(file) if place == which else file.touch()
    with pytest.raises(StartError, match=f"cannot read the TLS files: .*Not a regular file: '{files[which]}'"):
        server_context(*files)


def test_of_the_names_in_a_certificate_only_texts_count() -> None:
    shown = {
        "subject": ((("commonName", "job"),),),
        "subjectAltName": (
            ("DirName", ((("commonName", "directory"),),)),
            ("DNS", "job.example"),
            ("Registered ID", "1.2.3"),
            ("othername", "<unsupported>"),
            ("IP Address", "127.0.0.1"),
            ("email", "job@example.org"),
            ("URI", "spiffe://job"),
        ),
    }
    assert listed(certificate_names(shown)) == ["job", "job.example", "127.0.0.1", "job@example.org", "spiffe://job"]
