"""Who is at the other end of a connection, in gRPC's words."""

import ipaddress
from typing import Any


def peer_name(address: Any) -> str:
    """A client's address as grpc writes it, such as ipv4:127.0.0.1:50051."""
    host, port = address[:2]
    six = ipaddress.ip_address(str(host).partition("%")[0]).version == 6
    return f"ipv6:[{host}]:{port}" if six else f"ipv4:{host}:{port}"
