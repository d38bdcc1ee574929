"""What to load and what to let go, as a table and as laws."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from frostline.pb import model_config_pb2
from frostline_server.repository.plan import Fingerprint, Known, OnDisk, Plan, choose, plan


def files(mark: int) -> Fingerprint:
    return (("model.onnx", 1, mark, 1),)


def policy(text: str) -> model_config_pb2.ModelVersionPolicy:
    return text_format.Parse(text, model_config_pb2.ModelVersionPolicy())


def on_disk(
    *numbers: int, text: str = "", named: frozenset[int] = frozenset(), mark: int = 0, settling: tuple[int, ...] = ()
) -> OnDisk:
    return OnDisk(policy(text), {number: files(mark) for number in numbers}, named, settling=frozenset(settling))


def known(ready: tuple[int, ...] = (), failed: tuple[int, ...] = (), mark: int = 0) -> Mapping[int, Known]:
    return {
        **{number: Known(ready=True, fingerprint=files(mark)) for number in ready},
        **{number: Known(ready=False, fingerprint=files(mark)) for number in failed},
    }


@pytest.mark.parametrize(
    ("text", "numbers", "failed", "chosen"),
    [
        ("", [], [], ()),
        ("", [7], [], (7,)),
        ("", [1, 3, 2], [], (3,)),
        ("", [1, 3, 2], [3], (2,)),
        ("", [1, 3, 2], [1, 2, 3], ()),
        ("latest { num_versions: 0 }", [1, 2], [], (2,)),
        ("latest { num_versions: 1 }", [9, 10], [], (10,)),
        ("latest { num_versions: 2 }", [1, 2, 3, 4], [], (4, 3)),
        ("latest { num_versions: 2 }", [1, 2, 3, 4], [4, 3], (2, 1)),
        ("latest { num_versions: 9 }", [1, 2], [], (2, 1)),
        ("all { }", [1, 3, 2], [], (3, 2, 1)),
        ("all { }", [1, 3, 2], [2], (3, 1)),
        ("specific { }", [1, 2], [], ()),
        ("specific { versions: [1, 3] }", [1, 2, 3], [], (3, 1)),
        ("specific { versions: [3] }", [1, 2, 3], [3], ()),
        ("specific { versions: [4] }", [1, 2, 3], [], ()),
    ],
)
def test_the_policy_says_which_versions_are_served_and_what_stands_in(
    text: str, numbers: list[int], failed: list[int], chosen: tuple[int, ...]
) -> None:
    assert choose(on_disk(*numbers, text=text), set(failed)) == chosen


def test_versions_named_elsewhere_are_served_besides_those_of_the_policy() -> None:
    assert choose(on_disk(1, 2, 3, 4, named=frozenset((1, 9))), {3}) == (4, 1)


@pytest.mark.parametrize(
    ("disk", "server", "expected"),
    [
        pytest.param(on_disk(1), known(), Plan(load=(1,)), id="a first version is loaded"),
        pytest.param(on_disk(1), known(ready=(1,)), Plan(), id="what is served already is left alone"),
        pytest.param(on_disk(1, 2), known(ready=(1,)), Plan(load=(2,)), id="the old one is kept until the new one is there"),
        pytest.param(on_disk(1, 2), known(ready=(1, 2)), Plan(unload=(1,)), id="then it goes"),
        pytest.param(on_disk(1, 2), known(ready=(1,), failed=(2,)), Plan(), id="a version that failed is not tried again"),
        pytest.param(on_disk(1, 2), known(failed=(2,)), Plan(load=(1,)), id="the one before it stands in"),
        pytest.param(on_disk(1, mark=5), known(failed=(1,)), Plan(load=(1,)), id="a failed one whose files change is tried"),
        pytest.param(on_disk(1, mark=5), known(ready=(1,)), Plan(load=(1,)), id="a ready one whose files change is loaded anew"),
        pytest.param(on_disk(1), known(ready=(1, 2)), Plan(unload=(2,)), id="a version that was deleted goes"),
        pytest.param(on_disk(1), known(ready=(2,)), Plan(load=(1,)), id="but not before another one is there"),
        pytest.param(on_disk(1), known(ready=(2,), failed=(1,)), Plan(), id="nor because the other one failed"),
        pytest.param(on_disk(1, 3), known(ready=(2,), failed=(3,)), Plan(load=(1,)), id="nor before an older one stands in"),
        pytest.param(on_disk(settling=(2,)), known(ready=(1,)), Plan(), id="nor while the other one is still being copied"),
        pytest.param(on_disk(1, 3, settling=(4,)), known(ready=(2, 3)), Plan(unload=(2,)), id="what is published meanwhile is not waited for"),
        pytest.param(on_disk(1, 2, settling=(4,), text="all { }"), known(ready=(1, 2, 3)), Plan(unload=(3,)), id="nor while others answer"),
        pytest.param(on_disk(1, 2, 4, text="all { }"), known(ready=(1, 2, 3)), Plan(load=(4,), unload=(3,)), id="nor while it is loaded"),
        pytest.param(on_disk(1, 2, text="all { }"), known(ready=(1, 3)), Plan(load=(2,)), id="but the one before it is"),
        pytest.param(replace(on_disk(1, 2, 4), stable=(4, 2), named={1}), known(ready=(1, 3)), Plan(load=(4,)), id="and the stable one"),
        pytest.param(replace(on_disk(1, 2, settling=(4,)), stable=(2,), named={1}), known(ready=(2, 3)), Plan(load=(1,), unload=(3,)), id="no other than the stable one is"),
        pytest.param(replace(on_disk(4, settling=(6,), text="latest { num_versions: 2 }"), stable=(6, 5, 4), named={6}), known(ready=(4, 5)), Plan(), id="also if the stable one is still copied"),
        pytest.param(on_disk(3, settling=(1,)), known(ready=(2, 3)), Plan(unload=(2,)), id="but what it does not want is not waited for"),
        pytest.param(on_disk(), known(ready=(1,), failed=(2,)), Plan(forget=(2,)), id="a folder that is empty for a moment takes nothing away"),
        pytest.param(on_disk(1), known(ready=(1,), failed=(2,)), Plan(forget=(2,)), id="a deleted failure is forgotten"),
        pytest.param(None, known(ready=(1,), failed=(2,)), Plan(unload=(1,), forget=(2,)), id="a model that was deleted goes"),
        pytest.param(on_disk(1, 2, text="specific { versions: [9] }"), known(ready=(1, 2)), Plan(), id="a policy that asks for nothing that is there takes nothing away"),
        pytest.param(on_disk(2, text="specific { versions: [9] }"), known(ready=(1, 2)), Plan(unload=(1,)), id="but what is withdrawn goes all the same"),
        pytest.param(on_disk(2, text="specific { versions: [9] }"), known(ready=(1,)), Plan(), id="unless nothing would be left"),
        pytest.param(on_disk(1, 2, 3, text="all { }"), known(ready=(2,)), Plan(load=(3, 1)), id="newest first"),
    ],
)  # fmt: skip
def test_one_step(disk: OnDisk | None, server: Mapping[int, Known], expected: Plan) -> None:
    assert plan(disk, server) == expected


def test_new_files_that_were_refused_are_not_tried_again_and_newer_ones_are() -> None:
    server = {1: Known(ready=True, fingerprint=files(0), refused=files(1))}
    assert plan(on_disk(1, mark=1), server) == Plan()
    assert plan(on_disk(1, mark=2), server) == Plan(load=(1,))
    assert plan(on_disk(1, mark=0), server) == Plan()


numbers = st.sets(st.integers(1, 6))
policies = st.sampled_from(["", "latest { num_versions: 2 }", "all { }", "specific { versions: [2, 4] }"])


def followed(found: OnDisk, server: dict[int, Known], bad: set[int]) -> list[set[int]]:
    """Follow the plan to its end, `bad` versions failing; returns the ready versions after each action."""
    seen: list[set[int]] = []
    for _ in range(20):
        step = plan(found, server)
        if step == Plan():
            return seen
        if step.load:
            assert not {*step.unload} & found.versions.keys(), (
                "nothing that is there goes while something is to be loaded"
            )
        for number in (*step.unload, *step.forget):
            del server[number]
        for number in step.load[:1]:
            server[number] = Known(ready=number not in bad, fingerprint=files(0))
        seen.append({number for number, version in server.items() if version.ready})
    raise AssertionError("the plan never ends")


@given(numbers, numbers, policies)
def test_following_the_plan_ends_with_just_what_is_wanted(disk: set[int], bad: set[int], text: str) -> None:
    server: dict[int, Known] = {}
    found = on_disk(*disk, text=text)
    followed(found, server, bad)
    assert {number for number, version in server.items() if version.ready} == set(choose(found, bad))


@given(numbers.filter(bool), numbers.filter(bool), numbers, numbers, policies)
def test_whatever_replaces_the_folder_of_a_model_it_is_never_without_an_answer(
    disk: set[int], ready: set[int], failed: set[int], bad: set[int], text: str
) -> None:
    server = dict(known(ready=tuple(ready), failed=tuple(failed - ready)))
    found = on_disk(*disk, text=text)
    assert all(followed(found, server, bad | failed - ready))
    wanted = set(choose(found, bad | failed - ready) if not ready & bad else ())
    left = {number for number, version in server.items() if version.ready}
    assert left == wanted or not wanted
