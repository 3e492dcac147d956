"""Metrics of answers against values worked out by hand, and what must hold of any answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from llmrec.metrics import rating, text
from llmrec.metrics.statistics import bootstrap_counts, bootstrap_means

words = st.lists(st.sampled_from(["a", "red", "nail", "polish", "很", "好", "."]), max_size=8).map(" ".join)
pairs = st.lists(st.tuples(words, words), min_size=1, max_size=6)


def test_bleu_of_a_sentence_by_hand():
    """Four of five words, three of four pairs, two of three triples, one of two quadruples; no brevity."""
    counts = text.bleu_counts(["the cat sat on it"], ["the cat sat on mats"])
    assert counts.tolist() == [[4, 3, 2, 1, 5, 4, 3, 2, 5, 5]]
    assert text.corpus_bleu(counts) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    short = text.bleu_counts(["the cat sat on"], ["the cat sat on it"])
    assert text.corpus_bleu(short) == pytest.approx(100 * math.exp(1 - 5 / 4))


@given(pairs, st.sampled_from(["en", "zh"]))
def test_bleu_equals_sacrebleus_corpus_score(rows, language):
    answers, references = zip(*rows, strict=True)
    counts = text.bleu_counts(answers, references, language)
    oracle = BLEU(tokenize="zh" if language == "zh" else "13a").corpus_score(
        list(answers), [list(references)]
    )
    assert text.corpus_bleu(counts) == pytest.approx(oracle.score)
    twice = np.full(len(rows), 2)
    doubled = BLEU(tokenize="zh" if language == "zh" else "13a").corpus_score(
        [*answers, *answers], [[*references, *references]]
    )
    assert text.corpus_bleu(counts, twice) == pytest.approx(doubled.score)


def test_rouge_of_a_sentence_by_hand():
    """Answer of 4 words, reference of 5: 3 words shared, 1 of 3 and 4 pairs, subsequence of 3."""
    (scores,) = text.rouge(["red nail big polish"], ["A red nail polish set"])
    f1 = 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)
    assert scores == pytest.approx([f1, 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4), f1])


def test_rouge_counts_chinese_characters():
    assert text.rouge(["很好"], ["很好"], "zh").tolist() == [[1, 1, 1]]
    assert text.rouge(["很坏"], ["很好"], "zh")[0, 0] == pytest.approx(0.5)


@given(pairs)
def test_text_metrics_are_bounded_and_symmetric_for_all_texts(rows):
    answers, references = zip(*rows, strict=True)
    for language in ("en", "zh"):
        scores = text.rouge(answers, references, language)
        assert ((scores >= 0) & (scores <= 1)).all()
        np.testing.assert_allclose(scores, text.rouge(references, answers, language))
    assert text.exact_match([f" {answer}\n" for answer in answers], answers).all()


def test_perplexity_of_equally_likely_tokens_is_their_number():
    log_probs = np.array([2 * math.log(1 / 8), 3 * math.log(1 / 8)])
    assert text.perplexity(log_probs, np.array([2, 3])) == pytest.approx(8)
    mixed = text.perplexity(np.array([math.log(1 / 2), math.log(1 / 32)]), np.array([1, 1]))
    assert mixed == pytest.approx(8)
    assert text.perplexity(np.array([-1.0, -9.0]), np.array([1, 1]), np.array([3, 0])) == pytest.approx(
        math.e
    )
    assert text.perplexity(np.array([-1e6]), np.array([1])) == math.inf


def test_perplexity_per_item_is_that_of_whole_answers():
    """Two answers of probability 1/4 and 1/16: as unsure as among 8 items, whatever their tokens."""
    log_probs = np.array([math.log(1 / 4), math.log(1 / 16)])
    assert text.perplexity(log_probs, np.ones(2, np.int64)) == pytest.approx(8)


def test_ndcg_of_ranked_answers_by_hand():
    assert text.ranked_ndcg([1, 3, None, 7]) == pytest.approx([1, 1 / 2, 0, 1 / 3])


def test_grounding_by_hand():
    scores = text.grounding([1, 4, 10, 11, None])
    assert scores.T.tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0.25, 0.1, 0, 0]]


@pytest.mark.parametrize(
    ("answer", "number"),
    [("4", 4), ("4.5 points", 4.5), ("I say -1", None), ("none", None), ("", None), ("99", None), (" 1", 1)],
)
def test_numbers_are_parsed_if_they_lie_on_the_scale(answer, number):
    assert rating.parse_number(answer, 0, 5) == number


def test_errors_by_hand():
    errors = np.array([1.0, -2.0, 0.0])
    assert rating.mae(errors) == 1
    assert rating.rmse(errors) == pytest.approx(math.sqrt(5 / 3))
    assert rating.mae(errors, np.array([2, 0, 2])) == 0.5
    assert rating.rmse(errors, np.array([2, 0, 2])) == pytest.approx(math.sqrt(1 / 2))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_auc_equals_counting_pairs(rows):
    scores, liked, weights = (np.array(column) for column in zip(*rows, strict=True))
    area = rating.auc(scores.astype(float), liked, weights)
    won = total = 0.0
    for score, weight in zip(scores[liked], weights[liked], strict=True):
        for other, other_weight in zip(scores[~liked], weights[~liked], strict=True):
            total += weight * other_weight
            won += weight * other_weight * (1 if score > other else 0.5 if score == other else 0)
    assert (area is None) == (total == 0)
    if area is not None:
        assert area == pytest.approx(won / total)


def test_an_expected_rating_is_normalised_over_the_scale():
    assert rating.expected(np.log([0.1, 0.3]), [1, 5]) == pytest.approx(4)
    assert rating.expected(np.array([-2000.0, -2000.0]), [1, 5]) == pytest.approx(3)


def test_bootstrap_counts_and_bootstrap_means_use_the_same_resamples():
    values = np.random.default_rng(0).random((7, 2))
    counts = np.stack(list(bootstrap_counts(7, 30, seed=4)))
    assert (counts.sum(axis=1) == 7).all()
    np.testing.assert_allclose(counts @ values / 7, bootstrap_means(values, 30, seed=4))


def test_every_measure_says_its_formula_and_source():
    measures = [*text.MEASURES, *rating.MEASURES]
    assert len({measure.name for measure in measures}) == len(measures)
    assert all(measure.title and measure.formula and measure.source for measure in measures)
