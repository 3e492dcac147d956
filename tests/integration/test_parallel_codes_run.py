"""Codes that are predicted at once, from the recipe to lists, new items and refusals."""

import json
import math

import numpy as np
import polars as pl
import pytest
import shop as small_shop

from llmrec import Recommender
from llmrec.errors import UserError

PARALLEL = ["sft.parallel_codes=true", "ids.quantizer={kind: opq, levels: 4, codes: 4}", "parent=shop"]
OPTIONS = [
    *PARALLEL,
    "prompts=[{task: sequential, templates: [sids]}, {task: item_to_sid}]",
    "sft.max_steps=6",
]
OPTIONS += ["sft.distillation={teacher: item_knn, synthetic_items: 1, folds: 2}", "sft.eval_steps=3"]
OPTIONS += ["sft.valid_lists=8"]


@pytest.fixture(scope="module")
def run(shop):
    folder, _ = shop
    done = small_shop.run(folder, "eval", "recipe.yaml", "run=parallel", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return folder / "runs/parallel"


def test_a_training_has_losses_near_chance_at_its_start_and_lists_on_the_way(run):
    log = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
    validated = [line for line in log if "valid_loss" in line]
    # Four codes a level, and one more level of at least two for items that share them.
    assert all(0 < line["valid_loss"] < math.log(4) + 0.3 for line in validated)
    assert all(0 <= line["valid_ndcg@10"] <= 1 for line in validated) and len(validated) == 2


def test_decoded_lists_are_the_best_of_all_items_and_certified(run):
    report = json.loads((run / "decode/report.json").read_text())
    assert report["splits"]["test"]["certified"]["sft"] == 1.0
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert 0 <= metrics["test"]["sft"]["hr@3"] <= 1
    lists = pl.read_parquet(run / "decode/sft-test.parquet").sort("user_id", "rank")
    recommender = Recommender.load(run)
    log = pl.read_parquet(run / "data/interactions.parquet").with_columns(pl.col("split").cast(pl.String))
    for user in lists["user_id"].unique().sort().to_list()[:5]:
        history = recommender.history(user)
        target = log.filter((pl.col("user_id") == user) & (pl.col("split") == "test"))["item_id"][0]
        history = history[: history.index(target)]
        (scores,) = recommender.score([history], [recommender.items])
        order = [recommender.items[place] for place in np.argsort(-np.array(scores))]
        expected = [item for item in order if item not in history][:5]
        assert lists.filter(pl.col("user_id") == user)["item_id"].to_list() == expected


def test_the_preview_shows_one_label_an_item(shop, run):
    done = small_shop.run(shop[0], "preview", "recipe.yaml", "run=parallel", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "a label is an item's first code" in done.stdout


def test_what_goes_code_by_code_is_refused_in_a_line(shop, run):
    folder, _ = shop
    asked = "{task: sequential, split: test}"
    for *command, message in (
        ("dpo", "parallel", "align: dpo goes code by code"),
        ("grpo", "parallel", "align: grpo goes code by code"),
        ("decode", "parallel", "decode.engine=vllm", "decode.engine: vllm goes code by code"),
        ("serve", "parallel", "llmrec serve needs codes that follow one another"),
        (
            "tasks",
            "parallel",
            f"eval.tasks=[{asked}]",
            "eval.tasks: sequential needs codes that follow one another",
        ),
        ("sft", "recipe.yaml", "run=textual", *PARALLEL[::2], "ids.quantizer={kind: title}", "textual IDs"),
    ):
        done = small_shop.run(folder, *command)
        assert done.returncode == 2, (command, done.stderr)
        assert message in done.stderr.strip().splitlines()[-1]
    with pytest.raises(UserError, match=r"decode.engine: generate needs codes that follow"):
        Recommender.load(run).rank([["i1"]], engine="generate")


def test_an_export_recommends_as_the_run_and_its_card_does_not_ask_to_serve_it(shop, run):
    folder, _ = shop
    done = small_shop.run(folder, "export", "parallel", "exported-parallel")
    assert done.returncode == 0, done.stderr
    card = (folder / "exported-parallel/README.md").read_text()
    assert "llmrec recommend FOLDER" in card and "llmrec serve" not in card
    ours, theirs = (
        Recommender.load(place).recommend(["i1", "i2"]) for place in (run, folder / "exported-parallel")
    )
    assert [(one.item_id, one.score) for one in ours] == [(one.item_id, one.score) for one in theirs]


def test_added_items_are_ranked_by_their_codes_and_retired_ones_stay_out(shop, run):
    folder, _ = shop
    done = small_shop.run(folder, "items", "parallel", *small_shop.write_new_items(folder, ["n0", "n1"]))
    assert done.returncode == 0, done.stderr
    done = small_shop.run(folder, "items", "parallel", "--retire", "i3")
    assert done.returncode == 0, done.stderr
    everything = Recommender.load(run).recommend(["i1", "i2"], k=100)
    names = [found.item_id for found in everything]
    assert {"n0", "n1"} <= set(names) and not {"i1", "i2", "i3"} & set(names)
    assert len(names) == small_shop.ITEMS + 2 - 3
    scores = [found.score for found in everything]
    assert scores == sorted(scores, reverse=True)
