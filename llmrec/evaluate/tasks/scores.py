"""Answers to figures: `tasks/answers.parquet` scored by the kind of answer, with intervals over users."""

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

FORMULAS = {measure.name: measure.formula for measure in (*text.MEASURES, *rating.MEASURES)} | {
    "unparsable": "share of answers that cannot be read as what was asked for: no number on the scale of the "
    "training ratings, none of the choices, no item's semantic ID, nothing at all",
    "cut": "share of answers that had not ended at max_tokens",
}
SHOWN, LONGEST_SHOWN = 5, 300
_TITLES = {measure.name: measure.title for measure in (*text.MEASURES, *rating.MEASURES)} | {
    "unparsable": "Unparsable",
    "cut": "Cut off",
}
Weights = NDArray[np.int64]
WeightedMetrics = dict[str, Callable[[Weights], float | None]]
"""Metric → its value, given how often each row counts; None where the rows do not define it."""


@dataclass(frozen=True)
class _Rows:
    """Answers to one template.

    Attributes:
        about: what was asked, from `tasks/report.json`.
        frame: its rows of `tasks/answers.parquet`.
    """

    about: dict[str, Any]
    frame: pl.DataFrame

    def texts(self, column: str) -> list[str]:
        return self.frame[column].to_list()

    def numbers(self, column: str) -> NDArray[np.float64]:
        return self.frame[column].cast(pl.Float64).to_numpy()


