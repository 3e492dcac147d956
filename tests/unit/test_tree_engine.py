"""The tree engine against Hugging Face `generate`, and against scoring every item."""

import copy

import numpy as np
import pytest
import tiny_decoders
import torch
from catalogue_folder import sid_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import CODES, LEVELS, TEXT, same_lists
from transformers import DynamicCache, GenerationConfig

from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.trie import Trie
from llmrec.decode import batches, reference
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.custom_generate import tree_generate
from llmrec.decode.kv_cache import cache_argument
from llmrec.decode.scoring import Scoring
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError

WIDTH = 12
TOKENS = [TEXT + level * CODES + np.arange(CODES) for level in range(LEVELS)]
TOKEN_IDS = torch.from_numpy(np.concatenate(TOKENS))


@pytest.fixture(scope="module", params=tiny_decoders.KINDS)
def model(request):
    return tiny_decoders.build(request.param)


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(1)
    return np.unique(rng.integers(0, CODES, (90, LEVELS)), axis=0)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(0, TEXT, length).tolist() for length in (1, 4, 9, 9, 17, 30)]


def engine_of(model, catalogue, scoring=None):
    trie = Trie.build(catalogue, [CODES] * LEVELS)
    return TreeEngine(model, trie, TOKEN_IDS, scoring=scoring or Scoring())


