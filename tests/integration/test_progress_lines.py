"""What is seen of long work where stderr is a file or a pipe: a few lines, at most ten, and none on a terminal."""

import io
import re
import sys

import pytest
import shop
import torch

from llmrec.cli import main
from llmrec.collaborative.sequential.early_stopping import train_to_best
from llmrec.progress import bar, lines
from llmrec.progress.bar import Progress, follow, without_lines
from llmrec.progress.lines import ProgressLines


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Lines come from the first second on."""
    monkeypatch.setattr(lines, "FIRST_SECONDS", 0.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(capsys, title):
    """The lines of a title. Bars of libraries may stand before one: here they were imported before the command."""
    return re.findall(rf"{title}: .*", capsys.readouterr().err)


def test_each_tenth_has_a_line_with_what_is_left(capsys):
    told = ProgressLines("decoding", 1005, "user")
    for done in range(1, 1006):
        told.update(done, "x 1")
    shown = printed(capsys, "decoding")
    assert len(shown) == 10 and re.fullmatch(r"decoding: user 101 of 1,005, x 1; \d+ s left", shown[0])
    assert shown[-1] == "decoding: user 1,005 of 1,005, x 1"


def test_long_work_is_told_once_before_its_first_tenth(capsys, monkeypatch):
    monkeypatch.setattr(lines, "EARLY_SECONDS", 0.0)
    told = ProgressLines("sft", 1000, "step")
    for done in range(1, 201):
        told.update(done)
    assert [line.split()[2] for line in printed(capsys, "sft")] == ["2", "100", "200"]


def test_a_slow_beginning_is_no_measure_of_what_is_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    told = ProgressLines("sft", 100, "step")
    for done in range(1, 31):
        now[0] = 59.0 + done  # the first step takes a minute, each other one a second
        told.update(done)
    assert printed(capsys, "sft") == [
        "sft: step 2 of 100; about 2 min left",
        "sft: step 10 of 100; about 2 min left",
        "sft: step 20 of 100; 80 s left",
        "sft: step 30 of 100; 70 s left",
    ]


def test_a_training_that_goes_on_tells_only_what_comes(capsys):
    told = ProgressLines("sft", 100, "step")
    told.start(95)
    for done in range(96, 101):
        told.update(done)
    assert printed(capsys, "sft") == ["sft: step 100 of 100"]


def test_work_that_may_end_early_is_told_soon_and_then_seldom(capsys):
    told = ProgressLines("SASRec", 200, "epoch", may_end_early=True)
    for done in range(1, 41):
        told.update(done)
    shown = printed(capsys, "SASRec")
    assert [line.split()[2] for line in shown] == ["1", "2", "4", "8", "16", "32"]
    assert re.fullmatch(r"SASRec: epoch 1 of at most 200; [\d.]+ s each", shown[0])


def test_a_terminal_has_bars_and_no_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    ProgressLines("sft", 1, "step").update(1)
    assert sys.stderr.getvalue() == ""


def test_short_work_has_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(lines, "FIRST_SECONDS", 3600.0)
    ProgressLines("sft", 1, "step").update(1)
    assert capsys.readouterr().err == ""


def test_of_nested_work_only_the_outermost_with_several_units_has_lines(capsys):
    with Progress("files", 1, "file") as files:
        for _ in follow(range(3), "epochs", "epoch"):
            for _ in follow(range(20), "rows", "row"):
                pass
        files.update()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in told] == [f"epochs: epoch {n} of 3" for n in (1, 2, 3)]


def test_a_part_of_a_training_has_no_lines_of_its_own(capsys):
    with without_lines():
        assert list(follow(range(20), "decoding", "user")) == list(range(20))
    assert capsys.readouterr().err == ""
    assert list(follow(range(2), "decoding", "user")) == [0, 1]
    assert len(printed(capsys, "decoding")) == 2


def test_work_done_in_one_go_has_no_line(capsys):
    with Progress("decoding", 8, "user") as progress:
        progress.update(8)
    assert capsys.readouterr().err == ""


def test_lines_go_on_after_work_that_failed(capsys):
    with pytest.raises(ZeroDivisionError), Progress("broken", 2, "part"):
        raise ZeroDivisionError
    assert list(follow(range(2), "whole", "part")) == [0, 1]
    assert len(printed(capsys, "whole")) == 2


def test_many_values_are_counted_in_pieces(capsys, monkeypatch):
    updates = []
    monkeypatch.setattr(Progress, "update", lambda _, more: updates.append(more))
    assert sum(1 for _ in follow(range(50_000), "cleaning", "value")) == 50_000
    assert updates == [50] * 1000


def test_a_terminal_has_a_bar_with_what_was_told(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(bar, "DELAY", 0)
    with Progress("SASRec", 2, "epoch") as progress:
        progress.update(told="loss 0.5")
        progress.rename("SASRec again")
    shown = sys.stderr.getvalue()
    assert "SASRec:" in shown and "1/2" in shown and "SASRec again" in shown and "\n" not in shown


def test_a_sequential_training_tells_loss_and_ndcg(capsys):
    values = iter([0.1, 0.2, 0.15, 0.15, 0.15])
    log = train_to_best(
        torch.nn.Linear(1, 1), lambda epoch: 1 / epoch, lambda: next(values), 100, 3, "SASRec"
    )
    assert log["epochs"] == 5
    shown = printed(capsys, "SASRec")
    assert len(shown) == 3 and shown[1].startswith(
        "SASRec: epoch 2 of at most 100, loss 0.500, NDCG@10 0.2000; "
    )


def test_sft_tells_steps_epoch_loss_validation_and_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    shop.open_shop(tmp_path)
    options = ["sft.max_steps=24", "sft.eval_steps=2", "sft.valid_lists=10", "sft.epochs=3"]
    assert main(["sft", "recipe.yaml", *options]) == 0
    shown = printed(capsys, "sft")
    assert 5 <= len(shown) <= 10
    figures = r"epoch [\d.]+ of 3, loss [\d.]+, validation loss [\d.]+, validation NDCG@10 [\d.e-]+"
    assert re.fullmatch(rf"sft: step \d+ of 24, {figures}; (about )?\d+ (s|min) left", shown[0]), shown
    assert re.fullmatch(rf"sft: step 24 of 24, {figures}", shown[-1]), shown
