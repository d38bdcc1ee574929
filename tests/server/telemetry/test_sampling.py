"""The sampling of traces: headers, ratios, counts, and the standard variables."""

import random
from collections import Counter

import pytest

from frostline_server.errors import StartError
from frostline_server.telemetry.sampling import RATIO, Count, Draws, Rule, Rules, first_rule, trace_id_of

LOW, HIGH = (f"00-{'1' * 16}{half}-b7ad6b7169203331-00".encode() for half in ("0" * 15 + "1", "f" * 16))
SAMPLED = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rule(ratio: float, *, parents: bool = True, left: int | None = None, enabled: bool = True) -> Rule:
    return Rule(ratio, parents, Count(left), enabled)


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_a_caller_that_samples_has_its_request_traced(flags: str) -> None:
    assert rule(0.0).wants(SAMPLED[:-2] + flags.encode())


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_a_caller_that_does_not_sample_has_its_request_not_traced(flags: str) -> None:
    assert not rule(1.0).wants(SAMPLED[:-2] + flags.encode())


@pytest.mark.parametrize(
    "header", [None, b"", b"01", b"x" * 55, b"ff" + SAMPLED[2:], SAMPLED[:-2] + b"1g", SAMPLED + b"1"]
)
def test_a_request_without_a_callers_decision_is_left_to_the_ratio(header: bytes | None) -> None:
    assert rule(1.0).wants(header)
    assert not rule(0.0).wants(header)
    random.seed(7)
    wanted = sum(rule(0.25).wants(header) for _ in range(4000))
    assert wanted == pytest.approx(1000, rel=0.1)
    assert trace_id_of(header) == ""


def test_a_header_of_a_later_version_may_go_on() -> None:
    assert rule(0.0).wants(b"01" + SAMPLED[2:] + b"-more")
    assert trace_id_of(b"01" + SAMPLED[2:] + b"-more") == "0af7651916cd43dd8448eb211c80319c"


def test_a_sampler_of_the_ratio_alone_decides_by_the_trace() -> None:
    alone = rule(0.5, parents=False)
    assert alone.wants(LOW)
    assert not alone.wants(HIGH)
    assert rule(1.0, parents=False).wants(HIGH)
    assert not rule(0.0, parents=False).wants(LOW)
    assert rule(1.0, parents=False).wants(b"x" * 55)


def test_nothing_is_traced_once_the_count_is_used_up_or_the_level_is_off() -> None:
    counted = rule(1.0, left=1)
    assert counted.open
    assert counted.count.take()
    assert not counted.count.take()
    assert not counted.open
    assert not rule(1.0, enabled=False).open


def test_a_model_has_the_rule_of_all_until_it_has_its_own() -> None:
    first, own = rule(0.1), rule(0.2)
    rules = Rules(first)
    assert rules.of("a") is first
    rules.change(first, {"a": own})
    assert (rules.of("a"), rules.of("b")) == (own, first)


@pytest.mark.parametrize(
    ("ratio", "environ", "expected"),
    [
        (None, {}, (RATIO, True)),
        (0.5, {"OTEL_TRACES_SAMPLER": "always_on"}, (0.5, True)),
        (None, {"OTEL_TRACES_SAMPLER": "always_on"}, (1.0, False)),
        (None, {"OTEL_TRACES_SAMPLER": "always_off"}, (0.0, False)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, (1.0, True)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, (0.0, True)),
        (None, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"}, (0.3, False)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"}, (0.3, True)),
        (None, {"OTEL_TRACES_SAMPLER": "traceidratio"}, (1.0, False)),
        (None, {"OTEL_TRACES_SAMPLER_ARG": "0.3"}, (RATIO, True)),
    ],
)
def test_the_setting_decides_before_the_standard_variables(
    ratio: float | None, environ: dict[str, str], expected: tuple[float, bool]
) -> None:
    first = first_rule(ratio, environ)
    assert (first.ratio, first.parents) == expected


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER is 'xray'; it may be always_on"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "it must be a number from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG is '2'"),
    ],
)
def test_a_sampler_that_there_is_not_is_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        first_rule(None, environ)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.9])
def test_of_groups_of_any_size_the_share_is_taken_and_each_place_as_often(ratio: float) -> None:
    random.seed(7)
    draws, offered, places = Draws(), 0, Counter[int]()
    for number in range(20_000):
        count = 1 + number % 20
        taken = draws.take(ratio, count)
        assert list(taken) == sorted(set(taken))
        assert all(0 <= place < count for place in taken)
        offered += count
        places.update(taken)
    assert places.total() / offered == pytest.approx(ratio, rel=0.1)
    # The first place is in every group, the last one in every twentieth.
    assert places[0] / 20_000 == pytest.approx(ratio, rel=0.25)
    assert places[19] / 1_000 == pytest.approx(ratio, abs=0.05)


def test_of_nothing_nothing_is_taken_and_of_all_all_and_a_change_counts_at_once() -> None:
    draws = Draws()
    assert not draws.take(0.0, 1000)
    assert list(draws.take(1.0, 3)) == [0, 1, 2]
    assert not draws.take(1e-300, 1000)
    assert list(draws.take(1.0, 2)) == [0, 1]
    assert not draws.take(0.0, 1000)
    assert len(draws.take(0.5, 1000)) > 300
