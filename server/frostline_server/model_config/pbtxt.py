"""The parser of config.pbtxt, Triton's text format of a model's configuration.

It also reports every field of Triton's that this server does not support, by its path, and refuses names that Triton
does not know: whoever misspelled one believes that it is followed.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
from frostline_server.model_config.triton_fields import NOT_SUPPORTED, VERSION, Fields, is_map
from frostline_server.regular_files import FileReader

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
MODEL_FILE = "model.onnx"
MAX_CONFIG_BYTES = 1 << 18
"""The most bytes of a configuration; as many take about two seconds to parse."""
_MAX_DEPTH = 32
"""As many messages in each other as no configuration has."""
_MAX_NAMED = 20
"""The most unsupported fields that a warning names."""

_TOKEN = re.compile(
    r"""(?P<skip>(?:\s|\#[^\n]*)+)
    | (?P<text>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
    | (?P<word>[\w.+-]+)
    | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {"{": "}", "<": ">"}
_CONTRACT = model_config_pb2.DESCRIPTOR.message_types_by_name["ModelConfig"]

_REFUSED = {
    "sequence_batching": "and keeps nothing between requests; leave it out if each request can be answered alone",
    "ensemble_scheduling": "and no ensembles; serve the models of its steps, and call them one after the other",
    "batch_input": "and computes none of their inputs; leave it out, and send those inputs with every request",
    "batch_output": "and splits their outputs by rows alone; leave it out if every row has its own row of the output",
    "model_transaction_policy.decoupled": "which give one answer to each request; leave it out",
}
"""What cannot be left undone with a warning, because requests or their answers would mean something else, and why."""


def read_model_config(files: FileReader, path: Path) -> tuple[model_config_pb2.ModelConfig, list[str]]:
    """Read a config.pbtxt.

    Returns:
        The supported fields, and warnings that name the others.

    Raises:
        LoadError: the file is not in Triton's text format, or requests a backend other than ONNX Runtime, or what
            cannot be left undone, such as sequences.
    """
    config = model_config_pb2.ModelConfig()
    try:
        text = files.text(path, MAX_CONFIG_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    try:
        unused = unknown_fields(text, _CONTRACT, NOT_SUPPORTED)
        text_format.Parse(_blanked(text, unused), config)
    except (text_format.ParseError, ValueError) as error:  # the second for numbers that no field can hold
        raise LoadError(f"{path.name} is not a model configuration: {error}") from error
    names = [name for field in unused for name in field.names]
    _check(path.name, config, names)
    return config, _warnings(path.name, names)


def parse_model_config(text: str) -> tuple[model_config_pb2.ModelConfig, list[str]]:
    """Read a configuration in JSON, as in a request to load a model.

    Returns:
        The supported fields, and warnings that name the others.

    Raises:
        LoadError: it is not a configuration, or requests what `read_model_config` refuses.
    """
    config = model_config_pb2.ModelConfig()
    unused: list[str] = []
    if len(text) > MAX_CONFIG_BYTES:
        raise LoadError(
            f"it is not a model configuration: it has {len(text)} characters; the most is {MAX_CONFIG_BYTES}"
        )
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise LoadError(f"it is not a model configuration: expected a JSON object, got {text[:20]}")
        json_format.ParseDict(_known_fields(fields, _CONTRACT, NOT_SUPPORTED, "", unused), config)
    except (
        ValueError,
        json_format.ParseError,
        RecursionError,
        OverflowError,
    ) as error:  # the last for an infinite enum
        raise LoadError(f"it is not a model configuration: {error}") from error
    _check("it", config, unused)
    return config, _warnings("the configuration in the request", unused)


def _known_fields(
    fields: Mapping[str, Any], descriptor: Descriptor, others: Fields, path: str, unused: list[str]
) -> dict[str, Any]:
    """A message's fields in the contract; adds the paths of Triton's `others` to `unused`, unless they are empty.

    Raises:
        ValueError: a name is neither.
    """
    known = {}
    for name, value in fields.items():
        # JSON can hold half a character, on which protobuf's look-up fails in a way of its own; this raises a ValueError.
        name.encode()
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is not None:
            below = others.get(field.name, {})
            known[name] = _known_value(value, field.message_type, below, f"{path}{name}.", unused)
            continue
        other = _snake_case(name)
        if other not in others:
            raise ValueError(_no_field(path, name, {*descriptor.fields_by_name, *others}))
        _check_names(value, others[other], f"{path}{name}.")
        # An empty message is one that is set; all else that is empty is the default.
        if value or (value == {} and not is_map(others[other])):
            unused.append(path + other)
    return known


def _known_value(value: Any, descriptor: Descriptor | None, others: Fields, path: str, unused: list[str]) -> Any:
    if descriptor is None:
        return value
    if isinstance(value, list):
        return [_known_value(element, descriptor, others, path, unused) for element in value]
    if not isinstance(value, dict):
        return value
    if descriptor.GetOptions().map_entry:
        inner = descriptor.fields_by_name["value"].message_type
        return {key: _known_value(element, inner, {}, f"{path}{key}.", unused) for key, element in value.items()}
    return _known_fields(value, descriptor, others, path, unused)


def _check_names(value: Any, fields: Fields, path: str) -> None:
    """Raise a ValueError if a value in JSON has a name that is not among these fields."""
    if isinstance(value, list):
        for element in value:
            _check_names(element, fields, path)
    elif isinstance(value, dict):
        for name, element in value.items():
            inner = fields.get("value" if is_map(fields) else _snake_case(name))
            if inner is None:
                raise ValueError(_no_field(path, name, fields))
            _check_names(element, inner, f"{path}{name}.")


def _snake_case(name: str) -> str:
    """A field's name as the schema has it; JSON may also have it in camelCase."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


def _no_field(path: str, name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "correct the name, or leave it out"
    return f"ModelConfig of Triton {VERSION} has no field {path + name!r}; {hint}"


def _warnings(source: str, unused: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(unused))
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    listed = ", ".join(names[:_MAX_NAMED])
    return [f"{source} has fields that this server does not support: {listed}{more}"] if names else []


def _check(file: str, config: model_config_pb2.ModelConfig, unused: Iterable[str]) -> None:
    for field, given, known in (("platform", config.platform, PLATFORM), ("backend", config.backend, BACKEND)):
        if given not in ("", known):
            raise LoadError(
                f"{file} sets {field} '{given}'; this server serves only ONNX files, so it must be '{known}'"
            )
    wanted = [name.partition(".")[0] for name in unused]
    if config.model_transaction_policy.decoupled:
        wanted.append("model_transaction_policy.decoupled")
    for field in wanted:
        if field in _REFUSED:
            raise LoadError(f"{file} sets {field}; this server serves only ONNX files, {_REFUSED[field]}")


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field that is not in the contract.

    Attributes:
        names: paths of its innermost fields, such as `optimization.cuda.graphs`.
        start: where it begins in the text.
        end: where it ends.
    """

    names: tuple[str, ...]
    start: int
    end: int


def unknown_fields(text: str, descriptor: Descriptor, others: Fields | None = None) -> list[UnknownField]:
    """Every field of a text-format message that is not in its contract, in order.

    Args:
        text: the message.
        descriptor: its contract.
        others: the only fields that it may have beside those of the contract; None for any.

    Raises:
        text_format.ParseError: the text is not a message, or has a field that it may not have.
    """
    walk = _Walk(text)
    walk.message(descriptor, others, "", "")
    return walk.unknown


def _blanked(text: str, unknown: list[UnknownField]) -> str:
    """The text with these fields replaced by blanks, so that everything else keeps its line and column."""
    kept: list[str] = []
    at = 0
    for field in unknown:
        kept += (text[at : field.start], re.sub(r"[^\n]", " ", text[field.start : field.end]))
        at = field.end
    return "".join((*kept, text[at:]))


def _tokens(text: str) -> Iterator[re.Match[str]]:
    for token in _TOKEN.finditer(text):
        if token.lastgroup != "skip":
            yield token


class _Walk:
    """One pass over a text; it follows the descriptors, and inside unknown fields the names that they may have."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0
        self.unknown: list[UnknownField] = []

    def message(self, descriptor: Descriptor, others: Fields | None, path: str, closer: str) -> None:
        """Walk the fields of a message up to, and without, `closer`."""
        while (token := self._peek()) != closer:
            start = self._tokens[self._at].start() if token else 0
            self._take_name(path, descriptor, others)
            field: FieldDescriptor | None = descriptor.fields_by_name.get(token)
            below = others and others.get(token, {})
            if field is None:
                inside = self._value(path + token, None, below)
                self._took(";", ",")
                end = self._tokens[self._at - 1].end()
                self.unknown.append(UnknownField(tuple(inside or [path + token]), start, end))
            else:
                self._value(path + token, field.message_type, below)
                self._took(";", ",")

    def _value(self, path: str, descriptor: Descriptor | None, others: Fields | None) -> list[str]:
        """Pass over a field's value; the paths of the fields in it, where there is no descriptor for them."""
        colon = self._took(":")
        names: list[str] = []
        if not self._took("["):
            return self._element(path, descriptor, others, scalar=colon)
        while not self._took("]"):
            names += self._element(path, descriptor, others, scalar=True)
            if not self._took(",") and self._peek() != "]":
                raise self._expected('"," or "]"')
        return names

    def _element(self, path: str, descriptor: Descriptor | None, others: Fields | None, *, scalar: bool) -> list[str]:
        closer = _CLOSES.get(self._peek())
        if closer is None:
            if not scalar:
                raise self._expected('":" or "{"')
            self._scalar()
            return []
        if self._depth == _MAX_DEPTH:
            raise self._expected(f"at most {_MAX_DEPTH} messages in each other")
        self._at += 1
        self._depth += 1
        names: list[str] = []
        if descriptor is not None:
            self.message(descriptor, others, f"{path}.", closer)
        else:
            while (token := self._peek()) != closer:
                self._take_name(f"{path}.", None, others)
                inner = f"{path}.{token}"
                names += self._value(inner, None, others and others[token]) or [inner]
                self._took(";", ",")
        self._took(closer)
        self._depth -= 1
        return names

    def _scalar(self) -> None:
        if self._kind() == "text":
            # Adjacent strings are one value.
            while self._kind() == "text":
                self._at += 1
            return
        self._took("-")
        if self._kind() != "word":
            raise self._expected("a value")
        self._at += 1

    def _take_name(self, path: str, descriptor: Descriptor | None, others: Fields | None) -> None:
        name = self._peek()
        if not name.isidentifier():
            raise self._expected("a field's name")
        known = descriptor.fields_by_name if descriptor is not None else {}
        if others is not None and name not in known and name not in others:
            raise self._error(_no_field(path, name, {*known, *others}))
        self._at += 1

    def _kind(self) -> str | None:
        return self._tokens[self._at].lastgroup if self._at < len(self._tokens) else None

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _took(self, *marks: str) -> bool:
        taken = self._peek() in marks
        self._at += taken
        return taken

    def _expected(self, what: str) -> text_format.ParseError:
        return self._error(f"Expected {what}, found {self._peek() or 'the end'!r}")

    def _error(self, what: str) -> text_format.ParseError:
        at = self._tokens[self._at].start() if self._at < len(self._tokens) else len(self._text)
        line = self._text.count("\n", 0, at) + 1
        return text_format.ParseError(what, line, at - self._text.rfind("\n", 0, at))


def label_file(files: FileReader, folder: Path, filename: str) -> tuple[str, ...]:
    """Read the labels from a file in the model's folder, one a line.

    Raises:
        LoadError: it cannot be read, or is not in that folder.
    """
    if Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise LoadError(f"config.pbtxt names the label file '{filename}'; it must be in the model's own folder")
    try:
        # Not splitlines(), which ends lines at characters that a label may hold, and would move all labels after it.
        lines = files.text(folder / filename).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"the label file {filename} cannot be read: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)
