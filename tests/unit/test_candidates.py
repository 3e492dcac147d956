"""Candidates scored as one tree, against scoring them one by one."""

import numpy as np
import pytest
import tiny_decoders
import torch
from tiny_decoders import CODES, LEVELS, TEXT

from llmrec.decode.score_candidates import score
from llmrec.errors import UserError


@pytest.fixture(scope="module", params=tiny_decoders.KINDS)
def model(request):
    return tiny_decoders.build(request.param)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(1)
    return [rng.integers(0, TEXT, length).tolist() for length in (9, 1, 30, 4, 17)]


@pytest.fixture(scope="module")
def candidates():
    """SIDs in no order, with repeats; one user has none, one a single one, one SIDs of one level."""
    rng = np.random.default_rng(2)
    offsets = TEXT + CODES * np.arange(LEVELS)
    lists = [rng.integers(0, CODES, (count, LEVELS)) + offsets for count in (40, 1, 7, 0, 12)]
    return [*lists[:4], lists[4][:, :1]]


def one_by_one(model, prompt, rows):
    """Each candidate in a forward of its own."""
    scores = []
    for row in rows.tolist():
        with torch.inference_mode():
            log_probs = model(torch.tensor([prompt + row])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(row) - 1)
        scores.append(sum(log_probs[i, token].item() for i, token in zip(places, row, strict=True)))
    return scores


@pytest.mark.parametrize("batch_tokens", [8192, 70, 1])
def test_scores_equal_those_of_single_candidates(model, prompts, candidates, batch_tokens):
    scores = score(model, prompts, candidates, batch_tokens)
    for prompt, rows, user_scores in zip(prompts, candidates, scores, strict=True):
        assert user_scores.dtype == np.float32 and user_scores.shape == (len(rows),)
        np.testing.assert_allclose(user_scores, one_by_one(model, prompt, rows), atol=1e-4)


def test_a_repeated_candidate_has_one_score(model, prompts, candidates):
    rows = candidates[0]
    twice = score(model, prompts[:1], [np.concatenate([rows, rows[::-1]])])[0]
    assert (twice[: len(rows)] == twice[len(rows) :][::-1]).all()


def test_the_head_is_computed_only_at_the_prompts_end_and_each_shared_prefix(model, prompts, candidates):
    passed = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
    score(model, prompts, candidates)
    hook.remove()
    prefixes = [
        {tuple(row[:level]) for row in rows.tolist() for level in range(len(row))} for rows in candidates
    ]
    assert sum(passed) == sum(map(len, prefixes))


def test_no_batch_is_larger_than_allowed(model, prompts, candidates):
    shapes = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    score(model, prompts, candidates, batch_tokens=70)
    hook.remove()
    assert len(shapes) > 1 and max(users * width for users, width in shapes) <= 70


def test_no_candidates_give_no_scores(model):
    assert score(model, [], []) == []
    assert [
        user_scores.tolist() for user_scores in score(model, [[1], [2]], [[], np.zeros((0, 3), int)])
    ] == [[], []]


@pytest.mark.parametrize(
    ("prompts", "candidates", "message"),
    [
        ([[1], []], [[[20, 26, 32]]] * 2, "prompt is empty"),
        ([[1]], [[[20, 26, 32]]] * 2, "1 prompts but 2 lists"),
        ([[1]], [[20, 26, 32]], "prompt 0 have shape"),
        ([[1]], [[[20.0, 26.0]]], "prompt 0 have shape"),
        ([[1]], [[[20, 26, 99]]], "outside the vocabulary of 38"),
        ([[1]], [[[20, -1, 32]]], "outside the vocabulary of 38"),
    ],
)
def test_wrong_requests_are_refused(model, prompts, candidates, message):
    with pytest.raises(UserError, match=message):
        score(model, prompts, [np.array(rows) for rows in candidates])
