"""The arguments of a client's gRPC channel: target, credentials, options and headers.

The service config says how gRPC chooses a server for each call, and what it tries again; docs/clients.md shows it for
other languages.
"""

import ipaddress
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import grpc

DEFAULT_PORT = 8001

SERVICE_CONFIG: Mapping[str, Any] = {
    # The first policy that a client knows is used. Servers report their load in trailers: with weights the less loaded
    # one gets more calls, also from clients that do not know of each other. A server that joins gets the mean share for
    # one second, until its reports count.
    "loadBalancingConfig": [{"weighted_round_robin": {"blackoutPeriod": "1s"}}, {"round_robin": {}}],
    # A server that says it is not ready, because it stops or a model it needs failed, gets no calls.
    "healthCheckConfig": {"serviceName": ""},
    # Each attempt that fails takes a token, each call that succeeds gives back a tenth; with half of them left, or fewer,
    # nothing is tried again.  So a server that is broken gets 50 attempts at most beyond the calls themselves, and one that
    # answers now and then a tenth more than those.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        # Only UNAVAILABLE is retried.  It does not mean that a request was not run: the connection may have been lost while
        # the answer was on its way.  A second run does no harm, because a call changes nothing on the server; only a network
        # that draws random numbers answers it differently.
        {
            "name": [{"service": "frostline.v1.Predictor"}, {"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        # "Is it ready" wants the answer of now.
        {
            "name": [
                {"service": "inference.GRPCInferenceService", "method": "ServerReady"},
                {"service": "inference.GRPCInferenceService", "method": "ModelReady"},
            ]
        },
    ],
}
"""gRPC's service config for a pool of servers, as its JSON."""

# One server is asked whatever it says of its health: its own sentence tells what is wrong with it.
_ONLY_POOLS = ("loadBalancingConfig", "healthCheckConfig")

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server decides what is too large.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default gRPC retries no call of more than 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
    # By default a connection that failed is tried again after one second at first, and after two minutes at last.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # By default a name is looked up at most every 30 s: so long would a server that was replaced be missed.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # A server that hangs, or a network that lets nothing through, closes no connection: only a ping that gets no answer
    # shows it.  Servers of Frostline take one every 10 s.  By default gRPC sends none, and waits a minute for its answer,
    # whatever grpc.keepalive_timeout_ms says.  Behind large messages on a slow link, or at a server whose memory for
    # messages is full, an answer may well take longer than the ping itself.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 30_000),
)

_LONGEST_S = 2.0**31
"""The longest timeout, 68 years: gRPC's clock ends in the year 2262, and takes a later deadline for one that has passed."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_OF_HTTP_1 = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
"""Headers that HTTP/2 does not have; a server ends a call that has one. RFC 9113, section 8.2.2."""

_GOOD_ADDRESS = f"write the address as host:port, such as localhost:{DEFAULT_PORT}"
_SOCKETS = ("unix:", "unix-abstract:", "vsock:")
"""How addresses without a port of TCP begin."""
_NAMED = re.compile(r"dns://([^/]*)/|dns:|ipv4:|ipv6:")
"""What may stand before the host and port, or a list of them; of the first form the name server too."""
_ENDPOINT = re.compile(r"(?:\[[^][/\s,]+\]|[^][/\s,:]+)(?::([0-9]+))?")
"""A host, an IPv6 address in brackets, and a port if it is said."""

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""The variables in which gRPC looks for a proxy, in this order."""

# RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


@dataclass(frozen=True, kw_only=True)
class ChannelArguments:
    """What a channel is made of.

    Attributes:
        target: The target, as gRPC writes it.
        address: The address, as the user may read it in a message.
        proxy: The environment variable that sends the connection through a proxy; "" where none does.
        credentials: TLS, with or without a client certificate; None for plain text.
        options: Channel arguments.
        metadata: Headers of every call.
    """

    target: str
    address: str
    proxy: str
    credentials: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]
    metadata: dict[str, str | bytes]