def task_metrics(run: Path, recipe: Recipe) -> dict[str, Any]:
    """The content of `eval/tasks.json`.

    Args:
        run: a run folder with a finished tasks stage.
        recipe: gives the bootstrap's settings.
    """
    report, answers = read_json(run / layout.TASKS_REPORT), pl.read_parquet(run / layout.ANSWERS)
    found: dict[str, Any] = {
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
        mine = [pl.col(name) == about[name] for name in ("split", "task", "template")]
        tasks = found.setdefault(about["split"], {}).setdefault(about["task"], {})
        tasks[about["template"]] = _score(_Rows(about, answers.filter(*mine)), recipe)
    return found


def answers_shown(run: Path) -> dict[str, Any] | None:
    """The report's page on answers: figures of each template and some answers; None where nothing was asked."""
    if not (run / layout.TASK_METRICS).is_file():
        return None
    metrics, answers = read_json(run / layout.TASK_METRICS), pl.read_parquet(run / layout.ANSWERS)
    protocol = metrics.pop("protocol")
    asked = []
    for split, tasks in metrics.items():
        for task, template, values in (
            (t, name, one) for t, own in tasks.items() for name, one in own.items()
        ):
            key = {"split": split, "task": task, "template": template}
            mine = answers.filter(*(pl.col(name) == value for name, value in key.items()))
            drawn = mine.sample(min(SHOWN, len(mine)), seed=protocol["seed"]).select("answer", "reference")
            rows = [
                {"title": _TITLES[name], "value": value, "ends": values["intervals"].get(name)}
                for name, value in values.items()
                if name in _TITLES
            ]
            cut = [tuple(said[:LONGEST_SHOWN] for said in row) for row in drawn.iter_rows()]
            asked.append(key | values | {"rows": rows, "examples": cut})
    used = {name for one in asked for name in one}
    measures = [m for m in (*text.MEASURES, *rating.MEASURES) if m.name in used]
    return {"asked": asked, "off": protocol["off"], "measures": measures}


def _score(rows: _Rows, recipe: Recipe) -> dict[str, Any]:
    """Metrics of one template's answers, then counts and intervals."""
    measures = answer_metrics(rows.about, rows.frame)
    own, count = recipe.eval, len(rows.frame)
    unit, units = _units(rows.frame)
    everything = np.ones(count, np.int64)
    values = {name: _finite(measure(everything)) for name, measure in measures.items()}
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for counts in bootstrap_counts(units, own.bootstrap, recipe.seed):
        for name, measure in measures.items():
            value = measure(counts[unit])
            if value is not None and math.isfinite(value):
                samples[name].append(value)
    kept = {name: np.array(drawn)[:, None] for name, drawn in samples.items() if drawn}
    ends = {name: percentile_interval(means, own.confidence)[0] for name, means in kept.items()}
    about = {name: value for name, value in rows.about.items() if name not in ("split", "task", "template")}
    return (
        values
        | {"answers": count, "users": units if rows.frame["user_id"].null_count() == 0 else None}
        | about
        | {"intervals": {name: [rounded(low), rounded(high)] for name, (low, high) in ends.items()}}
    )


def answer_metrics(about: dict[str, Any], frame: pl.DataFrame) -> WeightedMetrics:
    """The metrics of answers, by their kind.

    Args:
        about: an entry of `asked` in `tasks/report.json`.
        frame: its rows of `tasks/answers.parquet`.
    """
    rows = _Rows(about, frame)
    own, unparsable = _KINDS[about["kind"]](rows)
    tokens = frame["tokens"].to_numpy()
    always: WeightedMetrics = {
        "perplexity": lambda weights: text.perplexity(rows.numbers("log_prob"), tokens, weights),
        "unparsable": partial(_mean, np.asarray(unparsable, np.float64)),
        "cut": partial(_mean, rows.numbers("cut")),
    }
    return own | always


KindMetrics = tuple[WeightedMetrics, Sequence[bool]]
"""Metrics of a kind, and which answers cannot be read."""


def _number(rows: _Rows) -> KindMetrics:
    options = [float(option) for option in rows.about["options"]]
    scale = (min(options), max(options)) if options else (-np.inf, np.inf)
    right = np.array([float(reference) for reference in rows.texts("reference")])
    said = [rating.parse_number(answer, *scale) for answer in rows.texts("answer")]
    known = np.array([value is not None for value in said])
    errors = np.array([np.nan if value is None else value for value in said]) - right
    measures: WeightedMetrics = {
        name: partial(_over, known, errors, measure)
        for name, measure in (("mae", rating.mae), ("rmse", rating.rmse))
    }
    if options and rows.frame["score"].null_count() == 0:
        scores = rows.numbers("score")
        off, liked = scores - right, right >= rows.about["liked"]
        measures |= {
            "expected_mae": partial(rating.mae, off),
            "expected_rmse": partial(rating.rmse, off),
            "auc": partial(rating.auc, scores, liked),
        }
    return measures, (~known).tolist()


def _choice(rows: _Rows) -> KindMetrics:
    options = [_folded(option) for option in rows.about["options"]]
    said, right = map(_folded, rows.texts("answer")), map(_folded, rows.texts("reference"))
    pairs = list(zip(said, right, strict=True))
    measures: WeightedMetrics = {"accuracy": partial(_mean, np.array([a == b for a, b in pairs], np.float64))}
    if rows.frame["score"].null_count() == 0:
        first = np.array([b == options[0] for _, b in pairs])
        measures["auc"] = partial(rating.auc, rows.numbers("score"), first)
    return measures, [answer not in options for answer, _ in pairs]


def _sid(rows: _Rows) -> KindMetrics:
    legal = rows.frame["legal"].to_list()
    return _exact(rows) | {"legal": partial(_mean, np.array(legal, np.float64))}, [not one for one in legal]


def _title(rows: _Rows) -> KindMetrics:
    columns = text.grounding(rows.frame["rank"].to_list()).T
    names = [measure.name for measure in text.MEASURES if measure.name.startswith("grounding")]
    grounded: WeightedMetrics = {
        name: partial(_mean, column) for name, column in zip(names, columns, strict=True)
    }
    return _exact(rows) | grounded, _empty(rows)


def _text(rows: _Rows) -> KindMetrics:
    answers, references = rows.texts("answer"), rows.texts("reference")
    language = rows.about["language"]
    counts = text.bleu_counts(answers, references, language)
    columns = text.rouge(answers, references, language).T
    overlap: WeightedMetrics = {
        name: partial(_mean, column) for name, column in zip(text.ROUGE, columns, strict=True)
    }
    return {"bleu": partial(text.corpus_bleu, counts)} | overlap | _exact(rows), _empty(rows)


_KINDS: dict[str, Callable[[_Rows], KindMetrics]] = {
    "number": _number,
    "choice": _choice,
    "sid": _sid,
    "title": _title,
    "text": _text,
}


def _exact(rows: _Rows) -> WeightedMetrics:
    return {"exact": partial(_mean, text.exact_match(rows.texts("answer"), rows.texts("reference")))}


def _empty(rows: _Rows) -> list[bool]:
    return [not answer.strip() for answer in rows.texts("answer")]


def _folded(answer: str) -> str:
    """A choice as it is compared: `Yes.` is `yes`."""
    return answer.strip().rstrip(".!。").casefold()


def _mean(values: NDArray[np.float64], weights: Weights) -> float:
    return float(np.average(values, weights=weights))


def _over(
    known: NDArray[np.bool_],
    errors: NDArray[np.float64],
    measure: Callable[[NDArray[np.float64], Weights], float],
    weights: Weights,
) -> float | None:
    """A measure over the answers that can be read; None where there is none among those that count."""
    counted = weights[known]
    return measure(errors[known], counted) if counted.any() else None


def _units(frame: pl.DataFrame) -> tuple[NDArray[np.int64], int]:
    """Which unit of the bootstrap each row belongs to, a user or, where there is none, an item; and their number."""
    names = frame["user_id"].fill_null(frame["item_id"])
    numbers = names.rank("dense").cast(pl.Int64).to_numpy() - 1
    return numbers, int(numbers.max()) + 1


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else rounded(value)
