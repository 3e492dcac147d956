"""What `llmrec preview` leaves in the folder of runs: nothing that has not been named."""

from pathlib import Path

import pytest
import shop

from llmrec.cli import main

PREVIEW = ["preview", "recipe.yaml", "prompts=[{task: sequential, templates: [sids]}]"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    shop.open_shop(tmp_path)


def contents(run):
    return {
        path: path.stat().st_mtime_ns
        for path in Path(run).rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_preview_without_a_name_leaves_nothing(capsys):
    assert main(PREVIEW) == 0
    shown = capsys.readouterr()
    assert "loss on" in shown.out and "run=NAME keeps the data" in shown.err
    assert not Path("runs").exists()


def test_a_named_preview_leaves_the_data_for_the_run_of_that_name(capsys):
    assert main([*PREVIEW, "run=mine"]) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]
    assert main(["data", "recipe.yaml", "run=mine"]) == 0
    assert "done before, skipped" in capsys.readouterr().err


def test_a_preview_leaves_a_run_of_the_recipes_name_as_it_is(capsys):
    assert main(["data", "recipe.yaml"]) == 0
    before = contents("runs/shop")
    assert main([*PREVIEW, "data.filters={min_user: 1, window: [0, 6]}"]) == 0  # other data than the run's
    assert main(PREVIEW) == 0
    assert "done before, skipped" in capsys.readouterr().err
    assert contents("runs/shop") == before and [path.name for path in Path("runs").iterdir()] == ["shop"]
