"""Forty cases of the ONNX backend suite on a real server: a sample of `make conformance`, which runs all.

Each was answered wrong, refused or taken for unhealthy at some time, or is of a kind that nothing else here has.
"""

import pytest

from bench.conformance import parts, suite
from bench.conformance.suite import Case

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

OPERATORS = (
    *(
        "add",
        "castlike",
        "col2im",
        "constantofshape",
        "div",
        "dropout",
        "expand",
        "eyelike",
        "gather",
        "gatherelements",
    ),
    *("gemm", "hardmax", "layernormalization", "lstm", "maxunpool", "mish", "nonmaxsuppression", "nonzero", "reducel1"),
    *("reshape", "resize", "rmsnormalization", "scatternd", "slice", "softmax", "softmax_cross_entropy_loss", "split"),
    *("string_concat", "string_split", "topk", "trilu", "unsqueeze", "ai_onnx_ml.tree_ensemble"),
)
"""The modules of the suite that hold the node cases; all of them take seconds to import."""

NAMES = frozenset(
    {
        # An ordinary batch axis, in numbers, texts and two precisions.
        "test_add",
        "test_mish",
        "test_softmax_axis_1",
        "test_string_concat",
        "test_castlike_FLOAT_to_FLOAT16",
        "test_Softmax",
        "test_Conv2d",
        "test_operator_conv",
        # Inputs whose first axes differ, and meet by broadcasting or in a product.
        "test_add_bcast",
        "test_castlike_DOUBLE_to_FLOAT",
        "test_gemm_default_no_bias",
        "test_layer_normalization_2d_axis1",
        # What looks like a batch axis mixes its rows, or counts them.
        "test_softmax_axis_0",
        "test_hardmax_axis_0",
        "test_rms_normalization_2d_axis0",
        "test_eyelike_with_dtype",
        "test_tril",
        "test_training_dropout",
        "test_maxunpool_export_without_output_shape",
        "test_lstm_defaults",
        "test_operator_chunk",
        # An index of a caller's own rows is one of another caller's in company.
        "test_gather_0",
        "test_gather_elements_1",
        "test_scatternd",
        "test_sce_none_weights",
        # Zeros are no size, index, divisor, scale or shape.
        "test_col2im",
        "test_div_int8",
        "test_expand_dim_changed",
        "test_reshape_one_dim",
        "test_resize_downsample_scales_cubic",
        "test_slice",
        "test_split_variable_parts_1d_opset13",
        "test_unsqueeze_two_axes",
        # The shape of the answer depends on the data.
        "test_constantofshape_int_zeros",
        "test_nonzero_example",
        "test_nonmaxsuppression_center_point_box_format",
        "test_top_k",
        "test_strnorm_model_monday_casesensintive_nochangecase",
        # No rows, and no default operator set.
        "test_reduce_l1_empty_set",
        "test_string_split_empty_tensor",
        "test_ai_onnx_ml_tree_ensemble_single_tree",
    }
)


@pytest.fixture(scope="module")
def cases() -> tuple[Case, ...]:
    """The sample, with ONNX Runtime's own answers."""
    found = suite.load(NAMES.__contains__, KINDS, OPERATORS).cases
    assert {case.name for case in found} == NAMES
    return found


def _nothing() -> None:
    """Nobody watches the progress."""


def test_every_case_is_answered_as_onnx_runtime_answers_without_a_configuration(cases: tuple[Case, ...]) -> None:
    found = parts.alone(cases, [], _nothing)
    assert (found.crashes, found.not_json) == ([], [])
    assert found.of("refused", "error", "wrong") == []
    assert len(found.of("equal", "varies")) == len(cases)


def test_four_callers_at_once_get_their_own_answers_with_open_axes(cases: tuple[Case, ...]) -> None:
    found = parts.company(cases, 1, [], _nothing)
    assert (found.crashes, found.not_json) == ([], [])
    assert found.of("wrong") == []
    assert found.shared > 0
