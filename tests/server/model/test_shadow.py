"""A shadow compares what it is offered, all of it that fits, and whatever happens to it the live version does not notice."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.model import shadow as shadows
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.shadow import Counts, Shadow, compare, input_order, mismatch, other_inputs
from frostline_server.model.stats import Histogram
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models
from tests.support.onnx_models import rows
from tests.support.puppet import TIMEOUT_S, Puppet, Replies, make_entry

Array = np.ndarray[Any, Any]
Answer = Callable[[Sequence[Array], Sequence[str]], list[Array]]


def doubled(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
    """A version whose logits are its input twice."""
    assert outputs == ("logits", "argmax")
    logits = inputs[0] * 2
    return [logits, logits.argmax(axis=1)]


def shadow_of(run: Any = doubled, **options: Any) -> Shadow:
    return Shadow(run, ("logits", "argmax"), [0], **{"max_batch_size": 4, **options})


def offer(shadow: Shadow, logits: Array, *, argmax: Array | None = None) -> None:
    """A batch whose rows are half the logits, so that `doubled` agrees with it."""
    shadow.offer([logits / 2], logits, logits.argmax(axis=1) if argmax is None else argmax)


def all_compared(shadow: Shadow) -> Counts:
    """The counts once nothing waits any more."""
    for _ in range(1000):
        shadow.compare()
        if not shadow._waiting:
            return shadow.counts()
    raise AssertionError("something still waits")


LOGITS = np.array([[1, 0, -1], [0, 2, 1], [3, -1, 0], [-2, 1, 4]], np.float32)


def test_what_agrees_is_counted_as_compared_and_nothing_else() -> None:
    shadow = shadow_of()
    offer(shadow, LOGITS)
    counts = all_compared(shadow)
    assert (counts.rows, counts.disagreements, counts.dropped, counts.failed) == (4, 0, 0, 0)
    assert (counts.difference.count, counts.difference.total) == (4, 0.0)


def test_disagreeing_rows_and_the_largest_difference_of_each_row_are_counted() -> None:
    shadow = shadow_of()
    wrong = LOGITS.copy()
    wrong[1] = [0, 2, 4.5]  # another argmax, and 3.5 away
    wrong[2, 0] += 0.25
    shadow.offer([LOGITS / 2], wrong, wrong.argmax(axis=1))
    counts = all_compared(shadow)
    assert (counts.rows, counts.disagreements) == (4, 1)
    expected = Histogram(shadows.DIFFERENCE)
    for difference in (0, 3.5, 0.25, 0):
        expected.observe(difference)
    assert counts.difference.counts == expected.counts
    assert counts.difference.total == pytest.approx(3.75)


def test_small_batches_are_run_together_up_to_a_batch_of_the_shadow() -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = doubled
    shadow = shadow_of(puppet.outputs)
    for size in (1, 2, 2, 1, 3):
        offer(shadow, LOGITS[:size])
    assert all_compared(shadow).rows == 9
    assert [ran.rows for ran in puppet.ran] == [3, 3, 3]


def test_a_batch_larger_than_the_shadow_takes_is_run_in_parts() -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = doubled
    shadow = shadow_of(puppet.outputs, max_batch_size=3)
    offer(shadow, LOGITS)
    offer(shadow, LOGITS[:1])
    assert all_compared(shadow).rows == 5
    assert [ran.rows for ran in puppet.ran] == [3, 1, 1]


def test_rows_of_other_shapes_do_not_share_a_run() -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = lambda inputs, outputs: [inputs[0].mean(axis=1), inputs[0].mean(axis=1).argmax(axis=1)]
    shadow = shadow_of(puppet.outputs)
    for length in (2, 2, 5):
        inputs = np.ones((1, length, 3), np.float32)
        shadow.offer([inputs], inputs.mean(axis=1), np.zeros(1, np.int64))
    assert all_compared(shadow).rows == 3
    assert [ran.inputs[0].shape for ran in puppet.ran] == [(2, 2, 3), (1, 5, 3)]


def test_without_a_batch_axis_every_batch_runs_alone_and_whole() -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = lambda inputs, outputs: [LOGITS[:2], LOGITS[:2].argmax(axis=1)]
    shadow = shadow_of(puppet.outputs, max_batch_size=None)
    for _ in range(2):
        shadow.offer([np.ones((7, 5), np.float32)], LOGITS[:2], LOGITS[:2].argmax(axis=1))
    assert all_compared(shadow).rows == 4
    assert [ran.inputs[0].shape for ran in puppet.ran] == [(7, 5), (7, 5)]


def test_inputs_reach_the_shadow_in_its_own_order() -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = lambda inputs, outputs: [inputs[1] - inputs[0], (inputs[1] - inputs[0]).argmax(axis=1)]
    shadow = Shadow(puppet.outputs, ("logits", "argmax"), [1, 0], max_batch_size=4)
    shadow.offer([LOGITS, np.zeros_like(LOGITS)], LOGITS, LOGITS.argmax(axis=1))
    assert (all_compared(shadow).rows, shadow.counts().disagreements) == (4, 0)


@pytest.mark.parametrize("kept", [bytearray, lambda data: memoryview(bytearray(data)).toreadonly()])
def test_the_memory_of_inputs_that_are_offered_may_be_written_over_at_once(kept: Callable[[bytes], Any]) -> None:
    shadow = shadow_of()
    memory = kept((LOGITS / 2).tobytes())
    inputs = np.ndarray(LOGITS.shape, LOGITS.dtype, memory)
    shadow.offer([inputs], LOGITS, LOGITS.argmax(axis=1))
    memory = inputs.base
    memory[:] = bytes(len(memory))  # type: ignore[index, arg-type]  # a bytearray in both cases
    counts = all_compared(shadow)
    assert (counts.rows, counts.disagreements, counts.difference.total) == (4, 0, 0.0)


@pytest.mark.parametrize("bounds", [{"max_rows": 8}, {"max_bytes": 2 * (2 * LOGITS.nbytes + 4 * 8) + 1}])
def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(bounds: dict[str, int]) -> None:
    shadow = shadow_of(**bounds)
    for _ in range(3):
        offer(shadow, LOGITS)
    assert shadow.counts().dropped == 4
    assert all_compared(shadow).rows == 8
    offer(shadow, LOGITS)
    counts = all_compared(shadow)
    assert (counts.rows, counts.dropped) == (12, 4)


@pytest.mark.parametrize("bounds", [{"max_rows": 2}, {"max_bytes": 10}])
def test_a_batch_larger_than_the_queue_is_compared_when_nothing_else_waits(bounds: dict[str, int]) -> None:
    shadow = shadow_of(**bounds)
    offer(shadow, LOGITS)
    offer(shadow, LOGITS)
    assert shadow.counts().dropped == 4
    assert all_compared(shadow).rows == 4


def broken(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
    raise RuntimeError("out of memory")


def of_another_shape(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
    return [inputs[0][:, :2], inputs[0].argmax(axis=1)]


@pytest.mark.parametrize(("run", "reason"), [(broken, "out of memory"), (of_another_shape, "logits are [4, 2]")])
def test_a_shadow_that_fails_is_counted_told_once_and_tried_again(run: Answer, reason: str) -> None:
    puppet = Puppet(blocking=False)
    puppet.answer = run
    shadow = shadow_of(puppet.outputs)
    with capture_logs() as lines:
        for _ in range(3):
            offer(shadow, LOGITS)
            all_compared(shadow)
    assert (shadow.counts().failed, shadow.counts().rows) == (12, 0)
    assert len(lines) == 1
    assert reason in lines[0]["reason"]
    puppet.answer = doubled
    offer(shadow, LOGITS)
    assert (all_compared(shadow).failed, shadow.counts().rows) == (12, 4)


def test_logits_that_are_no_numbers_differ_from_all_that_are_but_not_from_each_other() -> None:
    nan, inf = np.nan, np.inf
    live = np.array([[nan, 1], [inf, 1], [0, 1], [inf, 1], [nan, 1]], np.float32)
    other = np.array([[nan, 1], [inf, 1], [nan, 1], [-inf, 1], [2, 1]], np.float32)
    _, differences = compare(live, np.ones(5), other, np.ones(5))
    assert (differences[:2] == 0).all()
    assert not np.isfinite(differences[2:]).any()
    shadow = shadow_of(lambda inputs, outputs: [other, np.ones(5, np.int64)], max_batch_size=8)
    shadow.offer([live], live, np.ones(5, np.int64))
    counts = all_compared(shadow)
    assert (counts.difference.counts[0], counts.difference.counts[-1]) == (2, 3)
    assert counts.difference.total == 0.0


def test_a_row_with_several_answers_disagrees_if_one_of_them_does() -> None:
    logits = np.zeros((2, 3, 4, 4), np.float32)
    argmax = np.zeros((2, 4, 4), np.int64)
    other = argmax.copy()
    other[1, 2, 3] = 1
    different, differences = compare(logits, argmax, logits + np.float32(0.5), other)
    assert different.tolist() == [False, True]
    assert differences.tolist() == [0.5, 0.5]


class Clock:
    """Seconds that pass only when a run takes them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("run_s", "watched_s"), [(0.0001, 10), (0.002, 100), (0.7, 100)])
