"""The network families: MLP, CNN, RNN, transformer and U-Net, from raw values to logits.

Each consists of PyTorch's own layers.
"""

import math
import warnings
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from frostline_training.config import Activation, Cnn, Mlp, Network, Rnn, Transformer, Unet
from frostline_training.data import Array, Column, Dataset, named
from frostline_training.data.heads import slices
from frostline_training.errors import DataError
from frostline_training.networks.joined import Joined
from frostline_training.networks.recurrent import LastState

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
_RECURRENT: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_HIDDEN_SHARE = 0.05  # of a table's cells, at random in every epoch
_SMALL = 1e-6  # what float16 still has
_CATEGORY_WIDTH = 8  # the most numbers a category is embedded in
_UNKNOWN_WIDTH = 16  # numbers that are 0 but for rows with an unknown category


class Standardise(nn.Module):
    """Bring raw values to mean 0 and deviation 1, feature by feature.

    It is a layer, so it is exported with the network and clients send raw values.

    Args:
        mean: What to subtract; broadcasts against one row.
        std: What to divide by, nowhere 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, inputs: NDArray[np.float32]) -> "Standardise":
        """Measure `inputs` [N, F] feature by feature, or [N, C, ...] channel by channel; NaN is left out.

        A feature of nothing but NaN stays NaN, whatever its value.
        """
        shape = (inputs.shape[1], *(1,) * (inputs.ndim - 2))
        mean, std = np.empty(shape), np.empty(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of such a feature
            # One after the other, as only a copy in double precision can be squared whatever its unit: NumPy squares in the
            # array's own, also where it adds in another.
            for place in range(len(mean)):
                values = inputs[:, place].astype(np.float64)
                mean[place], std[place] = np.nanmean(values), np.nanstd(values)
        # A constant feature says nothing, and must not divide by zero; neither must one that single precision takes for it.
        std[std.astype(np.float32) == 0] = 1
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` standardised, in the same shape."""
        return (values - self.mean) / self.std


class Table(nn.Module):
    """A table's row [N, F] as the network sees it: numbers standardised, missing ones at the mean, categories embedded.

    A category that the table does not have is the unknown one, 0. Its vector is the mean over the cells of `inputs`
    whose category is known, as a missing number is the mean, plus what is fitted to rows when the network has learnt: a
    vector that is learnt with the others would mean something else with every seed, because it is seldom learnt from.
    The fitted one has further numbers, which the unknown categories of a row share and known ones lack: with their width
    alone it could only say what some category says, and the mean over categories is less certain than each of them.

    Where the column has a category that stands for no value, what that says is learnt as a difference from the mean. A
    category that `inputs` do not have, because all its rows are held out, is unknown too. While it trains, a share of
    all cells is taken for missing numbers or unknown categories, so that the network learns to answer without them: a
    table may have no such cell itself.

    Args:
        columns: What each of the F columns is.
        inputs: Rows [N, F] to measure.
    """

    absent: Tensor

    def __init__(self, columns: tuple[Column, ...], inputs: NDArray[np.float32]) -> None:
        super().__init__()
        self.numbers = [index for index, column in enumerate(columns) if column.categories is None]
        self.categories = [index for index, column in enumerate(columns) if column.categories is not None]
        absent = [math.nan if column.categories is None else 0.0 for column in columns]
        self.register_buffer("absent", torch.tensor(absent), persistent=False)  # a row without any value
        self.standardise = Standardise.fit(inputs[:, self.numbers])
        sizes = [len(columns[index].categories or ()) for index in self.categories]
        self.embeddings = nn.ModuleList(_categories(size) for size in sizes)
        self.missing = [columns[index].missing for index in self.categories]
        for place, (index, size) in enumerate(zip(self.categories, sizes, strict=True)):
            counts = np.bincount(inputs[:, index].astype(np.int64), minlength=size)
            counts[0] = 0
            self.register_buffer(f"learnt_{place}", torch.from_numpy(counts > 0), persistent=False)
            counts[self.missing[place]] = 0
            shares = torch.tensor(counts / max(1, counts.sum()), dtype=torch.float32)
            self.register_buffer(f"shares_{place}", shares)
            self.register_buffer(f"unknown_{place}", torch.zeros(_UNKNOWN_WIDTH + min(_CATEGORY_WIDTH, size)))
        self.width = len(self.numbers) + sum(min(_CATEGORY_WIDTH, size) for size in sizes)
        if sizes:
            self.width += _UNKNOWN_WIDTH
        self.hide = nn.Dropout(_HIDDEN_SHARE)

    def forward(self, row: Tensor) -> Tensor:
        """Return [N, width]."""
        if self.training:
            # A layer of PyTorch's draws, so that processes which train together draw what one alone would.
            hidden = self.hide(torch.ones_like(row)) == 0
            row = torch.where(hidden, self.absent, row)
        values = self.standardise(row[:, self.numbers])
        parts = [torch.where(values.isnan(), 0.0, values)]
        further = []
        for place, (index, embedding) in enumerate(zip(self.categories, self.embeddings, strict=True)):
            own, shares = cast("nn.Embedding", embedding).weight, getattr(self, f"shares_{place}")
            learnt, fitted = getattr(self, f"learnt_{place}")[:, None], getattr(self, f"unknown_{place}")
            # Of constants alone, so it is computed when the file is loaded, and not for every row.
            mean = shares @ own
            missing = self.missing[place]
            vectors = torch.cat([own[:missing], own[missing:] + mean]) if missing else own
            vectors = torch.where(learnt, vectors, mean + fitted[_UNKNOWN_WIDTH:])
            categories = _known(row[:, index].long(), len(shares))
            parts.append(functional.embedding(categories, vectors))
            further.append(functional.embedding(categories, torch.where(learnt, 0.0, fitted[:_UNKNOWN_WIDTH])))
        if further:
            parts.append(torch.stack(further).sum(0))
        return torch.cat(parts, 1)


