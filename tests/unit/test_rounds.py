"""The rounds against beam search written plainly, with answers from a made-up model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from catalogue_folder import answer, registered, sid_tables
from hypothesis import given
from hypothesis import strategies as st

from llmrec.catalogue.changes import Changes, write_changes
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.registry import find_catalogue, reload_catalogue
from llmrec.errors import UserError
from llmrec.vllm.rounds import BeamSearchRounds

VOCABULARY = 40


@pytest.fixture(autouse=True)
def no_catalogues(monkeypatch):
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")


def log_probs(tokens):
    """A model: next-token log-probabilities that depend on all tokens so far."""
    noise = np.random.default_rng(tokens).standard_normal(VOCABULARY)
    return torch.from_numpy(noise).log_softmax(0).float().numpy()


def following(request, item_tokens):
    """What an engine gives back for a token: the best legal ones, and some that are not legal."""
    names = [f"i{item}" for item in range(len(item_tokens))]
    allowed = request.extra_args.get("llmrec_allow", names)
    depth = request.extra_args["llmrec_depth"]
    prefix = request.tokens[len(request.tokens) - depth :]
    legal = {
        int(tokens[depth])
        for name, tokens in zip(names, item_tokens, strict=True)
        if name in allowed
        and name not in request.extra_args.get("llmrec_deny", [])
        and tokens[:depth].tolist() == prefix
    }
    assert legal, "a beam without an allowed item was kept"
    row = log_probs(request.tokens)
    best = sorted(legal, key=lambda token: -row[token])[: request.count]
    return {0: -np.inf} | {token: float(row[token]) for token in best}


def answered(request, item_tokens):
    return answer(request, lambda step: following(step, item_tokens))


def run(rounds, item_tokens):
    while requests := rounds.requests():
        rounds.update([answered(request, item_tokens) for request in requests])
    return rounds.top()


def plain_beam_search(prompt, item_tokens, open_items, width):
    """(item, score) of the best `width` items, by lists of Python tuples."""
    beams = plain_beams(prompt, item_tokens, open_items, width, item_tokens.shape[1])
    item_of = {tuple(tokens.tolist()): item for item, tokens in enumerate(item_tokens)}
    return [(item_of[prefix], score) for prefix, score in beams]


def plain_beams(prompt, item_tokens, open_items, width, depth):
    """(prefix, score) of the beams at a depth."""
    beams = [((), np.float32(0))]
    for level in range(depth):
        children = {
            (*prefix, int(item_tokens[item][level])): score
            for prefix, score in beams
            for item in open_items
            if tuple(item_tokens[item][:level].tolist()) == prefix
        }
        scored = [
            (child, score + log_probs([*prompt, *child[:-1]])[child[-1]]) for child, score in children.items()
        ]
        beams = sorted(scored, key=lambda beam: -beam[1])[:width]
    return beams


@given(sid_tables(), st.integers(1, 8), st.data())
def test_rounds_equal_a_plain_beam_search_under_any_lists(tmp_path_factory, sids, width, data):
    name, item_tokens = registered(tmp_path_factory.mktemp("catalogue"), sids)
    items = st.lists(st.integers(0, len(sids) - 1), unique=True)
    allow = data.draw(st.lists(st.none() | items, min_size=3, max_size=3))
    deny = data.draw(st.lists(items, min_size=3, max_size=3))
    prompts = [[1], [2, 3], [4, 5, 6]]
    top = run(
        BeamSearchRounds(name, prompts, width, build_item_mask(find_catalogue(name).trie, allow, deny)),
        item_tokens,
    )
    assert top.items.shape == top.scores.shape == (3, width)
    for user, prompt in enumerate(prompts):
        allowed = range(len(sids)) if allow[user] is None else allow[user]
        expected = plain_beam_search(prompt, item_tokens, set(allowed) - set(deny[user]), width)
        ranked = [
            (item, score) for item, score in zip(top.items[user], top.scores[user], strict=True) if item >= 0
        ]
        assert [item for item, _ in ranked] == [item for item, _ in expected]
        np.testing.assert_allclose([s for _, s in ranked], [s for _, s in expected], atol=1e-6)
        assert (top.scores[user][len(ranked) :] == -np.inf).all()


def test_a_request_below_the_root_lists_only_the_items_under_its_prefix(tmp_path):
    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    name, item_tokens = registered(tmp_path, sids)
    rounds = BeamSearchRounds(name, [[1]], 4, build_item_mask(find_catalogue(name).trie, None, [[0, 2]]))
    (root,) = rounds.requests()
    assert root.extra_args == {"llmrec_catalogue": name, "llmrec_depth": 0, "llmrec_deny": ["i0", "i2"]}
    response = answered(root, item_tokens)
    rounds.update([response])
    (other,) = rounds.requests()
    below = {
        tuple(tokens[:1].tolist()): item for item, tokens in zip(("i0", "i2"), item_tokens[::2], strict=True)
    }
    assert other.tokens[1:] != response.tokens[:1]
    assert other.extra_args["llmrec_deny"] == [below[tuple(other.tokens[1:])]]


@given(sid_tables(), st.integers(1, 8))
def test_each_step_of_a_beam_is_requested_or_prefetched_once(tmp_path_factory, sids, width):
    name, item_tokens = registered(tmp_path_factory.mktemp("catalogue"), sids)
    rounds, steps = BeamSearchRounds(name, [[7, 8]], width), set()
    while requests := rounds.requests():
        answers = [answered(request, item_tokens) for request in requests]
        for request, response in zip(requests, answers, strict=True):
            prefix = tuple(request.tokens[2:])
            new = {(*prefix, *response.tokens[:length]) for length in range(request.steps)}
            assert len(prefix) + request.steps == item_tokens.shape[1] and new.isdisjoint(steps)
            steps |= new
        rounds.update(answers)
    for depth in range(item_tokens.shape[1]):
        beams = plain_beams([7, 8], item_tokens, range(len(sids)), width, depth)
        assert {prefix for prefix, _ in beams} <= steps


def test_equal_scores_keep_the_order_of_beams_and_tokens(tmp_path):
    sids = np.array([[a, b] for a in range(3) for b in range(3)], np.int32)
    name, item_tokens = registered(tmp_path, sids)
    rounds = BeamSearchRounds(name, [[1]], 4)

    def equal(request):
        legal = {int(token) for token in item_tokens[:, request.extra_args["llmrec_depth"]]}
        return dict.fromkeys(sorted(legal), -1.0)

    while requests := rounds.requests():
        rounds.update([answer(request, equal) for request in requests])
    assert rounds.top().items.tolist() == [[0, 1, 2, 3]]


def test_a_user_without_allowed_items_needs_no_request(tmp_path):
    name, item_tokens = registered(tmp_path, np.array([[0], [1]], np.int32))
    rounds = BeamSearchRounds(
        name, [[1], [2]], 2, build_item_mask(find_catalogue(name).trie, None, [[0, 1], [0]])
    )
    assert [request.tokens for request in rounds.requests()] == [[2]]
    assert run(rounds, item_tokens).items.tolist() == [[-1, -1], [1, -1]]


def test_an_empty_prompt_and_an_unknown_catalogue_are_refused(tmp_path):
    name, _ = registered(tmp_path, np.array([[0]], np.int32))
    with pytest.raises(UserError, match="a prompt is empty"):
        BeamSearchRounds(name, [[1], []], 2)
    with pytest.raises(UserError, match="no catalogue named 'else'"):
        BeamSearchRounds("else", [[1]], 2)


@pytest.mark.parametrize("deny", [[], [2, 4]])
def test_a_changed_catalogue_is_searched_as_one_built_anew(tmp_path, deny):
    sids = np.array([[0, 0, 0], [0, 0, 1], [1, 2, 0], [2, 0, 0]], np.int32)
    added = {"n1": [0, 0, 2], "n0": [3, 3, 3], "n2": [1, 2, 3]}
    name, _ = registered(tmp_path, sids)
    table = pl.DataFrame(
        {"item_id": list(added), "sid": list(added.values()), "title": list(added)}
    ).with_columns(pl.col("sid").cast(pl.List(pl.Int32)), distance=pl.lit(0.0), percentile=pl.lit(0.0))
    write_changes(tmp_path, find_catalogue(name).items, Changes(table, ["i1"]))
    catalogue = reload_catalogue(name)
    tokens = catalogue.tokens.numpy()
    names = catalogue.items
    assert names == ["i0", "i1", "i2", "i3", "n1", "n2", "n0"]
    mask = build_item_mask(catalogue.trie, None, [deny])
    rounds = BeamSearchRounds(name, [[1, 2, 3]], 5, mask)
    numbered = [f"i{item}" for item in range(len(names))]
    places = dict(zip(names, numbered, strict=True))

    while requests := rounds.requests():
        asked = []
        for request in requests:
            denied = [places[item] for item in request.extra_args.get("llmrec_deny", [])] + ["i1"]
            asked.append(
                answered(replace(request, extra_args=request.extra_args | {"llmrec_deny": denied}), tokens)
            )
        rounds.update(asked)
    top = rounds.top()
    open_items = [item for item in range(len(names)) if item != 1 and item not in deny]
    expected = plain_beam_search([1, 2, 3], tokens, open_items, 5)
    assert [item for item in top.items[0].tolist() if item >= 0] == [item for item, _ in expected]
