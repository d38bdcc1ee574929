"""What raw rows are answered, as models of pydantic's: one for a row of each task.

They describe the answers of `predict`, and are not made for each of them.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

Number = float | Literal["NaN", "Infinity", "-Infinity"]
"""A number, or the word for what JSON has no number for."""


class ClassProbability(BaseModel):
    """A class, and how probable it is."""

    class_: int = Field(alias="class", description="the class's index")
    label: str | None = Field(description="null where the model has no labels")
    probability: Number


class SingleLabel(BaseModel):
    """One of several classes."""

    label: str | None = Field(description="null where the model has no labels, or a NaN decides nothing")
    class_: int | None = Field(alias="class", description="the class's index")
    probability: Number
    probabilities: list[ClassProbability] = Field(description="the most probable first")
    missing: list[str] = Field([], description="columns without a value")
    unknown: list[str] = Field([], description="columns with a category that training did not know")
    outside: list[str] = Field([], description="columns lower or higher than all that training saw")


class Binary(BaseModel):
    """Yes or no."""

    label: str | None = Field(description="null where a NaN decides nothing")
    class_: int | None = Field(alias="class", description="the label's index")
    probability: Number = Field(description="of yes")
    missing: list[str] = []
    unknown: list[str] = []
    outside: list[str] = []


class MultiLabel(BaseModel):
    """Several labels, of which each holds or not."""

    labels: list[str] | None = Field(description="those that hold; null where a NaN decides nothing")
    probabilities: dict[str, Number] = Field(description="of each label")
    missing: list[str] = []
    unknown: list[str] = []
    outside: list[str] = []


class Regression(BaseModel):
    """Numbers, in the target's own unit."""

    values: dict[str, Number]
    missing: list[str] = []
    unknown: list[str] = []
    outside: list[str] = []


class Embedding(BaseModel):
    """A vector."""

    vector: list[Number]


class Dense(BaseModel):
    """The index of the most probable class at each place, such as each pixel."""

    map: list[Any]


class Outputs(BaseModel):
    """The network's own outputs, by name."""

    outputs: dict[str, Any]
    missing: list[str] = []
    unknown: list[str] = []
    outside: list[str] = []


OF_TASKS: dict[str, type[BaseModel]] = {
    "single-label": SingleLabel,
    "binary": Binary,
    "multi-label": MultiLabel,
    "regression": Regression,
    "embedding": Embedding,
    "dense": Dense,
    "any": Outputs,
}
"""What a row of each task is answered."""


class PredictResponse(BaseModel):
    """The answers to rows, in their order."""

    model: str
    version: str = Field(description="that answered, in decimal")
    task: str = Field(description="what the model was published for", examples=list(OF_TASKS))
    names: list[str] = Field([], description="of the classes of a map")
    predictions: list[SingleLabel | Binary | MultiLabel | Regression | Embedding | Dense | Outputs]


class Error(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="what was expected, what came, what to do")
