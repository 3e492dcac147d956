"""Samples from the constrained policy against its probabilities, summed over all items."""

import numpy as np
import pytest
import torch
from tiny_decoders import CODES, KINDS, LEVELS, TEXT, build

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.trie import Trie
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.sampling import sample
from llmrec.errors import UserError
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees

SIDS = np.array([[a, b, 0] for a in range(3) for b in range(a + 1)], np.int32)
TRIE = Trie.build(SIDS, [CODES] * LEVELS)
IDS = torch.arange(TEXT, TEXT + LEVELS * CODES)
CATALOGUE = Catalogue(TRIE, IDS, [str(n) for n in range(len(SIDS))], {})
PROMPTS = [[1, 2, 3], [9, 8, 7, 6]]


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("denied", [[[], []], [[0, 4], [5]]])
def test_items_come_as_often_as_the_policy_says(kind, denied):
    model, count = build(kind), 4000
    mask = build_item_mask(TRIE, None, denied)
    drawn = sample(TreeEngine(model, TRIE, IDS), PROMPTS, count, mask, torch.Generator().manual_seed(0))
    for row, hidden in enumerate(denied):
        allowed = [item for item in range(len(SIDS)) if item not in hidden]
        paths = [CATALOGUE.tokens[item].tolist() for item in allowed]
        own = build_item_mask(TRIE, None, [hidden])
        log_probs = CompletionScorer("allowed", CATALOGUE).log_probs(
            model, CompletionTrees.build([PROMPTS[row]], [paths], 0), own
        )
        chance = dict(zip(allowed, log_probs.total.exp().tolist(), strict=True))
        times = np.bincount(drawn.items[row], minlength=len(SIDS))
        assert not times[hidden].any()
        for item in allowed:
            spread = np.sqrt(count * chance[item] * (1 - chance[item]))
            assert abs(times[item] - count * chance[item]) < 4 * spread + 1
        logs = [np.log(chance[item]) for item in drawn.items[row].tolist()]
        np.testing.assert_allclose(drawn.scores[row], logs, atol=1e-4)


def test_a_seed_repeats_its_draws_and_another_does_not():
    engine = TreeEngine(build("qwen3"), TRIE, IDS)
    draws = [
        sample(engine, PROMPTS, 20, generator=torch.Generator().manual_seed(seed)).items for seed in (1, 1, 2)
    ]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_a_user_who_has_seen_everything_has_nothing_to_draw():
    engine = TreeEngine(build("qwen3"), TRIE, IDS)
    mask = build_item_mask(TRIE, None, [list(range(len(SIDS))), []])
    with pytest.raises(UserError, match="deny-list contains the whole catalogue"):
        sample(engine, PROMPTS, 4, mask)
