"""Completions as branches of a tree against the same completions one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import CODES, KINDS, LEVELS, TEXT, build

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.trie import Trie
from llmrec.train.alignment.completions import PADDING, CompletionScorer, CompletionTrees

RNG = np.random.default_rng(0)
SIDS = np.array(sorted({tuple(row) for row in RNG.integers(0, CODES, (40, LEVELS)).tolist()}), np.int32)
TRIE = Trie.build(SIDS, [CODES] * LEVELS)
CATALOGUE = Catalogue(TRIE, torch.arange(TEXT, TEXT + LEVELS * CODES), [str(n) for n in range(len(SIDS))], {})
PATHS = CATALOGUE.tokens.tolist()


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return build(request.param)


def alone(model, prompt, completion):
    """Log-softmax of the logits before each token of one completion, [L, V]."""
    out = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    return out[len(prompt) - 1 : -1]


def legal_tokens(prefix, denied):
    paths = [path for item, path in enumerate(PATHS) if item not in denied]
    return sorted({path[len(prefix)] for path in paths if path[: len(prefix)] == prefix})


def test_a_tree_gives_every_completion_what_it_gets_alone(model):
    prompts = [[1, 2, 3, 4, 5], [7, 8]]
    groups = [[PATHS[0], PATHS[1], PATHS[0], PATHS[9]], [PATHS[20], PATHS[3]]]
    siblings = CompletionTrees.build(prompts, groups, 0)
    found = CompletionScorer("vocabulary", CATALOGUE).log_probs(model, siblings)
    flat = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
    for row, (prompt, one) in enumerate(flat):
        each = alone(model, prompt, one)
        expected = each[torch.arange(LEVELS), one]
        torch.testing.assert_close(found.tokens[row], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.entropy[row], -(each.exp() * each).sum(-1), atol=1e-5, rtol=0)
        assert found.is_greedy[row].tolist() == (each.argmax(-1) == torch.tensor(one)).tolist()


def test_what_completions_share_is_computed_once():
    siblings = CompletionTrees.build([[1, 2, 3]], [[PATHS[0], PATHS[0], PATHS[0]]], 0)
    real = siblings.attention_mask[0, 0].sum(1) > 1
    assert int(real.sum()) + 1 == 3 + LEVELS - 1
    assert len(siblings.positions.prompt_index) == LEVELS


def test_the_constrained_policy_renormalises_over_what_leads_to_an_allowed_item(model):
    prompts, denied = [[1, 2, 3], [5, 6, 7, 8]], [[0, 1, 2], []]
    groups = [[PATHS[5], PATHS[12]], [PATHS[0], PATHS[30]]]
    mask = build_item_mask(TRIE, None, denied)
    found = CompletionScorer("allowed", CATALOGUE).log_probs(
        model, CompletionTrees.build(prompts, groups, 0), mask
    )
    row = 0
    for prompt, group, hidden in zip(prompts, groups, denied, strict=True):
        for one in group:
            each = alone(model, prompt, one)
            for level, token in enumerate(one):
                legal = legal_tokens(one[:level], hidden)
                expected = each[level, token] - each[level, legal].logsumexp(0)
                torch.testing.assert_close(found.tokens[row, level], expected, atol=1e-5, rtol=0)
            row += 1


def test_probabilities_of_all_allowed_items_add_up_to_one(model):
    denied = list(range(0, 40, 3))
    allowed = [item for item in range(len(SIDS)) if item not in denied]
    siblings = CompletionTrees.build([[3, 1, 4]], [[PATHS[item] for item in allowed]], 0)
    found = CompletionScorer("allowed", CATALOGUE).log_probs(
        model, siblings, build_item_mask(TRIE, None, [denied])
    )
    torch.testing.assert_close(found.total.exp().sum(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_unrolled_completions():
    prompts, groups = [[1, 2, 3, 4], [9, 8, 7]], [[PATHS[0], PATHS[1], PATHS[0]], [PATHS[2], PATHS[33]]]
    weights = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.7])
    left, right = build("qwen3"), build("qwen3")
    found = CompletionScorer("vocabulary", CATALOGUE).log_probs(
        left, CompletionTrees.build(prompts, groups, 0)
    )
    (found.total * weights).sum().backward()
    flat = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
    for weight, (prompt, one) in zip(weights, flat, strict=True):
        (weight * alone(right, prompt, one)[torch.arange(LEVELS), one].sum()).backward()
    grads = [torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (left, right)]
    assert (grads[0] - grads[1]).norm() / grads[1].norm() < 1e-5


@given(st.data())
@settings(max_examples=25)
def test_completions_of_any_groups_and_lengths_are_scored_as_alone(data):
    model = build("qwen3")
    token = st.integers(1, TEXT - 1)
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=3))
    completion = st.lists(st.integers(TEXT, TEXT + 2), min_size=1, max_size=3)
    groups = [data.draw(st.lists(completion, min_size=1, max_size=4)) for _ in prompts]
    siblings = CompletionTrees.build(prompts, groups, 0)
    found = CompletionScorer("vocabulary", CATALOGUE).log_probs(model, siblings)
    row = 0
    for prompt, group in zip(prompts, groups, strict=True):
        for one in group:
            expected = alone(model, prompt, one)[torch.arange(len(one)), one]
            torch.testing.assert_close(found.tokens[row, : len(one)], expected, atol=1e-5, rtol=0)
            assert (siblings.tokens[row, len(one) :] == PADDING).all()
            assert not found.tokens[row, len(one) :].any() and not found.is_token[row, len(one) :].any()
            row += 1
