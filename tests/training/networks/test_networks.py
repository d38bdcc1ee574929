"""The network families: what they take, what they give, and that padding and position are handled right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from frostline_training.config import Activation, Cnn, Hyperparameters, Mlp, Network, Recipe, Rnn, Transformer, Unet
from frostline_training.data import Array, Column, Dataset, Inputs, Rows, named, split
from frostline_training.errors import DataError
from frostline_training.loop.ddp_layers import Part, over_whole_batches
from frostline_training.loop.progress import Epoch
from frostline_training.loop.trainer import train
from frostline_training.networks.families import (
    L2Normalise,
    Standardise,
    Table,
    build,
    count_parameters,
    positions,
    token_lengths,
)
from frostline_training.sources import Task

RECURRENT: list[Network] = [
    Rnn(kind="rnn", state=6),
    Rnn(kind="rnn", state=6, activation="relu", bidirectional=True),
    Rnn(kind="lstm", state=6, layers=2, bidirectional=True, hidden=(5,)),
    Rnn(kind="gru", state=6, norm="layer"),
]
SEQUENCE: list[Network] = [*RECURRENT, Transformer(width=8, heads=2, feedforward=16)]


def _dataset(inputs: Inputs, *, classes: int = 3, sequence: bool = False) -> Dataset:
    count = len(next(iter(named(inputs).values())))
    labels = tuple(str(index) for index in range(classes))
    return Dataset("d", Rows(inputs, np.arange(count) % classes), labels, "", "", sequence=sequence)


def _normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _tokens(rows: int = 9, longest: int = 7) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    random = np.random.default_rng(2)
    lengths = random.integers(1, longest + 1, rows)
    lengths[0] = longest
    tokens = random.integers(1, 256, (rows, longest)).astype(np.uint8)
    return np.where(np.arange(longest) < lengths[:, np.newaxis], tokens, 0).astype(np.uint8), lengths


def _answers(network: nn.Module, *inputs: Array) -> Tensor:
    with torch.no_grad():
        answer: Tensor = network.eval()(*(torch.from_numpy(array) for array in inputs))
    return answer


def test_standardise_brings_every_feature_to_mean_0_and_deviation_1() -> None:
    inputs = np.random.default_rng(1).normal([5, -300], [0.1, 40], size=(500, 2)).astype(np.float32)
    values = Standardise.fit(inputs)(torch.from_numpy(inputs))
    torch.testing.assert_close(values.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_standardise_measures_images_channel_by_channel() -> None:
    images = np.stack([np.full((4, 4), 10.0), np.arange(16.0).reshape(4, 4)])[np.newaxis].repeat(3, 0)
    layer = Standardise.fit(images.astype(np.float32))
    assert layer.mean.shape == (2, 1, 1)
    assert layer.mean.flatten().tolist() == [10.0, 7.5]


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    layer = Standardise.fit(np.full((9, 1), 4, dtype=np.float32))
    assert layer(torch.tensor([[4.0], [6.0]])).flatten().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("unit", [1e-30, 1e-23, 1.0, 1e20, 1e37])
def test_numbers_are_standardised_whatever_their_unit(unit: float) -> None:
    rows = (np.array([[1.0], [2.0], [4.0]]) * unit).astype(np.float32)
    wanted = np.array([[1.0], [2.0], [4.0]])
    np.testing.assert_allclose(
        Standardise.fit(rows)(torch.from_numpy(rows)), (wanted - wanted.mean()) / wanted.std(), rtol=1e-5
    )


def test_a_feature_whose_spread_single_precision_does_not_hold_is_not_divided_by_zero() -> None:
    least = np.float32(1.4e-45)
    rows = np.zeros((9, 1), np.float32)
    rows[0] = least
    assert torch.isfinite(Standardise.fit(rows)(torch.from_numpy(rows))).all()


def test_what_standardise_measured_is_not_learnt() -> None:
    assert count_parameters(build(Mlp(hidden=()), _dataset(np.ones((3, 4), np.float32), classes=2))) == 4 * 2 + 2


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
@pytest.mark.parametrize(
    ("family", "row"),
    [
        (Mlp(hidden=(5, 6), dropout=0.1), (4,)),
        (Mlp(norm="batch"), (2, 3)),
        (Mlp(norm="layer"), (4,)),
        (Cnn(channels=(2, 3, 4), hidden=(5,)), (3, 9, 5)),
        (Cnn(channels=(2, 2, 4), norm="layer", residual=True), (3, 9, 5)),
        (Cnn(channels=(2,), norm="none"), (1, 4, 4)),
        (Rnn(kind="gru", state=4, hidden=(5,)), (6, 3)),
        (Transformer(width=8, heads=2, hidden=(5,)), (6, 3)),
    ],
)
def test_every_family_ends_at_one_logit_per_class(
    family: Network, row: tuple[int, ...], activation: Activation
) -> None:
    inputs = _normal(6, *row)
    sequence = isinstance(family, Rnn | Transformer)
    network = build(
        family.model_copy(update={"activation": activation}), _dataset(inputs, classes=7, sequence=sequence)
    )
    assert network(torch.from_numpy(inputs)).shape == (6, 7)
    wanted = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}[activation]
    assert any(isinstance(layer, wanted) for layer in network.modules())


def test_a_deep_cnn_stops_halving_at_one_pixel() -> None:
    network = build(Cnn(channels=(2,) * 6), _dataset(np.zeros((2, 1, 4, 4), np.float32), classes=2))
    assert network(torch.zeros(2, 1, 4, 4)).shape == (2, 2)


def test_a_residual_block_whose_convolutions_give_nothing_passes_its_input_on() -> None:
    network = build(Cnn(channels=(3,), residual=True, hidden=()), _dataset(_normal(4, 3, 4, 4)))
    block = next(layer for layer in network.modules() if type(layer).__name__ == "Residual")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    values = torch.from_numpy(_normal(2, 3, 4, 4))
    assert torch.equal(block.eval()(values), values)


def test_layers_and_states_add_up_to_the_parameters_one_expects() -> None:
    tokens, _ = _tokens()
    network = build(Rnn(kind="lstm", state=6, embedding=5, bidirectional=True), _dataset(tokens, sequence=True))
    assert count_parameters(network) == 256 * 5 + 2 * 4 * (5 * 6 + 6 * 6 + 2 * 6) + (12 * 3 + 3)


@pytest.mark.parametrize("family", [*SEQUENCE, Mlp(hidden=(4,))])
def test_padding_does_not_change_an_answer(family: Network) -> None:
    tokens, lengths = _tokens()
    network = build(family, _dataset(tokens, sequence=True))
    together = _answers(network, np.pad(tokens, ((0, 0), (0, 5))))
    for row, length in enumerate(lengths):
        alone = _answers(network, tokens[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", SEQUENCE)
def test_steps_beyond_the_given_length_do_not_change_an_answer(family: Network) -> None:
    values, lengths = _normal(9, 7, 4), _tokens()[1]
    network = build(family, _dataset({"input": values, "lengths": lengths}, sequence=True))
    noisy = np.where((np.arange(7) < lengths[:, np.newaxis])[:, :, np.newaxis], values, np.float32(99))
    torch.testing.assert_close(_answers(network, noisy, lengths), _answers(network, values, lengths))
    alone = _answers(network, values[2:3, : lengths[2]], lengths[2:3])
    torch.testing.assert_close(_answers(network, values, lengths)[2:3], alone, rtol=1e-5, atol=1e-6)


def test_lengths_that_cannot_be_are_taken_as_the_nearest_that_can() -> None:
    values = _normal(2, 4, 3)
    network = build(RECURRENT[0], _dataset({"input": values, "lengths": np.array([4, 4])}, sequence=True, classes=2))
    wrong, right = np.array([0, 9]), np.array([1, 4])
    assert torch.equal(_answers(network, values, wrong), _answers(network, values, right))


@pytest.mark.parametrize("family", SEQUENCE)
def test_the_order_of_the_steps_matters(family: Network) -> None:
    values = _normal(3, 5, 4)
    network = build(family, _dataset(values, sequence=True))
    backwards = np.ascontiguousarray(values[:, ::-1])
    assert (_answers(network, values) - _answers(network, backwards)).abs().max() > 1e-4


def test_a_text_without_a_byte_gets_a_finite_answer() -> None:
    tokens, _ = _tokens()
    for family in SEQUENCE:
        network = build(family, _dataset(tokens, sequence=True))
        assert _answers(network, np.zeros((1, 3), np.uint8)).isfinite().all()


def test_a_token_that_was_never_seen_is_as_good_as_padding() -> None:
    tokens = np.array([[1, 2, 3], [3, 2, 1]])
    network = build(Mlp(embedding=4), _dataset(tokens, classes=2, sequence=True))
    unseen = _answers(network, np.array([[1, 999, -1]]))
    assert unseen.isfinite().all()


def test_lengths_end_at_the_last_token_whatever_is_between() -> None:
    tokens = torch.tensor([[5, 0, 6, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert token_lengths(tokens).tolist() == [3, 1, 4]


def test_positions_differ_and_the_first_is_the_same_however_many_there_are() -> None:
    few, many = (positions(steps, 8, torch.device("cpu"))[0] for steps in (3, 50))
    assert torch.equal(few, many[:3])
    assert len({tuple(row.tolist()) for row in many}) == 50


def _table() -> Dataset:
    rows = np.array([[1.0, 0], [2.0, 1], [np.nan, 2], [5.0, 1], [4.0, 2], [3.0, 1]], np.float32)
    columns = (Column("size"), Column("colour", ("(unknown)", "red", "blue")))
    return replace(_dataset(rows), columns=columns)


def _inputs_of(dataset: Dataset) -> Array:
    (array,) = named(dataset.rows.inputs).values()
    return array


def test_a_missing_number_counts_as_the_mean_of_those_there_are() -> None:
    network = build(Mlp(hidden=(4,)), _table())
    missing, mean = np.array([[np.nan, 1]], np.float32), np.array([[3.0, 1]], np.float32)
    assert torch.equal(_answers(network, missing), _answers(network, mean))


def test_a_number_that_no_row_has_to_learn_from_counts_as_missing() -> None:
    table = Table((Column("a"), Column("b")), np.array([[1, np.nan], [3, np.nan]], np.float32))
    assert table.eval()(torch.tensor([[3.0, 1e6], [1.0, float("nan")]])).tolist() == [[1, 0], [-1, 0]]


def test_a_category_out_of_the_table_counts_as_unknown() -> None:
    network = build(Mlp(hidden=(4,)), _table())
    unknown, beyond, below = (np.array([[1, category]], np.float32) for category in (0, 3, -1))
    assert torch.equal(_answers(network, beyond), _answers(network, unknown))
    assert torch.equal(_answers(network, below), _answers(network, unknown))


def test_categories_have_vectors_of_their_own() -> None:
    network = build(Mlp(hidden=(4,)), _table())
    red, blue = (np.array([[1, category]], np.float32) for category in (1, 2))
    assert not torch.equal(_answers(network, red), _answers(network, blue))


def test_an_unknown_category_is_the_mean_of_the_rows_to_learn_from() -> None:
    table = Table(_table().columns, np.array([[1, 1], [2, 2], [3, 2], [4, 2]], np.float32)).eval()
    unknown, red, blue = table(torch.tensor([[1.0, 0], [1, 1], [1, 2]]))[:, 1:]
    torch.testing.assert_close(unknown, (red + 3 * blue) / 4)


def test_what_a_missing_category_says_is_learnt_as_a_difference_from_the_mean() -> None:
    columns = (Column("size"), Column("colour", ("(unknown)", "red", "blue", "(missing)")))
    table = Table(columns, np.array([[1, 1], [2, 2], [3, 2], [4, 2], [5, 3]], np.float32)).eval()
    unknown, red, blue, missing = table(torch.tensor([[1.0, 0], [1, 1], [1, 2], [1, 3]]))[:, 1:]
    (embedding,) = table.embeddings
    assert isinstance(embedding, nn.Embedding)
    torch.testing.assert_close(unknown, (red + 3 * blue) / 4)
    torch.testing.assert_close(missing[:-16], unknown[:-16] + embedding.weight[3])
    unknown.sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.any(1).tolist() == [False, True, True, False]


def test_what_is_fitted_for_an_unknown_category_changes_nothing_of_a_missing_one() -> None:
    columns = (Column("size"), Column("colour", ("(unknown)", "red", "blue", "(missing)")))
    table = Table(columns, np.array([[1, 1], [2, 2], [3, 2], [4, 2], [5, 3]], np.float32)).eval()
    rows = torch.tensor([[1.0, 0], [1, 1], [1, 2], [1, 3]])
    unknown, *others = table(rows)
    table.get_buffer("unknown_0").fill_(3)
    fitted, *same = table(rows)
    torch.testing.assert_close(fitted[1:], unknown[1:] + 3)
    assert all(map(torch.equal, same, others))


def test_a_missing_category_whose_rows_are_all_held_out_is_unknown() -> None:
    columns = (Column("size"), Column("colour", ("(unknown)", "red", "blue", "(missing)")))
    network = build(Mlp(hidden=(4,)), replace(_table(), columns=columns))
    unknown, missing = (_answers(network, np.array([[1, category]], np.float32)) for category in (0, 3))
    assert torch.equal(missing, unknown)


def test_a_category_of_held_out_rows_alone_is_unknown() -> None:
    columns = (Column("size"), Column("colour", ("(unknown)", "red", "blue", "green")))
    network = build(Mlp(hidden=(4,)), replace(_table(), columns=columns))
    unknown, red, green = (_answers(network, np.array([[1, category]], np.float32)) for category in (0, 1, 3))
    assert torch.equal(green, unknown)
    assert not torch.equal(red, unknown)


def test_a_share_of_the_cells_is_hidden_while_it_trains_and_only_then() -> None:
    table = Table(_table().columns, _inputs_of(_table()))
    rows = torch.tensor([[1.0, 2.0]]).expand(10_000, 2)
    torch.manual_seed(1)
    shown, whole = table.train()(rows), table.eval()(rows[:1])
    hidden = (shown != whole).float().mean(0).tolist()
    assert hidden[:2] == pytest.approx([0.05, 0.05], abs=0.01)
    assert len(table.eval()(rows).unique(dim=0)) == 1


def test_processes_that_train_together_hide_the_cells_that_one_alone_hides() -> None:
    table = Table(_table().columns, _inputs_of(_table())).train()
    rows = torch.tensor([[1.0, 2.0]]).expand(100, 2)
    torch.manual_seed(1)
    whole = table(rows)
    parts = []
    for rank in range(3):
        part = Part.of(100, rank, 3)
        torch.manual_seed(1)
        parts.append(over_whole_batches(table, part)(part.own(rows)))
    assert len(whole.unique(dim=0)) > 1
    assert torch.equal(torch.cat(parts), whole)


def test_a_table_may_lack_a_value_that_none_lacked_in_training() -> None:
    rows = np.array([[1.0], [2.0], [6.0]], np.float32)
    dataset = replace(_dataset(rows), columns=(Column("size"),))
    network = build(Mlp(hidden=(4,)), dataset)
    missing, mean = np.array([[np.nan]], np.float32), np.array([[3.0]], np.float32)
    assert torch.equal(_answers(network, missing), _answers(network, mean))


class _Silent:
    def step(self) -> None: ...

    def epoch(self, epoch: Epoch) -> None: ...


def test_the_answer_for_an_unknown_category_does_not_depend_on_the_seed() -> None:
    # Without any unknown row to learn from: one colour is always class 0, the other always class 1, as many of each.
    rows = np.tile(np.array([[0.0, 1], [0, 2]], np.float32), (120, 1))
    targets = np.tile(np.array([0, 1]), 120)
    whole = Dataset("t", Rows(rows, targets), ("a", "b"), "", "", columns=_table().columns)
    hyper = Hyperparameters(epochs=30, batch_size=16, learning_rate=0.01, patience=30)
    unknown = []
    for seed in range(4):
        recipe = Recipe(name="r", data="t", network=Mlp(hidden=(16,)), hyperparameters=hyper, seed=seed)
        parts = split(whole, seed=seed, validation=0.2, test=0.2)
        network = train(recipe, parts, device=torch.device("cpu"), watcher=_Silent()).network
        logits = _answers(network, np.array([[0, 0], [0, 1], [0, 2]], np.float32))
        shares = logits.softmax(1)[:, 1].tolist()
        assert shares[1:] == pytest.approx([0, 1], abs=0.05)
        unknown.append(shares[0])
    assert unknown == pytest.approx([0.5] * 4, abs=0.03)


def test_an_unknown_category_is_answered_less_steeply_than_each_category_and_alike_with_every_seed() -> None:
    # The categories differ by up to eight of the logit, so that not to know them says less of x than to know them.
    random = np.random.default_rng(1)
    x, category = random.normal(size=1200), random.integers(1, 5, 1200)
    chance = 1 / (1 + np.exp(-(3 * x + np.array([-4, -1, 1, 4])[category - 1])))
    targets = (random.random(1200) < chance).astype(np.int64)
    columns = (Column("x"), Column("c", ("(unknown)", "a", "b", "c", "d")))
    rows = np.stack([x, category], 1).astype(np.float32)
    whole = Dataset("t", Rows(rows, targets), ("no", "yes"), "", "", columns=columns)
    asked = np.array([-0.8, 0, 0.8])
    unknown = []
    for seed in range(6):
        recipe = Recipe(name="r", data="t", network=Mlp(hidden=(32,)), seed=seed)
        network = train(
            recipe, split(whole, seed=0, validation=0.2, test=0.2), device=torch.device("cpu"), watcher=_Silent()
        ).network
        logits = _answers(network, np.stack([asked, np.zeros(3)], 1).astype(np.float32))
        unknown.append(logits.softmax(1)[:, 1].numpy())
    # As certain as one who never sees the category, and not as certain as the network is of each.
    blind = LogisticRegression().fit(x[:, None], targets).predict_proba(asked[:, None])[:, 1]
    assert np.ptp(unknown, axis=0).max() < 0.05
    assert np.mean(unknown, 0) == pytest.approx(blind, abs=0.07)


def test_a_regression_starts_around_the_targets() -> None:
    targets = np.random.default_rng(1).normal([500, -3], [50, 0.1], (40, 2)).astype(np.float32)
    dataset = Dataset("d", Rows(_normal(40, 4), targets), ("a", "b"), "", "", task="regression")
    values = _answers(build(Mlp(hidden=(8,)), dataset), _normal(40, 4))
    assert values.shape == (40, 2)
    torch.testing.assert_close(values.mean(0), torch.tensor([500.0, -3.0]), atol=60, rtol=0.1)


@pytest.mark.parametrize(
    ("family", "inputs", "sequence", "sentence"),
    [
        (
            Cnn(),
            _normal(4, 5),
            False,
            r"d has rows of input \[5\] float32, and the network cnn takes one input of images",
        ),
        (Rnn(), _normal(4, 5), False, "the network rnn takes sequences"),
        (Transformer(), _normal(4, 1, 8, 8), False, "the network transformer takes sequences"),
        (Mlp(), {"a": _normal(4, 5), "b": _normal(4, 5)}, False, "the network mlp takes one input"),
        (Mlp(), _normal(4, 5, 3), True, "the network mlp takes rows of one length"),
    ],
)
def test_rows_that_a_family_cannot_take_are_refused(
    family: Network, inputs: Inputs, sequence: bool, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        build(family, _dataset(inputs, sequence=sequence))


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width \(10\) must be even, and a multiple of heads \(4\)"):
        Transformer(width=10, heads=4)


def _scenes(channels: int, height: int, width: int, task: Task = "dense") -> Dataset:
    targets = np.arange(6 * height * width).reshape(6, height, width) % 3
    return Dataset("d", Rows(_normal(6, channels, height, width), targets), ("a", "b", "c"), "", "", task=task)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 13), (1, 3), (33, 20)])
def test_a_unet_answers_each_pixel_of_images_of_any_height_and_width(height: int, width: int) -> None:
    network = build(Unet(channels=(4, 6, 8), dropout=0.1), _scenes(2, height, width)).eval()
    assert network(torch.randn(5, 2, height, width)).shape == (5, 3, height, width)


def test_a_unet_sees_far_and_near() -> None:
    network = build(Unet(channels=(4, 6, 8)), _scenes(1, 16, 16)).eval()
    image = torch.randn(1, 1, 16, 16, requires_grad=True)
    network(image)[0, :, 8, 8].sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert seen[8, 8]
    assert seen.float().mean() > 0.9  # 18 blocks of 3x3 on three sizes


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_unet_has_the_norm_it_is_told(norm: str) -> None:
    network = build(Unet.model_validate({"channels": (4, 6), "norm": norm}), _scenes(1, 4, 4))
    found = {type(module).__name__ for module in network.modules()} & {"BatchNorm2d", "GroupNorm"}
    assert found == {"none": set(), "batch": {"BatchNorm2d"}, "layer": {"GroupNorm"}}[norm]


@pytest.mark.parametrize(
    ("network", "task", "said"),
    [
        (Cnn(), "dense", "d has the task dense, and the network is cnn: only unet answers each pixel"),
        (Unet(), "single-label", "the network is unet: it answers each pixel, for the task dense"),
    ],
)
def test_pixels_and_the_unet_belong_together(network: Network, task: Task, said: str) -> None:
    with pytest.raises(DataError, match=said):
        build(network, _scenes(1, 4, 4, task))


def test_vectors_have_the_length_one_however_long_they_were_and_learn_as_any_others() -> None:
    vectors = torch.tensor([[3.0, 4.0], [3e38, -4e37], [1e-9, 0.0], [0.0, 0.0]], requires_grad=True)
    unit = L2Normalise()(vectors)
    assert unit[0].tolist() == pytest.approx([0.6, 0.8])
    assert unit.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 0])
    unit[0, 0].backward()
    assert vectors.grad is not None
    assert vectors.grad[0].tolist() == pytest.approx([(1 - 0.36) / 5, -0.48 / 5])
