"""The port that several processes share: one server's, whoever else would listen there."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from frostline_server.errors import StartError
from frostline_server.processes.address import Address
from frostline_server.rpc.listening import bound

HOST = "127.0.0.1"


@pytest.fixture
def address() -> Iterator[Address]:
    with closing(Address(HOST, 0)) as address:
        yield address


def listening(port: int, *, shared: bool) -> socket.socket:
    """A server of somebody else, as gRPC has them."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    server.bind((HOST, port))
    server.listen()
    return server


def test_a_free_port_is_picked_and_processes_can_listen_on_it(address: Address) -> None:
    port = address.take()
    with listening(port, shared=True), listening(port, shared=True):
        assert port > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "::"])
def test_front_ends_that_share_it_can_listen_and_one_that_does_not_cannot(host: str) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(closing(Address(host, 0)))
        name = f"{host}:{address.take()}"
        for _ in range(2):
            for listening in bound(name, reuse_port=True):
                stack.enter_context(listening)
        with pytest.raises(StartError, match="Address already in use"):
            bound(name)


def test_a_port_on_which_nobody_listens_yet_is_refused_to_clients(address: Address) -> None:
    port = address.take()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((HOST, port))


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_on_which_another_server_listens_is_not_taken(*, shared: bool) -> None:
    with listening(0, shared=shared) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on {HOST}:{port}: Address already in use"):
            Address(HOST, port).take()


def test_two_servers_that_start_at_the_same_time_do_not_both_take_a_port(address: Address) -> None:
    port = address.take()
    with pytest.raises(StartError, match="Address already in use"):
        Address(HOST, port).take()


def test_a_port_can_be_taken_again_although_connections_to_it_are_about_to_be_forgotten(address: Address) -> None:
    port = address.take()
    with listening(port, shared=True) as server, socket.create_connection((HOST, port)) as client:
        accepted, _ = server.accept()
        accepted.close()  # first, so that this side has to remember
        assert client.recv(1) == b""
    address.close()
    with closing(Address(HOST, port)) as again:
        assert again.take() == port


def test_a_name_that_nobody_knows_is_an_error_in_one_sentence() -> None:
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid:8001: "):
        Address("no-such-host.invalid", 8001).take()
