"""Compute metrics of `tasks/answers.parquet` by the kind of answer, with intervals over users."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import layout
from llmrec.config import Recipe
from llmrec.evaluate.summary import rounded
from llmrec.files import read_json
from llmrec.metrics import rating, text
from llmrec.metrics.statistics import bootstrap_counts, percentile_interval

MEASURES = (*text.MEASURES, *text.GENERATED, *rating.MEASURES)
FORMULAS = {measure.name: measure.formula for measure in MEASURES} | {
    "unparsable": "share of answers that cannot be read as the kind that the question asks for: no number on the "
    "scale of the training ratings, none of the choices, no item's semantic ID, or an empty answer",
    "cut": "share of answers that had not ended at max_tokens",
}
SHOWN, LONGEST_SHOWN = 5, 300
"""Number of answers in the report per template, and most characters of each."""
_TITLES = {measure.name: measure.title for measure in MEASURES} | {
    "unparsable": "Unparsable",
    "cut": "Cut off",
}
Weights = NDArray[np.int64]
WeightedMetrics = dict[str, Callable[[Weights], float | None]]
"""Metric name → function of the rows' weights; it returns None when the weighted rows leave the metric undefined."""


@dataclass(frozen=True)
class _Rows:
    """Answers to the questions of one template.

    Attributes:
        about: the template's entry of `tasks/report.json`.
        frame: its rows of `tasks/answers.parquet`.
    """

    about: dict[str, Any]
    frame: pl.DataFrame

    def texts(self, column: str) -> list[str]:
        return self.frame[column].to_list()

    def numbers(self, column: str) -> NDArray[np.float64]:
        return self.frame[column].cast(pl.Float64).to_numpy()


def task_metrics(run: Path, recipe: Recipe) -> dict[str, Any]:
    """Compute the content of `eval/tasks.json`.

    Args:
        run: a run folder with a finished tasks stage.
        recipe: the recipe, for the settings of the bootstrap.
    """
    report, answers = read_json(run / layout.TASKS_REPORT), pl.read_parquet(run / layout.ANSWERS)
    metrics: dict[str, Any] = {
        "protocol": {
            "decoding": "greedy, unconstrained",
            "seed": recipe.seed,
            "bootstrap": recipe.eval.bootstrap,
            "confidence": recipe.eval.confidence,
            "off": report["off"],
            "formulas": FORMULAS,
        }
    }
    for about in report["asked"]:
        is_row = [pl.col(name) == about[name] for name in ("split", "task", "template")]
        tasks = metrics.setdefault(about["split"], {}).setdefault(about["task"], {})
        tasks[about["template"]] = _score(_Rows(about, answers.filter(*is_row)), recipe)
    return metrics


def answers_shown(run: Path) -> dict[str, Any] | None:
    """Collect the report's section on answers: metrics of each template and sample answers.

    Returns:
        `{"templates", "off", "measures"}`, for the page's template; None if the run has no task metrics.
    """
    if not (run / layout.TASK_METRICS).is_file():
        return None
    metrics, answers = read_json(run / layout.TASK_METRICS), pl.read_parquet(run / layout.ANSWERS)
    protocol = metrics.pop("protocol")
    templates = []
    for split, tasks in metrics.items():
        for task, values_of in tasks.items():
            for template, values in values_of.items():
                key = {"split": split, "task": task, "template": template}
                examples = _sample_answers(answers, key, protocol["seed"])
                templates.append(key | values | {"rows": _table_rows(values), "examples": examples})
    used = {name for entry in templates for name in entry}
    measures = [measure for measure in MEASURES if measure.name in used]
    return {"templates": templates, "off": protocol["off"], "measures": measures}


def _table_rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a template's table: title, value and interval of each metric."""
    return [
        {"title": _TITLES[name], "value": value, "ends": values["intervals"].get(name)}
        for name, value in values.items()
        if name in _TITLES
    ]


