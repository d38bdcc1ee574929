"""The answers of the typed API: outputs to serialised PredictResponses.

All that is equal in answers of one shape is serialised once; an answer is that, the id, the elements, and the labels of
its classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from frostline.pb import predictor_pb2 as pb
from frostline.protocol import pack_bytes, varint
from frostline_server.codec.chunks import CHUNK_BYTES, copied
from frostline_server.codec.tensors import Array
from frostline_server.errors import InvalidInput
from frostline_server.runtime.dtypes import NAMES
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.row_schema import STATES

READINGS = (pb.LOGITS, pb.SOFTMAX, pb.ARGMAX)
"""What can be asked of a network that chooses one of several classes, in the order of the answer's fields."""

_MAX_PLANS = 4096
"""Distinct answers remembered for each version, so that odd requests cannot grow the server."""

# Tags: field number and wire type 2 (length-delimited).
_ID_TAG = bytes([pb.PredictResponse.ID_FIELD_NUMBER << 3 | 2])
_LABEL_TAG = bytes([pb.PredictResponse.LABELS_FIELD_NUMBER << 3 | 2])
_VALUES_TAG = bytes([pb.PredictResponse.VALUES_FIELD_NUMBER << 3 | 2])
_STATES_TAG = bytes([pb.PredictResponse.STATES_FIELD_NUMBER << 3 | 2])
_DATA_TAG = bytes([pb.Tensor.DATA_FIELD_NUMBER << 3 | 2])
_READING_TAGS = {
    reading: bytes([number << 3 | 2])
    for reading, number in (
        (pb.LOGITS, pb.PredictResponse.LOGITS_FIELD_NUMBER),
        (pb.SOFTMAX, pb.PredictResponse.SOFTMAX_FIELD_NUMBER),
        (pb.ARGMAX, pb.PredictResponse.ARGMAX_FIELD_NUMBER),
    )
}


@dataclass(frozen=True, slots=True)
class Task:
    """What a network was published for.

    Attributes:
        name: such as ``regression``.
        thresholds: the probability from which a label holds, where several may: one for all, or one for each.
        positive: of two classes, the one that is a row's label from the threshold on; None where the most probable is.
    """

    name: str
    thresholds: tuple[float, ...] = ()
    positive: int | None = None


class Readings(NamedTuple):
    """What a request asks for.

    Attributes:
        asked: some of `READINGS`, VALUES and STATES.
        top_k: how many of the most probable classes to rank.
    """

    asked: tuple[int, ...]
    top_k: int


class _Plan(NamedTuple):
    """An answer without its id, elements and labels.

    Attributes:
        head: the fields that come first.
        tensors: for each reading, all of its field that comes before the elements, and which output they are; nothing
            before texts, whose length is not known.
        classes: the output whose labels follow; None without labels.
        decides: the output of the probabilities that decide which label follows; None where the classes do.
    """

    head: bytes
    tensors: tuple[tuple[bytes, int], ...]
    classes: int | None
    decides: int | None


