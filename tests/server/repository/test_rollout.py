"""What a rollout says, what each step makes of it, and which version then answers."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from frostline_server.errors import ConfigError
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import (
    CANARY,
    STABLE,
    Rollout,
)
from frostline_server.repository.rollout_steps import next_step, promote, rollback, with_canary, with_shadow
from frostline_server.repository.routes import Routes, routes, wanted

VERSIONS = st.integers(1, 9)
READY = st.sets(VERSIONS)


@st.composite
def any_rollout(draw: st.DrawFn) -> Rollout:
    """A rollout that makes sense, by hand or by command."""
    labels = draw(st.dictionaries(st.sampled_from([STABLE, CANARY, "eu", "b-2"]), VERSIONS))
    split: dict[str, float] = {}
    shadow = None
    if STABLE in labels:
        left = 100
        for label in draw(st.sets(st.sampled_from(sorted(labels)))) - {STABLE}:
            percent = draw(st.integers(0, left))
            if percent:
                split[label] = percent
            left -= percent
        shadow = draw(st.none() | VERSIONS.filter(lambda version: version != labels[STABLE]))
    return Rollout(labels, split, shadow, tuple(draw(st.lists(VERSIONS, max_size=4))))


ROLLOUTS = any_rollout()


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    return str(caught.value)


# The file


def test_a_rollout_file_is_read_as_it_is_written_by_hand() -> None:
    text = '{"labels": {"stable": 3, "canary": 4}, "split": {"canary": 0.5}, "shadow": 5, "previous": [1, 2]}'
    assert rollouts.parse(text) == Rollout({STABLE: 3, CANARY: 4}, {CANARY: 0.5}, 5, (1, 2))


@given(ROLLOUTS)
def test_what_is_written_is_read_back(rollout: Rollout) -> None:
    assert rollouts.parse(rollouts.to_text(rollout)) == rollout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"splitt": {}}', "unknown key 'splitt'; the keys are given_up, labels, previous, shadow, split, take_back, taken_back"),
        ('{"labels": ["stable"]}', "labels must be an object, got ['stable']"),
        ('{"split": 5}', "split must be an object, got 5"),
        ('{"previous": 2}', "previous must be a list of versions, got 2"),
        ('{"previous": ["2"]}', "previous must be the number of a version, got '2'"),
        ('{"labels": {"stable": "3"}}', "the label 'stable' must be the number of a version, got '3'"),
        ('{"labels": {"stable": true}}', "the label 'stable' must be the number of a version, got True"),
        ('{"labels": {"stable": 3.0}}', "the label 'stable' must be the number of a version, got 3.0"),
        ('{"labels": {"stable": 0}}', "the label 'stable' must be the number of a version, got 0"),
        ('{"labels": {"7": 3}}', "'7' is not a valid label"),
        ('{"labels": {"": 3}}', "'' is not a valid label"),
        ('{"labels": {"latest": 3}}', "'latest' is not a valid label"),
        ('{"labels": {"a b": 3}}', "'a b' is not a valid label"),
        ('{"labels": {"stable": 3}, "split": {"canary": 5}}', "split names 'canary'"),
        ('{"labels": {"stable": 3}, "split": {"stable": 5}}', "split names 'stable'"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": 0}}', "percentage above 0 and up to 100"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": "5"}}', "gives 'canary' '5'; expected a percentage"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": true}}', "gives 'canary' True"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": 1' + "0" * 400 + "}}", "gives 'canary' 1000"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": NaN}}', "gives 'canary' nan"),
        ('{"labels": {"stable": 3, "canary": 4}, "split": {"canary": 1e999}}', "gives 'canary' inf"),
        ('{"labels": {"stable": 3, "a": 4, "b": 5}, "split": {"a": 60, "b": 60}}', "split assigns 120 percent"),
        ('{"labels": {"canary": 4}, "split": {"canary": 5}}', "needs a version that is labelled stable"),
        ('{"shadow": 5}', "needs a version that is labelled stable"),
        ('{"labels": {"stable": 3}, "shadow": 3}', "version 3 is stable; it cannot be its own shadow"),
        ('{"labels": {"stable": 3}, "shadow": "4"}', "shadow must be the number of a version, got '4'"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_with_what_was_expected_and_what_came(text: str, words: str) -> None:
    assert words in refusal(lambda: rollouts.parse(text))


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["labels", "split", "shadow", "previous", "a"]), inner)).map(json.dumps))  # fmt: skip
def test_whatever_the_file_holds_it_is_a_rollout_or_refused(text: str) -> None:
    try:
        read = rollouts.parse(text)
    except ConfigError:
        return
    assert rollouts.parse(rollouts.to_text(read)) == read


def test_a_folder_without_the_file_has_no_rollout(tmp_path: Path) -> None:
    assert rollouts.read(tmp_path, FileReader(tmp_path)) is None


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    rollouts.write(tmp_path, Rollout({STABLE: 1}))
    rollouts.write(tmp_path, Rollout({STABLE: 2}))
    assert rollouts.read(tmp_path, FileReader(tmp_path)) == Rollout({STABLE: 2})
    assert [path.name for path in tmp_path.iterdir()] == [rollouts.FILE]


def test_the_written_file_can_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    rollouts.write(tmp_path, Rollout({STABLE: 1}))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_file_that_cannot_be_replaced_stays_as_it_was_and_says_so(tmp_path: Path) -> None:
    (tmp_path / rollouts.FILE).mkdir()
    assert "cannot write" in refusal(lambda: rollouts.write(tmp_path, Rollout({STABLE: 1})))
    assert [path.name for path in tmp_path.iterdir()] == [rollouts.FILE]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}}"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / rollouts.FILE).write_bytes(content)
    assert "rollout.json cannot be used" in refusal(lambda: rollouts.read(tmp_path, FileReader(tmp_path)))


# The steps


def test_the_first_promotion_makes_a_version_stable() -> None:
    assert promote(None, 3) == Rollout({STABLE: 3})


def test_a_promotion_remembers_what_was_stable_and_ends_every_trial() -> None:
    trying = Rollout({STABLE: 3, CANARY: 4, "eu": 2}, {CANARY: 5}, 5, (1,))
    assert promote(trying, 4) == Rollout({STABLE: 4, "eu": 2}, previous=(1, 3))


def test_promoting_the_stable_version_again_only_ends_the_trials() -> None:
    assert promote(Rollout({STABLE: 3, CANARY: 4}, {CANARY: 5}, 5, (1,)), 3) == Rollout({STABLE: 3}, previous=(1,))


def test_a_canary_and_a_shadow_are_tried_beside_the_stable_version() -> None:
    rollout = with_canary(Rollout({STABLE: 3}), 4, 5)
    assert rollout == Rollout({STABLE: 3, CANARY: 4}, {CANARY: 5})
    assert with_canary(with_shadow(rollout, 5), 4, 50) == Rollout({STABLE: 3, CANARY: 4}, {CANARY: 50}, 5)


@pytest.mark.parametrize("step", [lambda r: with_canary(r, 3, 5), lambda r: with_shadow(r, 3)])
def test_nothing_is_tried_beside_itself_or_without_a_stable_version(step: Callable[[Rollout | None], Rollout]) -> None:
    assert "no version is stable yet" in refusal(lambda: step(None))
    assert "no version is stable yet" in refusal(lambda: step(Rollout({"eu": 2})))
    assert "version 3 is the stable version" in refusal(lambda: step(Rollout({STABLE: 3})))


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_a_share_is_a_percentage(percent: float) -> None:
    assert "percentage" in refusal(lambda: with_canary(Rollout({STABLE: 3}), 4, percent))


def test_rolling_back_first_ends_the_trial_and_then_returns_to_the_version_before() -> None:
    trying = Rollout({STABLE: 3, CANARY: 4, "eu": 2}, {CANARY: 5, "eu": 1}, 5, (1,))
    ended = rollback(trying, {1, 2, 3, 4, 5})
    assert ended == Rollout({STABLE: 3, "eu": 2}, previous=(1,))
    assert rollback(ended, {1, 2, 3}) == Rollout({STABLE: 1, "eu": 2})


def test_without_a_rollout_the_newest_answers_and_the_one_before_it_returns() -> None:
    assert rollback(None, {1, 10, 3}) == Rollout({STABLE: 3})
    assert next_step(None, [1, 3, 10], 1) == Rollout({STABLE: 1}, previous=(10,))
    assert next_step(None, [1, 3, 10], 10) == Rollout({STABLE: 10})


def test_rolling_back_passes_over_versions_that_have_been_deleted() -> None:
    assert rollback(Rollout({STABLE: 5}, previous=(1, 2, 3)), {1, 2, 5}) == Rollout({STABLE: 2}, previous=(1,))


def test_there_may_be_nothing_to_roll_back_to() -> None:
    assert "no rollout.json and no older version" in refusal(lambda: rollback(None, {1}))
    assert "nothing to roll back to" in refusal(lambda: rollback(Rollout({STABLE: 3}), {2, 3}))
    assert "nothing to roll back to" in refusal(lambda: rollback(Rollout({STABLE: 3}, previous=(2,)), {3}))


@given(ROLLOUTS, VERSIONS)
def test_a_rollback_takes_a_promotion_back(before: Rollout, version: int) -> None:
    stable = before.labels.get(STABLE)
    assume(stable not in (None, version))
    after = rollback(promote(before, version), set(range(10)))
    assert after.labels[STABLE] == stable
    assert not after.on_trial


@given(st.lists(VERSIONS, min_size=1, max_size=40))
def test_the_file_does_not_grow_for_ever(promoted: list[int]) -> None:
    rollout: Rollout | None = None
    for version in promoted:
        rollout = promote(rollout, version)
    assert rollout is not None
    assert len(rollout.previous) <= 10
    assert rollout.labels == {STABLE: promoted[-1]}


# Who answers


def test_without_a_rollout_the_newest_ready_version_answers_everything() -> None:
    assert routes(None, {2, 10, 9}) == Routes(10)
    assert wanted(None) == set()


def test_a_rollout_wants_the_versions_it_names_and_not_those_before() -> None:
    assert wanted(Rollout({STABLE: 3, CANARY: 4, "eu": 2}, {CANARY: 5}, 5, (1,))) == {2, 3, 4, 5}


def test_the_stable_version_answers_and_the_canary_has_its_share() -> None:
    found = routes(Rollout({STABLE: 3, CANARY: 4}, {CANARY: 5}, 5), {3, 4, 5, 9})
    assert found == Routes(3, {STABLE: 3, CANARY: 4}, ((0.95, 3), (1.0, 4)), 5)
    assert [found.choose(draw) for draw in (0.0, 0.949, 0.95, 0.9999)] == [3, 3, 4, 4]


def test_without_a_stable_label_the_newest_ready_version_answers_and_labels_are_names() -> None:
    assert routes(Rollout({"eu": 2}), {2, 3}) == Routes(3, {"eu": 2})


def test_a_canary_may_get_everything() -> None:
    found = routes(Rollout({STABLE: 3, CANARY: 4}, {CANARY: 100}), {3, 4})
    assert (found.split, found.shares()) == (((1.0, 4),), {4: 1.0})
    assert found.choose(0.5) == 4


@pytest.mark.parametrize(
    ("ready", "answers"),
    [({1, 2, 4, 5}, 2), ({5, 6}, 5), ({6, 7}, 7), ({6}, 6), ({3, 6}, 3)],
    ids=["the next older", "the next newer", "not the shadow", "the shadow before nobody", "itself"],
)
def test_in_place_of_a_stable_version_that_is_not_ready_the_nearest_one_answers(ready: set[int], answers: int) -> None:
    found = routes(Rollout({STABLE: 3}, shadow=6), ready)
    assert found.default == answers
    assert bool(found.problems) == (answers != 3 or 6 not in ready)


def test_the_version_that_was_stable_before_comes_before_any_other() -> None:
    rollout = Rollout({STABLE: 5}, previous=(3, 1, 2))
    assert [routes(rollout, ready).default for ready in ({1, 2, 3, 4}, {1, 3, 4}, {3, 4}, {4, 6})] == [2, 1, 3, 4]


def test_the_version_that_was_stable_until_now_comes_before_all_that_were_before() -> None:
    rollout = Rollout({STABLE: 1}, previous=(3,))
    assert [routes(rollout, ready, stood=2).default for ready in ({2, 3}, {3}, {1, 2, 3})] == [2, 3, 1]


def test_a_canary_that_is_not_ready_leaves_its_share_to_the_stable_version_and_the_reason_is_told() -> None:
    found = routes(Rollout({STABLE: 3, CANARY: 4}, {CANARY: 5}), {3})
    assert (found.default, found.labels, found.split) == (3, {STABLE: 3, CANARY: 3}, ())
    assert found.problems == ("version 4 is canary and not ready: version 3 answers in its place",)


@pytest.mark.parametrize(("ready", "why"), [({3}, "is not ready"), ({5}, "answers requests itself")])
def test_a_shadow_that_cannot_follow_is_told(ready: set[int], why: str) -> None:
    found = routes(Rollout({STABLE: 3}, shadow=5), ready)
    assert found.shadow is None
    assert f"version 5 is the shadow and {why}: nothing is compared" in found.problems


@given(ROLLOUTS, READY)
def test_no_request_is_lost_to_a_rollout(rollout: Rollout, ready: set[int]) -> None:
    found = routes(rollout, ready)
    answering = {found.default, *found.labels.values(), *found.shares()} - {None}
    assert answering <= ready
    assert (found.default is None) == (not ready)
    if ready:
        assert set(found.labels) == set(rollout.labels)


@given(ROLLOUTS, READY)
def test_a_ready_version_answers_what_the_rollout_gives_it_and_then_there_is_nothing_to_tell(
    rollout: Rollout, ready: set[int]
) -> None:
    ready |= wanted(rollout) or {1}
    found = routes(rollout, ready)
    assert found.labels == rollout.labels
    assert found.default == rollout.labels.get(STABLE, max(ready))
    assert found.shadow == rollout.shadow
    assert found.problems == ()


@given(ROLLOUTS, READY)
def test_a_shadow_only_gets_requests_when_named_or_alone(rollout: Rollout, ready: set[int]) -> None:
    found = routes(rollout, ready)
    if rollout.shadow in found.shares() and rollout.shadow not in rollout.labels.values():
        assert ready == {rollout.shadow}


@given(ROLLOUTS, READY, st.floats(0, 1, exclude_max=True))
def test_shares_add_up_and_each_draw_falls_into_one(rollout: Rollout, ready: set[int], draw: float) -> None:
    found = routes(rollout, ready)
    shares = found.shares()
    assert sum(shares.values()) == pytest.approx(1.0 if ready else 0.0)
    assert all(share > 0 for share in shares.values())
    assert found.choose(draw) in (shares or {None})


@given(ROLLOUTS, READY)
def test_the_shares_are_those_that_the_file_gives(rollout: Rollout, ready: set[int]) -> None:
    assume(ready and STABLE in rollout.labels)
    expected: dict[int | None, float] = {}
    found = routes(rollout, ready)
    for label, percent in {**rollout.split, STABLE: 100 - sum(rollout.split.values())}.items():
        version = found.labels[label]
        expected[version] = expected.get(version, 0) + percent / 100
    assert found.shares() == pytest.approx({version: share for version, share in expected.items() if share})
    # 1 000 evenly spread draws fall as the shares say.
    draws = [found.choose((number + 0.5) / 1000) for number in range(1000)]
    assert all(abs(draws.count(version) - 1000 * share) <= 2 for version, share in expected.items())
