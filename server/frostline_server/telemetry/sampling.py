"""The sampling of traces: which requests become spans, decided from a header and a random number.

A request whose caller has decided is traced or not as the caller says, unless the sampler looks at the ratio alone.
Names and meanings are OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline_server.errors import StartError

SAMPLER, SAMPLER_ARG = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
RATIO = 0.01
"""The share of requests that are traced where nobody says otherwise."""

# https://www.w3.org/TR/trace-context/#traceparent-header: the id of the trace, and the half of the flags with `sampled`.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])(?:-|$)")
_SAMPLED = b"13579bdf"


def trace_id_of(traceparent: bytes | None) -> str:
    """The caller's trace in hexadecimal; "" for a header that is malformed or not there."""
    matched = _TRACEPARENT.match(traceparent or b"")
    return "" if matched is None else matched[1].decode()


class Count:
    """How many traces may still be made; None for any number. Only the recorder's thread takes one."""

    __slots__ = ("left",)

    def __init__(self, left: int | None = None) -> None:
        self.left = left

    def take(self) -> bool:
        """Take one, if there is one."""
        if self.left is None:
            return True
        if self.left <= 0:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides for the requests of a model.

    Attributes:
        ratio: the share of requests that are traced, of those whose caller has not decided.
        parents: whether a caller's decision counts, as its `traceparent` says it.
        count: how many traces may still be made.
        enabled: False where no request is traced.
    """

    ratio: float
    parents: bool
    count: Count
    enabled: bool = True

    @property
    def open(self) -> bool:
        """Whether any request is traced; if not, `wants` need not be asked."""
        return self.enabled and self.count.left != 0

    def wants(self, traceparent: bytes | None) -> bool:
        """Whether a request is to be traced, while the rule is open.

        Args:
            traceparent: its header of that name; one that is malformed counts as none.
        """
        matched = None if traceparent is None else _TRACEPARENT.match(traceparent)
        if matched is not None:
            if self.parents:
                return matched[2] in _SAMPLED
            return int(matched[1][16:], 16) < round(self.ratio * 2**64)
        return random.random() < self.ratio  # noqa: S311  no secret


class Draws:
    """Takes a share of what comes in groups: it draws how many are left out until the next is taken.

    So most groups cost one comparison. Several threads may use it at once; then a draw of one may be lost, which changes no
    share of 0 or 1, and others by less than they vary.
    """

    __slots__ = ("_left", "_ratio")

    def __init__(self) -> None:
        self._ratio = 0.0
        self._left = math.inf

    def take(self, ratio: float, count: int) -> Sequence[int]:
        """Which of the next `count` are taken, by their numbers from 0; each with the probability `ratio`."""
        if ratio >= 1:
            return range(count)
        if ratio != self._ratio:
            self._ratio, self._left = ratio, _left_out(ratio)
        left = self._left
        taken: list[int] = []
        while left < count:
            taken.append(int(left))
            left += 1 + _left_out(ratio)
        self._left = left - count
        return taken


def _left_out(ratio: float) -> float:
    """How many are left out before the next: a draw of the geometric distribution."""
    if ratio <= 0:
        return math.inf
    return float(math.log(1.0 - random.random()) // math.log1p(-ratio))  # noqa: S311  no secret


class Rules:
    """The rules of all models; read on the hot path, so every change replaces them as a whole."""

    def __init__(self, first: Rule) -> None:
        self.first = first
        """The rule of the start."""
        self._default = first
        self._own: Mapping[str, Rule] = {}

    def of(self, model: str) -> Rule:
        """The rule of a model."""
        return self._own.get(model, self._default)

    def change(self, default: Rule, own: Mapping[str, Rule]) -> None:
        """Have other rules decide from now on.

        Args:
            default: for models without a rule of their own.
            own: rules by model.
        """
        self._own, self._default = {}, default
        self._own = dict(own)


def first_rule(ratio: float | None, environ: Mapping[str, str]) -> Rule:
    """The rule of the start.

    Args:
        ratio: as the settings say it; None to take the standard variables', or `RATIO` where there are none.
        environ: the environment.

    Raises:
        StartError: the variables name no sampler that there is here.
    """
    name = environ.get(SAMPLER, "").strip()
    if ratio is not None or not name:
        return Rule(RATIO if ratio is None else ratio, parents=True, count=Count())
    kind = name.removeprefix("parentbased_")
    if kind not in ("always_on", "always_off", "traceidratio"):
        raise StartError(
            f"{SAMPLER} is {name!r}; it may be always_on, always_off or traceidratio, or one of these behind parentbased_"
        )
    said = environ.get(SAMPLER_ARG, "").strip() or "1"
    try:
        share = {"always_on": 1.0, "always_off": 0.0}[kind] if kind != "traceidratio" else float(said)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise StartError(f"{SAMPLER_ARG} is {said!r}; it must be a number from 0 to 1")
    return Rule(share, parents=name != kind, count=Count())
