"""The reach of an address: whether other machines can connect to it."""

import ipaddress


def local_only(host: str) -> bool:
    """Whether only clients on this machine can reach an address."""
    return host.startswith("unix:") or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may resolve to anything
        return False