def next_token_log_probs(model, prompt, rows):
    """Log-probabilities of all tokens at each step of items' tokens after a prompt, [items, L, V]."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + row for row in rows])).logits[:, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).numpy()


def item_tokens(catalogue):
    return [[int(TOKENS[level][code]) for level, code in enumerate(sid)] for sid in catalogue]


def every_score(model, catalogue, prompt):
    """Log-probability of each item after a prompt."""
    rows = item_tokens(catalogue)
    return np.take_along_axis(next_token_log_probs(model, prompt, rows), np.array(rows)[..., None], 2).sum(
        (1, 2)
    )


@pytest.mark.parametrize("hide", [False, True])
def test_lists_equal_generate(model, catalogue, prompts, hide):
    rng = np.random.default_rng(3)
    hidden = [rng.choice(len(catalogue), size, replace=False).tolist() for size in (0, 1, 5, 20, 40, 60)]
    engine = engine_of(model, catalogue)
    tree = engine.search(prompts, WIDTH, mask=build_item_mask(engine.trie, deny=hidden) if hide else None)
    oracle = reference.search(model, catalogue, TOKENS, prompts, WIDTH, hidden if hide else None)
    same_lists(tree, oracle, ties=True)
    if hide:
        assert all(not set(row) & set(seen) for row, seen in zip(tree.items.tolist(), hidden, strict=True))


def plain_beam_search(model, catalogue, prompt, open_items, width):
    """(item, score) of the best items by lists of prefixes, each scored by a forward pass of its own."""
    tokens = item_tokens(catalogue)
    beams = {(): 0.0}
    for depth in range(LEVELS):
        children = {}
        for prefix, score in beams.items():
            with torch.inference_mode():
                row = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1].log_softmax(-1)
            for item in open_items:
                if tuple(tokens[item][:depth]) == prefix:
                    children[*prefix, tokens[item][depth]] = score + float(row[tokens[item][depth]])
        beams = dict(sorted(children.items(), key=lambda child: -child[1])[:width])
    return [(tokens.index(list(prefix)), score) for prefix, score in beams.items()]


@settings(max_examples=15)
@given(
    sid_tables(LEVELS, CODES),
    st.lists(st.lists(st.integers(0, TEXT - 1), min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(1, 8),
    st.data(),
)
def test_any_catalogue_prompts_and_lists_give_a_plain_beam_search(model, sids, prompts, width, data):
    items = st.lists(st.integers(0, len(sids) - 1), unique=True)
    deny = data.draw(st.lists(items, min_size=len(prompts), max_size=len(prompts)))
    engine = engine_of(model, sids)
    top = engine.search(prompts, width, mask=build_item_mask(engine.trie, None, deny))
    shape = (len(prompts), top.items.shape[1])
    expected = TopK(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
    for user, prompt in enumerate(prompts):
        open_items = sorted(set(range(len(sids))) - set(deny[user]))
        for rank, (item, score) in enumerate(plain_beam_search(model, sids, prompt, open_items, width)):
            expected.items[user, rank], expected.scores[user, rank] = item, score
    same_lists(top, expected, ties=True)


def test_five_hundred_prompts_of_mixed_length_give_the_lists_of_generate(model, catalogue):
    rng = np.random.default_rng(7)
    prompts = [rng.integers(0, TEXT, rng.integers(1, 50)).tolist() for _ in range(500)]
    tree = batches.rank(engine_of(model, catalogue), prompts, WIDTH, WIDTH)
    same_lists(tree, reference.search(model, catalogue, TOKENS, prompts, WIDTH), ties=True)


def test_an_allow_list_is_a_smaller_catalogue(model, catalogue, prompts):
    rng = np.random.default_rng(4)
    allow = [rng.choice(len(catalogue), size, replace=False).tolist() for size in (1, 2, 5, 20, 40, 60)]
    engine = engine_of(model, catalogue)
    tree = engine.search(prompts, WIDTH, mask=build_item_mask(engine.trie, allow=allow))
    hidden = [sorted(set(range(len(catalogue))) - set(row)) for row in allow]
    same_lists(tree, reference.search(model, catalogue, TOKENS, prompts, WIDTH, hidden), ties=True)


def test_a_shared_beginning_of_prompts_changes_nothing(model, catalogue, prompts):
    together = [list(range(15)) + prompt for prompt in prompts]
    engine = engine_of(model, catalogue)
    alone = [engine.search([prompt], WIDTH) for prompt in together]
    np.testing.assert_allclose(
        engine.search(together, WIDTH).scores, np.concatenate([top.scores for top in alone]), atol=1e-5
    )


def test_a_beam_as_wide_as_the_catalogue_ranks_every_item(model, catalogue, prompts):
    top = engine_of(model, catalogue).search(prompts, len(catalogue))
    assert top.is_exact.all()
    for row, prompt in enumerate(prompts):
        scores = every_score(model, catalogue, prompt)
        np.testing.assert_allclose(top.scores[row], np.sort(scores)[::-1], atol=1e-4)
        np.testing.assert_allclose(scores[top.items[row]], top.scores[row], atol=1e-4)


@pytest.fixture(scope="module")
def sharp(model):
    """The same model, surer of its answers, so that narrow beams are certified too."""
    surer = copy.deepcopy(model)
    with torch.no_grad():
        surer.get_output_embeddings().weight.mul_(6)
    return surer


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_a_certified_list_is_the_true_one(model, sharp, catalogue, width):
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, TEXT, 5).tolist() for _ in range(40)]
    assert certified(model, catalogue, prompts, width, k=2).any() or width < 16
    exact = certified(sharp, catalogue, prompts, width, k=1)
    assert exact.any() and (width == 16 or not exact.all())


def certified(model, catalogue, prompts, width, k):
    """Which lists are certified, all of which are seen to be the true ones."""
    top = engine_of(model, catalogue).search(prompts, width, k=k)
    true = np.stack([np.sort(every_score(model, catalogue, prompt))[::-1][:k] for prompt in prompts])
    right = (np.abs(top.scores - true) < 1e-4).all(axis=1)
    assert right[top.is_exact].all()
    return top.is_exact


def test_lists_widen_until_all_are_exact(model, catalogue):
    rng = np.random.default_rng(6)
    prompts = [rng.integers(0, TEXT, rng.integers(1, 9)).tolist() for _ in range(30)]
    engine = engine_of(model, catalogue)
    narrow = batches.rank(engine, prompts, 5, 5)
    wide = batches.rank(engine, prompts, 5, 5, widest=len(catalogue))
    assert not narrow.is_exact.all() and wide.is_exact.all()
    for row, prompt in enumerate(prompts):
        scores = np.sort(every_score(model, catalogue, prompt))[::-1]
        np.testing.assert_allclose(wide.scores[row], scores[:5], atol=1e-4)


def test_small_batches_give_the_same_lists(model, catalogue, prompts):
    engine = engine_of(model, catalogue)
    masks = mask_factory(engine.trie, deny=[[row, row + 1] for row in range(len(prompts))])
    one = batches.rank(engine, prompts, 5, WIDTH, masks, memory_gb=1e-9)
    all_at_once = batches.rank(engine, prompts, 5, WIDTH, masks)
    same_lists(one, all_at_once, ties=True)


def test_a_temperature_a_level_and_the_constrained_policy(model, catalogue, prompts):
    prompt, temperature = prompts[3], (0.5, 1.0, 2.0)
    paths = [tuple(sid) for sid in catalogue.tolist()]
    expected = []
    for sid, logits in zip(paths, next_token_log_probs(model, prompt, item_tokens(catalogue)), strict=True):
        score = 0.0
        for level, code in enumerate(sid):
            codes = sorted({path[level] for path in paths if path[:level] == sid[:level]})
            scaled = logits[level, TOKENS[level][codes]] / temperature[level]
            score += scaled[codes.index(code)] - np.log(np.exp(scaled).sum())
        expected.append(score)
    scoring = Scoring(normalise="allowed", temperature=temperature)
    top = engine_of(model, catalogue, scoring).search([prompt], len(catalogue))
    np.testing.assert_allclose(np.array(expected)[top.items[0]], top.scores[0], atol=1e-4)
    assert np.exp(top.scores).sum() == pytest.approx(1, abs=1e-4)


def test_stochastic_beams_draw_different_items_under_one_seed_the_same(model, catalogue, prompts):
    engine = engine_of(model, catalogue, Scoring(normalise="allowed"))
    first, again, other = (
        engine.search(prompts, 8, noise=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert (first.items == again.items).all() and (first.items != other.items).any()
    assert all(len(set(row)) == 8 for row in first.items.tolist())
    for row, prompt in enumerate(prompts):
        everything = engine.search([prompt], len(catalogue))
        score = dict(zip(everything.items[0].tolist(), everything.scores[0].tolist(), strict=True))
        np.testing.assert_allclose([score[i] for i in first.items[row]], first.scores[row], atol=1e-4)


def test_an_overlay_is_searched_like_a_catalogue_built_anew(model, catalogue, prompts):
    new, old = catalogue[::9], np.delete(catalogue, np.s_[::9], axis=0)
    overlay = build_overlay(Trie.build(old, [CODES] * LEVELS), new, removed=[0, 3])
    top = TreeEngine(model, overlay, TOKEN_IDS).search(prompts, WIDTH)
    left = np.concatenate([np.delete(old, [0, 3], axis=0), new])
    order = np.lexsort(left.T[::-1])
    anew = engine_of(model, left[order]).search(prompts, WIDTH)
    every = np.concatenate([old, new])
    np.testing.assert_allclose(top.scores, anew.scores, atol=1e-5)
    assert (every[top.items] == left[order][anew.items]).all()


def test_as_custom_generate_it_returns_what_beam_search_returns(model, catalogue, prompts):
    engine = engine_of(model, catalogue)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        input_ids=ids,
        attention_mask=seen,
        num_beams=WIDTH,
        num_return_sequences=4,
        max_new_tokens=LEVELS,
        pad_token_id=0,
        return_dict_in_generate=True,
        custom_generate=tree_generate(engine.trie, TOKEN_IDS),
    )
    top = engine.search(prompts, WIDTH, k=4)
    sids = catalogue[top.items.reshape(-1)]
    answers = np.stack([TOKENS[level][sids[:, level]] for level in range(LEVELS)], axis=1)
    assert (out.sequences[:, longest:].numpy() == answers).all()
    assert (out.sequences[:, :longest] == ids.repeat_interleave(4, 0)).all()
    np.testing.assert_allclose(out.sequences_scores.numpy(), top.scores.reshape(-1))


def test_as_custom_generate_it_takes_prompts_without_a_mask(model, catalogue, prompts):
    engine = engine_of(model, catalogue)
    shortest = min(map(len, prompts))
    equal = [[0, *prompt[-shortest:]] for prompt in prompts]  # 0 is the pad, and here a token
    config = GenerationConfig(num_beams=WIDTH, num_return_sequences=4, pad_token_id=0)
    copies = torch.tensor(equal).repeat_interleave(WIDTH, 0)
    answers = tree_generate(engine.trie, TOKEN_IDS)(model, copies, config)
    top = engine.search(equal, WIDTH, k=4)
    sids = catalogue[top.items.reshape(-1)]
    tokens = np.stack([TOKENS[level][sids[:, level]] for level in range(LEVELS)], axis=1)
    assert (answers[:, shortest + 1 :].numpy() == tokens).all()


def test_the_cache_has_the_name_that_a_model_takes(model, recwarn):
    class Renamed(torch.nn.Module):
        def forward(self, input_ids, cache=None): ...

    class Former(torch.nn.Module):
        def forward(self, input_ids, past_key_values=None): ...

    assert cache_argument(Renamed(), "it") == {"cache": "it"}
    assert cache_argument(Former(), "it") == {"past_key_values": "it"}
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[5, 6]]), use_cache=True, **cache_argument(model, cache))
    assert cache.get_seq_length() == 2 and not [w for w in recwarn if "past_key_values" in str(w.message)]


def test_a_list_is_shorter_where_fewer_items_are_allowed(model, catalogue, prompts):
    engine = engine_of(model, catalogue)
    masks = mask_factory(engine.trie, deny=[list(range(len(catalogue) - 2))] * len(prompts))
    top = batches.rank(engine, prompts, WIDTH, WIDTH, masks)
    assert (np.sort(top.items[:, :2]) == [len(catalogue) - 2, len(catalogue) - 1]).all()
    assert (top.items[:, 2:] == -1).all() and np.isneginf(top.scores[:, 2:]).all()
    assert top.is_exact.all()


@pytest.mark.parametrize(
    ("prompts", "message"), [([[1], []], "empty"), ([[1] * 64], "longer than the model's context of 64")]
)
def test_wrong_prompts_are_refused(model, catalogue, prompts, message):
    with pytest.raises(UserError, match=message):
        engine_of(model, catalogue).search(prompts, WIDTH)


def test_batches_hold_like_lengths_and_every_prompt_once():
    lengths = [5, 100, 7, 90, 300, 6]
    groups = batches.group_by_length(lengths, lambda longest: 300 // longest)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert groups[0] == [4]
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 300


def test_a_model_in_16_bits_gives_whole_lists_without_repeats_and_proves_none(catalogue):
    """Scores then depend on what else is in a batch: a second search may find fewer items than the first."""
    model = tiny_decoders.build("qwen3").to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight *= 4  # a sharp head, whose scores move with rounding
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, TEXT, length).tolist() for length in rng.integers(2, 40, 48)]
    top = batches.rank(engine_of(model, catalogue), prompts, 10, 10, None, 60, 2e-3)
    assert top.is_exact is None and (top.items >= 0).all()
    assert all(len(set(row)) == 10 for row in top.items.tolist())
    assert (np.diff(top.scores, axis=1) <= 0).all()


def test_a_second_search_that_finds_fewer_items_leaves_the_first_list(model, catalogue, monkeypatch):
    engine = engine_of(model, catalogue)
    search, widths = TreeEngine.search, []

    def forgetful(self, prompts, width, *args):
        top = search(self, prompts, width, *args)
        widths.append(width)
        items, scores = top.items.copy(), top.scores.copy()
        if len(widths) > 1:  # as rounding does: the last item of the first user is lost
            items[0, -1], scores[0, -1] = -1, -np.inf
        return TopK(items, scores, np.zeros(len(items), bool))

    monkeypatch.setattr(TreeEngine, "search", forgetful)
    prompts = [[1, 2, 3], [4, 5]]
    top = batches.rank(engine, prompts, 5, 5, None, 60)
    assert widths == [5, 60]
    first, second = search(engine, prompts, 5, 5), search(engine, prompts, 60, 5)
    assert top.items[0].tolist() == first.items[0].tolist()
    assert top.items[1].tolist() == second.items[1].tolist()
