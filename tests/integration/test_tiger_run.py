"""TIGER and HSTU in a run: trained once, evaluated like every other baseline, and shown in the report."""

import json

import polars as pl
import pytest
import shop as small_shop

from llmrec.data.examples import evaluation_examples
from llmrec.evaluate.lists import baseline_lists, load_system

TINY = "tiger={dim: 8, layers: 1, heads: 1, head_dim: 8, feed_forward: 8, history: 4, batch: 64, epochs: 1, beams: 5}"
HSTU = "collaborative.hstu={dim: 8, epochs: 1, valid_users: 10}"
SYSTEMS = [TINY, HSTU, "eval.baselines=[popularity, hstu, tiger]", "sft.max_steps=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shop whose run is finished, with both systems among its baselines."""
    folder = tmp_path_factory.mktemp("shop")
    small_shop.open_shop(folder)
    done = small_shop.run(folder, "run", "recipe.yaml", *SYSTEMS)
    assert done.returncode == 0, done.stderr
    return folder


def test_both_are_evaluated_and_shown(folder):
    run = folder / "runs/shop"
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert set(metrics["test"]) == {"sft", "popularity", "hstu", "tiger"}
    assert all(row["invalid"] == 0 for row in metrics["test"].values())
    assert metrics["protocol"]["baselines"]["tiger"]["title"] == "TIGER"
    assert {"hstu", "tiger"} <= metrics["differences"]["test"]["sft"].keys()
    assert "TIGER" in (run / "eval/report.html").read_text()
    report = json.loads((run / "tiger/report.json").read_text())
    assert (report["epochs"], len(report["ndcg@10"])) == (1, 1) and report["parameters"] > 0


def test_lists_are_those_of_the_stages_model(folder):
    run = folder / "runs/shop"
    names = pl.read_parquet(run / "data/items.parquet")["item_id"].cast(str).to_list()
    examples = evaluation_examples(run, "test")
    lists = baseline_lists(load_system(run, "tiger", names), examples, 6, 3, mask_seen=True)
    assert lists.equals(pl.read_parquet(run / "decode/tiger-test.parquet"))
    seen = examples.select("user_id", item_id="history").explode("item_id", empty_as_null=False)
    assert lists.join(seen, on=["user_id", "item_id"], how="semi").is_empty()


def test_other_cutoffs_and_users_train_nothing(folder):
    done = small_shop.run(folder, "run", "recipe.yaml", *SYSTEMS, "eval.k=[2]", "decode.users=20")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert any("tiger" in line and "skipped" in line for line in lines)
    assert not any("tiger" in line and "running" in line for line in lines)


def test_the_stage_alone_trains_no_language_model(folder):
    done = small_shop.run(folder, "tiger", "recipe.yaml", TINY, "run=alone")
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/alone/tiger/model.safetensors").is_file()
    assert not (folder / "runs/alone/base").exists()
    same = (folder / "runs/shop/tiger/model.safetensors").read_bytes()
    assert (folder / "runs/alone/tiger/model.safetensors").read_bytes() == same