def _sample_answers(answers: pl.DataFrame, key: dict[str, str], seed: int) -> list[tuple[str, ...]]:
    """Draw up to `SHOWN` answers of a template, each with its reference, shortened."""
    rows = answers.filter(*(pl.col(name) == value for name, value in key.items()))
    sample = rows.sample(min(SHOWN, len(rows)), seed=seed).select("answer", "reference")
    return [tuple(value[:LONGEST_SHOWN] for value in row) for row in sample.iter_rows()]


def _score(rows: _Rows, recipe: Recipe) -> dict[str, Any]:
    """Metrics of one template's answers, then counts and intervals."""
    measures = answer_metrics(rows.about, rows.frame)
    settings, count = recipe.eval, len(rows.frame)
    unit_of_row, units = _units(rows.frame)
    weights = np.ones(count, np.int64)
    values = {name: _finite(measure(weights)) for name, measure in measures.items()}
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for counts in bootstrap_counts(units, settings.bootstrap, recipe.seed):
        for name, measure in measures.items():
            value = measure(counts[unit_of_row])
            if value is not None and math.isfinite(value):
                samples[name].append(value)
    columns = {name: np.array(numbers)[:, None] for name, numbers in samples.items() if numbers}
    ends = {name: percentile_interval(column, settings.confidence)[0] for name, column in columns.items()}
    about = {name: value for name, value in rows.about.items() if name not in ("split", "task", "template")}
    return (
        values
        | {"answers": count, "users": units if rows.frame["user_id"].null_count() == 0 else None}
        | about
        | {"intervals": {name: [rounded(low), rounded(high)] for name, (low, high) in ends.items()}}
    )


def answer_metrics(about: dict[str, Any], frame: pl.DataFrame) -> WeightedMetrics:
    """Return the metrics of a template's answers: those of their kind, and those of every kind.

    Args:
        about: an entry of `asked` in `tasks/report.json`.
        frame: its rows of `tasks/answers.parquet`.
    """
    rows = _Rows(about, frame)
    kind_metrics, unparsable = _KINDS[about["kind"]](rows)
    tokens = frame["tokens"].to_numpy()
    common: WeightedMetrics = {
        "perplexity": lambda weights: text.perplexity(rows.numbers("log_prob"), tokens, weights),
        "unparsable": partial(_mean, np.asarray(unparsable, np.float64)),
        "cut": partial(_mean, rows.numbers("cut")),
    }
    return kind_metrics | common


KindMetrics = tuple[WeightedMetrics, Sequence[bool]]
"""Metrics of a kind of answer, and for each answer whether it cannot be parsed."""


def _number(rows: _Rows) -> KindMetrics:
    options = [float(option) for option in rows.about["options"]]
    scale = (min(options), max(options)) if options else (-np.inf, np.inf)
    references = np.array([float(reference) for reference in rows.texts("reference")])
    numbers = [rating.parse_number(answer, *scale) for answer in rows.texts("answer")]
    is_parsed = np.array([number is not None for number in numbers])
    errors = np.array([np.nan if number is None else number for number in numbers]) - references
    measures: WeightedMetrics = {
        name: partial(_over_parsed, is_parsed, errors, measure)
        for name, measure in (("mae", rating.mae), ("rmse", rating.rmse))
    }
    if options and rows.frame["score"].null_count() == 0:
        scores = rows.numbers("score")
        expected_errors = scores - references
        is_liked = references >= rows.about["liked"]
        measures |= {
            "expected_mae": partial(rating.mae, expected_errors),
            "expected_rmse": partial(rating.rmse, expected_errors),
            "auc": partial(rating.auc, scores, is_liked),
        }
    return measures, (~is_parsed).tolist()


