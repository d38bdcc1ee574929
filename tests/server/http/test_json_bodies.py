"""JSON bodies: what they say is read, and what they say twice or cannot say is refused."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import from_json

from frostline_server.codec.message_scan import MOST_FIELDS
from frostline_server.http.infer import InferRequest
from frostline_server.http.json_bodies import parsed, read
from frostline_server.http.json_size import memory_of
from frostline_server.http.statuses import Failure

NAMES = st.text(st.sampled_from('a:"\\\\é'), max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
)


def refusal(text: bytes) -> str:
    """Why a body is refused."""
    with pytest.raises(Failure) as refused:
        read(text)
    assert (refused.value.status, refused.value.kind) == (400, "invalid_input")
    return refused.value.sentence


@given(VALUES, st.booleans())
def test_a_body_is_read_as_it_is_written(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    if escaped:  # as colons may be
        text = text.replace(b"q", b"\\u0037")
    assert read(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a":1,"a":1}', "a"),
        ('[0.5,{"x":[{"a":1,"b":"c:d","a":null}]}]', "a"),
        ('{"a":":","a":1,"b":2}', "a"),
        ('{"a:b":1,"a\\u003ab":1}', "a:b"),
        ('{"a":"\\u003a\\u003A","b":1,"b":1}', "b"),
        ('{"a":1,"\\u0061":2}', "a"),
        ('{"":{},"":[]}', ""),
        ('{"a":1,"b":2,"b":3,"a":4}', "a"),
    ],
)
def test_a_field_that_is_there_twice_is_refused_by_its_name(text: str, name: str) -> None:
    assert refusal(text.encode()) == f"an object has the field {name!r} twice; say it once"


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=5), st.data())
def test_a_field_is_found_that_is_twice_anywhere(fields: list[tuple[str, Any]], data: st.DataObject) -> None:
    members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in {**dict(fields)}.items()]
    again = data.draw(st.sampled_from(members))
    members.insert(data.draw(st.integers(0, len(members))), again)
    text = f"[{{{','.join(members)}}}]"
    assert "twice" in refusal(text.encode())


def test_fields_of_one_name_may_be_in_several_objects() -> None:
    rows = [{"a": 1, "b": {"a": "x:y"}}] * 2
    assert read(json.dumps(rows).encode()) == rows


def test_a_number_that_no_float_holds_is_not_infinity() -> None:
    sentence = 'the number 1e400 is larger than any FP64; "Infinity" is written so, as a text'
    assert refusal(b"[1,2,1e400]") == refusal(b'{"a":1e400}') == refusal(b"1e400") == sentence
    assert "-1e999 is larger" in refusal(b"[-1e999]")
    assert "1e400 is larger" in refusal(b'[0.5,"a",1e400]')
    assert read(b'{"a":[1e308,1e308,-Infinity]}') == {"a": [1e308, 1e308, -float("inf")]}


@pytest.mark.parametrize(
    "element", ["257,", "1e1,", "0.1,", "[],", "{},", '"ab",', '{"a":1},', "[[257]],", '"é",', '"\\u20ac",', "null,"]
)
def test_the_memory_that_json_takes_is_not_more_than_is_counted(element: str) -> None:
    text = f"[{element * 20_000}0]".encode()
    tracemalloc.start()
    found = from_json(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 20_001
    assert peak <= memory_of(text)


MANY = 2 * MOST_FIELDS


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"inputs": [], "parameters": dict.fromkeys(map(str, range(MANY)))}, f"parameters: there are {MANY}; a message may have {MOST_FIELDS}"),
        ({"inputs": [], "parameters": {"a": 1, **dict.fromkeys("bcdef")}}, "parameters.b: a truth value, a number or a text is expected, got null"),
        ({"inputs": [], **dict.fromkeys(map(str, range(MANY)))}, "0: there is no such field, got null"),
        ({"inputs": [{}] * MANY}, "inputs[0].name: it is missing"),
        ({"inputs": [], "outputs": [3] * MANY}, "outputs[0]: a JSON object is expected, got 3"),
        ({"inputs": [{"name": "a", "shape": [-1] * MANY, "datatype": "", "data": None}]}, "inputs[0].shape"),
    ],
)  # fmt: skip
def test_of_a_body_with_nothing_but_faults_only_the_first_is_looked_for(body: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        InferRequest.model_validate(body)
    # A parameter may be of four types, and is none of them; a tensor has a few fields, and a shape a few sizes.
    assert wrong.value.error_count() <= 32
    with pytest.raises(Failure) as refused:
        parsed(InferRequest, json.dumps(body).encode())
    assert refused.value.sentence.startswith(sentence)