def arguments(
    address: str | Sequence[str],
    *,
    tls: bool | str | Path = False,
    server_name: str = "",
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    token: str | None = None,
    insecure_token: bool = False,
    metadata: Mapping[str, str | bytes] | None = None,
) -> ChannelArguments:
    """Checks what a user says of a connection; see `connect`.

    Raises:
        ValueError: It makes no sense, or would send a token in plain text over a network.
        OSError: A PEM file cannot be read.
    """
    # Bytes and texts are no lists; what is no address is refused with its type.
    listed = isinstance(address, Iterable) and not isinstance(address, str | bytes)
    addresses: list[Any] = list(address) if listed else [address]
    target = _target(addresses[0]) if len(addresses) == 1 else _list_target(addresses)
    shown = target if len(addresses) == 1 else ", ".join(_target(each) for each in addresses)
    headers = _headers(metadata or {})
    local = _is_local(target)
    if token is not None:
        if "authorization" in headers:
            raise ValueError("metadata has an authorization already; give either that or a token")
        if not isinstance(token, str):
            raise _mistyped("the token", "a text (str)", token)
        if not _TOKEN.fullmatch(token):
            raise ValueError("the token is empty or holds characters that no bearer token has, such as a line break")
        if tls is False and not local and not insecure_token:
            raise ValueError(
                f"the token would go to {shown} in plain text, for everybody on the way to read; turn TLS on, or say "
                "that the network is safe with insecure_token (on the command line --insecure-token)"
            )
        headers["authorization"] = f"Bearer {token}"
    if tls is not False and len(addresses) > 1 and not server_name:
        raise ValueError("a list of addresses with TLS needs server_name, the name in the certificates of the servers")
    pool = "," in target or target.startswith("dns:")
    config = {part: value for part, value in SERVICE_CONFIG.items() if pool or part not in _ONLY_POOLS}
    options = [("grpc.service_config", json.dumps(config)), *_OPTIONS]
    if local:
        # gRPC would ask the proxy of the environment to reach this very machine.
        options.append(("grpc.enable_http_proxy", 0))
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    credentials = _credentials(tls, certificate, key, server_name)
    return ChannelArguments(
        target=target,
        address=shown,
        proxy="" if local else _proxy(target),
        credentials=credentials,
        options=options,
        metadata=headers,
    )


def check_timeout(timeout_s: float) -> float:
    """The timeout as gRPC can hold it.

    Raises:
        ValueError: It is no number, or not positive and finite.
    """
    if not isinstance(timeout_s, Real):
        raise _mistyped("timeout_s", "a number of seconds", timeout_s)
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s must be positive and finite, but is {timeout_s:g}")
    return min(float(timeout_s), _LONGEST_S)


def _headers(metadata: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """Metadata as gRPC sends it, its keys in lower case.

    Raises:
        ValueError: It cannot be sent. The message has no value, which may be a secret.
    """
    if not isinstance(metadata, Mapping):
        raise _mistyped("metadata", "a dict of texts, or of bytes, by their keys", metadata)
    headers: dict[str, str | bytes] = {}
    for name, value in metadata.items():
        key = name.lower() if isinstance(name, str) else ""
        if not _KEY.fullmatch(key):
            raise ValueError(f"metadata has the key {name!r:.100}; a key is letters, digits, '-', '_' and '.' of ASCII")
        if key.startswith("grpc-") or key in _OF_HTTP_1:
            owner = "gRPC" if key.startswith("grpc-") else "the connection"
            raise ValueError(f"metadata has the key {name!r}, which is {owner}'s own; choose another one")
        if key in headers:
            raise ValueError(f"metadata has the key {key!r} twice; capital letters make no difference")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"metadata[{name!r}] must be bytes, as its key ends in -bin, but is {_type(value)}")
        elif not isinstance(value, str):
            raise ValueError(
                f"metadata[{name!r}] must be a text (str), but is {_type(value)}; give bytes to a key that ends in -bin"
            )
        else:
            ends = (0, len(value) - 1)
            for index, char in enumerate(value):
                if not " " <= char <= "~" or (char == " " and index in ends):
                    raise ValueError(
                        f"metadata[{name!r}] must be printable ASCII without spaces around it, but has {char!r} at {index}; "
                        "give other values as bytes, to a key that ends in -bin"
                    )
        headers[key] = value
    return headers


