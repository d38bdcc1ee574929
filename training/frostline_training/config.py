"""Training recipes: all settings of a training run as one typed, frozen value."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from frostline_training.errors import UnknownRecipeError
from frostline_training.sources import Source

_VALUE = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Activation = Literal["relu", "sigmoid", "tanh", "gelu"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Widths = tuple[PositiveInt, ...]


class Mlp(BaseModel):
    """Dense layers over inputs [N, ...]; `hidden` are their widths, from the input to the logits.

    Tokens are embedded in `embedding` numbers each, and averaged.
    """

    model_config = _VALUE
    family: Literal["mlp"] = "mlp"
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    dropout: Dropout = 0.0
    norm: Literal["none", "batch", "layer"] = "none"
    embedding: PositiveInt = 32


class Cnn(BaseModel):
    """3x3 convolutions over images [N, C, H, W], then dense layers.

    Every block of `channels` but the first halves the image. A residual block has two convolutions and adds
    its input to their result.
    """

    model_config = _VALUE
    family: Literal["cnn"] = "cnn"
    channels: Annotated[Widths, Field(min_length=1)] = (32, 64, 64)
    residual: bool = False
    hidden: Widths = (64,)
    activation: Activation = "relu"
    dropout: Dropout = 0.0
    norm: Literal["none", "batch", "layer"] = "batch"


class Rnn(BaseModel):
    """Recurrent layers over sequences [N, T, F] or tokens [N, T] of any length, then dense layers on the last state.

    `activation` is that of the dense layers; of the recurrent ones only those of kind ``rnn`` have a choice,
    and take it where it is ``relu`` (else ``tanh``).
    """

    model_config = _VALUE
    family: Literal["rnn"] = "rnn"
    kind: Literal["rnn", "lstm", "gru"] = "gru"
    state: PositiveInt = 64
    layers: PositiveInt = 1
    bidirectional: bool = False
    hidden: Widths = ()
    activation: Activation = "tanh"
    dropout: Dropout = 0.0
    norm: Literal["none", "layer"] = "none"
    embedding: PositiveInt = 32


class Transformer(BaseModel):
    """Self-attention layers over sequences [N, T, F] or tokens [N, T] of any length, averaged, then dense layers."""

    model_config = _VALUE
    family: Literal["transformer"] = "transformer"
    width: PositiveInt = 64
    heads: PositiveInt = 4
    layers: PositiveInt = 2
    feedforward: PositiveInt = 128
    hidden: Widths = ()
    activation: Activation = "gelu"
    dropout: Dropout = 0.1

    @model_validator(mode="after")
    def _divide_the_width_among_the_heads(self) -> "Transformer":
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width ({self.width}) must be even, and a multiple of heads ({self.heads})")
        return self


class Unet(BaseModel):
    """A U-Net over images [N, C, H, W] of any height and width: logits at each pixel, for the task ``dense``.

    It is that of Ronneberger, Fischer and Brox (2015), with padding. Every block of `channels` has two 3x3 convolutions;
    on the way down each but the first works on half the height and width of the one before, and on the way up each is
    joined with that of its size. Images are padded inside to a multiple of 2 for each halving, and the logits cut again.
    """

    model_config = _VALUE
    family: Literal["unet"] = "unet"
    channels: Annotated[Widths, Field(min_length=1)] = (16, 32, 64)
    activation: Activation = "relu"
    dropout: Dropout = 0.0
    norm: Literal["none", "batch", "layer"] = "batch"


Network = Annotated[Mlp | Cnn | Rnn | Transformer | Unet, Field(discriminator="family")]


class Hyperparameters(BaseModel):
    """What is chosen, as opposed to the parameters, which are learnt.

    The learning rate rises over `warmup` of all steps to `learning_rate`, then falls to nearly zero on a cosine.
    Gradients longer than `clip_norm` are shortened to it. `class_weights` makes every class count the same, however
    many rows it has. `dimensions` and `temperature` are for the task ``embedding``: how many numbers a vector has, and
    what the similarities in its loss are divided by. Training stops when the validation loss has not improved for
    `patience` epochs. `precision` is that of the arithmetic on CUDA; the CPU always computes in fp32.
    """

    model_config = _VALUE
    epochs: PositiveInt = 60
    batch_size: Annotated[int, Field(ge=2)] = 64  # batch-norm needs two rows to have a variance
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    clip_norm: PositiveFloat = 1.0
    class_weights: bool = False
    dimensions: PositiveInt = 64
    temperature: PositiveFloat = 0.1
    patience: PositiveInt = 15
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class LeastPrecision(BaseModel):
    """The threshold that finds most, among those of which at least the share `precision` of the rows taken is right."""

    model_config = _VALUE
    precision: Share


class LeastRecall(BaseModel):
    """The most precise threshold, among those that take at least the share `recall` of the rows that have the label."""

    model_config = _VALUE
    recall: Share


class LeastCost(BaseModel):
    """The cheapest threshold, where a row wrongly taken and a row missed have the two numbers of `cost`."""

    model_config = _VALUE
    cost: tuple[PositiveFloat, PositiveFloat]


def _one_sentence(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    # Of a union pydantic tells what is wrong with each of its members.
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            'write "max-f1", {"precision": 0.8} or {"recall": 0.8} with a share above 0 and up to 1, or {"cost": [1, 20]} '
            f"with the costs, above 0, of a false positive and of a false negative; not {value!r}"
        ) from None


Threshold = Literal["max-f1"] | LeastPrecision | LeastRecall | LeastCost


class Recipe(BaseModel):
    """One training run: data, split, network and hyperparameters.

    `data` is the name of a built-in data set, or says where the user's own is. `seed` decides the first weights, the
    order of the rows and dropout. `split_seed` decides which rows are held out, so that trainings with other seeds are
    scored on the same rows; `validation` and `test` are their fractions of all rows, class by class. `calibrate` divides
    the logits by the temperature at which their probabilities fit validation best, and shifts them so that the mean
    probability of each class is its share of the rows.
    `threshold` says how the probability from which on a label is answered is chosen, on the validation rows:
    ``"max-f1"``, ``{"precision": 0.8}``, ``{"recall": 0.9}`` or ``{"cost": (1, 20)}``, the cost of a false positive and
    of a false negative. Of two classes it is about `positive`, the rarer one unless it is said. `baselines` compares
    the scores with those of simpler models. `threads` is how many CPU threads compute: the last digits of the weights
    depend on it, and small networks only get slower with more than one.
    """

    model_config = _VALUE
    name: str
    data: str | Source
    network: Network
    hyperparameters: Hyperparameters = Hyperparameters()
    calibrate: bool = True
    threshold: Annotated[Threshold | None, WrapValidator(_one_sentence)] = None
    positive: Annotated[str | None, Field(coerce_numbers_to_str=True)] = None
    baselines: bool = True
    seed: Seed = 20
    split_seed: Seed = 20
    threads: PositiveInt = 1
    validation: Fraction = 0.15
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> "Recipe":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) leave no rows to train on")
        return self


def _sequence(name: str, network: Rnn | Transformer) -> Recipe:
    return Recipe(
        name=name,
        data="digits-rows",
        network=network,
        hyperparameters=Hyperparameters(epochs=40, label_smoothing=0.05, patience=12, weight_decay=0.05),
    )


_BUILT_IN = (
    Recipe(
        name="digits",
        data="digits",
        network=Cnn(dropout=0.3),
        hyperparameters=Hyperparameters(epochs=30, label_smoothing=0.05, patience=10),
    ),
    Recipe(
        name="digits-mlp",
        data="digits-flat",
        network=Mlp(hidden=(128, 64), activation="gelu", dropout=0.2),
        hyperparameters=Hyperparameters(epochs=40, label_smoothing=0.05),
    ),
    _sequence("digits-rnn", Rnn(kind="rnn", state=96, bidirectional=True, hidden=(64,), dropout=0.2)),
    _sequence("digits-lstm", Rnn(kind="lstm", state=64, bidirectional=True, hidden=(64,), dropout=0.2)),
    _sequence("digits-gru", Rnn(kind="gru", state=64, bidirectional=True, hidden=(64,), dropout=0.2)),
    _sequence("digits-transformer", Transformer(width=64, layers=2)),
    Recipe(
        name="iris",
        data="iris",
        network=Mlp(hidden=(32, 32), activation="tanh"),
        hyperparameters=Hyperparameters(epochs=150, batch_size=16, learning_rate=1e-2, patience=30),
    ),
    Recipe(
        name="wine",
        data="wine",
        network=Mlp(hidden=(32,), dropout=0.2),
        hyperparameters=Hyperparameters(epochs=100, batch_size=16, patience=30),
    ),
    Recipe(
        name="breast-cancer",
        data="breast-cancer",
        network=Mlp(hidden=(32,), dropout=0.3, norm="batch"),
        hyperparameters=Hyperparameters(epochs=60, batch_size=32, patience=20),
    ),
    Recipe(
        name="text",
        data="python-text",
        network=Rnn(kind="lstm", state=64, dropout=0.3),
        hyperparameters=Hyperparameters(epochs=10, learning_rate=5e-3, patience=4),
    ),
    Recipe(
        name="digits-scenes",
        data="digits-scenes",
        network=Unet(channels=(16, 32, 64), dropout=0.1),
        hyperparameters=Hyperparameters(epochs=50, batch_size=8, learning_rate=5e-3, patience=12),
    ),
    Recipe(
        name="digits-embedding",
        data="digits-alike",
        network=Cnn(dropout=0.3),
        hyperparameters=Hyperparameters(epochs=30, batch_size=128, dimensions=32, patience=10),
    ),
    Recipe(
        name="wine-and-alcohol",
        data="wine-and-alcohol",
        network=Mlp(hidden=(32,), dropout=0.2),
        hyperparameters=Hyperparameters(epochs=100, batch_size=16, patience=30),
    ),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _BUILT_IN})


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        UnknownRecipeError: There is none; the text lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownRecipeError(f"no recipe is called {name!r}; there are: {', '.join(sorted(RECIPES))}") from None
