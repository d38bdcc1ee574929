"""The conversation of one prediction: from the rows that a user gives to the server's answer.

Most arrays are sent as they are, and the server is asked nothing else. What a model takes (its element types, and how many
rows at once) is looked up only where the rows alone do not tell what to send, or the server has refused them. Of dicts and
tables the model's schema says what to send. From then on it is known.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from frostline.client import calls, media, messages, rows
from frostline.client.arrays import Given, Inputs, columns, given, is_table, no_text
from frostline.client.calls import LOOK_UP_S, Call, Conversation, describe, expects, with_what_is_there
from frostline.client.catalog import Model
from frostline.client.cells import told
from frostline.client.datatypes import NAMES, convert, taken
from frostline.client.errors import (
    DeadlineExceeded,
    FrostlineError,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    ServerUnavailable,
)
from frostline.client.messages import OutputName
from frostline.client.rows import Extra
from frostline.client.schema import Schema
from frostline.pb import predictor_pb2 as pb
from frostline.pictures import MOST_PIXELS_TOGETHER

Arrays = Mapping[str, NDArray[Any]]

_MOST_STARTS = 3
"""How often rows are sent in several requests from the first on, because their version went away before the last."""

_SENT_AS_THEY_ARE = frozenset(dtype for dtype in NAMES if dtype != np.float64)
"""The types of arrays that are sent to a model of which nothing is known, and not as float32."""

_MOST_KNOWN = 1024
"""Versions remembered by one client."""

_TOO_LARGE = "message larger than max"
"""Words of gRPC's own about a message above the server's limit."""


@dataclass(frozen=True)
class Question:
    """What a user asks of a model; see `Client.predict`.

    Attributes:
        until: When the clock will show that its time is over.
        paths: Whether a text may be the path of a picture's file. Not where the user is elsewhere than the files.
    """

    model: str
    version: str
    inputs: Inputs
    outputs: tuple[OutputName, ...] | None
    top_k: int
    timeout_s: float
    until: float
    extra: Extra = "refuse"
    paths: bool = True


class Known:
    """What one client knows of its server: the models it has looked up, and how large a message may be.

    Threads may share it, since each method is one operation on a dict.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], Model] = {}
        self._schemas: dict[tuple[str, str], Schema] = {}
        self._refused_bytes = math.inf

    def model(self, name: str, version: str) -> Model | None:
        """A version as it was when it was last looked up; None if it never was."""
        return self._models.get((name, version))

    def schema(self, name: str, version: str) -> Schema | None:
        """What a version takes, as it was when it was last asked for; None if it never was."""
        return self._schemas.get((name, version))

    def takes(self, inputs: Inputs, name: str, version: str) -> TypeGuard[NDArray[Any]]:
        """Whether to send an input to a version as it is, and all at once, because nothing is known that speaks against."""
        if type(inputs) is not np.ndarray or inputs.dtype not in _SENT_AS_THEY_ARE:
            return False
        # Pictures of any size have a column; unless they are known to be for that, they may be for the network's own input.
        schema = self._schemas.get((name, version)) if inputs.dtype == np.uint8 else None
        if schema is not None and rows.are_of(inputs, schema):
            return False
        model = self._models.get((name, version))
        return model is None or (
            len(model.inputs) == 1
            and taken(inputs, model.inputs[0].datatype)
            and inputs.ndim > 0
            and len(inputs) <= model.max_batch_size
            and inputs.nbytes < self._refused_bytes
        )

    def remember(self, model: Model, version: str) -> None:
        """Remembers a version by its number, and by what was asked for."""
        if len(self._models) >= _MOST_KNOWN:
            self._models.clear()
        self._models[model.name, model.version] = self._models[model.name, version] = model

    def remember_schema(self, schema: Schema, version: str) -> None:
        """Remembers a schema by the version's number, and by what was asked for."""
        if len(self._schemas) >= _MOST_KNOWN:
            self._schemas.clear()
        self._schemas[schema.model, schema.version] = self._schemas[schema.model, version] = schema

    def refused(self, size: int) -> None:
        """Remembers that a message of so many bytes was too large."""
        self._refused_bytes = min(self._refused_bytes, size)

    def rows_at_once(self, most: int, inputs: Arrays, rows: int) -> int:
        """How many of so many rows to send in one request, to a version that takes at most so many."""
        # To count the bytes of texts takes long, and few servers have refused any.
        if math.isinf(self._refused_bytes) or (size := _bytes(inputs)) < self._refused_bytes:
            return most
        return max(1, min(most, int(self._refused_bytes * rows / (2 * size))))


