"""Who a caller is taken for."""

from dataclasses import dataclass

from frostline_server.access.permissions import Roles
from frostline_server.access.rate_limit import RateLimit


@dataclass(frozen=True, eq=False, slots=True)
class Identity:
    """A caller, as the access file knows it.

    Attributes:
        name: its name there.
        roles: what it may do.
        credential: what it was recognised by: `token`, `certificate`, or `none`.
        limit: how many requests it may send; None for any number.
    """

    name: str
    roles: Roles
    credential: str = "none"
    limit: RateLimit | None = None

    def admit(self, now_s: float) -> None:
        """Count one request.

        Args:
            now_s: the time on a monotonic clock, always the same.

        Raises:
            RateLimited: the caller has sent as many as it may.
        """
        if self.limit is not None:
            self.limit.admit(now_s)
