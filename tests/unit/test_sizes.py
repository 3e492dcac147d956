"""Keys that are `auto` get numbers from the size of the data, by rules that keep to their bounds."""

import pytest
import yaml

from llmrec.config import DataSize, Recipe, load_recipe, sized, validate
from llmrec.config.sizes import RULES
from llmrec.errors import UserError

TREE = {
    "name": "own",
    "data": {"card": "movielens-100k", "history": "auto"},
    "ids": {"quantizer": {"levels": "auto", "codes": "auto"}},
    "sft": {"batch": "auto", "epochs": "auto", "lr": 1e-3},
}


def of(users, items, interactions):
    return DataSize(users=users, items=items, interactions=interactions)


def test_auto_waits_for_the_data():
    recipe = validate(Recipe, TREE, "own")
    assert recipe.auto == ["data.history", "ids.quantizer.levels", "sft.batch", "sft.epochs"]
    assert recipe.ids.quantizer.codes == "auto"  # the tokenizer's own
    assert recipe.sft.lr == 1e-3


@pytest.mark.parametrize(
    ("size", "history", "levels", "batch", "epochs"),
    [
        (of(400, 150, 4_800), 20, 2, 4, 24),  # a small shop
        (of(943, 1_682, 100_000), 50, 2, 16, 12),  # MovieLens-100K: as in quickstart
        (of(22_363, 12_101, 198_502), 20, 2, 64, 24),  # Amazon Beauty
        (of(1_000_000, 300_000, 20_000_000), 20, 3, 64, 24),
        (of(3, 5, 9), 20, 2, 4, 24),
    ],
)
def test_sizes_of_datasets(size, history, levels, batch, epochs):
    recipe = sized(validate(Recipe, TREE, "own"), size)
    assert (recipe.data.history, recipe.ids.quantizer.levels) == (history, levels)
    assert (recipe.sft.batch, recipe.sft.epochs) == (batch, epochs)
    assert recipe.auto == []
    assert sized(recipe, of(9, 9, 81)) == recipe


def test_one_level_is_enough_before_a_code_of_the_items_own():
    tree = TREE | {"ids": TREE["ids"] | {"collisions": "own_code"}}
    for items in (150, 300_000):
        assert sized(validate(Recipe, tree, "own"), of(400, items, 4_800)).ids.quantizer.levels == 1


def test_numbers_of_the_user_stay():
    given = TREE | {"sft": {"batch": 48}}
    recipe = validate(Recipe, given, "own")
    assert "sft.batch" not in recipe.auto
    assert sized(recipe, of(400, 150, 4_800)).sft.batch == 48


def test_a_given_history_counts_for_the_batch():
    short = TREE | {"data": {"card": "movielens-100k", "history": 10}}
    assert sized(validate(Recipe, short, "own"), of(943, 1_682, 100_000)).sft.batch == 64


def test_auto_is_refused_where_no_rule_is():
    with pytest.raises(UserError, match=r"sft\.lr"):
        validate(Recipe, TREE | {"sft": {"lr": "auto"}}, "own")
    with pytest.raises(UserError, match=r"keys that may be `auto`: data\.history"):
        validate(Recipe, {**TREE, "auto": ["sft.lr"]}, "own")


def test_the_shipped_recipe_uses_every_rule(tmp_path):
    recipe = load_recipe("own-data")
    assert recipe.auto == list(RULES)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), "utf-8")
    assert load_recipe(str(path)).auto == list(RULES)  # a run that was stopped before the data was counted