@dataclass(frozen=True)
class _Plan:
    """What is sent.

    Attributes:
        inputs: The arrays by name; the name is empty for a network's only input.
        model: The version that they were made for; None if they are sent as they are.
        rows: How many rows there are, where they are known to be rows, each by itself; else 0.
        at_once: How many of them go in one request.
        rounded: Whether floats were rounded to FP16, which an input of FP32 would take too.
        pixels: How many each row has, where rows are pictures.
    """

    inputs: Arrays
    model: Model | None = None
    rows: int = 0
    at_once: int = 0
    rounded: bool = False
    pixels: Sequence[int] = ()

    def stop(self, start: int, at_once: int) -> int:
        """Where the request that begins with this row ends: a server takes so many pixels together, and no more."""
        stop, pixels = min(start + at_once, self.rows), 0
        for row, more in enumerate(self.pixels[start:stop], start):
            pixels += more
            if pixels > MOST_PIXELS_TOGETHER and row > start:
                return row
        return stop

    def sends_the_same_as(self, other: "_Plan") -> bool:
        """Whether both send the same types, in requests of the same size."""
        types, others = ([(name, array.dtype) for name, array in plan.inputs.items()] for plan in (self, other))
        sizes = [plan.at_once if plan.rows > plan.at_once else 0 for plan in (self, other)]
        return types == others and sizes[0] == sizes[1]


