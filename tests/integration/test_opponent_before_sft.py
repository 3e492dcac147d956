"""A run whose SFT is not done: what needs no language model answers already."""

import shutil
from pathlib import Path

import pytest

from llmrec.cli import main

KEPT = ("recipe.yaml", "card.yaml", "data", "collaborative")


@pytest.fixture
def begun(shop, tmp_path, monkeypatch):
    """A run that has been stopped after its stage collaborative."""
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "begun"
    run.mkdir()
    for name in KEPT:
        source = shop[0] / "runs/shop" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, run / name)
    return run


def lists(capsys, *words):
    """The rows that `llmrec recommend` prints, without the ranks' header."""
    assert main(["recommend", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize("system", ["popularity", "item_knn", "sasrec_ce"])
@pytest.mark.parametrize("asked", [("--user", "u7"), ("--history", "i1,i2", "--no-mask-seen")])
def test_an_opponent_answers_as_in_the_finished_run(shop, begun, capsys, system, asked):
    found = lists(capsys, "begun", *asked, "-k", "5", "--model", system)
    assert len(found) == 5 and "Thing " in found[0]
    assert found == lists(capsys, str(shop[0] / "runs/shop"), *asked, "-k", "5", "--model", system)


def test_the_language_model_is_still_asked_for(begun, capsys):
    for model in ([], ["--model", "sft"], ["--model", "dpo"]):
        assert main(["recommend", "begun", "--user", "u7", *model]) == 2
        assert "no finished sft stage there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left_out", "system", "told"),
    [
        ("collaborative", "sasrec_ce", "no finished collaborative stage there"),
        ("data", "popularity", "no finished data stage there"),
        (None, "mixture", "mixture is not among its trained systems: sasrec_bce, sasrec_ce"),
    ],
)
def test_what_an_opponent_lacks_is_named(begun, capsys, left_out, system, told):
    if left_out is not None:
        shutil.rmtree(begun / left_out)
    assert main(["recommend", "begun", "--user", "u7", "--model", system]) == 2
    assert told in capsys.readouterr().err


def test_an_opponent_without_files_needs_the_data_alone(begun, capsys):
    shutil.rmtree(begun / "collaborative")
    assert len(lists(capsys, "begun", "--user", "u7", "-k", "3", "--model", "item_knn")) == 3


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (
            "i1,nothing",
            "history: item 'nothing' is not in the catalogue; search by title: llmrec items begun --find",
        ),
        ("thing 7", "did you mean 'i7', Thing 7?"),
        (",", "history is empty"),
    ],
)
def test_a_wrong_history_is_told_as_the_model_tells_it(begun, capsys, history, told):
    assert main(["recommend", "begun", "--history", history, "--model", "item_knn"]) == 2
    assert told in capsys.readouterr().err


def test_the_items_are_listed_and_found_as_in_the_finished_run(shop, begun, capsys):
    for options in (["-k", "40"], ["--find", "thing 7"]):
        shown = []
        for run in ("begun", str(shop[0] / "runs/shop")):
            assert main(["items", run, *options]) == 0
            shown.append(sorted(capsys.readouterr().out.splitlines()))
        assert shown[0] == shown[1]
    assert not Path("begun/base").exists()