def _choice(rows: _Rows) -> KindMetrics:
    options = [_folded(option) for option in rows.about["options"]]
    answers = [_folded(answer) for answer in rows.texts("answer")]
    references = [_folded(reference) for reference in rows.texts("reference")]
    is_right = [answer == reference for answer, reference in zip(answers, references, strict=True)]
    measures: WeightedMetrics = {"accuracy": partial(_mean, np.array(is_right, np.float64))}
    if rows.frame["score"].null_count() == 0:
        is_first = np.array([reference == options[0] for reference in references])
        measures["auc"] = partial(rating.auc, rows.numbers("score"), is_first)
    return measures, [answer not in options for answer in answers]


def _sid(rows: _Rows) -> KindMetrics:
    are_legal = rows.frame["legal"].to_list()
    share: WeightedMetrics = {"legal": partial(_mean, np.array(are_legal, np.float64))}
    return _exact(rows) | share | _of_items(rows), [not is_legal for is_legal in are_legal]


def _title(rows: _Rows) -> KindMetrics:
    columns = text.grounding(rows.frame["rank"].to_list()).T
    names = [measure.name for measure in text.MEASURES if measure.name.startswith("grounding")]
    grounded: WeightedMetrics = {
        name: partial(_mean, column) for name, column in zip(names, columns, strict=True)
    }
    return _exact(rows) | grounded | _of_items(rows), _are_empty(rows)


def _text(rows: _Rows) -> KindMetrics:
    answers, references = rows.texts("answer"), rows.texts("reference")
    language = rows.about["language"]
    counts = text.bleu_counts(answers, references, language)
    columns = text.rouge(answers, references, language).T
    overlap: WeightedMetrics = {
        name: partial(_mean, column) for name, column in zip(text.ROUGE, columns, strict=True)
    }
    return {"bleu": partial(text.corpus_bleu, counts)} | overlap | _exact(rows), _are_empty(rows)


_KINDS: dict[str, Callable[[_Rows], KindMetrics]] = {
    "number": _number,
    "choice": _choice,
    "sid": _sid,
    "title": _title,
    "text": _text,
}


def _of_items(rows: _Rows) -> WeightedMetrics:
    """Return the metrics of answers that are an item: perplexity per item, and figures of the ranked answers."""
    items = np.ones(len(rows.frame), np.int64)
    measures: WeightedMetrics = {
        "item_perplexity": lambda weights: text.perplexity(rows.numbers("log_prob"), items, weights)
    }
    columns = {
        "generated_ndcg": text.ranked_ndcg(rows.frame["generated_rank"].to_list()),
        "grounded_ndcg": text.ranked_ndcg(rows.frame["legal_rank"].to_list()),
        "generated_legal": rows.numbers("generated_legal"),
    }
    return measures | {name: partial(_mean, column) for name, column in columns.items()}


def _exact(rows: _Rows) -> WeightedMetrics:
    return {"exact": partial(_mean, text.exact_match(rows.texts("answer"), rows.texts("reference")))}


def _are_empty(rows: _Rows) -> list[bool]:
    return [not answer.strip() for answer in rows.texts("answer")]


def _folded(answer: str) -> str:
    """Normalise a choice for comparison: `Yes.` becomes `yes`."""
    return answer.strip().rstrip(".!。").casefold()


def _mean(values: NDArray[np.float64], weights: Weights) -> float:
    return float(np.average(values, weights=weights))


def _over_parsed(
    is_parsed: NDArray[np.bool_],
    errors: NDArray[np.float64],
    measure: Callable[[NDArray[np.float64], Weights], float],
    weights: Weights,
) -> float | None:
    """Apply a measure to the answers that can be parsed; None if all of them have weight 0."""
    counted = weights[is_parsed]
    return measure(errors[is_parsed], counted) if counted.any() else None


def _units(frame: pl.DataFrame) -> tuple[NDArray[np.int64], int]:
    """Return the bootstrap unit of each row, int64 `[rows]`, and the number of units.

    A unit is a user or, for questions about items alone, an item.
    """
    names = frame["user_id"].fill_null(frame["item_id"])
    numbers = names.rank("dense").cast(pl.Int64).to_numpy() - 1
    return numbers, int(numbers.max()) + 1


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else rounded(value)
