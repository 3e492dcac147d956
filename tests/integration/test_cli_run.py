"""The real command line on a small dataset of its own, from a CSV to recommendations."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrec.cli import main

USERS, ITEMS = 60, 40
RECIPE = """
name: shop
data: {card: card.yaml, history: 6}
ids: {vectors: vectors.npy, quantizer: {levels: 2, codes: 8, iterations: 5}}
base: {model: tiny, tiny: {layers: 1, hidden: 32, heads: 2, kv_heads: 2, intermediate: 64, vocabulary: 300}}
prompts: [{task: sequential, templates: [sids]}]
sft: {mode: full, max_steps: 3, batch: 16, valid_users: 8}
decode: {width: 5}
eval: {k: [1, 3], bootstrap: 20}
"""
CARD = """
name: shop
size: {users: 60, items: 40, interactions: 480}
interactions: {path: log.csv, columns: {user: customer, item: product, time: at}}
items: {path: items.jsonl, columns: {item: sku, title: name}}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log, items, vectors, a card and a recipe; and what `llmrec run` printed there."""
    folder = tmp_path_factory.mktemp("shop")
    rng = random.Random(0)
    log = [(u, i, t) for u in range(USERS) for t, i in enumerate(rng.sample(range(ITEMS), 8))]
    rows = "".join(f"u{u},i{i},{t}\n" for u, i, t in log)
    (folder / "log.csv").write_text("customer,product,at\n" + rows)
    sold = list(dict.fromkeys(i for _, i, _ in log))
    items = [json.dumps({"sku": f"i{i}", "name": f"Thing {i}"}) for i in range(ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(items))
    vectors = np.random.default_rng(0).standard_normal((len(sold), 16), dtype=np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "card.yaml").write_text(CARD)
    (folder / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "llmrec.cli", "run", "recipe.yaml"]
    environment = os.environ | {"LLMREC_RUNS": str(folder / "runs"), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return folder, done


@pytest.fixture(autouse=True)
def here(shop, monkeypatch):
    monkeypatch.chdir(shop[0])
    monkeypatch.setenv("LLMREC_RUNS", "runs")


def sft_trained_at():
    return Path("runs/shop/base/model.safetensors").stat().st_mtime_ns


def test_a_run_says_its_cost_shows_its_stages_and_ends_in_a_table_and_the_next_command(shop):
    _, done = shop
    assert done.returncode == 0, done.stderr
    assert "60 users, 40 items, 480 interactions" in done.stderr
    for number, stage in enumerate(("data", "ids", "sft", "decode", "eval", "report"), 1):
        assert f"[{number}/6] {stage:<7} done in" in done.stderr
    for system in ("sft", "popularity", "item_knn"):
        assert f"\n {system} " in done.stdout
    assert "NDCG@3" in done.stdout
    report = done.stdout.partition("report: ")[2].partition("\n")[0]
    assert Path(report).is_file()
    assert "try:    llmrec recommend shop --user u" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_the_same_command_again_does_nothing(capsys):
    before = sft_trained_at(), Path("runs/shop/eval/metrics.json").read_bytes()
    assert main(["run", "recipe.yaml"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("done before, skipped") == 6
    assert "NDCG@3" in shown.out
    assert (sft_trained_at(), Path("runs/shop/eval/metrics.json").read_bytes()) == before
    assert main(["run", "recipe.yaml", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "pending" not in plan and "everything is done" in plan


def test_other_cutoffs_retrain_nothing(capsys):
    before = sft_trained_at()
    assert main(["run", "recipe.yaml", "eval.k=[2]", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "decode   done" in plan and "eval     pending" in plan
    assert main(["eval", "recipe.yaml", "eval.k=[2]"]) == 0
    assert sft_trained_at() == before
    assert "NDCG@2" in capsys.readouterr().out
    assert main(["run", "recipe.yaml"]) == 0


def test_recommendations_come_with_titles_and_leave_out_the_history(capsys):
    assert main(["recommend", "shop", "--history", "i1,i2,i3", "-k", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    items = [row[-1] for row in rows]
    assert len(set(items)) == 4 and not set(items) & {"i1", "i2", "i3"}
    assert [" ".join(row[1:3]) for row in rows] == [f"Thing {item[1:]}" for item in items]
    assert main(["recommend", "runs/shop", "--user", "u7", "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["recommend", "shop", "--user", "u999"], "'u999'"),
        (["recommend", "shop", "--history", "i1,nothing"], "'nothing'"),
        (["recommend", "shop", "--history", ","], "history is empty"),
        (["recommend", "shp", "--user", "u1"], "did you mean 'shop'"),
        (["compare", "shop", "--split", "valid"], "valid"),
    ],
)
def test_mistakes_about_a_finished_run_are_one_line(args, told, capsys):
    assert main(args) == 2
    shown = capsys.readouterr().err.splitlines()
    assert told in shown[-1] and shown[-1].startswith("llmrec: ")


def test_compare_puts_runs_side_by_side(capsys):
    assert main(["run", "recipe.yaml", "run=seed1", "parent=shop", "--until", "eval"]) == 0
    capsys.readouterr()
    assert main(["compare", "shop", "seed1"]) == 0
    shown = capsys.readouterr().out
    assert "shop" in shown and "seed1" in shown and "NDCG@3" in shown


def test_a_broken_dataset_is_one_line_and_leaves_nothing_half_written(capsys):
    Path("bad.yaml").write_text(CARD.replace("at}", "when}"))
    assert main(["run", "recipe.yaml", "data.card=bad.yaml", "run=bad"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llmrec: ")]
    assert len(told) == 1 and "'when'" in told[0] and "log.csv" in told[0]
    left = sorted(p.name for p in Path("runs/bad").rglob("*") if p.is_file())
    assert left == [".lock", "recipe.yaml"]


def test_preview_shows_what_is_trained_on(capsys):
    assert main(["preview", "recipe.yaml"]) == 0
    shown = capsys.readouterr().out
    for told in ("template sids", "loss on", "<a_", "leaks"):
        assert told in shown


def test_a_run_in_use_is_refused(capsys):
    from llmrec.artifacts import lock

    with lock(Path("runs/shop")):
        assert main(["run", "recipe.yaml"]) == 2
    assert "another llmrec process" in capsys.readouterr().err
