"""An editor of config.pbtxt: it changes single fields and keeps the rest, comments too, as it was written."""

from collections.abc import Iterator

from google.protobuf import text_format
from google.protobuf.empty_pb2 import Empty

from frostline.pb import model_config_pb2
from frostline_server.model_config.pbtxt import unknown_fields


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
    try:
        # To a contract without fields every field is unknown.
        fields = unknown_fields(text, Empty.DESCRIPTOR)
    except text_format.ParseError as error:
        raise NotAConfiguration(f"line {error.GetLine()}: {str(error).partition(' : ')[2]}") from error
    for field in fields:
        yield field.names[0].partition(".")[0], field.start, field.end
