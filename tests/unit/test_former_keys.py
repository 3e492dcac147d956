"""Recipe keys that have been renamed: an old recipe is told the new key, a finished run's is read as before."""

import pytest
import yaml

from llmrec.config import load_recipe, load_run_recipe
from llmrec.config.former_keys import FORMER_KEYS, upgrade
from llmrec.errors import UserError


@pytest.mark.parametrize("key", FORMER_KEYS.values(), ids=FORMER_KEYS)
def test_a_recipe_with_a_former_key_is_told_the_new_one(key):
    value = {"sft.distil": "{teacher: item_knn}"}.get(key.old, next(iter(key.values), 1))
    with pytest.raises(UserError, match=rf"{key.old} is now {key.new}"):
        load_recipe("quickstart", [f"{key.old}={str(value).lower()}"])


def test_a_finished_runs_recipe_is_read_under_the_new_keys(tmp_path):
    recipe = load_recipe(
        "quickstart", ["sft.distillation={teacher: item_knn, synthetic_items: 3}", "dpo.sft_weight=0.5"]
    )
    tree = recipe.model_dump(mode="json")
    former = yaml.safe_load(yaml.safe_dump(tree))
    former["sft"]["distil"] = former["sft"].pop("distillation")
    former["sft"]["distil"]["ahead"] = former["sft"]["distil"].pop("synthetic_items")
    former["pairs"]["ahead"] = former["pairs"].pop("prompts") == "history_end"
    former["grpo"]["ahead"] = former["grpo"].pop("prompts") == "history_end"
    former["grpo"]["zero_signal"] = former["grpo"].pop("zero_variance")
    former["dpo"]["sft"] = former["dpo"].pop("sft_weight")
    former["sft"]["distil"]["mask_seen"] = not former["data"]["mask_seen"]  # lists were made by the other one
    former["decode"]["mask_seen"] = former["data"].pop("mask_seen")
    before = yaml.safe_dump(former)
    (tmp_path / "recipe.yaml").write_text(before)
    assert load_run_recipe(tmp_path) == recipe
    assert upgrade(tree) == tree
    assert yaml.safe_dump(former) == before, "the tree given is left as it is"


def test_a_run_without_a_teacher_is_read_too(tmp_path):
    former = load_recipe("quickstart", ["sft.distillation=null"]).model_dump(mode="json")
    former["sft"]["distil"] = former["sft"].pop("distillation")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(former))
    assert load_run_recipe(tmp_path).sft.distillation is None
