"""How much a JSON text may hold, and what it takes in memory, before any of it is parsed.

Parsing makes an object of every value and keeps all other threads of the interpreter waiting meanwhile. So there is a limit,
as gRPC has one for what is sent number by number; what is larger travels faster in binary, which has none of its own.
"""

import numpy as np

from frostline_server.http.statuses import Failure

MOST_VALUES = 1 << 20
"""In one body: a batch of six pictures of 224 x 224 x 3. They are parsed in about 0.1 s."""
MOST_SPACE = 8 << 20
"""Bytes of white space in one body: as many values, one in a line."""
MOST_BYTES = 32 << 20
"""Of one body with rows or tensors, whatever it holds: a picture in base64 of 24 MB."""
INSTEAD = "send tensors in binary, pictures as files of a form, or fewer rows at a time"

_SLICE_BYTES = 1 << 18
_SPACE, _COMMA, _LIST, _OBJECT, _QUOTE = b' ,[{"'


def memory_of(text: bytes) -> int:
    """About how many bytes Python's objects take that a JSON text becomes, and not more than a few of them more.

    Raises:
        Failure: it holds too many values, or too much white space.
    """
    commas = opened = quotes = space = 0
    characters = np.frombuffer(text, np.uint8)
    for at in range(0, len(text), _SLICE_BYTES):
        # NumPy lets other threads run meanwhile, which `bytes.count` does not.
        some = characters[at : at + _SLICE_BYTES]
        commas += int(np.count_nonzero(some == _COMMA))
        opened += int(np.count_nonzero((some == _LIST) | (some == _OBJECT)))
        quotes += int(np.count_nonzero(some == _QUOTE))
        space += int(np.count_nonzero(some <= _SPACE))
    if commas + opened > MOST_VALUES:
        raise _too_large(f"about {commas + opened} values", MOST_VALUES)
    if space > MOST_SPACE:
        raise _too_large(f"{space} bytes of white space", MOST_SPACE)
    return 12 * len(text) + 72 * opened + 30 * quotes


def _too_large(has: str, most: int) -> Failure:
    return Failure(413, f"the JSON has {has}, and it may have {most}; {INSTEAD}", "message_too_large")
