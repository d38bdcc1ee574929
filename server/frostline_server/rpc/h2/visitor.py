"""Who calls on a connection: the identity that its credentials lead to, remembered from call to call.

Most calls of a connection have the same credentials. So a call asks only whether these are still the same, and so are
the known ones; and it is counted where its caller has a limit.
"""

from collections.abc import Mapping

from frostline_server.access.access import Access
from frostline_server.access.identity import Identity
from frostline_server.tls import listed


class Visitor:
    """The caller on one connection.

    Args:
        access: the policy of the port.
        names: the names in the client's certificate, under grpc's keys.
    """

    __slots__ = ("_access", "_authorization", "_generation", "_identity", "_names", "_permitted")

    def __init__(self, access: Access, names: Mapping[str, tuple[bytes, ...]]) -> None:
        self._access = access
        self._names = listed(names)
        self._authorization: bytes | None = None
        self._generation = -1
        self._identity: Identity | None = None
        # The methods that it may call.
        self._permitted: set[str] = set()

    def permit(self, authorization: bytes | None, method: str) -> Identity:
        """Who calls, if it may call this method.

        Args:
            authorization: the call's header of that name.
            method: the path of the method.

        Raises:
            Unauthenticated: nobody has this token, or the method needs one.
            PermissionDenied: the caller lacks the role.
        """
        access = self._access
        identity, generation = self._identity, access.generation
        if identity is None or authorization != self._authorization or generation != self._generation:
            self._identity = None
            self._permitted.clear()
            identity = access.identify(authorization, self._names)
            self._identity, self._authorization, self._generation = identity, authorization, generation
        if method not in self._permitted:
            access.permit(identity, method)
            self._permitted.add(method)
        return identity
