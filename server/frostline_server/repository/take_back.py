"""The rule by which a canary is taken back, and the sequential test that applies it.

A canary is looked at many times, so a plain test would take every good one back some day. Here each question is asked
only when twice as many samples have come as the last time, and each time with half of the remaining error probability:
whatever the length of the trial, noise takes a good canary back with a probability of at most `ERROR_PROBABILITY` for
each question (Bonferroni's bound, spent over the looks).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from reprlib import repr as short
from statistics import NormalDist
from typing import Any, ClassVar, Self

from frostline_server.errors import ConfigError
from frostline_server.model.shadow import Counts

MIN_SAMPLES = 500
"""Requests or compared rows of a canary before the first decision, unless the rollout says otherwise."""
ERROR_PROBABILITY = 0.001
"""That noise alone takes a canary back for one of the three reasons, during its whole trial."""
_MAX_FACTOR = 1000
_LEAST_PERIODS = 16
"""Periods in which both versions answered, before latency is judged: as many as a sign test needs."""


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    # A whole number may be too large to be a float, and is finite.
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


@dataclass(frozen=True, slots=True)
class TakeBack:
    """When the server takes a canary back by itself; what is None is not looked at.

    Attributes:
        errors: by how much the share of its requests that fail may be above the stable version's, 0 to 1.
        latency: how many times as long as the stable version's its requests may take.
        disagreement: the share of compared rows, 0 to 1, that it may answer otherwise; it must be the shadow, too.
        min_samples: how many requests, or compared rows, there must be before anything is decided.

    Raises:
        ConfigError: it makes no sense.
    """

    errors: float | None = None
    latency: float | None = None
    disagreement: float | None = None
    min_samples: int = MIN_SAMPLES

    def __post_init__(self) -> None:
        if (self.errors, self.latency, self.disagreement) == (None, None, None):
            raise ConfigError("take_back says nothing; give errors, latency or disagreement")
        for name, value in (("errors", self.errors), ("disagreement", self.disagreement)):
            if value is not None and not (is_number(value) and 0 <= value < 1):
                raise ConfigError(f"take_back gives {name} {short(value)}; expected a share from 0 to below 1")
        if self.latency is not None and not (is_number(self.latency) and 1 <= self.latency <= _MAX_FACTOR):
            raise ConfigError(
                f"take_back gives latency {short(self.latency)}; expected a factor from 1 to {_MAX_FACTOR}"
            )
        samples: object = self.min_samples
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise ConfigError(f"take_back gives min_samples {short(samples)}; expected a whole number of at least 1")

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "TakeBack":
        """What a JSON object says.

        Raises:
            ConfigError: it makes no sense.
        """
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(document) - set(known))
        if unknown:
            raise ConfigError(f"take_back has the unknown key {short(unknown[0])}; the keys are {', '.join(known)}")
        return cls(**document)

    def document(self) -> dict[str, Any]:
        """It as a JSON object; `parse` is the inverse."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def told(self) -> str:
        """It as part of a sentence."""
        parts = []
        if self.errors is not None:
            parts.append(f"over {100 * self.errors:.3g} % more of its requests fail")
        if self.latency is not None:
            parts.append(f"they take over {self.latency:.3g} times as long")
        if self.disagreement is not None:
            parts.append(f"it answers over {100 * self.disagreement:.3g} % of the rows otherwise")
        return " or ".join(parts)


