"""Access control of one port: who a caller is, and whether it may use a method there.

A front end asks in three steps: `identify` by the credentials, `permit` for the method, `Identity.admit` for the
number of requests. All are made to be called for each request. A front end that owns its connections does less. It
keeps the identity that a connection's `authorization` header led to, with the methods that are permitted to it, which
never change; it identifies again when the header or `Access.generation` is another one. What is left for a request are
two comparisons, and `admit` where the identity has a limit. Where `free` is true it need not ask at all.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Self

from frostline_server.access.access_file import ANONYMOUS
from frostline_server.access.credentials import Credentials
from frostline_server.access.identity import Identity
from frostline_server.access.permissions import CONTROL, EVERY_ROLE, NEEDED, Roles
from frostline_server.access.reach import local_only
from frostline_server.config import ROLES, ServerConfig
from frostline_server.errors import PermissionDenied, Unauthenticated


class Access:
    """The policy of one port.

    Args:
        credentials: the access file; None where there is none, and every caller is anonymous.
        anonymous: the roles of callers without credentials.
        here: the roles that can be used through this port, by whoever has them.
        elsewhere: where the other roles can be used, as the end of a sentence.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        anonymous: Collection[str],
        here: Roles = EVERY_ROLE,
        elsewhere: str = "",
    ) -> None:
        self._credentials = credentials
        self._roles = frozenset(anonymous)
        self._here = here
        self._elsewhere = elsewhere
        self._anonymous = Identity(ANONYMOUS, self._roles)
        # What opens a method here; a method that is open to everybody is not in it.
        self._opens: Mapping[str, Roles] = {method: roles & here for method, roles in NEEDED.items() if roles}

    @classmethod
    def at(
        cls,
        host: str,
        config: ServerConfig,
        credentials: Credentials | None,
        here: Roles = EVERY_ROLE,
        elsewhere: str = "",
    ) -> Self:
        """The policy of a port at an address, as the settings have it."""
        return cls(credentials, config.anonymous_roles(local=local_only(host)), here, elsewhere)

    @property
    def asks(self) -> bool:
        """Whether credentials make a difference. Where they do not, everyone is `identify(None)`, for good."""
        return self._credentials is not None

    @property
    def free(self) -> bool:
        """Whether everyone may ask for predictions here, any number of times: nothing need be asked for them."""
        return not self.asks and "predict" in self._roles & self._here

    @property
    def closed(self) -> bool:
        """Whether nobody can call anything here but what is open to everybody."""
        entries = self._credentials.entries if self._credentials is not None else None
        known = [identity for _, identity in (*entries.tokens, *entries.certificates)] if entries is not None else []
        return not any(identity.roles & self._here for identity in (self._anonymous, *known))

    @property
    def reads_certificates(self) -> bool:
        """Whether the names of a client's certificate make a difference now."""
        return self._credentials is not None and bool(self._credentials.entries.certificates)

    @property
    def generation(self) -> int:
        """Another number whenever `identify` may give another answer."""
        return 0 if self._credentials is None else self._credentials.generation

    def identify(self, authorization: bytes | None, certificate_names: Sequence[str] = ()) -> Identity:
        """Who a caller is. A token decides before a certificate.

        Args:
            authorization: the header of that name, or None.
            certificate_names: the subject's common name and the alternative names of the client's certificate, which
                is verified already.

        Raises:
            Unauthenticated: there is a token, and nobody has it.
        """
        credentials = self._credentials
        if credentials is None:
            # A token is then for whoever stands in front of this server.
            return self._anonymous
        scheme, _, token = (authorization or b"").partition(b" ")
        # Looked up also where there is none, so that a wrong one takes no longer.
        known = credentials.of_token(token.strip())
        if authorization is not None:
            if known is None or scheme.lower() != b"bearer":
                raise Unauthenticated(
                    "the server does not know these credentials; it expects the metadata `authorization: Bearer TOKEN`, with "
                    "a token that its operator has made with `frostline token` and not withdrawn"
                )
            return known
        if certificate_names and (shown := credentials.of_certificate(certificate_names)) is not None:
            return shown
        limit = credentials.entries.anonymous_limit
        return self._anonymous if limit is None else Identity(ANONYMOUS, self._roles, limit=limit)

    def permit(self, identity: Identity, method: str, *, changes: bool = False) -> None:
        """Let a caller use a method, or say why not.

        Args:
            identity: the caller.
            method: the path of the method. A method that nobody serves is permitted: it is not for here to say so.
            changes: whether the request changes settings, where the method also reads them.

        Raises:
            Unauthenticated: the method needs a role, and the caller has shown no credentials.
            PermissionDenied: the caller lacks the role, or nobody can use it through this port.
        """
        opens = self._opens.get(method) if not changes else CONTROL & self._here
        if opens is None or not opens.isdisjoint(identity.roles):
            return
        raise self.refusal(identity, CONTROL if changes else NEEDED[method], method.rpartition("/")[2])

    def roles(self, identity: Identity) -> list[str]:
        """The roles that a caller has and can use through this port, in the order of `config.ROLES`."""
        return _listed(identity.roles & self._here)

    def refusal(self, identity: Identity, needed: Roles, what: str) -> Unauthenticated | PermissionDenied:
        """What a caller without a role is told: which one is missing, who it is taken for, what the operator can do.

        Args:
            identity: the caller.
            needed: the roles of which it needs one.
            what: what needs them.
        """
        role = " or ".join(_listed(needed))
        fact = f"{what} needs the role {role}"
        if not needed & self._here:
            return PermissionDenied(f"{fact}, which cannot be used through this port; {self._elsewhere}")
        has = ", ".join(_listed(identity.roles & self._here)) or "none"
        if identity.credential != "none":
            return PermissionDenied(
                f"{fact}; you are taken for '{identity.name}', whose roles are: {has}; the operator can add a role there in "
                "the access file"
            )
        allow = ",".join(_listed(identity.roles | {_listed(needed)[0]}))
        token = "send `authorization: Bearer TOKEN`, or the operator starts" if self.asks else "the operator can start"
        file = "" if self.asks else ", or give you a token (--access-file)"
        return Unauthenticated(
            f"{fact}; you are taken for an anonymous caller, whose roles are: {has}; {token} the server with "
            f"--allow-anonymous {allow}{file}"
        )


def _listed(roles: Roles) -> list[str]:
    return [role for role in ROLES if role in roles]
