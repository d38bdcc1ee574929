"""Text for a terminal. What comes from a server or a file is shown, and never obeyed as an escape sequence."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    r"""A text in which each control character is written as Python writes it, such as `\x1b`."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
