"""Scores of users and items are dense, so few users are scored at once where there are many items."""

import numpy as np
import polars as pl
import pytest
import tiny_decoders
import torch
from circle import CIRCLE, ITEMS, VALID, round_trip

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.catalogue.trie import Trie
from llmrec.collaborative import blocks
from llmrec.collaborative.baselines import user_knn
from llmrec.collaborative.baselines.interactions import Interactions
from llmrec.collaborative.baselines.tuned import TunedRanker, calibrated_scale
from llmrec.collaborative.mixture import MixtureSystem, choose_weights
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sasrec.baseline import Sasrec
from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.scored import Scored, Validation
from llmrec.collaborative.system import Ranker
from llmrec.data.examples import with_masked
from llmrec.decode import batches, grounding
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.scoring import Scoring
from llmrec.simulate.opponents import found_by
from llmrec.simulate.slates import Slate
from llmrec.train.alignment.negatives import nearest_items
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.teacher.temperature import find_temperature

MOST = 3
"""Users of a block, once memory is short."""
HISTORIES = [round_trip(user, 1 + user % 4) for user in range(10)]
POPULARITY = Popularity.fit(CIRCLE, ITEMS)
NUMBERS = [np.array([ITEMS.index(item) for item in row]) for row in HISTORIES]


def test_a_block_holds_as_many_users_as_its_bytes_allow():
    assert blocks.users_at_once(12_000) == blocks.MOST_USERS
    assert blocks.users_at_once(1_000_000) == blocks.BLOCK_BYTES // 32_000_000 == 16
    assert blocks.users_at_once(1_000_000, score_bytes=64) == 8
    assert blocks.users_at_once(12_000, most=100) == 100
    assert blocks.users_at_once(10**12) == 1 and blocks.users_at_once(0) == blocks.MOST_USERS


def test_blocks_cover_all_users_in_their_order(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3 * 10 * blocks.SCORE_BYTES)
    assert blocks.user_blocks(8, 10) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert blocks.user_blocks(0, 10) == []


def score(histories):
    """The item behind a history's last one is the best; what is scored after many items is scored a little higher."""
    last = np.array([ITEMS.index(history[-1]) for history in histories])
    lengths = np.array([len(history) for history in histories])[:, None]
    return -((np.arange(len(ITEMS)) - last[:, None] - 1) % len(ITEMS)) / 3 + 0.01 * lengths


class Counted(Scored):
    """Notes how many users are scored at once."""

    def __init__(self):
        self.popularity, self.most = POPULARITY, 0

    def scores(self, histories, items):
        self.most = max(self.most, len(histories))
        return score(histories)[:, [ITEMS.index(item) for item in items]]

    def log_probs(self, histories, items):
        scores = self.scores(histories, items)
        return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


class CountedRanker(Ranker):
    most = 0

    def scores(self, histories):
        self.most = max(self.most, len(histories))
        return score(histories)


def lists_of_scores():
    system = Counted()
    return system.recommend(HISTORIES, 4, HISTORIES), system.most


def lists_of_a_ranker():
    system = CountedRanker(ITEMS)
    return system.recommend(HISTORIES, 4, HISTORIES), system.most


def validation_of_scores():
    system = Counted()
    return Validation(VALID, POPULARITY.items).ndcg_of(system), system.most


def weights_of_a_mixture():
    members = {"one": Counted(), "other": Counted()}
    chosen = choose_weights(POPULARITY, members, {0.0: Counted()}, MixtureSystem(), VALID)
    return chosen["chosen"], max(member.most for member in members.values())


def scale_of_a_baseline():
    most = []

    def scorer(sequences):
        most.append(len(sequences))
        rows = score([[POPULARITY.items[number] for number in row] for row in sequences])
        return rows[:, [ITEMS.index(item) for item in POPULARITY.items]]

    ranker = TunedRanker(POPULARITY, POPULARITY.items, scorer, 5)
    return calibrated_scale(ranker, Validation(VALID, POPULARITY.items)), max(most)


