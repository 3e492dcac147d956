"""Lists, scores and answers on a device are those of the CPU, whatever attention gives to rows that see nothing.

A search may wait for the device a counted number of times: a wait too many in a loop is what makes a GPU idle.
"""

import numpy as np
import pytest
import tiny_decoders
import torch
from place import ALLOW, CODES, DENY, IDS, LEVELS, PROMPTS, SIDS, TEXTUAL, device, waits_of

from llmrec.decode import batches, free_text, score_candidates
from llmrec.decode.custom_generate import tree_generate
from llmrec.decode.sampling import sample

LED = [[*range(12), *prompt] for prompt in PROMPTS]
SEARCHES = {
    "plain": lambda p: p.engine().search(PROMPTS, 5),
    "a shared lead": lambda p: p.engine().search(LED, 5),
    "deny-lists": lambda p: p.engine().search(PROMPTS, 5, mask=p.mask(p.trie)),
    "allow-lists": lambda p: p.engine().search(PROMPTS, 5, mask=p.mask(p.trie, DENY, ALLOW)),
    "an overlay": lambda p: p.engine(p.changed).search(PROMPTS, 5, mask=p.mask(p.changed)),
    "an overlay, allow-lists": lambda p: p.engine(p.changed).search(
        PROMPTS, 5, mask=p.mask(p.changed, DENY, ALLOW)
    ),
    "a floor": lambda p: p.engine().search(
        PROMPTS, 8, 5, floor=torch.tensor([-20.0, -6.0, -30.0], device=p.device)
    ),
    "widened lists": lambda p: batches.rank(p.engine(), PROMPTS, 5, 5, p.masks(p.trie), 60),
    "small batches": lambda p: batches.rank(p.engine(), PROMPTS, 5, 5, None, 20, 1e-5),
    "the constrained policy": lambda p: p.engine(normalise="allowed").search(PROMPTS, 5, mask=p.mask(p.trie)),
    "scores among children": lambda p: p.engine(normalise="children").search(PROMPTS, 5, mask=p.mask(p.trie)),
    "temperatures": lambda p: p.engine(temperature=(1.0, 0.5, 2.0)).search(PROMPTS, 5),
    "a prior": lambda p: p.engine(prior=p.prior(p.trie), model_weight=0.6).search(PROMPTS, 5),
    "a prior, an overlay": lambda p: p.engine(p.changed, prior=p.prior(p.changed), model_weight=0.6).search(
        PROMPTS, 5
    ),
    "a prior of each batch": lambda p: batches.rank(
        p.engine(), PROMPTS, 5, 5, None, 30, None, lambda users: p.prior(p.trie, users)
    ),
    "stochastic beams": lambda p: p.engine(normalise="allowed").search(
        PROMPTS, 5, mask=p.mask(p.trie), noise=p.generator()
    ),
    "samples": lambda p: sample(p.engine(), PROMPTS, 6, p.mask(p.trie), p.generator()),
    "textual IDs": lambda p: p.engine(p.textual).search(PROMPTS, 4),
    "textual IDs, deny-lists": lambda p: p.engine(p.textual).search(
        PROMPTS, 4, mask=p.mask(p.textual, [[0], [1, 2], []])
    ),
    "samples of textual IDs": lambda p: sample(p.engine(p.textual), PROMPTS, 4, None, p.generator()),
}
DRAWN = {"stochastic beams", "samples", "samples of textual IDs"}


@pytest.mark.parametrize("name", SEARCHES)
def test_lists_are_those_of_the_cpu(on_cpu, on_device, name):
    if not device.SAME_DRAWS and name in DRAWN:
        pytest.skip("the device draws other numbers than the CPU")
    expected, found = SEARCHES[name](on_cpu), SEARCHES[name](on_device)
    tiny_decoders.same_lists(found, expected)
    if expected.is_exact is not None:
        assert found.is_exact.tolist() == expected.is_exact.tolist()


def score_items(place):
    rows = [
        IDS.numpy()[SIDS[:9] + CODES * np.arange(LEVELS)],
        np.zeros((0, 3), int),
        np.array([[21, 22, 37, -1]]),
    ]
    return score_candidates.score(place.model, PROMPTS, rows, 24)


def generate(place):
    """The tree engine behind `generate`."""
    made = place.model.generate(
        torch.tensor([[1, 2, 3], [0, 4, 5]], device=place.device),
        attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]], device=place.device),
        num_beams=4,
        num_return_sequences=3,
        max_new_tokens=3,
        pad_token_id=0,
        custom_generate=tree_generate(place.trie, place.ids),
        trust_remote_code=True,
    )
    return made.tolist()


FREE_TEXT = {
    "candidates": score_items,
    "custom_generate": generate,
    "greedy answers": lambda p: free_text.generate_greedy(p.model, PROMPTS, free_text.AnswerForm(6, [3]), 0),
    "log-probabilities of answers": lambda p: free_text.answer_log_probs(
        p.model, PROMPTS, [[[1, 2], [3]], [[4]], [[5, 6, 7], [8]]], 0
    ),
    "embeddings": lambda p: free_text.text_embeddings(p.model, PROMPTS, 0),
}


@pytest.mark.parametrize("name", FREE_TEXT)
def test_answers_and_scores_are_those_of_the_cpu(on_cpu, on_device, name):
    expected, found = FREE_TEXT[name](on_cpu), FREE_TEXT[name](on_device)
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


BUDGETS = {
    "plain": LEVELS + 2,
    "a shared lead": LEVELS + 2,
    "deny-lists": LEVELS + 2,
    "a prior": LEVELS + 2,
    "samples": LEVELS + 1,
    "widened lists": 2 * (LEVELS + 1) + 1,
    "textual IDs": 2 * TEXTUAL.length + 5,
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_search_waits_once_a_level_and_a_few_times_more(model, name):
    waits = waits_of(model, SEARCHES[name])
    assert len(waits) <= BUDGETS[name], device.explain(waits)


def score_few(place):
    return score_candidates.score(place.model, PROMPTS[:1], [np.array([[20, 26]])])


def test_candidates_wait_twice_a_batch(model):
    waits = waits_of(model, score_few)
    assert len(waits) <= 2, device.explain(waits)
