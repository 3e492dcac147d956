"""Metrics of answers that are numbers or one of two choices: errors, and how well scores separate liked items."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.metrics.text import AnswerMeasure

Floats = NDArray[np.float64]
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")

MEASURES = (
    AnswerMeasure(
        "mae",
        "Mean absolute error",
        "MAE = Σ |answer − rating| / answers, over the answers that are a number on the scale",
        "Herlocker et al., Evaluating collaborative filtering recommender systems, 2004, section 4.1",
    ),
    AnswerMeasure(
        "rmse",
        "Root mean squared error",
        "RMSE = √(Σ (answer − rating)² / answers), over the same answers",
        "Bennett & Lanning, The Netflix Prize, KDD Cup 2007",
    ),
    *(
        AnswerMeasure(
            f"expected_{name}",
            f"{name.upper()} of the expected rating",
            "the same with Σ value · p(value) for the answer, over all rows: p is the model's probability of each "
            "value of the training ratings as an answer, end token included, normalised over these values",
            "Liu et al., G-Eval, EMNLP 2023 (scores weighted by their probabilities)",
        )
        for name in ("mae", "rmse")
    ),
    AnswerMeasure(
        "auc",
        "Area under the ROC curve",
        "share of pairs (liked, not liked) in which the liked one has the higher score, equal ones half; the score "
        "is the expected rating or, of a yes-or-no answer, log p(yes) − log p(no)",
        "Hanley & McNeil, The meaning and use of the area under a ROC curve, Radiology 1982 (scikit-learn)",
    ),
    AnswerMeasure(
        "accuracy",
        "Accuracy",
        "share of answers that are the right one of the possible ones; an unparsable answer is a wrong one",
        "Geng et al., Recommendation as language processing (P5), 2022",
    ),
)


def parse_number(answer: str, low: float = -np.inf, high: float = np.inf) -> float | None:
    """Read the first number of an answer; None if there is no number, or if it is outside the scale.

    Args:
        answer: the answer, such as `4`, `4.0` or `4 points`.
        low: least value of the scale.
        high: greatest value of the scale.
    """
    match = _NUMBER.search(answer)
    value = float(match[0]) if match else np.nan
    return value if low <= value <= high else None


def mae(errors: Floats, weights: NDArray[np.integer] | None = None) -> float:
    """Mean absolute error of `errors` `[answers]` (Herlocker et al. 2004); each answer counts `weights` times."""
    return float(np.average(np.abs(errors), weights=weights))


def rmse(errors: Floats, weights: NDArray[np.integer] | None = None) -> float:
    """Root mean squared error of `errors` `[answers]` (Netflix Prize); each answer counts `weights` times."""
    return float(np.sqrt(np.average(np.square(errors), weights=weights)))


def auc(scores: Floats, liked: NDArray[np.bool_], weights: NDArray[np.integer] | None = None) -> float | None:
    """Area under the ROC curve (Hanley & McNeil 1982), by scikit-learn; equal scores count half.

    Args:
        scores: `[answers]`; a higher score predicts that the user liked the item.
        liked: `[answers]`, whether the user did.
        weights: `[answers]`, how often each answer counts; None counts each once.

    Returns:
        The area; None if all counted answers are liked, or none is.
    """
    from sklearn.metrics import roc_auc_score

    counted = liked if weights is None else liked[weights > 0]
    if not counted.any() or counted.all():
        return None
    return float(roc_auc_score(liked, scores, sample_weight=weights))


def expected(log_probs: NDArray[np.floating], values: Sequence[float]) -> float:
    """Expected value under log-probabilities `[values]`, normalised over the values (Liu et al. 2023)."""
    shares = np.exp(np.asarray(log_probs, np.float64) - np.max(log_probs))
    return float(shares @ np.asarray(values, np.float64) / shares.sum())
