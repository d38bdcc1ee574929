"""Which front end owns the port: its own, wherever its library is to be had."""

import pytest

from frostline_server.errors import StartError
from frostline_server.rpc.server import choose_transport


def test_the_default_is_the_same_on_every_address() -> None:
    assert choose_transport("auto", ngh2=True) == ("h2", "the default")


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_what_is_asked_for_is_taken(transport: str) -> None:
    assert choose_transport(transport, ngh2=True) == (transport, "asked for")


@pytest.mark.parametrize(
    ("ngh2", "epoll", "why"), [(False, True, "ngh2 is not installed"), (True, False, "this platform has no epoll")]
)
def test_where_it_cannot_be_had_grpc_answers(ngh2: bool, epoll: bool, why: str) -> None:
    assert choose_transport("auto", ngh2=ngh2, epoll=epoll) == ("grpcio", why)
    assert choose_transport("grpcio", ngh2=ngh2, epoll=epoll) == ("grpcio", "asked for")
    with pytest.raises(StartError, match=f"the h2 transport cannot be had: {why}; use --transport grpcio"):
        choose_transport("h2", ngh2=ngh2, epoll=epoll)