def predict(
    question: Question,
    known: Known,
    refusal: FrostlineError | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Conversation[pb.PredictResponse]:
    """Asks for a prediction; see `Client.predict`.

    Args:
        question: What the user asks.
        known: What the client knows of its server; what is looked up is added.
        refusal: Why the input was refused as it is, if it was sent already; see `Known.takes`.
        clock: Tells the time in seconds.
    """
    return _Asking(question, known, clock).answer(refusal)


def predict_rows(question: Question, known: Known) -> Conversation[tuple[pb.PredictResponse, int]]:
    """Asks for a prediction; beside the answer, how many rows were sent: the length of the first input's first axis."""
    asking = _Asking(question, known, time.monotonic)
    answer = yield from asking.answer(None)
    return answer, asking.sent


def schema(name: str, version: str, known: Known, timeout_s: float | None) -> Conversation[Schema]:
    """Asks what a version takes and answers; see `Client.schema`."""
    found = known.schema(name, version) if version.isdecimal() else None
    if found is None:
        found = yield from calls.schema(name, version, timeout_s)
        known.remember_schema(found, version)
    return found


class _Asking:
    """One question on its way.

    Attributes:
        sent: The length of the first axis of what was sent last, in however many requests.
    """

    def __init__(self, question: Question, known: Known, clock: Callable[[], float]) -> None:
        self._question = replace(question, inputs=media.listed(question.inputs))
        self._known = known
        self._clock = clock
        # Whether the last answer was joined of several.
        self._joined = False
        self.sent = 0

    def answer(self, refusal: FrostlineError | None) -> Conversation[pb.PredictResponse]:
        told = yield from self._answer_rows()
        return told or (yield from self._answer_arrays(refusal))

    def _answer_arrays(self, refusal: FrostlineError | None) -> Conversation[pb.PredictResponse]:
        question = self._question
        try:
            values = _values(question.inputs)
        except InvalidInput as error:
            raise (yield from self._with_columns(error)) from error.__cause__
        plan: _Plan | None = None
        if refusal is not None:
            plan = _as_they_are(values or {})
            yield from self._give_up(refusal)
            if isinstance(refusal, MessageTooLarge) and plan is not None:
                self._known.refused(_bytes(plan.inputs))
        else:
            model = self._known.model(question.model, question.version)
            if model is not None:
                try:
                    plan = self._plan(values, model)
                except InvalidInput as error:
                    # The version that it was made for may have been replaced by one of other types.
                    refusal = error
            elif values is not None:
                plan = _as_they_are(values)
            if plan is not None:
                try:
                    return (yield from self._send_to_its_version(plan, values))
                except FrostlineError as error:
                    yield from self._give_up(error)
                    refusal = error
        newest = yield from self._look_up(question.version, refusal)
        told = yield from self._answer_rows()
        if told is not None:
            return told
        again = self._plan(values, newest)
        if plan is not None and refusal is not None and again.sends_the_same_as(plan):
            raise self._explained(refusal, newest) from refusal.__cause__
        try:
            return (yield from self._send_to_its_version(again, values))
        except FrostlineError as error:
            yield from self._give_up(error)
            raise self._explained(error, newest) from error.__cause__

    def _answer_rows(self) -> Conversation[pb.PredictResponse | None]:
        """The answer to raw rows; None if they are none for this model, but arrays by the names of its inputs, or no rows."""
        name, version = self._question.model, self._question.version
        if not rows.may_be(self._question.inputs):
            return None
        known = self._known.schema(name, version)
        schema = known or (yield from self._schema(version))
        try:
            return (yield from self._send_rows(schema, version)) if self._takes_rows(schema) else None
        except InvalidInput as error:
            # What the client itself refuses has no kind.
            if version.isdecimal() or (known is None and not error.kind):
                raise
            refusal = error
        # The version that it was made for may have been replaced by one with other columns, or share the traffic with it.
        try:
            newest = yield from self._schema(version)
        except FrostlineError:
            raise refusal from refusal.__cause__
        return (yield from self._send_rows(newest, newest.version)) if self._takes_rows(newest) else None

    def _with_columns(self, refusal: InvalidInput) -> Conversation[InvalidInput]:
        """A refusal of what can be no array, with what the model takes."""
        question = self._question
        schema = self._known.schema(question.model, question.version)
        if schema is None:
            try:
                schema = yield from calls.schema(question.model, question.version, min(LOOK_UP_S, self._left_s()))
            except FrostlineError:
                return refusal
        return InvalidInput(f"{refusal}; {schema.expects}") if schema.columns or schema.inputs else refusal

    def _explained(self, refusal: FrostlineError, model: Model) -> FrostlineError:
        """A refusal by the server, with what the model takes."""
        if not isinstance(refusal, InvalidInput):
            return refusal
        schema = self._known.schema(model.name, model.version)
        told = schema.expects if schema and schema.columns else expects(model)
        explained = InvalidInput(f"{refusal}; {told}", refusal.code, refusal.kind)
        explained.row, explained.where, explained.fact = refusal.row, refusal.where, refusal.fact
        return explained

    def _takes_rows(self, schema: Schema) -> bool:
        """Whether a version takes what was given as raw rows.

        Raises:
            InvalidInput: It takes no raw rows, and they can be nothing else.
        """
        inputs = self._question.inputs
        if schema.columns and isinstance(inputs, list | tuple) and not inputs:
            raise InvalidInput(f"there are no rows; {schema.expects}")
        if rows.is_records(inputs) and not schema.columns:
            raise InvalidInput(
                f"{self._question.model} takes no rows with named columns, and a list of dicts was given; give an array"
                + (f": {schema.expects}" if schema.inputs else "")
            )
        return rows.are_of(inputs, schema)

    def _schema(self, version: str) -> Conversation[Schema]:
        """Asks for a schema; one without columns where the server is of an earlier version, which knows of none."""
        name = self._question.model
        try:
            return (yield from schema(name, version, self._known, self._left_s()))
        except FrostlineError as error:
            if error.code != "UNIMPLEMENTED":
                raise
        none = Schema(name, version)
        self._known.remember_schema(none, version)
        return none

    def _send_rows(self, schema: Schema, version: str) -> Conversation[pb.PredictResponse]:
        """Sends raw rows. If a version answers to which they are not the same rows, it is sent its own."""
        question = self._question
        plan = self._rows_plan(schema)
        try:
            answer = yield from self._send(plan, version)
        except ModelNotFound as error:
            raise (yield from with_what_is_there(error)) from error.__cause__
        if answer.version == schema.version:
            return answer
        other = self._known.schema(question.model, answer.version) or (yield from self._schema(answer.version))
        # The one that is likely to answer next time.
        self._known.remember_schema(other, question.version)
        if other.columns != schema.columns or self._joined:
            again = self._rows_plan(other)
            if not _alike(plan.inputs, again.inputs) or (self._joined and again.at_once >= again.rows):
                answer = yield from self._send(again, answer.version)
        return answer

    def _rows_plan(self, schema: Schema) -> _Plan:
        """Makes a version's columns of raw rows.

        Raises:
            InvalidInput: They are no rows of these columns.
        """
        columns = rows.encoded(self._question.inputs, schema, self._question.extra, paths=self._question.paths)
        count = len(next(iter(columns.values())))
        at_once = self._known.rows_at_once(schema.max_rows or count, columns, count)
        return _Plan(columns, rows=count, at_once=at_once, pixels=media.pixels_of(columns, schema))

    def _give_up(self, failure: FrostlineError) -> Conversation[None]:
        """Raises a failure that nothing else that could be sent would change."""
        if isinstance(failure, ModelNotFound):
            raise (yield from with_what_is_there(failure)) from failure.__cause__
        # Others have the status of a message that is too large, such as answers that are.
        if isinstance(failure, InvalidInput) or (isinstance(failure, MessageTooLarge) and _TOO_LARGE in str(failure)):
            return
        raise failure from failure.__cause__

    def _look_up(self, version: str, refusal: FrostlineError | None = None) -> Conversation[Model]:
        """Asks what a version takes. Where that fails after a refusal, the user is told of the refusal."""
        within_s = self._left_s() if refusal is None else min(LOOK_UP_S, self._left_s())
        try:
            found = yield from describe(self._question.model, version, within_s)
        except FrostlineError:
            if refusal is not None:
                raise refusal from refusal.__cause__
            raise
        if found.columns:
            # The columns are looked up by who sends rows; arrays are for the network's own inputs.
            own = yield from self._schema(found.version)
            self._known.remember_schema(own, version)
            found = replace(found, inputs=own.inputs)
        self._known.remember(found, version)
        return found

    def _plan(self, values: Mapping[str, Given] | None, model: Model) -> _Plan:
        """Makes the inputs for a version.

        Raises:
            InvalidInput: They have numbers that its types have not, are a table that does not fit, one array for several
                inputs, or differ in their rows.
        """
        if values is None:
            values = columns(self._question.inputs, model)
        if "" in values and len(model.inputs) > 1:
            names = [spec.name for spec in model.inputs]
            raise InvalidInput(
                f"{model.name} has the inputs {', '.join(names)}, and one array without a name was given; send a dict: "
                f"{{{', '.join(f'{name!r}: ...' for name in names)}}}"
            )
        types = {spec.name: spec.datatype for spec in model.inputs}
        if len(types) == 1:
            types[""] = model.inputs[0].datatype
        inputs, rounded = {}, False
        for name, (array, listed) in values.items():
            datatype = types.get(name, "")
            if datatype and (listed or not taken(array, datatype)):
                inputs[name] = convert(array, datatype, name)
                rounded |= datatype == "FP16" and array.dtype.kind == "f"
            else:
                inputs[name] = array
        if not (inputs and model.batched) or any(array.ndim == 0 for array in inputs.values()):
            return _Plan(inputs, model, rounded=rounded)
        counts = {name: len(array) for name, array in inputs.items()}
        rows = max(counts.values())
        if min(counts.values()) < rows:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InvalidInput(
                f"the inputs of {model.name} disagree on the number of rows: {told}; each row has all inputs. With "
                "max_batch_size: 0 in config.pbtxt each request runs alone, whatever its axes"
            )
        return _Plan(inputs, model, rows, self._known.rows_at_once(model.max_batch_size, inputs, rows), rounded)

    def _send_to_its_version(self, plan: _Plan, values: Mapping[str, Given] | None) -> Conversation[pb.PredictResponse]:
        """Sends a plan.

        If another version answers than it was made for, that may take wider floats, or all rows at once because they depend on
        each other; then it gets those.
        """
        version = self._question.version
        answer = yield from self._send(plan, version)
        while (plan.rounded or self._joined) and plan.model is not None and answer.version != plan.model.version:
            version = answer.version
            model = self._known.model(self._question.model, version)
            if model is None:
                model = yield from self._look_up(version)
            self._known.remember(model, self._question.version)
            # Of the version that has answered, so that it is not another one next time.
            made, plan = plan, self._plan(values, model)
            if plan.sends_the_same_as(made):
                break
            answer = yield from self._send(plan, version)
        return answer

    def _send(self, plan: _Plan, version: str) -> Conversation[pb.PredictResponse]:
        """Sends a plan, in as many requests as it takes."""
        self.sent = next((len(array) for array in plan.inputs.values() if array.ndim), 0)
        for _ in range(_MOST_STARTS):
            answers = yield from self._send_parts(plan, version)
            if answers:
                self._joined = len(answers) > 1
                return messages.joined(answers) if len(answers) > 1 else answers[0]
        raise FrostlineError(
            f"the rows need several requests, and each time the version of {self._question.model} that had answered the "
            "first was replaced before the last; try again later, or send fewer rows",
            "ABORTED",
        )

    def _send_parts(self, plan: _Plan, version: str) -> Conversation[list[pb.PredictResponse]]:
        """The answers to all parts, of one version; none if that version went away before the last."""
        answers: list[pb.PredictResponse] = []
        start, at_once = 0, plan.at_once
        while not answers or start < plan.rows:
            stop = plan.stop(start, at_once)
            inputs = _rows(plan, start, stop)
            try:
                answer = yield self._call(inputs, version)
            except UnicodeEncodeError as error:
                raise no_text(plan.inputs, error) from None
            except InvalidInput as error:
                raise _placed(error, self._question.model, plan, start) from error.__cause__
            except MessageTooLarge as error:
                if _TOO_LARGE not in str(error):
                    raise
                self._known.refused(_bytes(inputs))
                if stop - start < 2:
                    raise
                at_once = (stop - start + 1) // 2
                continue
            except (ModelNotFound, ModelNotReady, ServerUnavailable) as error:
                if answers and (isinstance(error, ModelNotFound | ModelNotReady) or error.kind == "version_closing"):
                    return []
                raise
            if answers and answer.version != version:
                return []
            if stop - start < plan.rows:
                messages.prediction(answer, self._question.top_k).check_rows(stop - start)
            answers.append(answer)
            # All further parts are for the version that has answered the first.
            start, version = stop, answer.version
        return answers

    def _call(self, inputs: Arrays, version: str) -> Call:
        question = self._question
        sole = inputs.get("") if len(inputs) == 1 else None
        request = messages.request(
            question.model,
            inputs if sole is None else sole,
            version=version,
            outputs=question.outputs,
            top_k=question.top_k,
        )
        return Call("Predict", request, self._left_s())

    def _left_s(self) -> float:
        left_s = self._question.until - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"not all rows were answered within {self._question.timeout_s:g} s; allow more time, or send fewer rows"
            )
        # So that a message that quotes it is read with ease.
        return max(round(left_s, 3), 0.001)


