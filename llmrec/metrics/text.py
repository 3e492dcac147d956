"""Metrics of generated text against references, computed by the libraries that define the published figures.

Every metric is a function of rows and their weights. A bootstrap over users therefore only changes the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUGE = ("rouge1", "rouge2", "rougeL")
DEPTH = 10
"""Number of nearest titles among which the reference title is searched."""


@dataclass(frozen=True)
class AnswerMeasure:
    """One measure of answers.

    Attributes:
        name: its key in `eval/tasks.json`.
        title: its name in prose.
        formula: plain text.
        source: the publication that introduced it, and the library that computes it.
    """

    name: str
    title: str
    formula: str
    source: str


MEASURES = (
    AnswerMeasure(
        "perplexity",
        "Perplexity",
        "PPL = exp(− Σ log p(token | question, answer so far) / tokens), over all tokens of the reference answers, "
        "their end token included where the template trains one",
        "Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977",
    ),
    AnswerMeasure(
        "item_perplexity",
        "Perplexity per item",
        "exp(− Σ log p(whole reference answer | question) / answers): the number of equally likely items among which "
        "the model is as unsure; it compares models whose items have different numbers of tokens",
        "Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977",
    ),
    AnswerMeasure(
        "bleu",
        "BLEU",
        "BLEU = 100 · min(1, exp(1 − reference words / answer words)) · (p1 p2 p3 p4)^(1/4), p_n the share of the "
        "answers' n-grams that their references have, over the whole corpus, exponentially smoothed",
        "Papineni et al., BLEU, ACL 2002; Post, A call for clarity in reporting BLEU scores, 2018 (sacrebleu; "
        "words by 13a, or zh for Chinese wordings)",
    ),
    *(
        AnswerMeasure(
            f"rouge{n}",
            f"ROUGE-{n}",
            f"F1 of {what} of answer and reference, mean over answers",
            "Lin, ROUGE: a package for automatic evaluation of summaries, 2004 (rouge-score; words in lower case, "
            "not stemmed)",
        )
        for n, what in (
            ("1", "the words"),
            ("2", "the pairs of words"),
            ("L", "the longest common subsequence"),
        )
    ),
    AnswerMeasure(
        "exact",
        "Exact match",
        "share of answers that are their reference, but for space around them",
        "Rajpurkar et al., SQuAD, EMNLP 2016",
    ),
    AnswerMeasure(
        "legal",
        "Legal IDs",
        "share of answers, generated without constraint, that are some item's semantic ID",
        "Rajput et al., Recommender systems with generative retrieval (TIGER), 2023 (invalid IDs)",
    ),
    *(
        AnswerMeasure(
            f"grounding_{name}",
            f"Grounding {title}",
            f"{formula}, rank of the reference title among the catalogue's, nearest first, by Euclidean distance "
            "of the last token's hidden state",
            "Bao et al., A bi-step grounding paradigm for large language models in recommendation systems "
            "(BIGRec), 2023; popularity is not mixed in",
        )
        for name, title, formula in (
            ("accuracy@1", "accuracy", "1 if rank = 1, else 0"),
            (f"hr@{DEPTH}", f"HR@{DEPTH}", f"1 if rank ≤ {DEPTH}, else 0"),
            (f"mrr@{DEPTH}", f"MRR@{DEPTH}", f"1 / rank if rank ≤ {DEPTH}, else 0"),
        )
    ),
)


_RANKED = "the answers, most probable first, that beam search generates without constraint"
GENERATED = (
    AnswerMeasure(
        "generated_ndcg",
        "NDCG of generated answers",
        f"1 / log2(rank + 1) if the target is one of {_RANKED}, else 0; an answer that is no item keeps its rank, "
        "and is a miss",
        "Järvelin & Kekäläinen 2002, on the output of an unconstrained generator",
    ),
    AnswerMeasure(
        "grounded_ndcg",
        "NDCG of grounded answers",
        "the same after the answers that are no item, and repeats, have been left out and the others have moved up: "
        "what NDCG would be if the answers were held to the catalogue afterwards",
        "Järvelin & Kekäläinen 2002, on the items of an unconstrained generator",
    ),
    AnswerMeasure(
        "generated_legal",
        "Legal answers",
        f"share of {_RANKED} that are an item: its semantic ID, or its title to the letter",
        "Rajput et al., Recommender systems with generative retrieval (TIGER), 2023 (invalid IDs)",
    ),
)


class _Tokenizer(Protocol):
    def tokenize(self, text: str) -> list[str]: ...


class _ChineseWords:
    """Tokenizer of Chinese for ROUGE: that of BLEU's `zh`, because rouge-score's drops all that is not ASCII."""

    def __init__(self) -> None:
        from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

        tokenizer: Callable[[str], str] = TokenizerZh()
        self._separate_words = tokenizer

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text, in lower case; every Chinese character is one word."""
        return self._separate_words(text.lower()).split()


