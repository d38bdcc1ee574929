"""When a canary is taken back: a worse one soon, a good one never, and a rule that makes no sense not at all."""

import random
from typing import Any

import pytest

from frostline_server.errors import ConfigError
from frostline_server.model.shadow import DIFFERENCE, Counts
from frostline_server.model.stats import Histogram
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.rollout_steps import (
    decisions,
    give_up,
    next_step,
    promote,
    rollback,
    staged,
    take_back,
    with_canary,
    with_shadow,
)
from frostline_server.repository.take_back import ERROR_PROBABILITY, Counted, TakeBack, TakenBack, Trial, wilson

RULE = TakeBack(errors=0.01, latency=1.5, disagreement=0.02, min_samples=100)


def compared(rows: int, disagreements: int, failed: int = 0) -> Counts:
    return Counts(rows, disagreements, 0, failed, Histogram(DIFFERENCE))


# The test


def test_nothing_is_decided_before_there_are_enough_samples() -> None:
    trial = Trial(RULE)
    assert trial.look(Counted(0, 99, 0), Counted(1000, 0, 10.0), compared(99, 99)) == ""
    reason = trial.look(Counted(0, 100, 0), Counted(1000, 0, 10.0), compared(99, 99))
    assert reason == (
        "100.00% of its 100 requests failed, and 0.00% of the stable version's 1000; 1.00% more are allowed"
    )


def test_rows_answered_otherwise_take_a_canary_back() -> None:
    reason = Trial(RULE).look(Counted(500, 0, 5.0), Counted(1000, 0, 10.0), compared(190, 20, failed=10))
    assert reason == "it answers 15.00% of 200 rows otherwise than the stable version; 2.00% are allowed"


def slow_seconds(factor: float, seconds: int, rule: TakeBack = RULE) -> tuple[int, str]:
    """After how many seconds a canary that takes `factor` times as long is taken back, and why."""
    trial, canary, stable = Trial(rule), Counted(), Counted()
    for second in range(1, seconds + 1):
        canary = Counted(canary.answered + 10, 0, canary.seconds + 10 * 0.01 * factor)
        stable = Counted(stable.answered + 90, 0, stable.seconds + 90 * 0.01)
        if reason := trial.look(canary, stable, None):
            return second, reason
    return seconds, ""


def test_requests_that_take_too_long_in_most_seconds_take_a_canary_back() -> None:
    seconds, reason = slow_seconds(3.0, 100)
    assert seconds == 16
    assert reason == (
        "its requests take 30 ms, and the stable version's 10 ms: in 16 of 16 periods more than 1.5 times as long, which "
        "is not allowed"
    )
    assert slow_seconds(1.4, 1000) == (1000, "")
    assert slow_seconds(3.0, 100, TakeBack(errors=0.1)) == (100, "")


def test_a_second_in_which_everything_is_slow_is_nobodys_fault() -> None:
    trial, canary, stable = Trial(RULE), Counted(), Counted()
    for second in range(200):
        stall = 100.0 if second % 5 == 0 else 1.0
        canary = Counted(canary.answered + 10, 0, canary.seconds + 10 * 0.01 * stall)
        stable = Counted(stable.answered + 90, 0, stable.seconds + 90 * 0.01 * stall)
        assert trial.look(canary, stable, None) == ""


def noise(share: float, seed: int, looks: int) -> str:
    """What is decided of a canary whose requests fail, and rows differ, with a probability, like the stable version's."""
    chance, trial = random.Random(seed), Trial(TakeBack(errors=0.0, disagreement=share, min_samples=20))
    canary, stable, differ = Counted(), Counted(), 0
    for look in range(1, looks + 1):
        failed, theirs = (sum(chance.random() < share for _ in range(20)) for _ in range(2))
        canary = Counted(canary.answered + 20 - failed, canary.failed + failed, 0.0)
        stable = Counted(stable.answered + 20 - theirs, stable.failed + theirs, 0.0)
        differ += sum(chance.random() < share for _ in range(20))
        if reason := trial.look(canary, stable, compared(20 * look, differ)):
            return reason
    return ""


