"""A recipe with `auto` keys gets numbers when the data is counted, and its run is the run of these numbers."""

import pytest
import shop as small_shop

from llmrec import artifacts, pipeline
from llmrec.config import load_recipe, load_run_recipe

AUTO = ["data.history=auto", "sft.batch=auto", "sft.epochs=auto", "ids.quantizer.levels=auto"]


@pytest.fixture(scope="module")
def auto_run(shop):
    folder, _ = shop
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=auto", *AUTO, "sft.max_steps=1")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "auto"


def test_the_runs_recipe_holds_the_numbers(auto_run):
    recipe = load_run_recipe(auto_run)
    assert (recipe.data.history, recipe.sft.batch, recipe.sft.epochs) == (20, 4, 24)
    assert recipe.auto == [] and recipe.ids.quantizer.levels == 2
    assert artifacts.read_manifest(auto_run, "sft")["recipe_keys"]["sft"]["batch"] == 4


def test_a_finished_run_is_not_run_again(auto_run, shop, monkeypatch):
    folder, _ = shop
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLMREC_RUNS", str(folder / "runs"))
    recipe = load_recipe("recipe.yaml", [*AUTO, "sft.max_steps=1"])
    assert recipe.auto
    assert pipeline.pending(recipe, auto_run, "sft") == []
    # The numbers written by hand are the same recipe.
    numbers = ["data.history=20", "sft.batch=4", "sft.epochs=24", "ids.quantizer.levels=2", "sft.max_steps=1"]
    assert pipeline.pending(load_recipe("recipe.yaml", numbers), auto_run, "sft") == []
    assert pipeline.pending(load_recipe("recipe.yaml", [*numbers, "sft.batch=8"]), auto_run, "sft") == ["sft"]


def test_a_new_run_takes_the_stages_of_its_parent(auto_run, shop):
    folder, _ = shop
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=child", "parent=auto", *AUTO, "sft.max_steps=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before, skipped") == 3


def test_the_estimate_before_the_data_is_counted_uses_the_card(shop):
    folder, _ = shop
    shown = small_shop.run(folder, "sft", "recipe.yaml", "run=none", *AUTO, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    by_hand = small_shop.run(
        folder, "sft", "recipe.yaml", "run=none", "sft.batch=4", "sft.epochs=24", "--dry-run"
    )
    tokens = [text.split("M training tokens")[0].split(",")[-1] for text in (shown.stdout, by_hand.stdout)]
    assert tokens[0] == tokens[1]