def test_the_thread_rests_in_proportion_to_what_it_computed(run_s: float, watched_s: float) -> None:
    clock = Clock()

    def slow(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        clock.now_s += run_s
        return doubled(inputs, outputs)

    shadow = shadow_of(slow, clock=clock, share=0.1)
    computed_s = 0.0
    while clock.now_s < watched_s:
        while shadow.counts().dropped == 0 and shadow._waiting_rows < 1000:
            offer(shadow, LOGITS)
        began_s = clock.now_s
        rest_s = shadow.compare()
        computed_s += clock.now_s - began_s
        clock.now_s += rest_s
    assert computed_s / clock.now_s == pytest.approx(0.1, rel=0.05)


def test_an_idle_shadow_looks_now_and_then() -> None:
    assert 0.01 < shadow_of().compare() < 1


# The thread


def test_the_thread_compares_what_is_offered_while_offering_goes_on() -> None:
    puppet = Puppet()
    puppet.answer = doubled
    shadow = shadow_of(puppet.outputs, share=1.0)
    shadow.start()
    offer(shadow, LOGITS)
    puppet.wait_for(1)
    # The shadow's run hangs, and offering does not.
    offer(shadow, LOGITS)
    puppet.release()
    puppet.wait_for(2)
    assert shadow.counts().rows == 4
    puppet.release_all()
    shadow.close()
    assert shadow.counts().rows == 8


def test_closing_gives_up_what_waits_and_ends_the_thread() -> None:
    puppet = Puppet()
    puppet.answer = doubled
    shadow = shadow_of(puppet.outputs, name="shadow-test-1")
    shadow.start()
    for _ in range(3):
        offer(shadow, LOGITS)
    puppet.wait_for(1)
    closing = threading.Thread(target=shadow.close)
    closing.start()
    assert shadow._closing.wait(TIMEOUT_S)
    puppet.release_all()
    closing.join(TIMEOUT_S)
    assert len(puppet.ran) == 1
    assert shadow.counts().rows == 4
    assert "shadow-test-1" not in {thread.name for thread in threading.enumerate()}


def test_a_shadow_whose_device_hangs_does_not_keep_anybody_from_closing_it() -> None:
    puppet = Puppet()
    puppet.answer = doubled
    shadow = shadow_of(puppet.outputs)
    shadow.start()
    offer(shadow, LOGITS)
    puppet.wait_for(1)
    shadow.close(timeout_s=0.0)
    assert shadow.counts().rows == 0
    puppet.release_all()
    shadow.close()
    assert shadow.counts().rows == 4


# Which versions can be compared


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., LoadedModel]]:
    """Loads a network as a version of its own."""
    loaded: list[LoadedModel] = []
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))

    def build(model: onnx.ModelProto | None = None, **options: Any) -> LoadedModel:
        folder = onnx_models.write_artifact(
            tmp_path, "net", len(loaded) + 1, model, **{"golden": False, "labels": None, **options}
        )
        config = model_config_pb2.ModelConfig()
        loaded.append(loader.load(folder, "net", config, lambda warning: None))
        return loaded[-1]

    yield build
    for served in loaded:
        assert served.batcher.close(TIMEOUT_S)


