"""What the Python client says of rows, for whoever writes JSON."""

import pytest

from frostline_server.http.rows.json_terms import in_json


@pytest.mark.parametrize(
    ("client", "json"),
    [
        ("row 1: it is None (NoneType); give a number, or None where it is missing", "row 1: it is null; give a number, or null where it is missing"),
        ("it is True (bool)", "it is true"),
        ("it is 7 (int), and rows before it are dicts; give a dict for each row", "it is 7 (a number), and rows before it are objects; give an object for each row"),
        ("BOOL: True and False, or 1 and 0", "BOOL: true and false, or 1 and 0"),
        ("no such model; list what is there with `frostline models`", "no such model; POST /v2/repository/index lists what is there"),
        # What is quoted is the caller's.
        ("column 'give None where', row 0: 'a dict' is not an ISO date", "column 'give None where', row 0: 'a dict' is not an ISO date"),
        ("'it\\'s a dict' (str); the model's dicts", "'it\\'s a dict' (a text); the model's objects"),
    ],
)  # fmt: skip
def test_what_is_python_is_said_in_json(client: str, json: str) -> None:
    assert in_json(client) == json