class Tokens(nn.Module):
    """Tokens [N, T] as vectors [N, T, width]; a token that is not in the vocabulary is as good as padding, 0.

    Args:
        vocabulary: How many tokens there are, 0 included.
        width: Numbers for each.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors."""
        vectors: Tensor = self.embedding(_known(tokens.long(), self.embedding.num_embeddings))
        return vectors


class MeanOfTokens(nn.Module):
    """The mean [N, width] over the tokens [N, T] that do not pad, for networks that see no order."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the means."""
        return _mean(self.tokens(tokens), _valid(tokens, token_lengths(tokens)))


class Residual(nn.Module):
    """What `layers` make of the values, added to the values (brought to as many channels where need be)."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, values: Tensor) -> Tensor:
        """Return the sum."""
        changed: Tensor = self.layers(values) + self.shortcut(values)
        return changed


class Recurrent(nn.Module):
    """Sequences -> vectors -> the last state of recurrent layers -> dense layers.

    Args:
        encoder: Steps [N, T, ...] to vectors [N, T, F].
        state: Vectors to the last state.
        head: The last state to logits.
        tokens: Whether the steps are tokens, whose lengths can be seen.
    """

    def __init__(self, encoder: nn.Module, state: LastState, head: nn.Sequential, *, tokens: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.state = state
        self.head = head
        self.tokens = tokens

    def forward(self, steps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits [N, C] for steps [N, T] or [N, T, F], of which `lengths` [N] are valid."""
        logits: Tensor = self.head(self.state(self.encoder(steps), _lengths(steps, lengths, tokens=self.tokens)))
        return logits


