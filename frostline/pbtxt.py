"""Change single fields of a config.pbtxt and leave everything else in it, comments too, as it was written."""

import re
from collections.abc import Iterator, Mapping

from google.protobuf import text_format

from frostline.pb import model_config_pb2

_TOKEN = re.compile(
    r"""(?P<skip>(?:\s|\#[^\n]*)+) | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [\w.+-]+ | .""", re.VERBOSE | re.DOTALL
)


class NotAConfiguration(Exception):
    """The text is not protobuf's text format of a model configuration; the message says where."""


def changed(text: str, fields: model_config_pb2.ModelConfig, drop: tuple[str, ...] = ()) -> str:
    """The configuration with these fields instead of its own.

    Args:
        text: a config.pbtxt; may be empty.
        fields: those to set. A field here replaces the one there; of `parameters`, each key replaces the one there.
        drop: keys of `parameters` to leave out.

    Raises:
        NotAConfiguration: `text` is not one.
    """
    names = {descriptor.name for descriptor, _ in fields.ListFields()}
    keys = {*fields.parameters, *drop}
    kept, at = [], 0
    for name, start, end in _fields(text):
        if name == "parameters" and keys:
            instead = _without(text[start:end], keys)
        elif name in names:
            instead = ""
        else:
            continue
        kept += [text[at:start], instead]
        # A line that only held the field goes with it.
        at = end + 1 if not instead and text[end : end + 1] == "\n" and text[:start].rpartition("\n")[2] == "" else end
    rest = "".join((*kept, text[at:])).rstrip()
    return (rest + "\n" if rest else "") + text_format.MessageToString(fields)


def _without(field: str, keys: set[str]) -> str:
    """A field `parameters` without some keys."""
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(field, config)
    except text_format.ParseError as error:
        raise NotAConfiguration(f"the field parameters cannot be read: {error}") from error
    if not keys & set(config.parameters):
        return field
    for key in keys:
        config.parameters.pop(key, None)
    return text_format.MessageToString(config).rstrip("\n")


def _fields(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of every field at the top."""
    tokens = [(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text) if match.lastgroup != "skip"]
    at = 0
    while at < len(tokens):
        name, start, _ = tokens[at]
        if not name.isidentifier():
            raise NotAConfiguration(
                f"line {text.count(chr(10), 0, start) + 1}: expected a field's name, found {name!r}"
            )
        at += 1
        if at < len(tokens) and tokens[at][0] == ":":
            at += 1
        at = _value(tokens, at, name)
        if at < len(tokens) and tokens[at][0] in ",;":
            at += 1
        yield name, start, tokens[at - 1][2]


def _value(tokens: list[tuple[str, int, int]], at: int, name: str) -> int:
    """The place after the value that begins at a token."""
    closers: Mapping[str, str] = {"{": "}", "[": "]", "<": ">"}
    expected: list[str] = []
    while at < len(tokens):
        token = tokens[at][0]
        at += 1
        if token in closers:
            expected.append(closers[token])
        elif token in closers.values() and (not expected or expected.pop() != token):
            break
        if not expected:
            # Texts that follow each other are one value, and a sign belongs to its number.
            while at < len(tokens) and tokens[at][0][0] in "\"'" and token[0] in "\"'":
                at += 1
            return at
    raise NotAConfiguration(f"the field {name} has no end or no value")
