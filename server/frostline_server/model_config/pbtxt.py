"""The parser of config.pbtxt, Triton's text format of a model's configuration.

It also reports every field that this server does not support, by its path.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
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


def read_model_config(files: FileReader, path: Path) -> tuple[model_config_pb2.ModelConfig, list[str]]:
    """Read a config.pbtxt.

    Returns:
        The supported fields, and warnings that name the others.

    Raises:
        LoadError: the file is not in Triton's text format, or requests a backend other than ONNX Runtime.
    """
    config = model_config_pb2.ModelConfig()
    try:
        text = files.text(path, MAX_CONFIG_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    try:
        unknown = unknown_fields(text, _CONTRACT)
        text_format.Parse(_blanked(text, unknown), config)
    except (text_format.ParseError, ValueError) as error:  # the second for numbers that no field can hold
        raise LoadError(f"{path.name} is not a model configuration: {error}") from error
    _check_kind(path.name, config)
    return config, _warnings(path.name, config, (name for field in unknown for name in field.names))


def parse_model_config(text: str) -> tuple[model_config_pb2.ModelConfig, list[str]]:
    """Read a configuration in JSON, as in a request to load a model.

    Returns:
        The supported fields, and warnings that name the others.

    Raises:
        LoadError: it is not a configuration, or requests a backend other than ONNX Runtime.
    """
    config = model_config_pb2.ModelConfig()
    unknown: list[str] = []
    if len(text) > MAX_CONFIG_BYTES:
        raise LoadError(
            f"it is not a model configuration: it has {len(text)} characters; the most is {MAX_CONFIG_BYTES}"
        )
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise LoadError(f"it is not a model configuration: expected a JSON object, got {text[:20]}")
        json_format.ParseDict(_known_fields(fields, _CONTRACT, "", unknown), config)
    except (
        ValueError,
        json_format.ParseError,
        RecursionError,
        OverflowError,
    ) as error:  # the last for an infinite enum
        raise LoadError(f"it is not a model configuration: {error}") from error
    _check_kind("it", config)
    return config, _warnings("the configuration in the request", config, unknown)


def _known_fields(fields: Mapping[str, Any], descriptor: Descriptor, path: str, unknown: list[str]) -> dict[str, Any]:
    """A message's known fields; adds the paths of the others to `unknown`, unless they are empty."""
    known = {}
    for name, value in fields.items():
        # JSON can hold half a character, on which protobuf's look-up fails in a way of its own; this raises a ValueError.
        name.encode()
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is not None:
            known[name] = _known_value(value, field.message_type, f"{path}{name}.", unknown)
        elif value:
            unknown.append(path + name)
    return known


def _known_value(value: Any, descriptor: Descriptor | None, path: str, unknown: list[str]) -> Any:
    if descriptor is None:
        return value
    if isinstance(value, list):
        return [_known_value(element, descriptor, path, unknown) for element in value]
    if not isinstance(value, dict):
        return value
    if descriptor.GetOptions().map_entry:
        inner = descriptor.fields_by_name["value"].message_type
        return {key: _known_value(element, inner, f"{path}{key}.", unknown) for key, element in value.items()}
    return _known_fields(value, descriptor, path, unknown)


def _warnings(source: str, config: model_config_pb2.ModelConfig, unknown: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(unknown))
    if config.model_transaction_policy.decoupled:
        names.append("model_transaction_policy.decoupled")
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    listed = ", ".join(names[:_MAX_NAMED])
    return [f"{source} has fields that this server does not support: {listed}{more}"] if names else []


def _check_kind(file: str, config: model_config_pb2.ModelConfig) -> None:
    for field, given, known in (("platform", config.platform, PLATFORM), ("backend", config.backend, BACKEND)):
        if given not in ("", known):
            raise LoadError(
                f"{file} sets {field} '{given}'; this server serves only ONNX files, so it must be '{known}'"
            )


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


def unknown_fields(text: str, descriptor: Descriptor) -> list[UnknownField]:
    """Every field of a text-format message that is not in its contract, in order.

    Raises:
        text_format.ParseError: the text is not a message.
    """
    walk = _Walk(text)
    walk.message(descriptor, "", "")
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
    """One pass over a text; it follows the descriptors, and the names alone inside unknown fields."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0
        self.unknown: list[UnknownField] = []

    def message(self, descriptor: Descriptor, path: str, closer: str) -> None:
        """Walk the fields of a message up to, and without, `closer`."""
        while (token := self._peek()) != closer:
            start = self._tokens[self._at].start() if token else 0
            self._take_name()
            field: FieldDescriptor | None = descriptor.fields_by_name.get(token)
            if field is None:
                names = self._value(path + token, None)
                self._took(";", ",")
                end = self._tokens[self._at - 1].end()
                self.unknown.append(UnknownField(tuple(names or [path + token]), start, end))
            else:
                self._value(path + token, field.message_type)
                self._took(";", ",")

    def _value(self, path: str, descriptor: Descriptor | None) -> list[str]:
        """Pass over a field's value; the paths of the fields in it, where there is no descriptor for them."""
        colon = self._took(":")
        names: list[str] = []
        if not self._took("["):
            return self._element(path, descriptor, scalar=colon)
        while not self._took("]"):
            names += self._element(path, descriptor, scalar=True)
            if not self._took(",") and self._peek() != "]":
                raise self._expected('"," or "]"')
        return names

    def _element(self, path: str, descriptor: Descriptor | None, *, scalar: bool) -> list[str]:
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
            self.message(descriptor, f"{path}.", closer)
        else:
            while (token := self._peek()) != closer:
                self._take_name()
                inner = f"{path}.{token}"
                names += self._value(inner, None) or [inner]
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

    def _take_name(self) -> None:
        if not self._peek().isidentifier():
            raise self._expected("a field's name")
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
        at = self._tokens[self._at].start() if self._at < len(self._tokens) else len(self._text)
        line = self._text.count("\n", 0, at) + 1
        found = self._peek() or "the end"
        return text_format.ParseError(f"Expected {what}, found {found!r}", line, at - self._text.rfind("\n", 0, at))


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