@cache
def _bleu(language: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="zh" if language == "zh" else "13a", effective_order=True)


@cache
def _rouge(language: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    words: _Tokenizer = _ChineseWords() if language == "zh" else DefaultTokenizer(use_stemmer=False)
    return RougeScorer(list(ROUGE), tokenizer=words)


def bleu_counts(answers: Sequence[str], references: Sequence[str], language: str = "en") -> NDArray[np.int64]:
    """Count the n-grams and words of each answer, which corpus BLEU sums over answers.

    Args:
        answers: generated texts.
        references: one reference for each answer.
        language: `zh` splits Chinese text into characters.

    Returns:
        int64 `[answers, 10]`: matching n-grams and n-grams for n = 1 … 4, words of the answer, of the reference.
    """
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        score = _bleu(language).sentence_score(answer, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.int64).reshape(-1, 10)


def corpus_bleu(counts: NDArray[np.int64], weights: NDArray[np.integer] | None = None) -> float:
    """Corpus BLEU, 0 … 100 (Papineni et al. 2002), equal to sacrebleu's `corpus_score`.

    Args:
        counts: from `bleu_counts`.
        weights: whole numbers `[answers]`, how often each answer counts; None counts each once.
    """
    from sacrebleu.metrics import BLEU

    total = (counts.sum(axis=0) if weights is None else weights @ counts).tolist()
    score = BLEU.compute_bleu(total[:4], total[4:8], total[8], total[9], smooth_method="exp")
    return float(score.score)


def rouge(answers: Sequence[str], references: Sequence[str], language: str = "en") -> Floats:
    """ROUGE-1, ROUGE-2 and ROUGE-L (F1, 0 … 1; Lin 2004) of each answer, by rouge-score.

    Returns:
        float64 `[answers, 3]`, in the order of `ROUGE`.
    """
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        scores = _rouge(language).score(reference, answer)
        rows.append([scores[name].fmeasure for name in ROUGE])
    return np.array(rows, np.float64).reshape(-1, len(ROUGE))


def perplexity(log_probs: Floats, tokens: NDArray[np.integer], weights: NDArray[Any] | None = None) -> float:
    """Perplexity per token of answers: exp(− Σ log-probabilities / Σ tokens) (Jelinek et al. 1977).

    Args:
        log_probs: `[answers]`, the sum over each reference answer's tokens, natural logarithm.
        tokens: `[answers]`, the number of these tokens.
        weights: `[answers]`, how often each answer counts; None counts each once.

    Returns:
        At least 1; infinity if the value exceeds the range of a float.
    """
    loss = -np.average(log_probs, weights=weights) / np.average(tokens, weights=weights)
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Floats:
    """Exact match of each answer, float64 `[answers]`: 1 if it equals its reference up to outer spaces, else 0."""
    pairs = zip(answers, references, strict=True)
    return np.array([answer.strip() == reference.strip() for answer, reference in pairs], np.float64)


def grounding(ranks: Sequence[int | None]) -> Floats:
    """Grounding accuracy, HR and MRR of each answer (Bao et al. 2023).

    Args:
        ranks: position, from 1, of the reference title among the titles nearest to the answer; None if it is not
            among the first `DEPTH`.

    Returns:
        float64 `[answers, 3]`: accuracy@1, HR@10, MRR@10.
    """
    places = np.array([math.inf if rank is None or rank > DEPTH else rank for rank in ranks], np.float64)
    return np.stack([places == 1, np.isfinite(places), 1 / places], axis=1).astype(np.float64)


def ranked_ndcg(ranks: Sequence[int | None]) -> Floats:
    """NDCG of each question with one right answer (Järvelin & Kekäläinen 2002).

    Args:
        ranks: position, from 1, of the right answer among the ranked ones; None if it is not among them.

    Returns:
        float64 `[questions]`: 1 / log2(rank + 1), or 0.
    """
    places = np.array([math.inf if rank is None else rank for rank in ranks], np.float64)
    return np.asarray(1 / np.log2(places + 1), np.float64)
