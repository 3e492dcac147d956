"""The tree engine against Hugging Face `generate`, and against scoring every item."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmrec.decode import generate, tree_engine
from llmrec.decode.trie import Trie
from llmrec.errors import UserError

CODES, LEVELS, WIDTH, TEXT = 6, 3, 12, 20
TOKENS = [TEXT + level * CODES + np.arange(CODES) for level in range(LEVELS)]
SHAPE = {
    "vocab_size": TEXT + LEVELS * CODES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request):
    torch.manual_seed(0)
    kind, config = (
        (Qwen3ForCausalLM, Qwen3Config) if request.param == "qwen3" else (LlamaForCausalLM, LlamaConfig)
    )
    return kind(config(**SHAPE)).eval()


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(1)
    return np.unique(rng.integers(0, CODES, (90, LEVELS)), axis=0)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(0, TEXT, length).tolist() for length in (1, 4, 9, 9, 17, 30)]


def every_score(model, catalogue, prompt):
    """Log-probability of each item after a prompt, scored one by one."""
    tokens = np.stack([TOKENS[level][catalogue[:, level]] for level in range(LEVELS)], axis=1)
    rows = torch.tensor([prompt + row for row in tokens.tolist()])
    with torch.inference_mode():
        log_probs = model(rows).logits.log_softmax(-1)
    start = len(prompt) - 1
    return log_probs[:, start:-1].gather(-1, rows[:, start + 1 :, None]).squeeze(-1).sum(-1).numpy()


def same_lists(left, right):
    """Equal items in equal order, but for neighbours whose scores are closer than float32 can tell."""
    assert (np.isfinite(left.scores) == np.isfinite(right.scores)).all()
    alive = np.isfinite(left.scores)
    np.testing.assert_allclose(left.scores[alive], right.scores[alive], atol=1e-4)
    for row, position in zip(*np.nonzero(left.items != right.items), strict=True):
        gap = np.abs(left.scores[row] - left.scores[row, position])
        assert np.partition(gap, 1)[1] < 1e-5


@pytest.mark.parametrize("mask", [False, True])
def test_lists_equal_generate(model, catalogue, prompts, mask):
    rng = np.random.default_rng(3)
    masked = [rng.choice(len(catalogue), size, replace=False).tolist() for size in (0, 1, 5, 20, 40, 60)]
    hidden = masked if mask else None
    tree = tree_engine.search(model, Trie(catalogue, TOKENS), prompts, WIDTH, hidden)
    oracle = generate.search(model, catalogue, TOKENS, prompts, WIDTH, hidden)
    same_lists(tree, oracle)
    if mask:
        assert all(not set(row) & set(seen) for row, seen in zip(tree.items.tolist(), masked, strict=True))


def test_a_beam_as_wide_as_the_catalogue_ranks_every_item(model, catalogue, prompts):
    tree = tree_engine.search(model, Trie(catalogue, TOKENS), prompts, len(catalogue))
    for row, prompt in enumerate(prompts):
        scores = every_score(model, catalogue, prompt)
        np.testing.assert_allclose(tree.scores[row], np.sort(scores)[::-1], atol=1e-4)
        np.testing.assert_allclose(scores[tree.items[row]], tree.scores[row], atol=1e-4)


def test_a_list_is_shorter_where_fewer_items_are_allowed(model, catalogue, prompts):
    masked = [list(range(len(catalogue) - 2))] * len(prompts)
    top = tree_engine.search(model, Trie(catalogue, TOKENS), prompts, WIDTH, masked)
    assert (np.sort(top.items[:, :2]) == [len(catalogue) - 2, len(catalogue) - 1]).all()
    assert (top.items[:, 2:] == -1).all() and np.isneginf(top.scores[:, 2:]).all()


def test_an_empty_prompt_is_refused(model, catalogue):
    with pytest.raises(UserError, match="empty"):
        tree_engine.search(model, Trie(catalogue, TOKENS), [[1], []], WIDTH)


def test_batches_hold_like_lengths_and_every_prompt_once():
    lengths = [5, 100, 7, 90, 300, 6]
    groups = tree_engine.batches(lengths, width=10, levels=4, batch_tokens=300)
    assert sorted(i for group in groups for i in group) == list(range(6))
    for group in groups:
        assert len(group) == 1 or len(group) * (max(lengths[i] for i in group) + 30) <= 300
