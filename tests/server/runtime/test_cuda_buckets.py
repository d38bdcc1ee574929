"""What is bound and captured on a CUDA device; decided without one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.model.warmup import batch_sizes
from frostline_server.runtime.cuda_buckets import (
    BindingPlan,
    affordable,
    binding_plan,
    cast_on_device,
    computed,
    fixed,
    output_sets,
    tensor_bytes,
)
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.signature import Signature, TensorSpec


def spec(name: str, *shape: int | None, dtype: Any = "f4", ranked: bool = True) -> TensorSpec:
    return TensorSpec(name, "FP32", np.dtype(dtype), shape, ranked=ranked)


IMAGE = spec("input", 3, 8, 8)
CLASSIFIER = Signature(
    (IMAGE,),
    (spec("logits", 10), spec("softmax", 10), spec("argmax", dtype="i8")),
    ("logits",),
    True,
    Heads("logits", "softmax", "argmax", "frostline_confidence"),
)
PIXELS = Signature(
    (IMAGE,),
    (spec("logits", 4, 8, 8), spec("softmax", 4, 8, 8), spec("argmax", 8, 8, dtype="i8")),
    ("logits",),
    True,
    Heads("logits", "softmax", "argmax"),
)
FOREIGN = Signature((IMAGE,), (spec("boxes", 5, 4), spec("scores", 5)), ("boxes", "scores"), True, None)
CONFIDENCE = "frostline_confidence"


# Sizes


@given(rows=st.integers(1, 300), sizes=st.sets(st.integers(1, 256), min_size=1))
def test_rows_go_into_the_smallest_bucket_that_holds_them(rows: int, sizes: set[int]) -> None:
    chosen = BindingPlan(tuple(sorted(sizes)), (("logits",),), (False,), (), 0).size(rows)
    assert chosen == min((size for size in sizes if size >= rows), default=None)


def test_the_buckets_are_powers_of_two_the_most_rows_and_the_preferred_sizes() -> None:
    batching = Batching(48, (QueuePolicy(100),), preferred_sizes=(24,))
    made = binding_plan(CLASSIFIER, batch_sizes(batching))
    assert made is not None
    assert made.sizes == (1, 2, 4, 8, 16, 24, 32, 48)


@given(rows=st.integers(1, 64))
def test_less_than_half_of_a_bucket_is_padding(rows: int) -> None:
    made = binding_plan(CLASSIFIER, batch_sizes(Batching(64, (QueuePolicy(100),))))
    assert made is not None
    size = made.size(rows)
    assert size is not None
    assert rows <= size < 2 * rows


def test_a_network_without_a_batch_axis_has_one_bucket() -> None:
    whole = replace(CLASSIFIER, batched=False, inputs=(spec("input", 1, 3, 8, 8),))
    made = binding_plan(whole, [1, 2, 4])
    assert made is not None
    assert made.sizes == (1,)


# Memory


def test_the_memory_of_a_plan_is_that_of_every_buffer() -> None:
    made = binding_plan(CLASSIFIER, [1, 4])
    row = 3 * 8 * 8 * 4 + 10 * 4 + 10 * 4 + 8 + 4
    assert made is not None
    assert made.bytes == 5 * row
    assert sum(tensor_bytes(part) for part in (*CLASSIFIER.inputs, *computed(CLASSIFIER))) == row


def test_bytes_are_cast_on_the_device_where_a_row_has_many_of_them() -> None:
    image = spec("input", 3, 32, 32)
    assert cast_on_device(image)
    assert not cast_on_device(IMAGE)
    assert not cast_on_device(TensorSpec("input", "FP16", np.dtype("f2"), (3, 224, 224)))
    made = binding_plan(replace(FOREIGN, inputs=(image, IMAGE)), [1])
    assert made is not None
    assert made.casts == (True, False)
    assert made.bytes == 5 * 3 * 32 * 32 + 4 * 3 * 8 * 8 + 4 * (5 * 4 + 5)


@given(
    sizes=st.sets(st.integers(1, 1024), min_size=1), row_bytes=st.integers(1, 10_000), max_bytes=st.integers(0, 10**6)
)
def test_as_many_of_the_small_sizes_are_kept_as_have_room(sizes: set[int], row_bytes: int, max_bytes: int) -> None:
    ordered = sorted(sizes)
    kept = affordable(ordered, row_bytes, max_bytes)
    assert list(kept) == ordered[: len(kept)]
    assert sum(kept) * row_bytes <= max_bytes
    assert len(kept) == len(ordered) or sum(ordered[: len(kept) + 1]) * row_bytes > max_bytes


def test_what_has_no_room_is_named_and_nothing_is_bound_where_nothing_has() -> None:
    made = binding_plan(CLASSIFIER, [1, 2, 4], max_bytes=3000)
    assert made is not None
    assert (made.sizes, made.left_out, made.size(3)) == ((1, 2), (4,), None)
    assert binding_plan(CLASSIFIER, [1, 2, 4], max_bytes=800) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": (spec("input", None, 8),)},
        {"inputs": (spec("input", 2, dtype=object),)},
        {"inputs": ()},
        {"outputs": (spec("logits", None),)},
        {"outputs": (spec("logits", ranked=False),)},
    ],
    ids=["any size", "strings", "no inputs", "an output of any size", "an unknown number of axes"],
)
def test_only_numbers_of_a_known_count_are_bound(changed: dict[str, Any]) -> None:
    assert binding_plan(replace(FOREIGN, **changed), [1, 2]) is None


def test_a_reshaped_tensor_is_bound_as_the_network_sees_it() -> None:
    seen = TensorSpec("input", "FP32", np.dtype("f4"), (None,), reshape=(3, 8))
    assert fixed(seen)
    assert tensor_bytes(seen) == 96


# Outputs


def test_a_classifier_has_a_graph_for_its_class_alone_and_one_for_everything() -> None:
    assert output_sets(CLASSIFIER) == (("argmax", CONFIDENCE), ("logits", "softmax", "argmax", CONFIDENCE))


def test_a_class_at_each_pixel_does_not_pay_for_the_softmax_it_was_not_asked_for() -> None:
    assert output_sets(PIXELS) == (("argmax",), ("logits",), ("logits", "softmax", "argmax"))


def test_a_network_without_heads_computes_everything() -> None:
    assert output_sets(FOREIGN) == (("boxes", "scores"),)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (("argmax", CONFIDENCE), 0),
        (("argmax",), 0),
        (("softmax", "argmax", CONFIDENCE), 1),
        (("logits",), 1),
        (("boxes",), None),
    ],
)
def test_a_run_takes_the_smallest_set_with_all_it_needs(wanted: tuple[str, ...], chosen: int | None) -> None:
    made = binding_plan(CLASSIFIER, [1])
    assert made is not None
    assert made.covering(wanted) == (None if chosen is None else made.outputs[chosen])


def test_the_probability_has_a_number_for_each_row_in_the_logits_type() -> None:
    assert computed(CLASSIFIER)[-1] == spec(CONFIDENCE)
    whole = replace(
        CLASSIFIER,
        batched=False,
        outputs=(spec("logits", 1, 10), spec("softmax", 1, 10), spec("argmax", 1, dtype="i8")),
    )
    assert computed(whole)[-1] == spec(CONFIDENCE, 1)


@given(sizes=st.sets(st.integers(1, 1024), min_size=1))
def test_every_size_and_set_of_outputs_has_a_graph_of_its_own_and_none_is_the_default_one(sizes: set[int]) -> None:
    made = binding_plan(CLASSIFIER, sorted(sizes))
    assert made is not None
    ids = made.graph_ids()
    assert set(ids) == {(size, names) for size in sizes for names in made.outputs}
    assert len(set(ids.values())) == len(ids)
    # 0 is what a run has that names none, -1 is none.
    assert all(int(number) > 0 for number in ids.values())
