"""Modules as users write them: every family of torch.nn layers, wrappers, masks, and answers of every structure.

Each is either published and served as PyTorch computes it, or refused with a sentence that names the cause.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from frostline_training import publish
from frostline_training.errors import PublishError

ROWS = 12


@dataclass(frozen=True)
class Own:
    """A module, and what becomes of it.

    Attributes:
        make: makes it.
        sample: makes its sample.
        publish: further arguments of `publish`.
        refused: what the refusal says, as a regular expression; "" if it is published.
    """

    make: Callable[[], nn.Module]
    sample: Callable[[], Tensor | dict[str, Tensor]]
    publish: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


class Of(nn.Module):
    """A module of some parts and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Any:
        """Return what the function makes of it."""
        return self.function(self.parts, x)


class Pair(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(3, 5)
        self.head = nn.Bilinear(5, 5, 3)

    def forward(self, measured: Tensor, counted: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(self.a(measured).relu(), self.b(counted.float()).tanh())
        return logits


class KeywordOnly(nn.Module):
    """Inputs by name only, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, *, rows: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layer(rows if scale is None else rows * scale)
        return logits


class Passing(nn.Module):
    """A wrapper that passes everything on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return what the inner module returns."""
        return self.inner(*tensors, **named)


class Tied(nn.Module):
    """An autoencoder of words whose decoder has the encoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.decoder = nn.Linear(6, 11, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.decoder(self.embedding(tokens).mean(1))
        return logits


class UNet(nn.Module):
    """Down, up, and a skip between."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 3, H, W]."""
        skip = self.down(x)
        logits: Tensor = self.head(torch.cat([skip, self.up(self.bottom(skip))], 1))
        return logits


class Recurrence(nn.Module):
    """A recurrent layer, read at the last step."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, **options)
        self.head = nn.LazyLinear(3)
        self(torch.zeros(2, 5, 6))

    def forward(self, steps: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(self.layer(steps)[0][:, -1])
        return logits


class Packed(nn.Module):
    """Packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Return logits."""
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        logits: Tensor = self.head(self.layer(packed)[1][-1])
        return logits


class LastValid(nn.Module):
    """What to write in place of packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Return logits."""
        states = self.layer(steps)[0]
        logits: Tensor = self.head(states[torch.arange(states.shape[0]), lengths - 1])
        return logits


class MaskedEncoder(nn.Module):
    """A transformer over padded tokens, averaged over all steps."""

    def __init__(self, *, nested: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        vectors = self.encoder(self.embedding(tokens), src_key_padding_mask=tokens == 0)
        logits: Tensor = self.head(vectors.mean(1))
        return logits


class Causal(nn.Module):
    """Attention to earlier steps only; an answer at each step."""

    def __init__(self, *, heads: bool) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(20, 16)
        self.projection = nn.Linear(16, 48)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [N, T, 20]."""
        query, key, value = self.projection(self.embedding(tokens)).chunk(3, -1)
        if self.heads:
            query, key, value = query[:, None], key[:, None], value[:, None]
        steps = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        logits: Tensor = self.head(steps[:, 0] if self.heads else steps)
        return logits


class Masked(nn.Module):
    """A mask beside the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layer(x.masked_fill(mask, 0))
        return logits


class Counting(nn.Module):
    """Another answer at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        self.calls += 1
        logits: Tensor = self.layer(x) * self.calls
        return logits


class Answer(NamedTuple):
    """A named answer."""

    scores: Tensor
    vector: Tensor


@dataclass
class Output:
    """An answer as Hugging Face's models give it."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    loss: Tensor | None = None


class Positions(nn.Module):
    """Sines, as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        places = torch.arange(10.0)[:, None] * torch.exp(torch.arange(0, 8, 2) * (-math.log(1e4) / 8))
        self.register_buffer("table", torch.cat([places.sin(), places.cos()], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors with their places."""
        return x + self.get_buffer("table")[: x.shape[1]]


def _shared(logits: Tensor) -> tuple[Tensor, ...]:
    """Views of one tensor, and the same tensor changed in place."""
    return logits[:, :2], logits.T.T, logits.relu_()


def rows(*shape: int) -> Callable[[], Tensor]:
    """Normal numbers [ROWS, ...]."""
    return lambda: torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(1))


def tokens(most: int, steps: int, *, padded: bool = False) -> Callable[[], Tensor]:
    """Whole numbers [ROWS, steps] below `most`; every second row ends in zeros."""

    def make() -> Tensor:
        drawn = torch.randint(1, most, (ROWS, steps), generator=torch.Generator().manual_seed(1))
        if padded:
            drawn[::2, steps // 2 :] = 0
        return drawn

    return make


def _fresh(*layers: nn.Module) -> nn.Module:
    """The layers in a row, with weights drawn anew, so that the same seed gives the same ones."""
    network = nn.Sequential(*layers)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # type: ignore[operator]  # there, as was asked
    return network


def _images(*layers: nn.Module, size: int, channels: int = 3) -> tuple[Callable[[], nn.Module], Callable[[], Tensor]]:
    return (lambda: _fresh(*layers, nn.Flatten(), nn.Linear(size, 4))), rows(channels, 8, 8)


def _flat(*layers: nn.Module, last: int = 8) -> tuple[Callable[[], nn.Module], Callable[[], Tensor]]:
    return (lambda: _fresh(nn.Linear(4, 8), *layers, nn.Linear(last, 3))), rows(4)


OWN: Mapping[str, Own] = {
    # Dense layers, activations and norms
    "linear": Own(*_flat()),
    "relu-family": Own(*_flat(nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU())),
    "smooth-activations": Own(*_flat(nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Tanh(), nn.Hardswish())),
    "glu": Own(*_flat(nn.GLU(), last=4)),
    "batch-norm": Own(*_flat(nn.BatchNorm1d(8), nn.ReLU())),
    "layer-norm": Own(*_flat(nn.LayerNorm(8), nn.ReLU())),
    "rms-norm": Own(*_flat(nn.RMSNorm(8))),
    "dropout": Own(*_flat(nn.Dropout(0.5), nn.AlphaDropout(0.3))),
    "identity": Own(*_flat(nn.Identity())),
    "bilinear-of-two-inputs": Own(Pair, lambda: {"counted": tokens(9, 3)(), "measured": rows(4)()}),
    "softmax-inside": Own(lambda: Of(lambda p, x: p["f"](x * p["g"](x).softmax(1)), f=nn.Linear(4, 3), g=nn.Linear(4, 4)), rows(4)),
    "cosine-similarity": Own(
        lambda: Of(lambda p, x: functional.cosine_similarity(p["f"](x)[:, None], p["f"].weight.T[None, :, :3].mT, dim=2), f=nn.Linear(4, 4)),
        rows(4),
    ),
    # Convolutions and pictures
    "conv2d": Own(*_images(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), size=64)),
    "depthwise": Own(*_images(nn.Conv2d(3, 6, 3, groups=3), nn.Hardsigmoid(), nn.AvgPool2d(2), size=54)),
    "dilated": Own(*_images(nn.Conv2d(3, 2, 3, dilation=2), nn.AdaptiveAvgPool2d(2), size=8)),
    "transposed": Own(*_images(nn.ConvTranspose2d(3, 2, 2, stride=2), nn.MaxPool2d(4), size=32)),
    "group-norm": Own(*_images(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.AdaptiveMaxPool2d(1), size=4)),
    "instance-norm": Own(*_images(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True), nn.AvgPool2d(4), size=16)),
    "padding": Own(*_images(nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3), nn.ZeroPad2d(1), nn.MaxPool2d(5), size=8)),
    "pixel-shuffle": Own(*_images(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.AvgPool2d(4), size=16)),
    "upsample": Own(*_images(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 1, 3), nn.AvgPool2d(7), size=4)),
    "conv1d": Own(lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)), rows(3, 9)),
    "conv3d": Own(lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(16, 3)), rows(1, 6, 6, 6)),
    "unet": Own(UNet, rows(1, 8, 8), {"task": "dense", "labels": ("sky", "sea", "land")}),
    "fully-convolutional": Own(lambda: nn.Conv2d(1, 3, 3, padding=1), rows(1, 6, 6), {"labels": ("a", "b", "c")}),
    # Sequences
    "rnn": Own(lambda: Recurrence(nn.RNN), rows(5, 6)),
    "lstm": Own(lambda: Recurrence(nn.LSTM, num_layers=2, bidirectional=True), rows(5, 6)),
    "gru": Own(lambda: Recurrence(nn.GRU), rows(5, 6), {"dynamic": {"input": {1: "time"}}}),
    "lstm-with-projection": Own(lambda: Recurrence(nn.LSTM, proj_size=4), rows(5, 6), refused="nn.LSTM with proj_size, which ONNX's LSTM does not have"),
    "packed": Own(Packed, lambda: {"steps": rows(5, 6)(), "lengths": tokens(6, 1)()[:, 0]}, refused="packed sequences, whose lengths are read in Python"),
    "last-valid-step": Own(LastValid, lambda: {"steps": rows(5, 6)(), "lengths": tokens(6, 1)()[:, 0]}),
    "last-states": Own(lambda: Of(lambda p, x: p["f"](x), f=nn.LSTM(6, 8, batch_first=True)), rows(5, 6), refused=r"an output whose first axis is not the batch, such as the last states of nn.LSTM"),
    "gru-cell": Own(lambda: Of(lambda p, x: p["h"](p["f"](x[:, 1], p["f"](x[:, 0]))), f=nn.GRUCell(6, 8), h=nn.Linear(8, 3)), rows(2, 6)),
    "loop-over-steps": Own(
        lambda: Of(lambda p, x: p["f"](sum(step.tanh() for step in x.unbind(1))), f=nn.Linear(6, 3)), rows(5, 6), {"dynamic": {"input": {1: "time"}}},
        refused="its time axis is frozen.*or loops over it",
    ),
    # Texts
    "embedding-bag-of-words": Own(lambda: Of(lambda p, x: p["f"](p["e"](x).sum(1)), e=nn.Embedding(20, 8, padding_idx=0), f=nn.Linear(8, 3)), tokens(20, 6, padded=True)),
    "tied-weights": Own(Tied, tokens(11, 4)),
    "attention": Own(lambda: Of(lambda p, x: p["f"](p["a"](x, x, x, need_weights=False)[0].mean(1)), a=nn.MultiheadAttention(8, 2, batch_first=True), f=nn.Linear(8, 3)), rows(5, 8)),
    "masked-encoder": Own(lambda: MaskedEncoder(nested=False), tokens(20, 8, padded=True)),
    "masked-encoder-norm-first": Own(lambda: MaskedEncoder(nested=False, norm_first=True), tokens(20, 8, padded=True)),
    "masked-encoder-nested": Own(lambda: MaskedEncoder(nested=True), tokens(20, 8, padded=True), refused="build it with enable_nested_tensor=False"),
    "nothing-but-padding": Own(lambda: MaskedEncoder(nested=False), lambda: tokens(20, 8)() * (torch.arange(ROWS) > 3)[:, None], refused="a row of nothing but padding, in which attention has nothing"),
    "causal": Own(lambda: Causal(heads=True), tokens(20, 6), {"task": "any"}),
    "causal-without-heads": Own(lambda: Causal(heads=False), tokens(20, 6), {"task": "any"}, refused="give it .N, heads, T, D., heads may be 1"),
    "sines": Own(lambda: nn.Sequential(Positions(), nn.Flatten(), nn.Linear(40, 3)), rows(5, 8)),
    # Tasks
    "multi-label": Own(lambda: nn.Linear(4, 3), rows(4), {"task": "multi-label", "labels": ("red", "green", "blue")}),
    "binary": Own(lambda: nn.Linear(4, 1), rows(4), {"task": "binary", "labels": ("no", "yes")}),
    "binary-flat": Own(lambda: Of(lambda p, x: p["f"](x).squeeze(1), f=nn.Linear(4, 1)), rows(4), {"task": "binary"}),
    "binary-probability": Own(lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), rows(4), {"task": "binary", "probabilities": True}),
    "one-number": Own(lambda: nn.Linear(4, 1), rows(4), refused="say which it is: task='binary'"),
    "regression": Own(lambda: nn.Linear(4, 2), rows(4), {"task": "regression", "labels": ("width", "height")}),
    "regression-flat": Own(lambda: Of(lambda p, x: p["f"](x)[:, 0], f=nn.Linear(4, 1)), rows(4), {"task": "regression"}),
    "embedding": Own(lambda: Of(lambda p, x: functional.normalize(p["f"](x), dim=1), f=nn.Linear(4, 6)), rows(4), {"task": "embedding"}),
    "autoencoder": Own(lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4)), rows(4), {"task": "any"}),
    "ends-in-softmax": Own(lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), rows(4), refused="a softmax or sigmoid at the end"),
    "softmax-on-purpose": Own(lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), rows(4), {"probabilities": True}),
    # Answers of every structure
    "tuple": Own(lambda: Of(lambda p, x: (p["f"](x), p["f"](x).argmax(1)), f=nn.Linear(4, 3)), rows(4)),
    "dict": Own(lambda: Of(lambda p, x: {"scores": p["f"](x), "deep": {"mean": x.mean(1), "all": x}}, f=nn.Linear(4, 3)), rows(4)),
    "named-tuple": Own(lambda: Of(lambda p, x: Answer(p["f"](x), x * 2), f=nn.Linear(4, 3)), rows(4)),
    "dataclass": Own(lambda: Of(lambda p, x: Output(p["f"](x), (x, x + 1)), f=nn.Linear(4, 3)), rows(4)),
    "whole-numbers": Own(lambda: Of(lambda p, x: p["f"](x).topk(2).indices, f=nn.Linear(4, 3)), rows(4)),
    "truth": Own(lambda: Of(lambda p, x: p["f"](x) > 0, f=nn.Linear(4, 3)), rows(4)),
    "double": Own(lambda: nn.Linear(4, 3).double(), lambda: rows(4)().double()),
    "half": Own(lambda: Of(lambda p, x: p["f"](x.bfloat16()), f=nn.Linear(4, 3).bfloat16()), rows(4), refused="weights in half precision; publish module.float"),
    # What is careless
    "sigmoid-by-hand": Own(lambda: Of(lambda p, x: 1 / (1 + torch.exp(-p["f"](x))), f=nn.Linear(4, 3)), rows(4), {"task": "multi-label"}, refused="may be probabilities already, from 0.* say probabilities=True"),
    "sigmoid-by-hand-on-purpose": Own(lambda: Of(lambda p, x: 1 / (1 + torch.exp(-p["f"](x))), f=nn.Linear(4, 3)), rows(4), {"task": "multi-label", "probabilities": True}),
    "log-sigmoid": Own(lambda: nn.Sequential(nn.Linear(4, 3), nn.LogSigmoid()), rows(4), {"task": "multi-label"}, refused="logarithms of probabilities, and task 'multi-label' takes logits"),
    "only-output-in-a-dict": Own(lambda: Of(lambda p, x: {"probabilities": p["f"](x)}, f=nn.Linear(4, 3)), rows(4), {"task": "multi-label"}),
    "one-hot-targets": Own(lambda: nn.Linear(4, 3), rows(4), {"test": (torch.zeros(3, 4), torch.eye(3))}, refused="task='single-label' with targets.argmax"),
    "ends-in-half": Own(lambda: Of(lambda p, x: p["f"](x).half(), f=nn.Linear(4, 3)), rows(4), refused=r"\.half\(\).*in forward\(\), while the weights are not; end it with \.float"),
    "autocast-inside": Own(lambda: Of(lambda p, x: torch.autocast("cpu", torch.bfloat16)(p["f"])(x).float(), f=nn.Linear(4, 3)), rows(4), refused="such as bfloat16 under autocast; leave the autocast out"),
    "double-sample": Own(lambda: nn.Linear(4, 3), lambda: rows(4)().double(), refused=r"sample is float64, and the weights are float32; give sample\.float"),
    "nan-in-a-row": Own(lambda: nn.Linear(4, 3), lambda: rows(4)().log(), refused="infinity or NaN in the row itself"),
    "bytes-of-pictures": Own(lambda: Of(lambda p, x: p["f"](x.float().flatten(1) / 255), f=nn.Linear(16, 3)), lambda: (rows(1, 4, 4)() * 99).abs().to(torch.uint8)),
    "mask-of-truth": Own(Masked, lambda: {"x": rows(4)(), "mask": rows(4)() > 0}),
    "changes-its-input": Own(lambda: Of(lambda p, x: p["f"](x.mul_(2)), f=nn.Linear(4, 3)), rows(4)),
    "outputs-that-share-memory": Own(lambda: Of(lambda p, x: _shared(p["f"](x)), f=nn.Linear(4, 3)), rows(4)),
    "needs-gradients": Own(lambda: Of(lambda p, x: torch.autograd.grad(p["f"](x).sum(), x)[0], f=nn.Linear(4, 3)), rows(4), refused="computes gradients, which a served file does not have"),
    "keeps-a-state": Own(Counting, rows(4), refused="or a state that forward.. keeps from call to call"),
    "random": Own(lambda: Of(lambda p, x: p["f"](x) + torch.randn(len(x), 3), f=nn.Linear(4, 3)), rows(4), refused="other randomness that stays on in evaluation mode"),
    "through-numpy": Own(lambda: Of(lambda p, x: torch.from_numpy(np.tanh(p["f"](x).numpy())), f=nn.Linear(4, 3)), rows(4)),
    "complex": Own(lambda: Of(lambda p, x: torch.fft.fft(p["f"](x)), f=nn.Linear(4, 3)), rows(4), refused="return torch.view_as_real"),
    "sparse": Own(lambda: Of(lambda p, x: p["f"](x).to_sparse(), f=nn.Linear(4, 3)), rows(4), refused="a sparse tensor in its output.*to_dense"),
    "words": Own(lambda: Of(lambda p, x: ["cat"] * len(x), f=nn.Linear(4, 3)), rows(4), refused="answers with str in 'output_0', not with tensors"),
    "classes-only": Own(lambda: Of(lambda p, x: p["f"](x).argmax(1), f=nn.Linear(4, 3)), rows(4), {"task": "single-label"}, refused="return the logits, from which the classes come"),
    "torchscript": Own(lambda: torch.jit.trace(nn.Linear(4, 3), torch.zeros(2, 4)), rows(4), refused="publish the module that it was made of"),  # type: ignore[no-untyped-call]  # of PyTorch
    "without-values": Own(lambda: nn.Linear(4, 3, device="meta"), rows(4), refused="on the device 'meta', without values"),
    # Wrappers, and what cannot be known
    "keyword-only": Own(KeywordOnly, lambda: {"scale": rows(4)(), "rows": rows(4)()}),
    "optional-left-out": Own(KeywordOnly, lambda: {"rows": rows(4)()}),
    "passing-wrapper": Own(lambda: Passing(KeywordOnly()), lambda: {"scale": rows(4)(), "rows": rows(4)()}),
    "data-parallel": Own(lambda: nn.DataParallel(KeywordOnly()), lambda: {"scale": rows(4)(), "rows": rows(4)()}),
    "compiled": Own(lambda: torch.compile(nn.Linear(4, 3), backend="eager"), rows(4)),  # type: ignore[arg-type,return-value]  # a module of a class of its own
    "averaged": Own(lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(4, 3)), rows(4)),
    "parametrised-norms": Own(lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))), rows(4)),
    "pruned": Own(lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.5), rows(4), refused="torch.nn.utils.prune.remove"),  # type: ignore[no-untyped-call]  # of PyTorch
    "star-arguments": Own(lambda: Passing(nn.Bilinear(4, 4, 3)), lambda: {"a": rows(4)(), "b": rows(4)()}, refused="unexpected keyword argument"),
    "misspelt-name": Own(Pair, lambda: {"measured": rows(4)(), "cuonted": rows(3)()}, refused="names 'cuonted', and forward.. takes measured, counted"),
    "decides-by-values": Own(lambda: Of(lambda p, x: p["f"](x) if x.sum() > 0 else p["f"](-x), f=nn.Linear(4, 3)), rows(4), refused="."),
    "across-rows": Own(lambda: Of(lambda p, x: p["f"](x - x.mean(0)), f=nn.Linear(4, 3)), rows(4), refused="answers a row alone differently"),
    "found-objects": Own(lambda: Of(lambda p, x: p["f"](x[x[:, 0] > 0]), f=nn.Linear(4, 3)), rows(4), refused="whose first axis is not the batch|of different names, shapes"),
}  # fmt: skip


def publish_all(models: Path) -> dict[str, str]:
    """Publish all of them into a folder; returns what each refusal said, by name."""
    refusals: dict[str, str] = {}
    for name, own in OWN.items():
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"):
            try:
                publish(own.make(), own.sample(), name=name, models=models, **own.publish)
            except PublishError as error:
                refusals[name] = str(error)
    return refusals
