"""The stage pairs on a finished run: every source, the model's own beams, and a second look that skips."""

import shutil

import numpy as np
import polars as pl
import pytest
import shop as small_shop

from llmrec.config import DecodeConfig, load_recipe
from llmrec.data.examples import training_histories
from llmrec.files import read_json
from llmrec.pipeline import execute
from llmrec.recommend.recommender import Recommender
from llmrec.train.alignment.pairs import read_pairs

SOURCES = ["random", "popularity", "semantic", "trie", "beams", "judge"]
PAIRS = [f"pairs.sources=[{', '.join(SOURCES)}]", "pairs.judge=item_knn", "pairs.per_user=null"]
WIDTH = 8


@pytest.fixture
def made(lora, tmp_path, monkeypatch):
    """A copy of the LoRA run, and a function that makes its pairs and returns what each stage did."""
    monkeypatch.chdir(lora.parent.parent)
    monkeypatch.setenv("LLMREC_RUNS", str(lora.parent))
    run = shutil.copytree(lora, tmp_path / "lora")

    def make(*overrides):
        recipe = load_recipe("recipe.yaml", ["parent=shop", *small_shop.LORA, *PAIRS, *overrides])
        done = {}
        execute(recipe, run, "pairs", lambda stage, word: done.__setitem__(stage, word))
        return done

    return run, make


def test_the_pairs_stage_makes_valid_pairs_of_a_finished_run(made):
    run, make = made
    done = make(f"pairs.width={WIDTH}")
    assert done.pop("pairs") == "done" and set(done.values()) == {"skipped"}
    recommender = Recommender.load(run, "sft", as_trained=True)
    pairs, report = read_pairs(run, recommender.items), read_json(run / "pairs/report.json")
    histories = dict(training_histories(run).iter_rows())
    # 60 users of 8 items, of which 6 are for training
    assert len(pairs) == 60 * 5 and set(pairs["source"]) == set(SOURCES)
    assert report["sources"] == dict(pairs["source"].value_counts().iter_rows())
    assert report["filled_at_random"] == {"beams": 0, "judge": 0}
    for row in pairs.iter_rows(named=True):
        items = histories[row["user_id"]]
        assert not set(row["rejected"]) & set(items) and row["history"] == items[: len(row["history"])]
        assert row["chosen"] == items[len(row["history"])] or row["source"] == "judge"

    own = pairs.filter(pl.col("source") == "beams")
    settings = DecodeConfig(width=WIDTH)
    denied = [histories[user] for user in own["user_id"]]
    lists = {}
    for model in ("sft", "base"):
        asked = Recommender.load(run, model, as_trained=True)
        top = asked.rank(own["history"].to_list(), settings, mask_seen=False, deny=denied).items[:, :3]
        lists[model] = np.array(asked.items)[top].tolist()
    assert own["rejected"].to_list() == lists["sft"] != lists["base"]

    assert set(make(f"pairs.width={WIDTH}").values()) == {"skipped"}
    assert make("pairs.width=9")["pairs"] == "done"


def test_the_judges_items_are_among_the_models_best(made):
    run, make = made
    make("pairs.sources=judge", f"pairs.width={WIDTH}", "pairs.users=9")
    pairs = read_pairs(run, Recommender.load(run, as_trained=True).items)
    recommender = Recommender.load(run, "sft", as_trained=True)
    assert pairs["user_id"].n_unique() == 9
    histories = pairs["history"].to_list()
    top = recommender.rank(histories, DecodeConfig(width=WIDTH)).items
    best = np.array(recommender.items)[top].tolist()
    filled = read_json(run / "pairs/report.json")["filled_at_random"]["judge"]
    strangers = 0
    for chosen, rejected, beams in zip(pairs["chosen"], pairs["rejected"], best, strict=True):
        assert chosen in beams
        strangers += len(set(rejected) - set(beams))
    assert strangers <= filled