class Encoder(nn.Module):
    """Sequences -> vectors with positions -> self-attention layers -> mean over the valid steps -> dense layers.

    Args:
        encoder: Steps [N, T, ...] to vectors [N, T, width].
        layers: PyTorch's own transformer layers.
        head: The mean to logits.
        tokens: Whether the steps are tokens, whose lengths can be seen.
    """

    def __init__(
        self, encoder: nn.Module, layers: list[nn.TransformerEncoderLayer], head: nn.Sequential, *, tokens: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = nn.ModuleList(layers)
        self.head = head
        self.tokens = tokens

    def forward(self, steps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits [N, C] for steps [N, T] or [N, T, F], of which `lengths` [N] are valid."""
        vectors: Tensor = self.encoder(steps)
        vectors = vectors + positions(vectors.shape[1], vectors.shape[2], vectors.device)
        lengths = _lengths(steps, lengths, tokens=self.tokens)
        valid = None if lengths is None else _valid(steps, lengths)
        for layer in self.layers:
            vectors = layer(vectors, src_key_padding_mask=None if valid is None else ~valid)
        logits: Tensor = self.head(vectors.mean(1) if valid is None else _mean(vectors, valid))
        return logits


class L2Normalise(nn.Module):
    """Bring vectors [N, D] to the length 1, so that their products are the cosines between them; 0 stays 0."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors."""
        # First to numbers of at most 1: the squares of what a row with 1e38 gives would be infinite.
        largest = vectors.detach().abs().amax(1, keepdim=True).clamp(min=_SMALL)
        return functional.normalize(vectors / largest, eps=_SMALL)


class Then(nn.Sequential):
    """Layers of which the first may take several inputs."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return what the last gives."""
        network, *rest = self
        values: Tensor = network(first, *others)
        for layer in rest:
            values = layer(values)
        return values


class Rescale(nn.Module):
    """Bring a regression's values [N, K] from deviations around the mean to the targets' own unit.

    With a mean of 0 and a deviation of 1 what is no value, such as a logit, stays as it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values in the targets' unit."""
        return values * self.std + self.mean


def build(network: Network, dataset: Dataset, *, dimensions: int = 64) -> nn.Module:
    """Build a network for rows like those of `dataset` that ends at logits [N, C], or values [N, K] of a regression.

    Of a binary task it is one logit, [N, 1]; where each pixel has a class, logits [N, C, H, W]. An embedding ends
    at a vector of length 1, [N, `dimensions`], and several targets at the logits and values of each, [N, ...].

    The first weights come from PyTorch's global random state; seed it first.

    Raises:
        DataError: The network cannot take such rows.
    """
    first, *others = named(dataset.rows.inputs).values()
    outputs = {"binary": 1, "embedding": dimensions}.get(dataset.task, len(dataset.labels))
    if (dataset.task == "dense") != isinstance(network, Unet):
        fits = (
            "only unet answers each pixel" if dataset.task == "dense" else "it answers each pixel, for the task dense"
        )
        raise DataError(f"{dataset.name} has the task {dataset.task}, and the network is {network.family}: {fits}")
    match network:
        case Mlp():
            _check_inputs(dataset, network, first.ndim >= 2 and not others)
            encoder, width = _row_encoder(network, dataset, first)
            head = _dense(width, network.hidden, outputs, network.activation, network.dropout, network.norm)
            built: nn.Module = nn.Sequential(encoder, nn.Flatten(), *head)
        case Cnn():
            _check_inputs(dataset, network, first.ndim == 4 and not others)
            built = nn.Sequential(Standardise.fit(first), *_cnn(network, first.shape[1:], outputs))
        case Rnn():
            _check_inputs(dataset, network, dataset.sequence and len(others) <= 1)
            built = _rnn(network, dataset, first, outputs)
        case Transformer():
            _check_inputs(dataset, network, dataset.sequence and len(others) <= 1)
            built = _transformer(network, dataset, first, outputs)
        case Unet():
            _check_inputs(dataset, network, first.ndim == 4 and not others)
            built = _unet(network, first, outputs)
    match dataset.task:
        case "regression" | "any":
            return Then(built, _rescale(dataset))
        case "embedding":
            return Then(built, L2Normalise())
    return built


def _rescale(dataset: Dataset) -> Rescale:
    scale = Standardise.fit(dataset.rows.targets)
    mean, std = scale.mean, scale.std
    if dataset.heads:
        mean, std = torch.zeros(len(dataset.labels)), torch.ones(len(dataset.labels))
        for place, (head, part) in enumerate(zip(dataset.heads, slices(dataset.heads), strict=True)):
            if head.labels is None:
                mean[part], std[part] = scale.mean[place], scale.std[place]
    return Rescale(mean, std)


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers training learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def token_lengths(tokens: Tensor) -> Tensor:
    """Return how many of each row's `tokens` [N, T] come before the padding, as int64 [N]; at least 1."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens != 0, places, 0).amax(1).clamp(min=1)


def positions(steps: int, width: int, device: torch.device) -> Tensor:
    """Return sines and cosines [1, steps, width] that tell the steps apart, for any number of them.

    They are those of "Attention Is All You Need" (2017), section 3.5.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-np.log(10_000.0) / width))
    angles = torch.arange(steps, device=device)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)[None]


