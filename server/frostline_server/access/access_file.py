"""The access file: bearer tokens and client certificates with their roles, in TOML.

A token is stored as its SHA-256 alone. It is 256 random bits, so a slow hash with a salt would add nothing.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from frostline_server.access.identity import Identity
from frostline_server.access.rate_limit import RateLimit
from frostline_server.errors import StartError
from frostline_server.regular_files import MAX_TEXT_BYTES, read_regular

ANONYMOUS = "anonymous"
"""The name of callers without credentials."""

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_LimitKey = tuple[str, float, float | None]


class _Limited(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    requests_per_s: float | None = Field(None, gt=0, le=1e9, allow_inf_nan=False)
    burst: float | None = Field(None, ge=1, le=1e9, allow_inf_nan=False)


class _Entry(_Limited):
    name: _Name
    roles: list[Literal["predict", "observe", "control"]] = Field(min_length=1)


class _Token(_Entry):
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")


class _Certificate(_Entry):
    subjects: list[_Name] = Field(min_length=1)


class _File(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    tokens: list[_Token] = []
    certificates: list[_Certificate] = []
    anonymous: _Limited = _Limited()


@dataclass(frozen=True)
class Entries:
    """What an access file says.

    Attributes:
        tokens: the SHA-256 of each token, 32 bytes, and whose it is.
        certificates: the names that a certificate may have, and whose it is; the first entry with a name of the
            caller's decides.
        anonymous_limit: how many requests callers without credentials may send, all together.
    """

    tokens: tuple[tuple[bytes, Identity], ...] = ()
    certificates: tuple[tuple[frozenset[str], Identity], ...] = ()
    anonymous_limit: RateLimit | None = None
    limits: Mapping[_LimitKey, RateLimit] = field(default_factory=dict)


def read(path: Path, before: Entries) -> Entries:
    """Read an access file.

    Args:
        path: the file.
        before: what it said before. A limit that has not changed goes on, so that nobody gains by a change of the file.

    Raises:
        StartError: the file cannot be read, or says what makes no sense. No value of the file is in the message: one
            might be a token.
    """
    try:
        text = read_regular(path, MAX_TEXT_BYTES).decode()
    except UnicodeDecodeError:
        raise StartError(f"the access file {path} is not valid: it is not UTF-8 text") from None
    except OSError as error:
        raise StartError(f"cannot read the access file {path}: {error}") from error
    return parse(text, f"access file {path}", before)


def parse(text: str, where: str, before: Entries) -> Entries:
    """Read the text of an access file; see `read`.

    Raises:
        StartError: it makes no sense.
    """
    try:
        written = _File(**tomllib.loads(text))
    except ValidationError as error:
        problems = "; ".join(map(_sentence, error.errors(include_input=False, include_context=False)))
        raise StartError(f"the {where} is not valid: {problems}") from None
    except RecursionError:
        raise StartError(f"the {where} is not valid: it is nested too deeply") from None
    except ValueError as error:  # no TOML, or a number of more digits than Python takes
        raise StartError(f"the {where} is not valid: {error}") from error
    limits: dict[_LimitKey, RateLimit] = {}

    def limit(entry: _Limited, key: str) -> RateLimit | None:
        if entry.requests_per_s is None:
            return None
        whole = (key, entry.requests_per_s, entry.burst)
        # Without `burst`, a second's worth of requests may come at once.
        burst = max(1.0, entry.requests_per_s) if entry.burst is None else entry.burst
        limits[whole] = before.limits.get(whole) or RateLimit(entry.requests_per_s, burst)
        return limits[whole]

    def identity(entry: _Entry, credential: str, key: str) -> Identity:
        if entry.name == ANONYMOUS:
            raise StartError(f"the {where} is not valid: the name '{ANONYMOUS}' is taken; choose another")
        return Identity(entry.name, frozenset(entry.roles), credential, limit(entry, f"{credential} {key}"))

    digests = [entry.sha256.lower() for entry in written.tokens]
    doubled = [entry.name for at, entry in enumerate(written.tokens) if entry.sha256.lower() in digests[:at]]
    if doubled:
        raise StartError(f"the {where} is not valid: the token of {doubled[0]!r} is there twice")
    return Entries(
        tokens=tuple(
            (bytes.fromhex(digest), identity(entry, "token", digest))
            for digest, entry in zip(digests, written.tokens, strict=True)
        ),
        certificates=tuple(
            (frozenset(entry.subjects), identity(entry, "certificate", entry.name)) for entry in written.certificates
        ),
        anonymous_limit=limit(written.anonymous, ANONYMOUS),
        limits=limits,
    )


_REMEDIES = {
    "sha256": "64 hexadecimal digits, the SHA-256 of a token; `frostline token` makes both",
    "roles": "a list of at least one of predict, observe and control",
}


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no setting '{place}'"
    if problem["type"] == "missing":
        return f"{place} is missing"
    remedy = next((text for word, text in _REMEDIES.items() if word in problem["loc"]), "")
    return f"{place} must be {remedy}" if remedy else f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
