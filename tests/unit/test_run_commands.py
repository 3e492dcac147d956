"""Commands of the stages after SFT: whose recipe holds, and what may be overridden; nothing is trained here."""

from pathlib import Path

import pytest
import yaml

from llmrec.artifacts import find_run
from llmrec.commands.stages.resolve import resolve_run
from llmrec.config import load_recipe
from llmrec.errors import UnknownRunError, UserError
from llmrec.pipeline import KEPT


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """A finished run `mine` of quickstart with another width, and a run `begun` without SFT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    for name in ("mine", "begun"):
        folder = Path("runs") / name
        (folder / "sft").mkdir(parents=True)
        given = ["decode.width=33", "sft.valid_lists=100", "eval.k=[1, 7]"]
        recipe = load_recipe("quickstart", given).model_dump(mode="json")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"parent": "/gone/before"}))
    Path("runs/mine/sft/manifest.json").write_text("{}")


@pytest.mark.parametrize("name", ["mine", "runs/mine"])
def test_a_finished_run_brings_its_own_recipe(name):
    recipe, folder, kept = resolve_run(name, ["eval.bootstrap=7"])
    assert folder == Path("runs/mine") and kept == KEPT == ("data", "ids", "sft")
    assert (recipe.decode.width, recipe.eval.k, recipe.eval.bootstrap) == (33, [1, 7], 7)
    assert recipe.parent is None  # it is gone, and the run does not need it


def test_a_new_name_makes_a_run_with_the_first_as_its_parent():
    recipe, folder, kept = resolve_run("mine", ["run=other", "dpo.seed=3"])
    assert folder == Path("runs/other") and kept == ()
    assert recipe.parent == str(Path("runs/mine").absolute()) and recipe.decode.width == 33


def test_a_recipe_is_taken_where_no_run_is_finished():
    recipe, folder, kept = resolve_run("quickstart", [])
    assert (recipe.name, folder, kept) == ("quickstart", Path("runs/quickstart"), ())
    recipe, folder, kept = resolve_run("runs/mine/recipe.yaml", ["run=again"])
    assert (recipe.decode.width, folder, kept) == (33, Path("runs/again"), ())


def test_another_suite_replaces_the_values_of_the_former_one():
    Path("few.yaml").write_text("k: [3]\nbootstrap: 11\n")
    recipe, _, _ = resolve_run("mine", ["eval.suite=few.yaml", "eval.bootstrap=5"])
    assert (recipe.eval.k, recipe.eval.bootstrap) == ([3], 5)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sft.lr=1", "sft.lr"),
        ("sft={lr: 1}", "sft"),
        ("data.history=3", "data.history"),
        ("data.mask_seen=false", "data.mask_seen"),
        ("seed=1", "seed"),
        ("ids.quantizer.codes=4", "ids.quantizer.codes"),
        ("base.model=tiny", "base.model"),
    ],
)
def test_what_sft_was_made_of_cannot_be_overridden(override, key):
    with pytest.raises(
        UserError, match=f"{key}: mine is trained, and its data, IDs and SFT stay as they are"
    ):
        resolve_run("mine", [override])


@pytest.mark.parametrize(
    "override",
    ["decode.users=30", "decode.width=40", "dpo.seed=1", "track.report_to=[]", "eval.k=[2]"],
)
def test_what_comes_after_sft_can(override):
    assert resolve_run("mine", [override])[2] == KEPT


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine-1", "(did you mean 'mine'?)"),
        ("begun2", "(did you mean 'begun'? it is not finished)"),
        ("zzz", "(finished runs: mine; not finished: begun)"),
    ],
)
def test_a_mistyped_run_is_answered_with_a_run_and_whether_it_is_finished(name, told):
    with pytest.raises(UnknownRunError) as refused:
        find_run(name)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("begun", "begun: no finished sft stage there; llmrec run runs/begun/recipe.yaml run=begun goes on"),
        ("mien", r"no run and no recipe named 'mien' \(did you mean 'mine'\?\)"),
        ("quikstart", r"no run and no recipe named 'quikstart' \(did you mean 'quickstart'\?\)"),
        ("absent.yaml", "absent.yaml: no such file"),
    ],
)
def test_other_names_are_refused_in_one_wording(name, told):
    with pytest.raises(UserError, match=told):
        resolve_run(name, [])