def _check_inputs(dataset: Dataset, network: Network, fits: bool) -> None:
    if not fits:
        wanted = {
            "mlp": "one input of rows [F]",
            "cnn": "one input of images [C, H, W]",
            "rnn": "sequences [T, F] or tokens [T]",
            "transformer": "sequences [T, F] or tokens [T]",
            "unet": "one input of images [C, H, W]",
        }[network.family]
        seen = ", ".join(
            f"{name} {list(array.shape[1:])} {array.dtype}" for name, array in named(dataset.rows.inputs).items()
        )
        raise DataError(f"{dataset.name} has rows of {seen}, and the network {network.family} takes {wanted}")


def _row_encoder(config: Mlp, dataset: Dataset, inputs: Array) -> tuple[nn.Module, int]:
    if dataset.sequence and inputs.ndim > 2:
        raise DataError(f"{dataset.name} has sequences of any length, and the network mlp takes rows of one length")
    if np.issubdtype(inputs.dtype, np.integer):
        return MeanOfTokens(_tokens(inputs, config.embedding)), config.embedding
    # Tables may lack values when they are asked about, though none lacked when they were learnt from.
    if dataset.columns:
        table = Table(dataset.columns, inputs)
        return table, table.width
    return Standardise.fit(inputs), int(np.prod(inputs.shape[1:]))


def _tokens(inputs: Array, width: int) -> Tokens:
    # Bytes may all come; of other tokens only those that were seen have been learnt.
    return Tokens(256 if inputs.dtype == np.uint8 else int(inputs.max()) + 1, width)


def _steps(dataset: Dataset, inputs: Array) -> Standardise:
    # Of padded sequences only the valid steps are measured.
    _, *lengths = named(dataset.rows.inputs).values()
    every = inputs.reshape(-1, inputs.shape[-1])
    return Standardise.fit(
        inputs[np.arange(inputs.shape[1]) < np.asarray(lengths[0])[:, np.newaxis]] if lengths else every
    )


def _rnn(config: Rnn, dataset: Dataset, inputs: Array, outputs: int) -> nn.Module:
    tokens = np.issubdtype(inputs.dtype, np.integer)
    encoder = _tokens(inputs, config.embedding) if tokens else _steps(dataset, inputs)
    own: dict[str, Any] = {"nonlinearity": "relu"} if (config.kind, config.activation) == ("rnn", "relu") else {}
    layers = _RECURRENT[config.kind](
        input_size=config.embedding if tokens else inputs.shape[-1],
        hidden_size=config.state,
        num_layers=config.layers,
        bidirectional=config.bidirectional,
        dropout=config.dropout if config.layers > 1 else 0.0,
        batch_first=True,
        **own,
    )
    width = config.state * (2 if config.bidirectional else 1)
    norm = [nn.LayerNorm(width)] if config.norm == "layer" else []
    head = _dense(width, config.hidden, outputs, config.activation, config.dropout)
    return Recurrent(encoder, LastState(layers), nn.Sequential(*norm, nn.Dropout(config.dropout), *head), tokens=tokens)


