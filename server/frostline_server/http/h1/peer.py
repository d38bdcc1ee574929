"""Who is at the other end of a connection, in gRPC's words."""

import ipaddress
from collections.abc import Mapping
from typing import Any


def peer_name(address: Any) -> str:
    """A client's address as grpc writes it, such as ipv4:127.0.0.1:50051."""
    host, port = address[:2]
    six = ipaddress.ip_address(str(host).partition("%")[0]).version == 6
    return f"ipv6:[{host}]:{port}" if six else f"ipv4:{host}:{port}"


def certificate_names(certificate: Any) -> Mapping[str, tuple[bytes, ...]]:
    """The names in a client's certificate, as Python's `ssl` gives it, under the keys that grpc uses."""
    if not certificate:
        return {}
    subject = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    others = [value for _, value in certificate.get("subjectAltName", ())]
    return {
        "x509_common_name": tuple(value.encode() for value in subject),
        "x509_subject_alternative_name": tuple(value.encode() for value in others),
    }
