"""What others are told of a run that a process writes, and of one whose stage has not been run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import shop

from llmrec import Recommender
from llmrec.cli import main
from llmrec.errors import UnfinishedRunError, UserError
from llmrec.progress.run_lock import finish_command, lock, note_stage, running_stage, unfinished

TRAINING = """
import sys
from pathlib import Path
from llmrec.artifacts import Stage, run_stage
from llmrec.config import load_recipe
from llmrec.progress.run_lock import lock

def wait(context):
    print("started", flush=True)
    sys.stdin.readline()

run = Path("runs/mine")
with lock(run):
    run_stage(Stage("sft", "help", 1, (), (), ("sft",), wait), load_recipe("recipe.yaml"), run)
    print("ended", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """A shop, and its run `mine` with finished data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    shop.open_shop(tmp_path)
    assert main(["data", "recipe.yaml", "run=mine", "data.history=5"]) == 0


@pytest.fixture
def training():
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    yield process
    process.communicate("\n\n")


READERS = [
    ["recommend", "mine", "--user", "u1"],
    ["eval", "mine"],
    ["report", "mine"],
    ["merge", "mine", "out"],
    ["export", "mine", "out"],
    ["compare", "mine", "mine"],
    ["export-index", "mine", "out"],
    ["items", "mine", "--retire", "i1"],
]


@pytest.mark.parametrize("words", [READERS[0], READERS[3], READERS[4]], ids=lambda words: words[0])
def test_what_is_missing_is_told_before_anything_heavy_is_loaded(words):
    code = f"import sys; from llmrec.cli import main; print(main({words!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 False\n" and "no finished sft stage there" in done.stderr


def test_while_a_stage_runs_every_command_names_it_and_since_when(training, capsys):
    for words in READERS:
        assert main(words) == 2
        told = capsys.readouterr().err
        assert re.search(
            r"the stage sft is running since \d\d:\d\d \([\d.]+ s\); wait until it has ended", told
        ), told
    assert main(["run", "recipe.yaml", "run=mine"]) == 2
    assert "the stage sft is running since" in capsys.readouterr().err
    with pytest.raises(UnfinishedRunError, match="the stage sft is running since"):
        Recommender.load("mine")
    training.stdin.write("\n")
    training.stdin.flush()
    assert training.stdout.readline() == "ended\n"
    assert str(running_stage(Path("runs/mine"))) == "another llmrec process writes this run"


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_before_the_stage_has_run_every_command_names_the_one_that_finishes_it(words, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "llmrec run runs/mine/recipe.yaml run=mine goes on where it stopped" in told, told


def test_the_named_command_goes_on_with_the_same_settings_and_files(capsys):
    _, *words = shlex.split(finish_command(Path("runs/mine").absolute()))
    assert main([*words, "--until", "data"]) == 0
    assert "done before, skipped" in capsys.readouterr().err


def test_a_process_is_not_told_to_wait_for_itself():
    run = Path("runs/mine")
    with lock(run):
        note_stage(run, "sft")
        assert running_stage(run) is None
        assert "goes on where it stopped" in str(unfinished(run))
        with pytest.raises(UserError, match="the stage sft is running"), lock(run):
            pass
    assert running_stage(run) is None


def test_a_stage_of_a_killed_process_does_not_run():
    run = Path("runs/mine")
    (run / ".lock").write_text("sft 2026-01-01T00:00:00+00:00\n")
    assert running_stage(run) is None
