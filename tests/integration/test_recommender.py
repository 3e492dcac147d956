"""A finished run as an object: engines, lists, options."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
import shop as small_shop
import torch

from llmrec import Recommender
from llmrec.catalogue.trie import Trie
from llmrec.config import DecodeConfig, PriorConfig
from llmrec.errors import UserError
from llmrec.hardware import choose_device, has_fast_bfloat16
from llmrec.recommend.given_ids import as_rows
from llmrec.recommend.listed_items import NamedItems
from llmrec.serving.item_lookup import ItemLookup

HISTORIES = [["i1", "i2"], ["i3"], ["i4", "i5", "i6", "i7", "i8", "i9", "i10", "i11"]]
FIVE = DecodeConfig(width=5)


@pytest.fixture(scope="module")
def recommender(lora):
    return Recommender.load(lora)


def test_both_engines_give_the_same_lists_with_an_adapter(recommender):
    tree = recommender.rank(HISTORIES, FIVE)
    oracle = recommender.rank(HISTORIES, DecodeConfig(width=5, engine="generate"))
    np.testing.assert_allclose(tree.scores, oracle.scores, atol=1e-4)
    assert (tree.items == oracle.items).all()


def test_a_search_in_bfloat16_scores_nearly_alike_and_proves_no_list(recommender):
    exact = recommender.rank(HISTORIES)
    rounded = recommender.rank(HISTORIES, dtype="bfloat16")
    assert exact.is_exact is not None and rounded.is_exact is None
    ours, theirs = (dict(zip(top.items[0], top.scores[0], strict=True)) for top in (exact, rounded))
    shared = ours.keys() & theirs.keys()
    assert len(shared) > len(ours) / 2
    differences = [abs(ours[item] - theirs[item]) for item in shared]
    assert 0 < max(differences) < 0.3
    assert np.array_equal(recommender.rank(HISTORIES).scores, exact.scores)  # the saved precision again
    by_hardware = rounded if has_fast_bfloat16(torch.device(choose_device())) else exact
    assert np.array_equal(recommender.rank(HISTORIES, dtype="auto").scores, by_hardware.scores)


def test_one_history_is_answered_as_among_many(recommender):
    top = recommender.rank(HISTORIES, DecodeConfig(width=20, k=5))
    alone = recommender.recommend(HISTORIES[1], k=5)
    assert [recommender.items.index(r.item_id) for r in alone] == top.items[1].tolist()
    np.testing.assert_allclose([r.score for r in alone], top.scores[1], atol=1e-5)


def test_an_allow_list_and_a_deny_list_hold_for_their_request(recommender):
    allow = ["i1", "i5", "i9", "i13"]
    found = recommender.recommend(["i1", "i2"], k=5, allow=allow, deny=["i5"])
    assert {r.item_id for r in found} == {"i9", "i13"}
    assert found == sorted(found, key=lambda r: -r.score)


def test_an_allow_list_for_many_histories_is_one_list_of_places(recommender):
    allow = ["i1", "i5", "i9", "i13"]
    for row, history in zip(recommender.recommend(HISTORIES, k=3, allow=allow), HISTORIES, strict=True):
        alone = recommender.recommend(history, k=3, allow=allow)
        assert [one.item_id for one in row] == [one.item_id for one in alone]
    given = as_rows([allow, None, allow], 3, "allow")
    allowed, _ = recommender.run.allow_and_deny_lists([["i1"]] * 3, True, given)
    assert allowed[0] is allowed[2] and allowed[1] is None
    assert [recommender.items[place] for place in allowed[0]] == allow


def test_candidates_are_scored_as_decoding_scores_them(recommender):
    top = recommender.rank(HISTORIES, DecodeConfig(width=40, k=5))
    items = [[recommender.items[i] for i in row] for row in top.items.tolist()]
    np.testing.assert_allclose(recommender.score(HISTORIES, items), top.scores, atol=1e-4)


def test_lists_that_widen_by_themselves_are_exact(recommender):
    top = recommender.rank(HISTORIES, DecodeConfig(width="auto", k=5))
    everything = recommender.rank(HISTORIES, DecodeConfig(width=40, k=5))
    assert top.is_exact.all()
    np.testing.assert_allclose(top.scores, everything.scores, atol=1e-4)


def test_a_prior_alone_ranks_as_its_model_does(recommender, lora):
    """With no weight on the language model, D3 gives the collaborative model's order."""
    from llmrec.collaborative.popularity import Popularity
    from llmrec.data.examples import training_histories

    prior = PriorConfig(system="popularity", model_weight=0)
    top = recommender.rank([["i1"]], DecodeConfig(width=40, k=5, prior=prior))
    model = Popularity.fit(training_histories(lora), recommender.items)
    expected = model.log_probs([["i1"]], recommender.items)[0]
    np.testing.assert_allclose(top.scores[0], expected[top.items[0]], atol=1e-4)
    others = np.delete(expected, [recommender.items.index("i1")])
    assert top.scores[0, 0] == pytest.approx(others.max(), abs=1e-4)


