"""Recipes are frozen and validated."""

import pytest
from pydantic import ValidationError

from frostline_training.config import RECIPES, Cnn, Hyperparameters, Mlp, Recipe, find_recipe
from frostline_training.errors import UnknownRecipeError


def test_every_recipe_is_found_under_its_own_name() -> None:
    assert {name: find_recipe(name).name for name in RECIPES} == {name: name for name in RECIPES}


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UnknownRecipeError,
        match=r"no recipe is called 'mnist'; there are: breast-cancer, digits, digits-embedding, .*, wine",
    ):
        find_recipe("mnist")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        find_recipe("digits").seed = 1


def test_a_misspelt_hyperparameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="epoch"):
        Hyperparameters.model_validate({"epoch": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": -1e-3},
        {"learning_rate": float("nan")},
        {"warmup": 1.0},
        {"label_smoothing": 1.0},
        {"patience": 0},
    ],
)
def test_a_hyperparameter_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate(wrong)


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave no rows to train on"):
        Recipe(name="r", data="iris", network=Mlp(), validation=0.5, test=0.5)


def test_a_recipe_survives_json_with_its_network_family() -> None:
    for recipe in RECIPES.values():
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert isinstance(find_recipe("digits").network, Cnn)
