"""`llmrec sweep` on the small shop: two workers, a kill in the middle of a training, and the same trials after it."""

import json
import re
import shlex

import pytest
import shop as small_shop

from llmrec.experiments.space import split_settings
from llmrec.experiments.study import Outcome, SweepStudy

SPACE = ["sft.lr=1e-4..1e-2", "ids.quantizer.codes=8,16"]
TRAINING = ["eval.baselines=[popularity]", "sft.max_steps=6", "sft.save_steps=2", "sft.eval_steps=3"]
COMMAND = ["sweep", "recipe.yaml", *SPACE, *TRAINING, "sft.batch=8", "sft.valid_lists=8", "run=tuned"]
COMMAND += ["--trials", "4", "--workers", "2", "--metric", "valid.ndcg@3"]


@pytest.mark.slow
def test_a_killed_sweep_makes_the_same_trials(tmp_path):
    small_shop.open_shop(tmp_path)
    runs = tmp_path / "runs"
    process = small_shop.start(tmp_path, *COMMAND)
    checkpoint = "tuned-*/.scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"
    assert small_shop.kill_when(process, lambda: list(runs.glob(checkpoint)))
    done = small_shop.run_alone(tmp_path, *COMMAND)
    assert done.returncode == 0, done.stderr

    figures = json.loads((runs / "tuned/figures.json").read_text())["figures"]
    trials = figures["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    # The first trials are drawn by the seed alone, so any results give the same ones.
    study = SweepStudy(tmp_path / "again", split_settings(SPACE)[1], seed=0)
    for trial in trials:
        claim = study.claim(4, 2, lambda: False)
        study.finish(claim, Outcome("complete", 0.0))
        assert claim.values == trial["values"]

    for trial in trials:
        metrics = json.loads((runs / f"tuned-{trial['number']}/eval/metrics.json").read_text())
        assert list(metrics["protocol"]["splits"]) == ["valid"]
        assert trial["value"] == metrics["valid"]["sft"]["ndcg@3"] and trial["users"] == small_shop.USERS
        assert trial["interval"] == metrics["valid"]["sft"]["intervals"]["ndcg@3"]
        assert list(trial["curve"]) == ["0.5", "1.0"]
    best = max(trials, key=lambda trial: trial["value"])
    assert trials[figures["best"]]["value"] == best["value"]

    # Shared stages are files of one run: data of all trials, IDs of those with the same codes.
    tables = [runs / f"tuned-{number}/data/interactions.parquet" for number in range(4)]
    assert len({table.stat().st_ino for table in tables}) == 1
    for codes in {trial["values"]["ids.quantizer.codes"] for trial in trials}:
        same = [t["number"] for t in trials if t["values"]["ids.quantizer.codes"] == codes]
        assert len({(runs / f"tuned-{number}/ids/sids.parquet").stat().st_ino for number in same}) == 1

    assert f"best:   {figures['best_command']}\n" in done.stdout
    assert "polyline" in (runs / "tuned/report.html").read_text()
    final = small_shop.run_alone(tmp_path, *shlex.split(figures["best_command"])[1:])
    assert final.returncode == 0, final.stderr
    trained = [runs / name / "base/model.safetensors" for name in ("tuned-best", f"tuned-{figures['best']}")]
    assert trained[0].samefile(trained[1])
    assert re.search(r"sft +done before, skipped", final.stderr)

    before = {path: path.stat().st_mtime_ns for path in runs.glob("tuned-*/*/manifest.json")}
    again = small_shop.run_alone(tmp_path, *COMMAND)
    assert again.returncode == 0 and "0 of 4 trials to do" in again.stderr
    assert again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in runs.glob("tuned-*/*/manifest.json")} == before
