"""Access files for tests."""

import hashlib
from pathlib import Path
from typing import Any

TOKENS = {"predict": "p-" + "1" * 30, "observe": "o-" + "2" * 30, "control": "c-" + "3" * 30}
"""A token for each role, whose owner is called like the role."""


def entry(name: str, token: str, *roles: str, **limits: float) -> str:
    """One token's table."""
    fields = {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": list(roles), **limits}
    return "[[tokens]]\n" + "".join(f"{key} = {value!r}\n" for key, value in fields.items())


def write_access_file(path: Path, more: str = "") -> Path:
    """An access file with a token for each role."""
    path.write_text("".join(entry(role, token, role) for role, token in TOKENS.items()) + more)
    return path


def bearer(token: str) -> dict[str, Any]:
    """What a call takes to show a token."""
    return {"metadata": [("authorization", f"Bearer {token}")]}
