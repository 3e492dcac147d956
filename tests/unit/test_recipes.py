from pathlib import Path

import pytest

from llmrec import assets
from llmrec.cli import main
from llmrec.commands.start.shipped import KINDS
from llmrec.config import load_recipe
from llmrec.pipeline import stages_of

RECIPES = assets.names("recipes")
OWN_DATA = {"own-data": ["data.card=movielens-100k"]}
"""The recipe for data of one's own has no data."""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMREC_DEBUG", "1")


def test_the_documented_recipes_are_shipped():
    assert {"quickstart", "beauty-tiny", "beauty-smollm2", "qwen3-0.6b", "llama-3.2-1b"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_after_its_file_and_says_what_it_is(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert assets.find("recipes", name).read_text("utf-8").startswith("#")


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_is_valid(name, capsys):
    assert main(["validate", name, *OWN_DATA.get(name, [])]) == 0
    assert capsys.readouterr().out.endswith("valid\n")


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_prints_the_plan_and_writes_and_fetches_nothing(name, capsys, tmp_path):
    assert main(["run", name, *OWN_DATA.get(name, []), "--dry-run"]) == 0
    shown = capsys.readouterr()
    for stage in stages_of(load_recipe(name)):
        assert f"  {stage.name:<13} pending" in shown.out
    assert "of memory" in shown.out and "of disk" in shown.out
    assert shown.err == ""
    assert list(tmp_path.iterdir()) == []


def test_own_data_asks_for_a_card(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("LLMREC_DEBUG")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "own-data"]) == 2
    assert "llmrec init FOLDER --out my-shop.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_page_lists_every_recipe(name):
    assert f"`{name}`" in (assets.root("recipes") / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_compared_with_all_opponents_by_default(name):
    recipe = load_recipe(name)
    neighbours = ["popularity", "item_knn", "recent_knn", "succession", "text_knn"]
    assert recipe.eval.baselines == [*neighbours, "sasrec_bce", "sasrec_ce", "mixture"]
    assert recipe.collaborative.of("mixture").tilt == "text_knn"
    assert "  baselines:" not in assets.find("recipes", name).read_text("utf-8")


def test_the_quickstart_needs_no_hub():
    recipe = load_recipe("quickstart")
    assert recipe.base.model == "tiny"
    assert assets.is_pypi(recipe.ids.encoder.model)


def test_every_shipped_file_is_listed_and_printed_and_copied(capsys, tmp_path):
    assert main(["ls"]) == 0
    listed = capsys.readouterr().out
    for label, kind in KINDS.items():
        for name in assets.names(kind):
            assert f"  {name}" in listed
            assert main(["cat", f"{label}/{name}"]) == 0
            assert capsys.readouterr().out == assets.find(kind, name).read_text("utf-8")
    target = tmp_path / "mine.yaml"
    assert main(["cp", "quickstart", str(target)]) == 0
    assert target.read_bytes() == assets.find("recipes", "quickstart").read_bytes()


def test_copying_onto_a_file_needs_force(capsys, tmp_path):
    target = tmp_path / "quickstart.yaml"
    target.write_text("mine")
    assert main(["cp", "quickstart", str(tmp_path)]) == 2
    assert target.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["cp", "quickstart", str(tmp_path), "--force"]) == 0
    assert Path(target).read_bytes() == assets.find("recipes", "quickstart").read_bytes()