def _values(inputs: Any) -> dict[str, Given] | None:
    """The inputs as arrays by name; None for a table, whose columns only a model gives a meaning.

    Raises:
        InvalidInput: No model takes them.
    """
    if not isinstance(inputs, np.ndarray):
        if isinstance(inputs, Mapping):
            strange = next((name for name in inputs if not isinstance(name, str)), "")
            if not isinstance(strange, str):
                raise InvalidInput(f"the name of an input must be a text (str), but is {told(strange)}")
            return {name: given(value, name) for name, value in inputs.items()}
        if is_table(inputs):
            return None
    return {"": given(inputs)}


def _as_they_are(values: Mapping[str, Given]) -> _Plan | None:
    """What to send to a model of which nothing is known; None if that depends on the model.

    Arrays keep their element types. Python's numbers, and NumPy's default, become what nearly all models take, float32;
    where a model takes another type, the server refuses that, and never takes it for the other.
    """
    inputs = {}
    for name, (array, listed) in values.items():
        inputs[name] = array
        if array.dtype == np.float64 or (listed and array.dtype.kind in "iub"):
            try:
                inputs[name] = convert(array, "FP32", name)
            except InvalidInput:
                return None
    return _Plan(inputs)


def _rows(plan: _Plan, start: int, stop: int) -> Arrays:
    if stop - start >= plan.rows:
        return plan.inputs
    return {name: array[start:stop] for name, array in plan.inputs.items()}


