"""Recipes: everything that decides a training run, as one typed, frozen value."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from training.errors import UnknownRecipeError

_VALUE = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Activation = Literal["relu", "sigmoid", "tanh", "gelu"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = tuple[PositiveInt, ...]


class Mlp(BaseModel):
    """Dense layers over inputs [N, ...]; `hidden` are their widths, from the input to the logits."""

    model_config = _VALUE
    family: Literal["mlp"] = "mlp"
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    dropout: Dropout = 0.0


class Cnn(BaseModel):
    """3x3 convolutions with batch-norm over images [N, C, H, W], then dense layers.

    Every block of `channels` but the first halves the image.
    """

    model_config = _VALUE
    family: Literal["cnn"] = "cnn"
    channels: Annotated[Widths, Field(min_length=1)] = (32, 64, 64)
    hidden: Widths = (64,)
    activation: Activation = "relu"
    dropout: Dropout = 0.0


Network = Annotated[Mlp | Cnn, Field(discriminator="family")]


class Hyperparameters(BaseModel):
    """What is chosen, as opposed to the parameters, which are learnt.

    The learning rate rises over `warmup` of all steps to `learning_rate`, then falls to nearly zero on a cosine.
    Training stops when the validation loss has not improved for `patience` epochs.
    """

    model_config = _VALUE
    epochs: PositiveInt = 60
    batch_size: Annotated[int, Field(ge=2)] = 64  # batch-norm needs two rows to have a variance
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    patience: PositiveInt = 15


class Recipe(BaseModel):
    """One training run: data, split, network and hyperparameters.

    `seed` decides the split, the first weights and the order of the rows. `validation` and `test` are the
    fractions of all rows that are held out, class by class. `threads` is how many CPU threads compute: the last
    digits of the weights depend on it, and small networks only get slower with more than one.
    """

    model_config = _VALUE
    name: str
    data: str
    network: Network
    hyperparameters: Hyperparameters = Hyperparameters()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 20
    threads: PositiveInt = 1
    validation: Fraction = 0.15
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> "Recipe":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave no rows to train on")
        return self


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(
            name="digits",
            data="digits",
            network=Cnn(dropout=0.3),
            hyperparameters=Hyperparameters(epochs=30, label_smoothing=0.05, patience=10),
        ),
        "iris": Recipe(
            name="iris",
            data="iris",
            network=Mlp(hidden=(32, 32), activation="tanh"),
            hyperparameters=Hyperparameters(epochs=150, batch_size=16, learning_rate=1e-2, patience=30),
        ),
    }
)

DEFAULT_RECIPE = "digits"


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        UnknownRecipeError: There is none; the text lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownRecipeError(f"no recipe is called {name!r}; there are: {', '.join(sorted(RECIPES))}") from None