def test_noise_takes_hardly_any_good_canary_back_however_often_it_is_looked_at() -> None:
    # Just as many failures and differences as are allowed, which is the hardest case.
    taken = sum(bool(noise(0.05, seed, 64)) for seed in range(100))
    assert taken <= 1
    assert 2 * 100 * ERROR_PROBABILITY < 1


@pytest.mark.parametrize(("share", "worse"), [(0.01, 0.1), (0.1, 0.3)])
def test_what_is_worse_is_found_within_a_few_hundred_samples(share: float, worse: float) -> None:
    trial = Trial(TakeBack(errors=share, min_samples=50))
    for samples in range(50, 1601, 10):
        failed = round(samples * (worse + share))
        stable = Counted(9 * samples - round(9 * samples * share), round(9 * samples * share), 0.0)
        if trial.look(Counted(samples - failed, failed, 0.0), stable, None):
            assert samples <= 400
            return
    raise AssertionError("it is not found")


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    low, high = wilson(8, 10, 1.959963984540054)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


# The rule in the file


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "take_back says nothing; give errors, latency or disagreement"),
        ({"min_samples": 5}, "take_back says nothing"),
        (
            {"error": 0.1},
            "take_back has the unknown key 'error'; the keys are errors, latency, disagreement, min_samples",
        ),
        ({"errors": 1}, "take_back gives errors 1; expected a share from 0 to below 1"),
        ({"errors": "0.1"}, "expected a share"),
        ({"disagreement": float("nan")}, "expected a share"),
        ({"latency": 0.5}, "take_back gives latency 0.5; expected a factor from 1 to 1000"),
        ({"latency": 10**400}, "expected a factor"),
        ({"errors": 0.1, "min_samples": 0}, "take_back gives min_samples 0; expected a whole number of at least 1"),
        ({"errors": 0.1, "min_samples": True}, "min_samples True"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TakeBack.parse(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": {"stable": 1}, "take_back": {"errors": 0.1}}', "needs a version that is labelled canary"),
        (
            '{"labels": {"stable": 1, "canary": 2}, "take_back": {"disagreement": 0.1}}',
            "only a shadow is compared; make version 2 the shadow, too",
        ),
        ('{"labels": {"stable": 1}, "take_back": 3}', "take_back must be an object"),
        ('{"taken_back": {"version": 2}}', "taken_back must have a version, a reason and when it was"),
        ('{"taken_back": {"version": "2", "reason": "r", "at": "t"}}', "taken_back must have"),
        ('{"given_up": {"version": 2}}', "given_up must have a version, a reason and when it was"),
    ],
)
def test_a_file_whose_rule_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rollouts.parse(text)
    assert words in str(caught.value)


def test_a_rule_and_a_take_back_survive_being_written_and_read() -> None:
    tried = next_step(Rollout({"stable": 1}), [1, 2], 2, canary=5, shadow=True, take_back=RULE)
    assert rollouts.parse(rollouts.to_text(tried)) == tried
    taken = take_back(tried, "it fails", "2026-01-02T03:04:05+00:00")
    assert rollouts.parse(rollouts.to_text(taken)) == taken
    assert taken == Rollout({"stable": 1}, taken_back=TakenBack(2, "it fails", "2026-01-02T03:04:05+00:00"))
    assert tried.told.endswith(
        "the canary is taken back if over 1 % more of its requests fail or they take over 1.5 times as long or it answers over 2 % of the "
        "rows otherwise"
    )
    assert taken.told == ("version 1 is stable, version 2 was taken back at 2026-01-02T03:04:05+00:00: it fails")


def test_a_take_back_leaves_other_trials_alone() -> None:
    rollout = Rollout({"stable": 1, "canary": 2, "eu": 3}, {"canary": 5, "eu": 10}, 4, (7,), TakeBack(errors=0.1))
    after = take_back(rollout, "it fails", "now")
    assert after == Rollout({"stable": 1, "eu": 3}, {"eu": 10}, 4, (7,), None, TakenBack(2, "it fails", "now"))