@pytest.mark.parametrize("reranker", ["mmr", "dpp"])
def test_re_ranking_moves_items_but_takes_them_from_the_beams(recommender, reranker):
    plain = recommender.rank(HISTORIES, DecodeConfig(width=20))
    as_it_is = recommender.rank(HISTORIES, k=5, width=20, **{reranker: {"trade_off": 1}})
    diverse = recommender.rank(HISTORIES, k=5, width=20, **{reranker: {"trade_off": 0.1}})
    assert (as_it_is.items == plain.items[:, :5]).all()
    assert (diverse.items != as_it_is.items).any()
    assert all(set(d) <= set(p) for d, p in zip(diverse.items.tolist(), plain.items.tolist(), strict=True))


def test_the_run_holds_its_trie_as_a_file(recommender, lora):
    trie = Trie.open(lora / "base" / "catalogue" / "trie.safetensors")
    built = Trie.build(np.load(lora / "base" / "sids.npy"), trie.codes)
    assert (trie.token == built.token).all() and (trie.first == built.first).all()


@pytest.mark.parametrize("about", [{}, {"title": ""}, {"brand": "Things"}, None])
def test_an_item_without_a_title_goes_by_its_id_everywhere(recommender, about):
    texts = {item: {"title": "A title"} if about is None else about for item in recommender.items[1:]}
    run = dataclasses.replace(recommender.run, texts=texts)
    lookup = ItemLookup(run)
    titles = {item: fields["title"] for item, fields in texts.items() if "title" in fields}
    named = NamedItems("lora", recommender.items, [], frozenset(), titles)
    told = {one.item_id: one.title for one in Recommender(run).recommend(["i1"], 5)}
    told |= {item: named.title(item) for item in recommender.items[:5]}
    told |= {item: lookup.describe(item)["title"] for item in recommender.items[:2]}
    nameless = recommender.items[:1] if about is None else recommender.items
    assert told == {item: item if item in nameless else "A title" for item in told}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend([]), "history is empty"),
        (lambda r: r.recommend(["nothing"]), "'nothing' is not in the catalogue"),
        (lambda r: r.recommend(["i1"], allow=[]), "allow-list is empty"),
        (lambda r: r.recommend(["i1"], deny=["nothing"]), "'nothing' is not in the catalogue"),
        (lambda r: r.score([["i1"]], [["nothing"]]), "'nothing' is not in the catalogue"),
        (lambda r: r.rank([["i1"]], DecodeConfig(width=5, temperature=[1.0])), "1 numbers"),
        (lambda r: Recommender.load(r.run.folder, "dpo"), "no model 'dpo'"),
    ],
)
def test_wrong_requests_are_refused(recommender, call, message):
    with pytest.raises(UserError, match=message):
        call(recommender)


def test_the_decode_stage_says_how_many_lists_are_certified(shop, lora):
    folder, _ = shop
    options = ["decode.width=auto", "decode.k=3", "run=auto", "parent=shop", "base.tiny.hidden=32"]
    done = small_shop.run(folder, "eval", "recipe.yaml", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "runs/auto/decode/report.json").read_text())
    assert report["splits"]["test"] == {"users": 60, "certified": {"sft": 1.0}}
    lists = pl.read_parquet(folder / "runs/auto/decode/sft-test.parquet")
    assert lists["rank"].max() == 3