def _mistyped(name: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {expected}, but is {_type(value)}")


def _type(value: object) -> str:
    return type(value).__name__


def _credentials(
    tls: bool | str | Path, certificate: str | Path | None, key: str | Path | None, server_name: str
) -> grpc.ChannelCredentials | None:
    if not isinstance(tls, bool | str | os.PathLike):
        raise _mistyped("tls", "True, False or the path of a PEM file", tls)
    for name, path in (("certificate", certificate), ("key", key)):
        if not isinstance(path, str | os.PathLike | None):
            raise _mistyped(name, "the path of a PEM file", path)
    if not isinstance(server_name, str):
        raise _mistyped("server_name", "a text (str)", server_name)
    if (certificate is None) != (key is None):
        raise ValueError("certificate and key go together: give both or neither")
    if tls is False:
        if certificate is not None:
            raise ValueError("a client certificate needs TLS; turn it on with tls, or leave certificate and key out")
        if server_name:
            raise ValueError(
                "server_name is the name in a certificate, so it needs TLS; turn it on with tls, or leave server_name out"
            )
        return None
    roots, private_key, chain = (
        None if path is None or path is True else Path(path).read_bytes() for path in (tls, key, certificate)
    )
    return grpc.ssl_channel_credentials(roots, private_key, chain)


def _target(address: str) -> str:
    if not isinstance(address, str):
        raise _mistyped("an address", f"a text (str) such as localhost:{DEFAULT_PORT}", address)
    if "://" in address and not address.startswith(("dns://", "unix://")):
        raise ValueError(f"{address!r} is a URL; {_GOOD_ADDRESS}")
    if not address or address.startswith(":"):
        raise ValueError(f"{address!r} names no host; {_GOOD_ADDRESS}")
    if address.startswith(_SOCKETS):
        return address
    named = _NAMED.match(address)
    endpoints = address[named.end() :].split(",") if named else [address]
    if named and named[1]:
        endpoints.append(named[1])
    for endpoint in endpoints:
        _check_endpoint(endpoint, address)
    if not named and ":" not in address.rpartition("]")[2]:
        return f"{address}:{DEFAULT_PORT}"
    return address


def _check_endpoint(endpoint: str, address: str) -> None:
    """Checks a host with or without a port.

    Raises:
        ValueError: It is none. gRPC takes any number for a port, modulo 65536, and would reach another server.
    """
    host, _, port = endpoint.rpartition(":")
    found = _ENDPOINT.fullmatch(endpoint)
    if found and (found[1] is None or (len(found[1].lstrip("0")) <= 5 and 1 <= int(found[1]) <= 65535)):
        return
    if "," in endpoint:
        fact, remedy = "names several servers", "give them as a list: ['one:8001', 'other:8001']"
    elif address.startswith("dns:/") and endpoint.startswith("/"):
        fact, remedy = "is no name to look up", f"write it as dns:///host:port, such as dns:///pool:{DEFAULT_PORT}"
    elif endpoint.startswith("/"):
        fact, remedy = "is a path", f"write the address of a Unix socket as unix:{endpoint}"
    elif ":" in host and not host.startswith("["):
        fact, remedy = "is no host and port", f"write an IPv6 address in brackets, such as [::1]:{DEFAULT_PORT}"
    elif host and _ENDPOINT.fullmatch(host):
        fact, remedy = f"has the port {port!r}, which is no number from 1 to 65535", _GOOD_ADDRESS
    else:
        fact, remedy = "is no host and port", _GOOD_ADDRESS
    raise ValueError(f"{address!r:.200} {fact}; {remedy}")


def _list_target(addresses: Sequence[str]) -> str:
    if not addresses:
        raise ValueError("the list of addresses is empty")
    targets = [_target(address) for address in addresses]
    families = {_ip_version(target) for target in targets}
    if families not in ({4}, {6}):
        raise ValueError(
            f"a list holds IP addresses, all of version 4 or all of version 6, such as 10.0.0.1:{DEFAULT_PORT}, and not "
            f"{', '.join(targets)}; for all addresses of a name, write dns:///NAME:PORT"
        )
    return f"ipv{families.pop()}:{','.join(targets)}"


def _ip_version(target: str) -> int:
    try:
        return ipaddress.ip_address(_host(target)).version
    except ValueError:
        return 0


def _host(target: str) -> str:
    return target.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    return all(_is_loopback(host) for host in _hosts(target))


def _hosts(target: str) -> list[str]:
    """The hosts of a target; with a name server of its own it stays whole, as it is no name that this machine knows."""
    named = re.sub(r"^(dns:///|dns:|ipv4:|ipv6:)", "", target)
    return [_host(each) for each in named.split(",")]


def _proxy(target: str) -> str:
    """The variable that makes gRPC reach a target through a proxy; "" where none does."""
    # The first that is set decides, also where it is empty; of other schemes gRPC knows no proxy.
    variable = next((name for name in _PROXIES if name in os.environ), "")
    if not os.environ.get(variable, "").casefold().startswith("http://") or target.startswith(_SOCKETS):
        return ""
    direct = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""  # noqa: SIM112  so gRPC spells it
    hosts = [host.rpartition("/")[2] for host in _hosts(target)]
    return "" if all(_is_direct(host, direct) for host in hosts) else variable


def _is_direct(host: str, direct: str) -> bool:
    """Whether a host is among those that are reached without a proxy: endings of names, and networks."""
    for entry in filter(None, map(str.strip, direct.split(","))):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # a name
            if host.casefold().endswith(entry.casefold()):
                return True
    return False


def _is_loopback(host: str) -> bool:
    try:
        return host.casefold() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