def _placed(refusal: InvalidInput, model: str, plan: _Plan, start: int) -> InvalidInput:
    """A refusal by the server, which counts the rows of one request, with the row's number among those of the whole call.

    Of one row nobody needs to know which it is.
    """
    for name in plan.inputs:
        # Without a name it is the only input, whatever it is called.
        places = f"column {re.escape(repr(name))}|input '{re.escape(name) or '.*?'}' for model '{re.escape(model)}'"
        if found := re.fullmatch(f"({places}), row ([0-9]+): (.*)", str(refusal), re.DOTALL):
            where, row, fact = found[1], start + int(found[2]), found[3]
            place = where if plan.rows == 1 else f"{where}, row {row}"
            placed = InvalidInput(f"{place}: {fact}", refusal.code, refusal.kind)
            placed.row, placed.where, placed.fact = row, where, fact
            return placed
    return refusal


def _bytes(inputs: Arrays) -> int:
    return sum(
        sum(4 + len(text) for text in array.ravel().tolist()) if array.dtype.hasobject else array.nbytes
        for array in inputs.values()
    )


def _alike(inputs: Arrays, others: Arrays) -> bool:
    """Whether two versions get the same columns."""
    return inputs.keys() == others.keys() and all(
        np.array_equal(array, others[name], equal_nan=array.dtype.kind == "f") for name, array in inputs.items()
    )