def _transformer(config: Transformer, dataset: Dataset, inputs: Array, outputs: int) -> nn.Module:
    tokens = np.issubdtype(inputs.dtype, np.integer)
    encoder: nn.Module = (
        _tokens(inputs, config.width)
        if tokens
        else nn.Sequential(_steps(dataset, inputs), nn.Linear(inputs.shape[-1], config.width))
    )
    layers = [
        nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.feedforward,
            config.dropout,
            _ACTIVATIONS[config.activation](),
            batch_first=True,
            norm_first=True,
        )
        for _ in range(config.layers)
    ]
    head = _dense(config.width, config.hidden, outputs, config.activation, config.dropout)
    return Encoder(encoder, layers, nn.Sequential(nn.LayerNorm(config.width), *head), tokens=tokens)


def _cnn(config: Cnn, row: tuple[int, ...], outputs: int) -> list[nn.Module]:
    channels, height, width = row
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise((channels, *config.channels))):
        activation = _ACTIVATIONS[config.activation]
        block = [*_convolution(config, before, after), activation()]
        if config.residual:
            shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, kernel_size=1)
            block = [
                Residual(nn.Sequential(*block, *_convolution(config, after, after)), shortcut),
                activation(),
            ]
        layers += block
        if index > 0 and min(height, width) >= 2:
            layers += [nn.MaxPool2d(2)]
            height, width = height // 2, width // 2
    features = config.channels[-1] * height * width
    dense = _dense(features, config.hidden, outputs, config.activation, config.dropout)
    return [*layers, nn.Flatten(), nn.Dropout(config.dropout), *dense]


def _unet(config: Unet, inputs: Array, outputs: int) -> Joined:
    activation = _ACTIVATIONS[config.activation]

    def block(before: int, after: int) -> nn.Module:
        first, second = _convolution(config, before, after), _convolution(config, after, after)
        return nn.Sequential(*first, activation(), *second, activation())

    widths = config.channels
    ups = list(pairwise(reversed(widths)))
    return Joined(
        Standardise.fit(inputs),
        [block(before, after) for before, after in pairwise((inputs.shape[1], *widths))],
        [nn.ConvTranspose2d(before, after, kernel_size=2, stride=2) for before, after in ups],
        [block(2 * after, after) for _, after in ups],
        nn.Sequential(nn.Dropout(config.dropout), nn.Conv2d(widths[0], outputs, kernel_size=1)),
    )


def _convolution(config: Cnn | Unet, before: int, after: int) -> list[nn.Module]:
    norm: dict[str, list[nn.Module]] = {
        "none": [],
        "batch": [nn.BatchNorm2d(after)],
        "layer": [nn.GroupNorm(1, after)],
    }
    # No bias before a normalisation, which subtracts it again.
    return [nn.Conv2d(before, after, kernel_size=3, padding=1, bias=config.norm == "none"), *norm[config.norm]]


def _dense(
    features: int,
    hidden: tuple[int, ...],
    outputs: int,
    activation: Activation,
    dropout: float,
    norm: str = "none",
) -> list[nn.Module]:
    widths = (features, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after)]
        layers += [nn.BatchNorm1d(after)] if norm == "batch" else [nn.LayerNorm(after)] if norm == "layer" else []
        layers += [_ACTIVATIONS[activation](), nn.Dropout(dropout)]
    return [*layers, nn.Linear(widths[-1], outputs)]


def _categories(size: int) -> nn.Embedding:
    embedding = nn.Embedding(size, min(_CATEGORY_WIDTH, size))
    with torch.no_grad():
        embedding.weight[0] = 0  # the difference of the unknown one from the mean
    return embedding


def _known(index: Tensor, size: int) -> Tensor:
    return torch.where((index >= 0) & (index < size), index, 0)


def _lengths(steps: Tensor, lengths: Tensor | None, *, tokens: bool) -> Tensor | None:
    if lengths is not None:
        return torch.minimum(lengths.clamp(min=1), torch.full_like(lengths, steps.shape[1]))
    return token_lengths(steps) if tokens else None


def _valid(steps: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]


def _mean(vectors: Tensor, valid: Tensor) -> Tensor:
    kept = torch.where(valid[:, :, None], vectors, 0.0)
    return kept.sum(1) / valid.sum(1, keepdim=True)
