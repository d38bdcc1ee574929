"""Settings documentation: what `frostline serve --help` and the table in docs/operating.md say of `ServerConfig`.

Both are generated from the fields of the model. `make settings` writes the table.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from frostline_server.config import ServerConfig

BEGIN = "<!-- settings: written by `make settings` -->"
END = "<!-- end of settings -->"


@dataclass(frozen=True)
class Setting:
    """One setting of the server.

    Attributes:
        name: The name in the configuration file.
        type: What the flag takes; a setting that may be absent has the type of its value.
        required: Whether it has no default.
        default: Its default as a user types it; empty if there is none.
        values: What it takes, as code or in words: choices, or a kind of value with its bounds.
        description: One phrase; `backticks` mark what is typed.
        group: The heading of the setting in the help.
        see: The section of docs/operating.md that says more, or nothing.
    """

    name: str
    type: Any
    required: bool
    default: str
    values: str
    description: str
    group: str
    see: str

    @property
    def flag(self) -> str:
        """The setting's name on the command line."""
        return _flag(self.name)


def settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of the model."""
    return tuple(_setting(name, info) for name, info in ServerConfig.model_fields.items())


def help_text(setting: Setting) -> str:
    """Return what `frostline serve --help` says of a setting: a sentence, its bounds and its default."""
    # Code is plain on a terminal, and other settings are called by their flags there.
    words = re.sub(
        r"`([^`]*)`",
        lambda code: _flag(code[1]) if code[1] in ServerConfig.model_fields else code[1],
        setting.description,
    )
    sentence = words[0].upper() + words[1:] if words[1].islower() else words  # "gRPC" stays
    if setting.type is bool:
        return f"{sentence}."
    bounds = "" if get_origin(setting.type) is Literal else setting.values.partition(", ")[2]
    default = "required" if setting.required else f"default: {_with_unit(setting.default)}" if setting.default else ""
    facts = "; ".join(filter(None, (bounds, default)))
    return f"{sentence}. [{facts}]" if facts else f"{sentence}."


def table() -> list[str]:
    """Return the lines of the Markdown table of all settings."""
    lines = ["| setting | default | values | meaning |", "| --- | --- | --- | --- |"]
    for each in settings():
        default = "required" if each.required else f"`{each.default}`" if each.default else "none"
        see = f"; see [{each.see}](#{_anchor(each.see)})" if each.see else ""
        lines.append(f"| `{each.name}` | {default} | {each.values} | {each.description}{see} |")
    return lines


def with_table(text: str) -> str:
    """Return `text` with the table between its two markers.

    Raises:
        ValueError: `text` lacks a marker.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}")
    return "\n".join([f"{before}{begin}", "", *table(), "", f"{end}{after}"])


def _setting(name: str, info: FieldInfo) -> Setting:
    about = info.json_schema_extra
    if not info.description or not isinstance(about, dict) or "group" not in about:
        raise TypeError(f"the setting {name} lacks a description or a group")
    kinds = get_args(info.annotation)
    type_ = next(each for each in kinds if each is not NoneType) if NoneType in kinds else info.annotation
    return Setting(
        name=name,
        type=type_,
        required=info.is_required(),
        default="" if info.is_required() or info.default is None else _typed(info.default),
        values=_values(type_, info),
        description=info.description,
        group=str(about["group"]),
        see=str(about.get("see", "")),
    )


def _values(type_: Any, info: FieldInfo) -> str:
    if get_origin(type_) is Literal:
        *others, last = (f"`{choice}`" for choice in get_args(type_))
        return f"{', '.join(others)} or {last}"
    if type_ is bool:
        return "`true` or `false`"
    least = next((_typed(limit.ge) for limit in info.metadata if hasattr(limit, "ge")), "")
    most = next((_typed(limit.le) for limit in info.metadata if hasattr(limit, "le")), "")
    bounds = f"{least} to {most}" if least and most else f"at least {least}" if least else ""
    kind = {int: "integer", float: "number", str: "text", Path: "path"}[type_]
    return ", ".join(filter(None, (kind, bounds)))


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_unit(default: str) -> str:
    mebibytes, rest = divmod(int(default), 2**20) if default.isdecimal() else (0, 0)
    return f"{default} ({mebibytes} MiB)" if mebibytes and not rest else default


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _anchor(heading: str) -> str:
    # As code hosts make it: no punctuation, spaces become hyphens.
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def main(document: Path) -> None:
    """Write the table of all settings into `document`."""
    document.write_text(with_table(document.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{document}: {len(ServerConfig.model_fields)} settings\n")


if __name__ == "__main__":
    main(Path("docs/operating.md"))
