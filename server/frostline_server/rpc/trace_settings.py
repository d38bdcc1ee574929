"""The trace extension: which requests are traced, as clients change it while the server runs.

Names and values are Triton's: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_trace.html.
What Triton has and OpenTelemetry has not, such as a file, is refused.
"""

from collections.abc import Mapping, Sequence

from frostline.pb import inference_pb2 as pb
from frostline_server.errors import InvalidInput, Unsupported
from frostline_server.repository.registry import Repository
from frostline_server.telemetry.sampling import Count, Rule, Rules

Values = tuple[str, ...]

TRACE: Mapping[str, Values] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}
"""The trace settings and their values at the start of a server without traces, which are Triton's."""

TRACE_RANGES = {"trace_rate": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1)}
"""The least and the most of those that are whole numbers."""
TRACE_FIXED = {
    "log_frequency": "spans are sent as they come, and no file is written; leave it 0",
    "trace_file": "spans go to a collector of OpenTelemetry, and to no file; leave it empty",
}
"""Settings with one value, and why."""


class TraceControl:
    """Answers TraceSetting, and changes which requests are traced; where none are, the only level is OFF.

    Args:
        repository: the models, whose settings may differ from the server's.
        rules: decide which requests are traced; None where none are.
    """

    def __init__(self, repository: Repository, rules: Rules | None) -> None:
        self._repository = repository
        self._rules = rules
        self._at_start = TRACE if rules is None else {**TRACE, **_told(rules.first)}
        # By model; the server's own under "".
        self._settings: dict[str, dict[str, Values]] = {}
        self._counts: dict[str, Count] = {}

    def TraceSetting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Change the given settings, all or none, and return all. A setting without a value is reset.

        Raises:
            InvalidInput: a setting is unknown or has an invalid value.
            ModelNotFound: there is no such model.
            Unsupported: the client asks for what there is not.
        """
        model = request.model_name
        if model:
            self._repository.get(model, "")
        changed = {name: tuple(value.value) for name, value in request.settings.items()}
        for name, values in changed.items():
            self._check(name, values)
        if changed:
            own = self._settings.get(model, {}) | changed
            self._settings[model] = {name: values for name, values in own.items() if values}
            if "trace_count" in changed:
                self._count(model, changed["trace_count"])
            if self._rules is not None:
                self._rules.change(self._rule(""), {name: self._rule(name) for name in self._settings if name})
        told: Mapping[str, Values] = {**self._at_start, **self._settings.get("", {}), **self._settings.get(model, {})}
        return pb.TraceSettingResponse(
            settings={name: pb.TraceSettingResponse.SettingValue(value=values) for name, values in told.items()}
        )

    def _count(self, model: str, values: Values) -> None:
        """Begin to count a model's traces anew."""
        if values:
            (value,) = values
            self._counts[model] = Count(None if int(value) < 0 else int(value))
        else:
            self._counts.pop(model, None)

    def _rule(self, model: str) -> Rule:
        """The rule that the settings of a model make; the server's own for ""."""
        assert self._rules is not None, "somebody traces"  # noqa: S101  an invariant, not a check
        first, told = self._rules.first, {**self._settings.get("", {}), **self._settings.get(model, {})}
        ratio = first.ratio
        if "trace_rate" in told:
            (rate,) = told["trace_rate"]
            ratio = 1 / int(rate) if int(rate) else 0.0
        count = self._counts.get(model) or self._counts.get("") or first.count
        return Rule(ratio, first.parents, count, enabled=told.get("trace_level") != ("OFF",))

    def _check(self, name: str, values: Sequence[str]) -> None:
        if name not in TRACE:
            raise InvalidInput(f"unknown trace setting '{name}'; the trace settings are {', '.join(TRACE)}")
        if not values:
            return
        if name == "trace_level" and tuple(values) not in {("OFF",), *self._levels}:
            raise Unsupported(f"trace_level {', '.join(values)}: {self._instead}")
        if len(values) > 1:
            raise InvalidInput(f"expect only 1 value for '{name}', got {len(values)}")
        (value,) = values
        if name == "trace_mode" and (value,) != self._at_start[name]:
            raise Unsupported(f"trace_mode {value}: the only mode of this server is {self._at_start[name][0]}")
        if name in TRACE_FIXED and (value,) != TRACE[name]:
            raise Unsupported(f"{name} {value}: {TRACE_FIXED[name]}")
        if name in TRACE_RANGES:
            _check_range(name, value)

    @property
    def _levels(self) -> tuple[Values, ...]:
        """Levels beside OFF."""
        return () if self._rules is None else (("TIMESTAMPS",),)

    @property
    def _instead(self) -> str:
        if self._rules is None:
            return "this server writes no traces, so the only level is OFF; start it with --traces otlp"
        return "the levels are OFF and TIMESTAMPS; traces never hold what requests and answers hold"


def _check_range(name: str, value: str) -> None:
    least, most = TRACE_RANGES[name]
    try:
        number = int(value)
    except ValueError:
        raise InvalidInput(f"Unable to parse '{name}', got: {value}") from None
    if not least <= number <= most:
        raise InvalidInput(f"Unable to parse '{name}', value is out of range [ {least}, {most} ], got: {value}")


def _told(rule: Rule) -> dict[str, Values]:
    """What a rule of the start is in Triton's words."""
    rate = round(1 / rule.ratio) if rule.ratio else 0
    return {"trace_level": ("TIMESTAMPS",), "trace_rate": (str(rate),), "trace_mode": ("opentelemetry",)}