def nearest_users():
    most = []
    nearest = user_knn._nearest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_knn, "_nearest", lambda rows, n: most.append(len(rows)) or nearest(rows, n))
        system = user_knn.UserKnnSystem()
        arrays = system.learn(Interactions(ITEMS, NUMBERS * 2), {}, 0)
        scores = system.scorer(arrays, {"neighbours": 4})(NUMBERS)
    return scores, max(most)


def logits_of_sasrec():
    config = SasrecSettings(dim=8, heads=2, history=6)
    torch.manual_seed(0)
    model = Sasrec(Sasrec.build(len(ITEMS), config), config, ITEMS, np.ones(len(ITEMS), np.int64))
    items, scores = model.recommend(HISTORIES, 4)
    return (items, np.round(scores, 4)), max(len(block.users) for block in model._blocks(HISTORIES))


def slates_of_a_simulation():
    system = Counted()
    slates = [Slate("u", tuple(row), (*ITEMS[:3], ITEMS[7]), 1) for row in HISTORIES]
    return found_by(system, slates, ITEMS, 5), system.most


def temperature_of_a_teacher():
    system = Counted()
    catalogue = Catalogue(
        Trie.build(np.arange(12)[:, None], [12]), torch.arange(12), [str(item) for item in ITEMS], {}
    )
    return find_temperature(Teacher(system, catalogue, 0.5), [["i3"]] * 10, 0), system.most


def lists_with_a_prior():
    draw = np.random.default_rng(0)
    sids = np.unique(draw.integers(0, tiny_decoders.CODES, (40, tiny_decoders.LEVELS)), axis=0)[: len(ITEMS)]
    trie = Trie.build(sids, [tiny_decoders.CODES] * tiny_decoders.LEVELS)
    ids = torch.arange(tiny_decoders.TEXT, tiny_decoders.SHAPE["vocab_size"])
    scoring, groups = Scoring(model_weight=0.5), []

    def prior(users):
        groups.append(len(users))
        return CollaborativePrior(trie, score([HISTORIES[user] for user in users]))

    engine = TreeEngine(tiny_decoders.build("qwen3"), trie, ids, 0, scoring)
    found = batches.rank(engine, [[1, 2, 3 + user] for user in range(10)], 3, 3, prior=prior)
    return (found.items, np.round(found.scores, 3)), max(groups)


@pytest.mark.parametrize(
    ("work", "score_bytes"),
    [
        (lists_of_scores, blocks.SCORE_BYTES),
        (lists_of_a_ranker, blocks.SCORE_BYTES),
        (validation_of_scores, blocks.SCORE_BYTES),
        (weights_of_a_mixture, 3 * 4 + 17),
        (scale_of_a_baseline, blocks.SCORE_BYTES),
        (nearest_users, user_knn._SIMILARITY_BYTES * 20 // 12),
        (logits_of_sasrec, 16),
        (slates_of_a_simulation, blocks.SCORE_BYTES),
        (temperature_of_a_teacher, blocks.SCORE_BYTES),
        (lists_with_a_prior, blocks.SCORE_BYTES),
    ],
)
def test_in_a_large_catalogue_few_users_are_scored_at_once_with_the_same_result(
    work, score_bytes, monkeypatch
):
    expected, together = work()
    assert together >= 10
    monkeypatch.setattr(blocks, "BLOCK_BYTES", MOST * len(ITEMS) * score_bytes)
    found, most = work()
    assert most == MOST
    np.testing.assert_equal(found, expected)


def test_what_is_near_is_found_in_blocks_too(monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    taken = [{place, 3} for place in range(10)]
    near, titles = nearest_items(vectors, range(10), taken, 4), grounding.ground(vectors[:10], vectors, 4)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", MOST * len(vectors) * blocks.SCORE_BYTES)
    assert nearest_items(vectors, range(10), taken, 4) == near
    np.testing.assert_equal(grounding.ground(vectors[:10], vectors, 4).items, titles.items)


def test_no_validation_users_have_a_scale():
    nobody = with_masked(pl.DataFrame(schema={"history": pl.List(pl.String), "target": pl.String}), True)
    ranker = TunedRanker(POPULARITY, POPULARITY.items, lambda rows: score(rows), 5)
    assert np.isfinite(calibrated_scale(ranker, Validation(nobody, POPULARITY.items)))
