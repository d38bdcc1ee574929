"""The exceptions of training; each message is one clear sentence."""

import sys
import sysconfig
import traceback
from pathlib import Path


class TrainingError(Exception):
    """Anything that ends a training run or a publication; its text says the fact and the fix."""


class UnknownRecipeError(TrainingError):
    """No recipe has that name."""


class SettingError(TrainingError):
    """A recipe has no such setting, or a setting cannot have that value; or a file holds no recipe."""


class DataError(TrainingError):
    """The data set does not exist, holds something wrong, or cannot be split as the recipe asks.

    Attributes:
        fact: What is wrong.
        remedy: How a recipe may say that it is right; empty where none can. Who sends a table to a model has no recipe.
    """

    def __init__(self, fact: str, remedy: str = "") -> None:
        super().__init__(fact + remedy)
        self.fact = fact
        self.remedy = remedy


class DeviceError(SettingError):
    """The device asked for does not exist here."""


class DivergedError(TrainingError):
    """The loss stopped being a finite number."""


class PublishError(TrainingError):
    """The arguments of `publish` do not fit together; nothing was exported."""


class RefusedError(PublishError):
    """The network, or its exported file, does not answer as it must, and was not published.

    Attributes:
        fact: What was seen.
        cause: The likely cause, and what to do about it.
        largest: The largest absolute difference seen, where numbers were compared.
        row: The held-out row it was seen at (its index in the rows given to `publish`).
    """

    def __init__(
        self,
        fact: str,
        *,
        cause: str,
        largest: float | None = None,
        row: int | None = None,
        outcome: str = "Nothing was published.",
    ) -> None:
        where = "" if row is None else f" at held-out row {row}"
        measured = f" (largest difference {largest:.3g}{where})" if largest is not None else where
        super().__init__(f"{fact}{measured}; likely cause: {cause}. {outcome}")
        self.fact = fact
        self.cause = cause
        self.largest = largest
        self.row = row

    def but(self, outcome: str) -> "RefusedError":
        """Return the same with another last sentence, where something else was published."""
        return RefusedError(self.fact, cause=self.cause, largest=self.largest, row=self.row, outcome=outcome)


def first_line(error: BaseException) -> str:
    """Return the first line of what a foreign `error` says, or its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def own_line(error: BaseException) -> str:
    """Return the innermost line of a user's own code that an `error` went through; "" if there is none."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in _not_own())
    ]
    return told_line(frames[-1].filename, frames[-1].lineno, frames[-1].line) if frames else ""


def told_line(file: str, number: int | str | None, code: str | None) -> str:
    """Return a line of code as messages have it, with its place."""
    return f"`{(code or '').strip()}` (line {number} of {Path(file).name})"


def _not_own() -> list[Path]:
    """Where the code of Python, of packages and of training lies."""
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    places = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(__file__).parent, *places, *([Path(torch).parent] if torch else [])]
