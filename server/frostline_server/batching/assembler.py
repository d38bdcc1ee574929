"""The batch assembler: it joins the rows of several entries into one array, and splits the outputs again.

The join is the only copy of a row on its way to the device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frostline_server.batching.entry import Entry
from frostline_server.errors import RunFailed

Array = np.ndarray[Any, Any]

REUSED_BYTES = 32 << 20
"""Batches from this size on are copied into memory that is kept: the C library maps larger blocks afresh each time, and
touching fresh pages costs ten times the copy. Below it a join into new memory is as fast."""


class Assembler:
    """Joins the rows of a batch; reuses the memory of large batches, so each device thread has its own assembler.

    Args:
        batched: whether the network has a batch axis; without one every batch is a single entry.
        reused_bytes: batches of at least this size are copied into reused memory.
        uncast: indices of the inputs that the device casts: their rows stay bytes if all rows of a batch are bytes.
    """

    def __init__(
        self, *, batched: bool, reused_bytes: int = REUSED_BYTES, uncast: frozenset[int] = frozenset()
    ) -> None:
        self._batched = batched
        self._reused_bytes = reused_bytes
        self._uncast = uncast
        self._kept: dict[int, bytearray] = {}

    def assemble(self, batch: list[Entry], rows: int) -> list[Array]:
        """One array [rows, ...] for each input. This is the only copy of a row on its way to the device."""
        first = batch[0].kind
        alone = len(batch) == 1
        same = alone or all([entry.kind is first for entry in batch])
        inputs = []
        for index, (shape, wire, cast) in enumerate(zip(first.shapes, first.wire, first.cast, strict=True)):
            full = (rows, *shape) if self._batched else shape
            if cast.hasobject:
                array = np.concatenate([entry.data[index] for entry in batch]).reshape(full)
            elif same:
                data = batch[0].data[index] if alone else self._join([entry.data[index] for entry in batch], index)  # type: ignore[misc]  # and all else bytes
                if alone and type(data) is memoryview:
                    # Into a message at any place, and networks want their numbers at even ones.
                    data = bytes(data)
                array = np.ndarray(full, wire, data)
                if wire is not cast and not (index in self._uncast and wire == np.uint8):
                    array = array.astype(cast, copy=False)
            else:
                # Rows of several wire types share the batch: each is cast as it is copied in.
                array = np.empty(full, cast)
                at = 0
                for entry in batch:
                    array[at : at + entry.rows] = np.frombuffer(entry.data[index], entry.kind.wire[index]).reshape(
                        entry.rows, *shape
                    )
                    at += entry.rows
            inputs.append(array)
        return inputs

    def _join(self, parts: list[bytes | memoryview], index: int) -> bytes | memoryview:
        # Rows are of equal size, requests need not be; the bound errs on the side of a plain join.
        if len(parts) * len(parts[0]) < self._reused_bytes:
            return b"".join(parts)
        size = sum([len(part) for part in parts])
        kept = self._kept.get(index)
        if kept is None or len(kept) < size:
            kept = self._kept[index] = bytearray(size)
        whole = memoryview(kept)[:size]
        at = 0
        for part in parts:
            whole[at : at + len(part)] = part
            at += len(part)
        return whole

    def settle(self, outputs: Sequence[Array]) -> None:
        """Give up reused memory that outputs of a run still refer to, because the next batch would overwrite them."""
        if not self._kept:
            return
        for index, kept in list(self._kept.items()):
            if any(np.may_share_memory(np.frombuffer(kept, np.uint8), output) for output in outputs):
                del self._kept[index]


def union(batch: list[Entry]) -> tuple[str, ...]:
    """The union of the outputs that the entries of a batch want."""
    first = batch[0].wanted
    if len(batch) == 1 or all([entry.wanted == first for entry in batch]):
        return first
    return tuple(dict.fromkeys(name for entry in batch for name in entry.wanted))


def split(batch: list[Entry], rows: int, wanted: tuple[str, ...], outputs: list[Array], *, batched: bool) -> None:
    """Give each entry its own rows of the outputs it wants; an entry that ran alone gets them as they are.

    Raises:
        RunFailed: an output has another number of rows than the batch, so whose they are is not known. Each entry must run
            alone.
        ValueError: the numbers of outputs and names differ.
    """
    if len(batch) == 1:
        if len(outputs) != len(wanted):
            raise ValueError(f"{len(outputs)} outputs for {len(wanted)} names")
        batch[0].outputs = outputs
        return
    for name, output in zip(wanted, outputs, strict=True):
        if batched and (not output.ndim or len(output) != rows):
            raise RunFailed(f"output '{name}' has shape {list(output.shape)} for a batch of {rows} rows")
    if len(wanted) == 1:
        (output,) = outputs
        if len(batch) == rows:
            # One row each: iterating over [rows, 1, ...] makes the views in C.
            for entry, row in zip(batch, output[:, None], strict=True):
                entry.outputs = [row]
            return
        at = 0
        for entry in batch:
            entry.outputs = [output[at : at + entry.rows]]
            at += entry.rows
        return
    by_name = dict(zip(wanted, outputs, strict=True))
    at = 0
    for entry in batch:
        entry.outputs = [by_name[name][at : at + entry.rows] for name in entry.wanted]
        at += entry.rows
