"""Which front end owns the port: the fast one only where every client is already trusted."""

import pytest

from frostline_server.errors import StartError
from frostline_server.rpc.server import choose_transport


@pytest.mark.parametrize(
    ("asked", "host", "tls", "front_end", "why"),
    [
        ("auto", "127.0.0.1", False, "native", "only local clients can reach 127.0.0.1"),
        ("auto", "127.8.9.1", False, "native", "only local clients can reach 127.8.9.1"),
        ("auto", "localhost", False, "native", "only local clients can reach localhost"),
        ("auto", "::1", False, "native", "only local clients can reach ::1"),
        ("auto", "[::1]", False, "native", "only local clients can reach [::1]"),
        ("auto", "unix:/run/frostline.sock", False, "native", "only local clients can reach a Unix socket"),
        ("auto", "0.0.0.0", False, "grpcio", "other machines can reach 0.0.0.0"),
        ("auto", "::", False, "grpcio", "other machines can reach ::"),
        ("auto", "192.168.1.4", False, "grpcio", "other machines can reach 192.168.1.4"),
        ("auto", "models.example", False, "grpcio", "other machines can reach models.example"),
        ("auto", "localhost.example", False, "grpcio", "other machines can reach localhost.example"),
        ("auto", "127.0.0.1", True, "grpcio", "TLS is on, and only grpcio supports it"),
        ("auto", "unix:/run/frostline.sock", True, "grpcio", "TLS is on, and only grpcio supports it"),
        ("native", "0.0.0.0", False, "native", "asked for"),
        ("grpcio", "127.0.0.1", False, "grpcio", "asked for"),
        ("grpcio", "0.0.0.0", True, "grpcio", "asked for"),
    ],
)
def test_the_front_end_follows_from_who_can_reach_the_port(
    asked: str, host: str, tls: bool, front_end: str, why: str
) -> None:
    chosen, reason = choose_transport(asked, host, tls=tls)
    assert chosen == front_end
    assert reason.startswith(why)


def test_compressed_answers_need_the_front_end_that_compresses() -> None:
    chosen = choose_transport("auto", "127.0.0.1", tls=False, compression=True)
    assert chosen == ("grpcio", "compression is on, and only grpcio compresses answers")


def test_several_processes_need_the_front_end_that_shares_its_port() -> None:
    chosen = choose_transport("auto", "127.0.0.1", tls=False, reuse_port=True)
    assert chosen == ("grpcio", "several processes share the port, and only grpcio can share it")


def test_without_the_native_library_every_host_gets_the_other_front_end() -> None:
    assert choose_transport("auto", "127.0.0.1", tls=False, native=False) == (
        "grpcio",
        "pygrpc-native is not installed",
    )
    assert choose_transport("grpcio", "127.0.0.1", tls=False, native=False) == ("grpcio", "asked for")


def test_a_native_front_end_that_was_asked_for_and_cannot_be_had_stops_the_start() -> None:
    with pytest.raises(StartError, match="needs pygrpc-native, which is not installed; use --transport grpcio"):
        choose_transport("native", "127.0.0.1", tls=False, native=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "unix:/run/frostline.sock"])
def test_without_a_folder_for_its_private_socket_the_native_front_end_is_not_chosen(host: str) -> None:
    assert choose_transport("auto", host, tls=False, folder=False) == (
        "grpcio",
        "no folder is writable, and the native transport needs one for a private socket",
    )
    assert choose_transport("grpcio", host, tls=False, folder=False) == ("grpcio", "asked for")
    with pytest.raises(StartError, match="set TMPDIR to one, or use --transport grpcio"):
        choose_transport("native", host, tls=False, folder=False)


def test_without_its_library_the_native_front_end_is_not_chosen() -> None:
    assert choose_transport("auto", "127.0.0.1", tls=False, native=False) == (
        "grpcio",
        "pygrpc-native is not installed",
    )


def test_the_native_front_end_cannot_be_demanded_without_its_library() -> None:
    with pytest.raises(StartError, match="needs pygrpc-native, which is not installed"):
        choose_transport("native", "127.0.0.1", tls=False, native=False)
