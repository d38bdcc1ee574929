"""Declared inputs and outputs against the graph: what clients see, and what is refused in which words."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.errors import LoadError
from frostline_server.model_config.tensor_config import agreed, complete
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.signature import Signature, reshaped
from tests.support import onnx_models

Build = Callable[[], onnx.ModelProto]


def agree(folder: Path, model: onnx.ModelProto, text: str) -> Signature:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    signature = load_session(path, [(CPU, {})], threads=1, strict=True).signature
    return agreed(signature, text_format.Parse(text, ModelConfig()))


def refusal(folder: Path, model: onnx.ModelProto, text: str) -> str:
    with pytest.raises(LoadError) as caught:
        agree(folder, model, text)
    return str(caught.value)


def shapes(signature: Signature) -> dict[str, tuple[int | None, ...]]:
    return {spec.client_name: spec.shape for spec in (*signature.inputs, *signature.outputs)}


def test_a_configuration_that_declares_nothing_leaves_the_graphs_signature(tmp_path: Path) -> None:
    for text in ("", "max_batch_size: 8", 'output { name: "logits" } input { name: "input" }'):
        signature = agree(tmp_path, onnx_models.linear(), text)
        assert (signature.batched, signature.own_outputs) == (True, ("logits",))
        assert shapes(signature) == {"input": (4,), "logits": (3,), "softmax": (3,), "argmax": ()}


# With and without a batch axis


@pytest.mark.parametrize(
    ("text", "batched"),
    [
        ("max_batch_size: 8", True),
        ("max_batch_size: 0", False),
        ('input { name: "input" dims: [ 4 ] }', True),
        ('input { name: "input" dims: [ -1, 4 ] }', False),
        ('output { name: "logits" dims: [ -1, 3 ] } input { name: "input" }', False),
        ('max_batch_size: 8 input { name: "input" dims: [ 4 ] } output { name: "logits" dims: [ 3 ] }', True),
        ('max_batch_size: 0 input { name: "input" dims: [ -1, 4 ] } output { name: "logits" dims: [ -1, 3 ] }', False),
    ],
)
def test_who_says_whether_rows_of_several_requests_share_a_run(tmp_path: Path, text: str, *, batched: bool) -> None:
    signature = agree(tmp_path, onnx_models.linear(), text)
    assert signature.batched is batched
    whole = () if batched else (None,)
    assert shapes(signature) == {
        "input": (*whole, 4), "logits": (*whole, 3), "softmax": (*whole, 3), "argmax": whole,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("build", "listed"),
    [
        (onnx_models.no_batch_axis, "'input' [4], 'scores' [3]"),
        (lambda: onnx_models.fixed_batch(8), "'input' [8, 4], 'logits' [8, 3], 'softmax' [8, 3], 'argmax' [8]"),
        (onnx_models.total, "'total' []"),
    ],
)
def test_a_batch_size_for_a_graph_without_a_free_batch_axis_is_refused(
    tmp_path: Path, build: Build, listed: str
) -> None:
    assert refusal(tmp_path, build(), "max_batch_size: 4") == (
        "config.pbtxt sets max_batch_size 4, but the graph has no free batch axis on every input and output: "
        f"{listed}; write max_batch_size: 0 to serve it without a batch axis"
    )


def test_dims_with_the_batch_axis_contradict_a_batch_size(tmp_path: Path) -> None:
    text = 'max_batch_size: 8 input { name: "input" dims: [ -1, 4 ] }'
    assert refusal(tmp_path, onnx_models.linear(), text) == (
        "config.pbtxt declares the input 'input' as [-1, 4] but the graph has [4] without the batch axis"
    )


def test_dims_without_the_batch_axis_contradict_a_batch_size_of_zero(tmp_path: Path) -> None:
    text = 'max_batch_size: 0 input { name: "input" dims: [ 4 ] }'
    assert refusal(tmp_path, onnx_models.linear(), text) == (
        "config.pbtxt declares the input 'input' as [4] but the graph has [-1, 4]"
    )


# Names, types, shapes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('input { name: "x" }', "config.pbtxt names the input 'x', but the graph has ['input']"),
        ('output { name: "y" }', "config.pbtxt names the output 'y', but the graph has ['logits', 'softmax', 'argmax']"),
        ('input { name: "input" } input { name: "input" }', "config.pbtxt names the input 'input' twice"),
        ('input { name: "input" data_type: TYPE_FP16 }', "config.pbtxt declares the input 'input' as TYPE_FP16, but the graph has TYPE_FP32"),
        ('output { name: "argmax" data_type: TYPE_INT32 }', "config.pbtxt declares the output 'argmax' as TYPE_INT32, but the graph has TYPE_INT64"),
        ('input { name: "input" data_type: 99 }', "config.pbtxt declares the input 'input' as 99, but the graph has TYPE_FP32"),
        ('input { name: "input" dims: [ 5 ] }', "config.pbtxt declares the input 'input' as [5] but the graph has [4] without the batch axis"),
        ('input { name: "input" dims: [ 1, 1, 4 ] }', "config.pbtxt declares the input 'input' as [1, 1, 4] but the graph has [4] without the batch axis"),
        ('input { name: "input" dims: [ -2 ] }', "config.pbtxt declares the input 'input' with dims [-2]; only -1 stands for any size"),
        ('input { name: "input" dims: [ 2, 2 ] reshape { shape: [ 5 ] } }', "config.pbtxt declares the input 'input' as [5], by its reshape, but the graph has [4] without the batch axis"),
        ('output { name: "argmax" dims: 1 reshape { shape: [ ] } }', "config.pbtxt reshapes 'argmax', which this server adds to the network and cannot reshape"),
        ('input { name: "input" dims: [ 3, 2 ] reshape { shape: [ 4 ] } }', "config.pbtxt reshapes the input 'input' from [3, 2] to [4], which have different numbers of elements"),
    ],
)  # fmt: skip
def test_a_declaration_that_contradicts_the_graph_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, onnx_models.linear(), text) == message


def test_strings_are_declared_in_tritons_word(tmp_path: Path) -> None:
    text = (
        'input { name: "input" data_type: TYPE_STRING dims: 2 } output { name: "echo" data_type: TYPE_STRING dims: -1 }'
    )
    assert shapes(agree(tmp_path, onnx_models.strings(), text)) == {"input": (2,), "echo": (None,)}


def test_a_declared_size_narrows_what_is_taken_and_a_declared_any_widens_what_may_come(tmp_path: Path) -> None:
    text = 'input { name: "input" dims: [ 7, -1 ] } output { name: "logits" dims: -1 }'
    seen = shapes(agree(tmp_path, onnx_models.dynamic_inner(), text))
    assert (seen["input"], seen["logits"]) == ((7, 4), (None,))


def test_all_inputs_are_declared_or_none(tmp_path: Path) -> None:
    assert refusal(tmp_path, onnx_models.two_inputs(), 'input { name: "left" }') == (
        "config.pbtxt declares the inputs ['left'], but the graph also takes ['right']"
    )


# A list of outputs is the list of what can be asked for


def test_outputs_that_are_not_listed_are_not_offered_as_in_triton(tmp_path: Path) -> None:
    signature = agree(tmp_path, onnx_models.two_outputs(), 'output { name: "total" dims: 1 reshape { } }')
    assert ([spec.name for spec in signature.outputs], signature.own_outputs) == (["total"], ("total",))


def test_the_appended_heads_stay_whatever_is_listed(tmp_path: Path) -> None:
    signature = agree(tmp_path, onnx_models.linear(), 'output { name: "softmax" data_type: TYPE_FP32 dims: [ 3 ] }')
    assert [spec.client_name for spec in signature.outputs] == ["logits", "softmax", "argmax"]
    assert signature.own_outputs == (onnx_models.HEADS.softmax,)


# Reshaping


def test_clients_see_the_declared_shape_and_the_network_its_own(tmp_path: Path) -> None:
    text = """
        max_batch_size: 8
        input { name: "input" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
        output { name: "double" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
    """
    signature = agree(tmp_path, onnx_models.numbers(), text)
    for spec in (*signature.inputs, *signature.outputs):
        assert (spec.shape, spec.reshape, spec.graph_shape) == ((1,), (), ())


def test_a_scalar_may_be_declared_as_one_number_as_tritons_completion_does(tmp_path: Path) -> None:
    signature = agree(tmp_path, onnx_models.total(), 'output { name: "total" data_type: TYPE_FP32 dims: [ 1 ] }')
    (total,) = signature.outputs
    assert (total.shape, total.reshape) == ((1,), ())


@pytest.mark.parametrize(
    ("shape", "source", "target", "expected"),
    [
        ((1,), (1,), (), ()),
        ((4,), (4,), (2, 2), (2, 2)),
        ((7, 2, 3), (None, 2, 3), (None, 6), (7, 6)),
        ((2, 7, 9), (2, None, None), (None, 2, None), (7, 2, 9)),
    ],
)
def test_axes_of_any_size_keep_their_order_when_a_shape_is_reshaped(
    shape: tuple[int, ...], source: tuple[int | None, ...], target: tuple[int | None, ...], expected: tuple[int, ...]
) -> None:
    assert reshaped(shape, source, target) == expected


def test_elements_cannot_change_sides_of_an_axis_of_any_size(tmp_path: Path) -> None:
    text = 'max_batch_size: 4 input { name: "input" dims: [ 4, -1 ] reshape { shape: [ -1, 4 ] } }'
    assert "which have different numbers of elements" in refusal(tmp_path, onnx_models.dynamic_inner(), text)


# Graphs that do not say


def test_a_tensor_whose_axes_the_graph_does_not_say_may_have_any(tmp_path: Path) -> None:
    signature = agree(tmp_path, onnx_models.unranked(), "")
    assert [(spec.name, spec.ranked) for spec in signature.outputs] == [("output", False)]
    assert not signature.batched
    config = ModelConfig(name="m")
    complete(config, signature, "cpu")
    assert list(config.output[0].dims) == [-1]


def test_batches_of_a_tensor_whose_axes_nobody_says_are_refused_with_the_fix(tmp_path: Path) -> None:
    assert refusal(tmp_path, onnx_models.unranked(), "max_batch_size: 4") == (
        "config.pbtxt sets max_batch_size, but the graph does not say the shape of the output 'output'; declare its dims in "
        "config.pbtxt"
    )


def test_a_tensor_whose_axes_the_graph_does_not_say_is_as_it_is_declared(tmp_path: Path) -> None:
    signature = agree(tmp_path, onnx_models.unranked(), 'output { name: "output" dims: [ -1, 2 ] }')
    assert shapes(signature) == {"input": (None, 4), "shape": (None,), "output": (None, 2)}
    assert not signature.batched


# What the server answers of itself


def test_a_configuration_is_completed_with_the_tensors_and_the_place(tmp_path: Path) -> None:
    text = 'name: "m" output { name: "total" dims: 1 reshape { } label_filename: "labels.txt" }'
    config = text_format.Parse(text, ModelConfig())
    complete(config, agree(tmp_path, onnx_models.two_outputs(), text), "cuda:3")
    expected = """
        name: "m"
        input { name: "input" data_type: TYPE_FP32 dims: 4 }
        output { name: "total" data_type: TYPE_FP32 dims: 1 reshape { } label_filename: "labels.txt" }
        instance_group { name: "m_0" kind: KIND_GPU count: 1 gpus: 3 }
    """
    assert config == text_format.Parse(expected, ModelConfig())


def test_instances_that_were_asked_for_stay(tmp_path: Path) -> None:
    config = text_format.Parse("instance_group { count: 2 kind: KIND_CPU }", ModelConfig())
    complete(config, agree(tmp_path, onnx_models.linear(), ""), "cpu")
    (group,) = config.instance_group
    assert (group.name, group.count) == ("", 2)
