"""Binding a sample to forward(): as Python would, or not at all."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from frostline_training import publish
from frostline_training.errors import PublishError
from frostline_training.publishing import calling


class Optional(nn.Module):
    """An optional argument between two others."""

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * (mask > 0)
        return x if scale is None else x * scale


class KeywordOnly(nn.Module):
    """Arguments that are given by name only."""

    def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
        return a - 2 * b


class PositionOnly(nn.Module):
    """Arguments that are given by position only."""

    def forward(self, a: Tensor, b: Tensor, /) -> Tensor:
        return a - 2 * b


class Stars(nn.Module):
    """Takes whatever comes, in the order it comes in."""

    def forward(self, *tensors: Tensor) -> Tensor:
        first, second = tensors
        return first - 2 * second


class Wrapper(nn.Module):
    """Passes everything on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        answer: Tensor = self.inner(*tensors, **named)
        return answer


def rows(seed: int) -> Tensor:
    return torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))


def served(path: Path, sample: dict[str, Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: tensor.numpy() for name, tensor in sample.items()})[0])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Optional(), ("x", "scale")),
        (Optional(), ("scale", "x")),
        (Optional(), ("x", "mask")),
        (KeywordOnly(), ("b", "a")),
        (Wrapper(KeywordOnly()), ("b", "a")),
        (Wrapper(Optional()), ("scale", "x")),
        (nn.DataParallel(Optional()), ("scale", "x")),
        (torch.compile(Optional(), backend="eager"), ("scale", "x")),
    ],
)
def test_what_is_served_is_the_module_called_by_name(tmp_path: Path, module: nn.Module, names: tuple[str, ...]) -> None:
    sample = {name: rows(seed) for seed, name in enumerate(names)}
    published = publish(module, sample, name="m", models=tmp_path)
    np.testing.assert_allclose(served(published.path, sample), module(**sample).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "sample", "fact"),
    [
        (Optional(), {"x": rows(0), "sacle": rows(1)}, r"names 'sacle', and forward\(\) takes x, mask \(optional\)"),
        (Optional(), {"mask": rows(0)}, "missing a required argument: 'x'"),
        (Optional(), {"input": rows(0)}, r"names 'input', and forward\(\) takes x"),
        (KeywordOnly(), rows(0), r"too many positional arguments: forward\(\) takes a, b; give the sample as {'name'"),
        (PositionOnly(), {"a": rows(0), "b": rows(1)}, r"names 'a', 'b', .* a \(by position only\)"),
        (PositionOnly(), rows(0), "missing a required argument: 'b'"),
        (Stars(), {"a": rows(0), "b": rows(1)}, r"forward\(\) takes \*tensors; name the sample's tensors like"),
        (Wrapper(Stars()), {"a": rows(0), "b": rows(1)}, "unexpected keyword argument"),
        (lambda x: x, rows(0), "the network is a function, not a torch.nn.Module"),
    ],
)
def test_a_sample_that_python_would_not_bind_is_refused(
    tmp_path: Path, module: nn.Module, sample: Tensor | dict[str, Tensor], fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        publish(module, sample, name="m", models=tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_tensor_for_the_only_argument_may_have_a_name_of_its_own() -> None:
    sample, call = calling.bind(nn.Linear(3, 2), {"features": rows(0)})
    assert list(sample) == ["features"]
    assert call is calling.by_position


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        (nn.utils.weight_norm, "use torch.nn.utils.parametrizations.weight_norm"),
        (nn.utils.spectral_norm, "or torch.nn.utils.remove_spectral_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_old_norms_of_weights_are_named_where_the_module_cannot_be_copied(
    tmp_path: Path, module: type[nn.Module], remedy: str
) -> None:
    network = nn.Sequential(module(nn.Linear(3, 4)), nn.Linear(4, 2))
    network(rows(0))
    with pytest.raises(PublishError, match=f"cannot be copied: .*: 0 has the old .*{remedy}"):
        publish(network, rows(0), name="m", models=tmp_path)


KINDS = ("a", "b", "c")


def forward_of(order: tuple[str, ...], optional: frozenset[str], keyword: bool, star: bool) -> type[nn.Module]:
    """A module whose forward() has these arguments, and treats each in a way of its own."""
    needed = [name for name in order if name not in optional]
    arguments = [*needed, *(f"{name}=None" for name in order if name in optional)]
    if star:
        arguments.insert(len(needed), "*rest")
    elif keyword:
        arguments.insert(1, "*")
    weights = {"a": 1.0, "b": 10.0, "c": 100.0}
    body = " + ".join(f"(0 if {name} is None else {weights[name]} * {name})" for name in order)
    space: dict[str, type[nn.Module]] = {"nn": nn}  # type: ignore[dict-item]  # a module, for exec
    exec(f"class Made(nn.Module):\n def forward(self, {', '.join(arguments)}):\n  return {body}", space)
    return space["Made"]


@settings(max_examples=150, deadline=None)
@given(
    order=st.permutations(KINDS).map(tuple),
    optional=st.frozensets(st.sampled_from(KINDS), max_size=2),
    keyword=st.booleans(),
    star=st.booleans(),
    wrapped=st.booleans(),
    given_names=st.permutations(("a", "b", "c", "d")).flatmap(
        lambda names: st.integers(1, 4).map(lambda count: tuple(names[:count]))
    ),
)
def test_a_bound_sample_is_called_as_python_calls_it(
    order: tuple[str, ...],
    optional: frozenset[str],
    keyword: bool,
    star: bool,
    wrapped: bool,
    given_names: tuple[str, ...],
) -> None:
    module = forward_of(order, optional, keyword, star)()
    if wrapped:
        module = Wrapper(module)
    sample = {name: rows(place) for place, name in enumerate(given_names)}
    try:
        wanted = module(**sample)
    except TypeError:
        wanted = None
    try:
        tensors, call = calling.bind(module, sample)
        exported = calling.Exported(module, tuple(tensors), call, "logits")
        (got,) = exported(tuple(tensors.values()))
    except (PublishError, TypeError):
        # Refused, or the network itself says so, which `publish` reports.
        assert wanted is None
    else:
        assert wanted is not None
        torch.testing.assert_close(got, wanted)