class TypedAnswers:
    """Serialises the answers of one version.

    Args:
        model: the model's name.
        version: its number, in decimal.
        heads: the names of the outputs that tell its classes; None if it chooses none.
        labels: names of the classes or values, or None.
        own: the file's own outputs, and what clients call them.
        task: what it was published for.
    """

    def __init__(
        self,
        model: str,
        version: str,
        heads: Heads | None,
        labels: Sequence[str] | None,
        own: Mapping[str, str],
        task: Task,
    ) -> None:
        self._model = model
        self._version = version
        readings = (heads.logits, heads.softmax, heads.argmax) if heads else ()
        self._names = dict(zip(READINGS, readings, strict=False))
        self._one_class_a_row = bool(heads and heads.confidence)
        self._decides = self._one_class_a_row and task.positive is not None
        self._labels = labels or ()
        self._own = own
        self._task = task
        self._label_fields = [_field(_LABEL_TAG, label.encode()) for label in self._labels]
        self._plans: dict[tuple[tuple[int, ...], tuple[str, ...], tuple[tuple[int, ...], ...]], _Plan] = {}

    def encode(self, readings: Readings, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str) -> bytes:
        """A serialised PredictResponse.

        Args:
            readings: what was asked for.
            wanted: names of the outputs, in the graph.
            outputs: their arrays.
            request_id: the client's id of the request; "" for none.

        Raises:
            InvalidInput: it is to rank classes, and the answer has not one axis of them.
        """
        asked, top_k = readings
        key = (asked, wanted, tuple([array.shape for array in outputs]))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(asked, wanted, outputs)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        parts = [plan.head]
        if request_id:
            parts.append(_field(_ID_TAG, request_id.encode()))
        for head, at in plan.tensors:
            if not head:
                parts.append(self._texts(wanted[at], outputs[at]))
            elif outputs[at].nbytes > CHUNK_BYTES:
                parts += (head, *copied(outputs[at]))
            else:
                parts += (head, outputs[at].tobytes())
        if plan.decides is not None:
            parts += self._decided(outputs[plan.decides])
        elif plan.classes is not None:
            parts += [self._label_field(index) for index in outputs[plan.classes].tolist()]
        if top_k:
            softmax = outputs[wanted.index(self._names[pb.SOFTMAX])]
            ranking = pb.PredictResponse(top=self._rankings(softmax, top_k))
            parts.append(ranking.SerializeToString())
            if self._decides and pb.ARGMAX not in asked:
                parts += self._decided(softmax)
        return b"".join(parts)

    def _plan(self, asked: tuple[int, ...], wanted: tuple[str, ...], outputs: Sequence[Array]) -> _Plan:
        tensors, classes = [], None
        for reading in READINGS:
            if reading not in asked:
                continue
            at = wanted.index(self._names[reading])
            array = outputs[at]
            tensors.append((_tensor_head(_READING_TAGS[reading], "", array), at))
            if reading == pb.ARGMAX and self._labels and self._one_class_a_row and array.ndim == 1:
                classes = at
        answer = pb.PredictResponse(model=self._model, version=self._version, task=self._task.name)
        if self._decides or not self._names:
            answer.thresholds.extend(self._task.thresholds)
        if pb.VALUES in asked or (self._names and not self._one_class_a_row):
            answer.names.extend(self._labels)
        if pb.STATES in asked:
            at = wanted.index(STATES)
            tensors.append((_tensor_head(_STATES_TAG, "", outputs[at]), at))
        if pb.VALUES in asked:
            for name, called in self._own.items():
                at = wanted.index(name)
                texts = outputs[at].dtype.hasobject
                tensors.append((b"" if texts else _tensor_head(_VALUES_TAG, called, outputs[at]), at))
        decides = wanted.index(self._names[pb.SOFTMAX]) if classes is not None and self._decides else None
        return _Plan(answer.SerializeToString(), tuple(tensors), classes, decides)

    def _decided(self, softmax: Array) -> list[bytes]:
        """The label of each row, of two classes; empty where the probability is NaN, which decides nothing."""
        positive, (threshold,) = self._task.positive or 0, self._task.thresholds
        fields = [self._label_field(1 - positive), self._label_field(positive), _field(_LABEL_TAG, b"")]
        probabilities = softmax[:, positive]
        return [fields[at] for at in ((probabilities >= threshold) + 2 * np.isnan(probabilities)).tolist()]

    def _texts(self, name: str, array: Array) -> bytes:
        tensor = pb.Tensor(name=self._own[name], dtype=pb.BYTES, shape=array.shape, data=pack_bytes(array.ravel()))
        return _field(_VALUES_TAG, tensor.SerializeToString())

    def _rankings(self, softmax: Array, top_k: int) -> list[pb.Ranking]:
        if softmax.ndim != 2:  # whatever the graph declares
            raise InvalidInput(
                f"model '{self._model}' answered this request with shape {list(softmax.shape)}, so there is no ranking of "
                "classes for a row; ask for SOFTMAX (in Python outputs=['softmax']) instead of top_k"
            )
        # A stable sort of the negated probabilities leaves equal ones in order of their index.
        order = np.argsort(-softmax, axis=1, kind="stable")[:, :top_k]
        return [
            pb.Ranking(
                classes=[
                    pb.Class(index=int(index), label=self._label(int(index)), probability=float(row[index]))
                    for index in best
                ]
            )
            for row, best in zip(softmax, order, strict=True)
        ]

    def _label(self, index: int) -> str:
        return self._labels[index] if index < len(self._labels) else ""

    def _label_field(self, index: int) -> bytes:
        return self._label_fields[index] if index < len(self._label_fields) else _field(_LABEL_TAG, b"")


def _tensor_head(tag: bytes, name: str, array: Array) -> bytes:
    """All of a tensor's field that comes before its elements."""
    fields = pb.Tensor(name=name, dtype=NAMES[array.dtype.str], shape=array.shape).SerializeToString()
    fields += _DATA_TAG + varint(array.nbytes)
    return tag + varint(len(fields) + array.nbytes) + fields


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content