Load = Callable[..., LoadedModel]


def why(live: LoadedModel, other: LoadedModel) -> str:
    ours, theirs = live.session.signature, other.session.signature
    return mismatch(ours, live.labels, theirs, other.labels) or other_inputs(ours, theirs)


def test_two_versions_of_one_network_can_be_compared(load: Load) -> None:
    assert why(load(), load(labels=onnx_models.LABELS)) == ""
    assert why(load(onnx_models.dynamic_inner()), load(onnx_models.dynamic_inner())) == ""
    pair = load(onnx_models.two_inputs())
    assert why(pair, pair) == ""
    assert input_order(pair.session.signature, pair.session.signature) == [0, 1]


@pytest.mark.parametrize(
    ("live", "other", "words"),
    [
        (onnx_models.linear, onnx_models.two_outputs, "only classifiers"),
        (onnx_models.two_outputs, onnx_models.linear, "only classifiers"),
        (onnx_models.dense, onnx_models.dense, "only classifiers, with one class for each row"),
        (onnx_models.linear, onnx_models.already_softmax, "only one of the two ends at a softmax"),
        (onnx_models.linear, onnx_models.fixed_batch, "only one of the two has a batch axis"),
        (onnx_models.linear, onnx_models.two_inputs, "its inputs are ['left', 'right'], the live version's are ['input']"),
        (onnx_models.linear, onnx_models.half, "its input 'input' is FP16 [4], the live version's FP32 [4]"),
        (onnx_models.linear, onnx_models.dynamic_inner, "its input 'input' is FP32 [None, 4]"),
        (onnx_models.linear, lambda: onnx_models.passed_through(["rows", 4]), "logits are [4] for each row, the live version's [3]"),
    ],
)  # fmt: skip
def test_versions_that_cannot_be_compared_are_told_why(load: Load, live: Any, other: Any, words: str) -> None:
    assert words in why(load(live()), load(other()))