def test_what_was_taken_back_is_promoted_only_by_its_name() -> None:
    taken = Rollout({"stable": 1}, taken_back=TakenBack(2, "it fails", "now"))
    with pytest.raises(ConfigError, match="version 2 was taken back at now: it fails; to use it all the same, name it"):
        next_step(taken, [1, 2], None)
    assert next_step(taken, [1, 2], 2) == Rollout({"stable": 2}, previous=(1,))
    assert next_step(taken, [1, 2, 3], None) == Rollout({"stable": 3}, previous=(1,))
    assert next_step(taken, [1, 2], 2, canary=5).taken_back is None


def test_only_a_canary_has_a_rule() -> None:
    for options in ({}, {"shadow": True}):
        with pytest.raises(ConfigError, match="only a canary is taken back"):
            next_step(Rollout({"stable": 1}), [1, 2], 2, take_back=TakeBack(errors=0.1), **options)
    tried = next_step(Rollout({"stable": 1}), [1, 2], 2, canary=5, take_back=TakeBack(errors=0.1))
    assert rollback(tried, [1, 2]) == Rollout({"stable": 1})
    assert next_step(tried, [1, 2], 2, canary=10).take_back is None


def test_a_rollback_without_a_rollout_is_told_from_a_promotion() -> None:
    assert decisions(None, rollback(None, [1, 2, 3]), newest=3) == ["rolled_back"]
    assert decisions(None, promote(Rollout({"stable": 3}), 2), newest=3) == ["promoted"]
    assert decisions(None, Rollout({"stable": 3}), newest=3) == ["promoted"]


def test_versions_that_came_and_are_not_used_are_staged() -> None:
    assert staged(Rollout({"stable": 2}), {1, 3, 4}) == [3, 4]
    assert staged(Rollout({"stable": 2, "canary": 3}, shadow=4), {3, 4, 5}) == [5]
    # The newest answers, or nobody says who does.
    assert staged(None, {3}) == []
    assert staged(Rollout({"eu": 1}), {3}) == []


def test_a_promotion_that_was_given_up_is_kept_until_the_next_step() -> None:
    tried = next_step(Rollout({"stable": 1}), [1, 2], 2, shadow=True)
    given_up = give_up(tried, "90.00% of 50 rows agree", "2026-01-02T03:04:05+00:00")
    assert given_up.shadow == 2
    assert rollouts.parse(rollouts.to_text(given_up)) == given_up
    assert given_up.told == (
        "version 1 is stable, version 2 gets a copy of the traffic, the promotion of version 2 was given up at "
        "2026-01-02T03:04:05+00:00: 90.00% of 50 rows agree"
    )
    assert decisions(given_up, give_up(given_up, "90.00% of 60 rows agree", "later")) == ["given_up"]
    for step in (promote(given_up, 2), with_shadow(given_up, 2), with_canary(given_up, 2, 5)):
        assert step.given_up is None
    with pytest.raises(ConfigError, match="there is no shadow"):
        give_up(Rollout({"stable": 1}), "r", "t")


def test_each_step_is_told_apart() -> None:
    one = Rollout({"stable": 1})
    canary = next_step(one, [1, 2], 2, canary=5)
    both = next_step(one, [1, 2], 2, canary=5, shadow=True)
    two = promote(canary, 2)
    for before, after, told in (
        (None, one, ["promoted"]),
        (one, canary, ["canary"]),
        (one, both, ["canary", "shadow"]),
        (canary, one, ["ended"]),
        (canary, take_back(canary, "r", "t"), ["taken_back"]),
        (both, give_up(both, "r", "t"), ["given_up"]),
        (canary, two, ["promoted"]),
        (two, rollback(two, [1, 2]), ["rolled_back"]),
        (one, Rollout({"stable": 1, "eu": 1}), []),
    ):
        assert decisions(before, after) == told
