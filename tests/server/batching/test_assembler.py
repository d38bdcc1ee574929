"""What reaches the network: rows of several requests, joined and cast into one batch."""

from typing import Any

import numpy as np

from frostline_server.batching.assembler import Assembler
from frostline_server.batching.entry import Entry, RowKind
from tests.support.puppet import HOUR_S, Staging, make_entry, rows_of

FLOAT = np.dtype(np.float32)


# What reaches the network


def test_rows_of_several_wire_types_share_a_batch_and_are_cast_to_what_the_network_takes(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [
        on.entry([255, 0], wire=np.uint8),
        on.entry([-128, 127], [1, -1], wire=np.int8),
        on.entry([0.5, -65504], wire=np.float16),
        on.entry([1e-30, 3e38]),
    ]
    on.submit(*entries)
    on.puppet.release()
    (array,) = on.puppet.wait_for(2).inputs
    assert array.dtype == FLOAT
    assert array[:4].tolist() == [[255, 0], [-128, 127], [1, -1], [0.5, -65504]]
    np.testing.assert_array_equal(array[4], np.array([1e-30, 3e38], np.float32))
    on.finish()
    assert rows_of(entries[1]) == [[-128, 127], [1, -1]]


def test_a_request_of_another_wire_type_is_cast_when_it_runs_alone(staging: Staging) -> None:
    on = staging()
    entry = on.entry([1, 2], wire=np.uint8)
    on.submit(entry)
    on.finish()
    assert on.puppet.ran[0].inputs[0].dtype == FLOAT
    assert rows_of(entry) == [[1, 2]]


def test_equal_kinds_that_are_two_objects_still_share_a_batch(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([1]), on.entry([2])]
    entries[1].kind = RowKind(((1,),), (FLOAT,), (FLOAT,))
    on.submit(*entries)
    on.finish()
    assert on.puppet.ran[1].inputs[0].tolist() == [[1], [2]]


def test_each_input_of_a_network_is_assembled_by_itself(staging: Staging) -> None:
    on = staging()
    on.occupy()

    def pair(first: float, second: int, wire: Any) -> Entry:
        kind = RowKind(((2,), ()), (np.dtype(wire), np.dtype(np.int64)), (FLOAT, np.dtype(np.int64)))
        data = [np.full(2, first, wire).tobytes(), np.array([second]).tobytes()]
        return Entry(kind, 1, data, ("same",), None, on.replies, None)

    on.submit(pair(1, 10, np.uint8), pair(2.5, 20, np.float32))
    on.puppet.release()
    left, right = on.puppet.wait_for(2).inputs
    assert left.tolist() == [[1, 1], [2.5, 2.5]]
    assert right.tolist() == [10, 20]
    assert (left.dtype, right.dtype) == (FLOAT, np.dtype(np.int64))


def test_strings_of_several_requests_are_joined_and_split_again(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry(["a", "b"], cast=object), on.entry(["c", ""], ["é", "f"], cast=object)]
    on.submit(*entries)
    on.puppet.release()
    assert on.puppet.wait_for(2).inputs[0].tolist() == [["a", "b"], ["c", ""], ["é", "f"]]
    on.finish()
    assert [rows_of(entry) for entry in entries] == [[["a", "b"]], [["c", ""], ["é", "f"]]]


def test_rows_without_elements_are_still_rows(staging: Staging) -> None:
    on = staging()
    on.occupy()
    entries = [on.entry([]), on.entry([], [])]
    on.submit(*entries)
    on.finish()
    assert [entry.outputs[0].shape for entry in entries] == [(1, 0), (2, 0)]


def test_entries_of_a_network_without_a_batch_axis_run_alone_and_keep_their_whole_shape(staging: Staging) -> None:
    on = staging(batched=False, max_queue_delay_s=HOUR_S)
    entries = [make_entry(np.full(3, n, np.float32), reply=on.replies, batched=False) for n in range(3)]
    on.submit(*entries)
    on.finish()
    assert [ran.inputs[0].tolist() for ran in on.puppet.ran] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert [rows_of(entry) for entry in entries] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


# Large batches


def assembled(assembler: Assembler, *values: float) -> Any:
    entries = [make_entry(np.full((1, 8), value, np.float32), reply=lambda _: None) for value in values]
    (array,) = assembler.assemble(entries, len(entries))
    return array


def test_a_large_batch_is_copied_into_memory_that_the_next_one_uses_again() -> None:
    assembler = Assembler(batched=True, reused_bytes=64)
    first = assembled(assembler, 1, 2, 3)
    assembler.settle([first.copy()])
    second = assembled(assembler, 4, 5)
    assert np.shares_memory(first, second)
    assert second.tolist() == [[4.0] * 8, [5.0] * 8]
    larger = assembled(assembler, *range(9))
    assert not np.shares_memory(first, larger)
    assert larger[:, 0].tolist() == list(range(9))


def test_memory_that_an_answer_looks_into_is_not_used_again() -> None:
    assembler = Assembler(batched=True, reused_bytes=64)
    first = assembled(assembler, 1, 2, 3)
    assembler.settle([np.zeros(3), first[1:]])
    second = assembled(assembler, 4, 5, 6)
    assert not np.shares_memory(first, second)
    assert first[:, 0].tolist() == [1, 2, 3]


def test_a_batch_of_one_is_the_message_itself() -> None:
    assembler = Assembler(batched=True, reused_bytes=0)
    entry = make_entry(np.ones((2, 2), np.float32), reply=lambda _: None)
    (array,) = assembler.assemble([entry], 2)
    assert np.shares_memory(array, np.frombuffer(entry.data[0], np.float32))


def test_views_of_messages_are_joined_as_bytes_are_and_one_alone_is_put_at_an_even_place() -> None:
    def viewed(value: float) -> Entry:
        entry = make_entry(np.full((1, 4), value, np.float32), reply=lambda _: None)
        entry.data = [memoryview(b"odd" + entry.data[0])[3:]]  # type: ignore[arg-type]  # bytes, as it is made
        return entry

    assembler = Assembler(batched=True)
    for batch in ([viewed(1)], [viewed(1), viewed(2), viewed(3)]):
        (array,) = assembler.assemble(batch, len(batch))
        assert array.tolist() == [[value] * 4 for value in range(1, len(batch) + 1)]
        assert array.flags.aligned