def test_versions_with_other_labels_are_not_compared(load: Load) -> None:
    assert (
        why(load(labels=["ant", "bee", "cat"]), load(labels=["bee", "ant", "cat"]))
        == "its labels are not the live version's"
    )


# At the live version's device thread


def ask(served: LoadedModel, x: Array, wanted: tuple[str, ...]) -> list[Array]:
    """One request through the version's batcher."""
    replies = Replies()
    served.batcher.submit(make_entry(x, reply=replies, wanted=wanted))
    (entry,) = replies.wait_for(1)
    assert entry.error is None
    return entry.outputs


@pytest.mark.parametrize(
    "wanted",
    [
        (onnx_models.HEADS.argmax,),
        ("logits",),
        (onnx_models.HEADS.softmax, onnx_models.HEADS.argmax),
        ("logits", onnx_models.HEADS.softmax),
    ],
)
def test_a_tapped_version_answers_as_before_and_its_shadow_sees_logits_whatever_was_asked_for(
    load: Load, wanted: tuple[str, ...]
) -> None:
    served = load()
    x = rows(5)
    before = ask(served, x, wanted)
    shadow = Shadow(served.session.run, ("logits", onnx_models.HEADS.argmax), [0], max_batch_size=16)
    served.tap.shadow = shadow
    after = ask(served, x, wanted)
    served.tap.shadow = None
    ask(served, x, wanted)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    counts = all_compared(shadow)
    assert (counts.rows, counts.disagreements, counts.difference.total) == (5, 0, 0.0)
    # What the shadow runs is not counted as predictions of anybody.
    assert sum(served.predictions.counts()[0].values()) == 15


def test_a_version_without_heads_has_no_use_for_a_tap(load: Load) -> None:
    served = load(onnx_models.two_outputs())
    served.tap.shadow = Shadow(served.session.run, ("logits", onnx_models.HEADS.argmax), [0], max_batch_size=16)
    (total,) = ask(served, rows(2), ("total",))
    np.testing.assert_array_equal(total, rows(2).sum(axis=1))
    assert served.tap.shadow.counts().rows == 0