@dataclass(frozen=True, slots=True)
class Judged:
    """A version on trial that was not found good enough.

    Attributes:
        version: its number.
        reason: what was seen.
        at: when, in ISO 8601.
    """

    KEY: ClassVar[str]
    """Under which a rollout.json has it."""
    DECISION: ClassVar[str]
    """What became of the version, whose number is left out."""

    version: int
    reason: str
    at: str

    @property
    def told(self) -> str:
        """It as a sentence."""
        return f"{self.DECISION.format(self.version)} at {self.at}: {self.reason}"

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """What a JSON object says.

        Raises:
            ConfigError: it makes no sense.
        """
        keys = [each.name for each in fields(cls)]
        version, reason, at = (document.get(key) for key in keys)
        if (
            not isinstance(version, int)
            or isinstance(version, bool)
            or version < 1
            or not isinstance(reason, str)
            or not isinstance(at, str)
            or set(document) != set(keys)
        ):
            raise ConfigError(
                f"{cls.KEY} must have a version, a reason and when it was (at), and nothing else; got {short(document)}"
            )
        return cls(version, reason, at)

    def document(self) -> dict[str, Any]:
        """It as a JSON object; `parse` is the inverse."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TakenBack(Judged):
    """A canary that the server took back."""

    KEY: ClassVar[str] = "taken_back"
    DECISION: ClassVar[str] = "version {} was taken back"


@dataclass(frozen=True, slots=True)
class GivenUp(Judged):
    """A shadow whose promotion was given up; its test goes on."""

    KEY: ClassVar[str] = "given_up"
    DECISION: ClassVar[str] = "the promotion of version {} was given up"


@dataclass(frozen=True, slots=True)
class Counted:
    """What a version has done since a trial began.

    Attributes:
        answered: requests that were answered.
        failed: requests that failed, but for those that their callers gave up.
        seconds: from arrival to answer, of all answered requests together.
    """

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answered + self.failed

    def since(self, before: "Counted") -> "Counted":
        """What was done since it had done `before`."""
        return Counted(self.answered - before.answered, self.failed - before.failed, self.seconds - before.seconds)


@dataclass(slots=True)
class _Looks:
    """When a question is asked next, and with which quantile."""

    next: int
    done: int = 0

    def quantile(self, samples: int) -> float | None:
        """The quantile of the standard normal distribution to ask with, or None while it is too early."""
        if samples < self.next:
            return None
        while self.next <= samples:
            self.next *= 2
        self.done += 1
        return NormalDist().inv_cdf(1 - ERROR_PROBABILITY / 2**self.done)


@dataclass(slots=True)
class Trial:
    """The trial of one canary: its questions, and the periods in which it was slow.

    Attributes:
        rule: when it is taken back.
    """

    rule: TakeBack
    _errors: _Looks = field(init=False)
    _disagreement: _Looks = field(init=False)
    _latency: _Looks = field(init=False)
    _last: tuple[Counted, Counted] = (Counted(), Counted())
    _periods: int = 0
    _slow: int = 0

    def __post_init__(self) -> None:
        self._errors, self._disagreement = _Looks(self.rule.min_samples), _Looks(self.rule.min_samples)
        self._latency = _Looks(_LEAST_PERIODS)

    def look(self, canary: Counted, stable: Counted, compared: Counts | None) -> str:
        """Judge what was counted until now; to be called once for each period.

        Args:
            canary: what the canary has done since the trial began.
            stable: what the stable version has done.
            compared: what the canary has seen as the shadow; None where it is none.

        Returns:
            Why it must be taken back, or "".
        """
        return (
            self._fails(canary, stable)
            or self._is_slow(canary, stable)
            or ("" if compared is None else self._disagrees(compared))
        )

    def _fails(self, canary: Counted, stable: Counted) -> str:
        if self.rule.errors is None or not stable.requests:
            return ""
        quantile = self._errors.quantile(canary.requests)
        if quantile is None:
            return ""
        # Newcombe's interval of the difference of two shares, by Wilson's interval of each.
        ours, theirs = canary.failed / canary.requests, stable.failed / stable.requests
        below = ours - wilson(canary.failed, canary.requests, quantile)[0]
        above = wilson(stable.failed, stable.requests, quantile)[1] - theirs
        if ours - theirs - math.hypot(below, above) <= self.rule.errors:
            return ""
        return (
            f"{ours:.2%} of its {canary.requests} requests failed, and {theirs:.2%} of the stable version's "
            f"{stable.requests}; {self.rule.errors:.2%} more are allowed"
        )

    def _disagrees(self, compared: Counts) -> str:
        rows = compared.rows + compared.failed
        quantile = None if self.rule.disagreement is None else self._disagreement.quantile(rows)
        if quantile is None or self.rule.disagreement is None:
            return ""
        differ = compared.disagreements + compared.failed
        if wilson(differ, rows, quantile)[0] <= self.rule.disagreement:
            return ""
        return (
            f"it answers {differ / rows:.2%} of {rows} rows otherwise than the stable version; "
            f"{self.rule.disagreement:.2%} are allowed"
        )

    def _is_slow(self, canary: Counted, stable: Counted) -> str:
        """A sign test of the periods: requests that come together are slow together, and so are no samples of their own."""
        if self.rule.latency is None:
            return ""
        lately = canary.since(self._last[0]), stable.since(self._last[1])
        if lately[0].answered and lately[1].answered:
            self._periods += 1
            ours, theirs = (each.seconds / each.answered for each in lately)
            self._slow += ours > self.rule.latency * theirs
            self._last = canary, stable
        if canary.requests < self.rule.min_samples:
            return ""
        quantile = self._latency.quantile(self._periods)
        if quantile is None or wilson(self._slow, self._periods, quantile)[0] <= 0.5:
            return ""
        ours, theirs = canary.seconds / canary.answered, stable.seconds / stable.answered
        return (
            f"its requests take {1000 * ours:.3g} ms, and the stable version's {1000 * theirs:.3g} ms: in {self._slow} of "
            f"{self._periods} periods more than {self.rule.latency:g} times as long, which is not allowed"
        )


def wilson(count: int, samples: int, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share.

    Args:
        count: how many of the samples have it.
        samples: how many there are, at least one.
        quantile: of the standard normal distribution, for each side.
    """
    share, z2 = count / samples, quantile**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = quantile / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)
