"""Where items rank that a run was not trained on: `python eval/cold_items.py FOLDER OUT.json [--own] [key=value …]`.

The protocol, on MovieLens-100K: a twentieth of the items, drawn by a seed, is cold. A user's log ends before the last
cold item that has at least `LEAST` warm items before it, and all other cold items are left out of it. A quickstart
model, with semantic IDs from text alone, is trained on these logs (`key=value` are further overrides), and the cold
items are added by `llmrec items --add`. Then each user has two targets: the last warm item, after the items before it
(the test target of leave-one-out), and the cold item, after all warm ones. Neither was trained on. Both are ranked
among all items that are not in the history, by the sum of their tokens' log-probabilities. With `--own` each item has
a code of its own behind a shared one, and the model grows by tokens for the cold ones; without it, codes are shared.

Beside recall: where a rank is lost. The first code of a target is ranked among all first codes by the probability of
the items under it, and the target is ranked among the items under its own first code. The last figures replace the
scores of cold items alone, by what the model says of other items: the mean probability of the warm items under the
same first code, and the mean and the largest probability of the `NEIGHBOURS` warm items with the nearest text. Items
of the history have probability 0 there. This is arithmetic on finished scores; nothing of it was tuned.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec import Recommender
from llmrec.artifacts import find_run
from llmrec.config import load_run_recipe
from llmrec.data.examples import evaluation_examples, load_interactions, load_items
from llmrec.ids.new_items import new_item_vectors
from llmrec.metrics.statistics import bootstrap_means, percentile_interval
from llmrec.report.figures import write_figures

SEED, SHARE, LEAST, CUTOFF, NEIGHBOURS = 0, 0.05, 5, 50, 10
WHOLE = "cold-whole"
SETTINGS = ["ids.inputs=[text]", "sft.distillation=null", "eval.baselines=[popularity]"]
SHARED = ["ids.quantizer={kind: rq_kmeans, levels: 2, codes: 64}", "ids.collisions=next_best"]
OWN = ["ids.quantizer={kind: rq_kmeans, levels: 1, codes: 64}", "ids.collisions=own_code"]
CARD = """\
name: movielens-100k-cold
interactions: {path: log.csv, columns: {user: user, item: item, time: time}}
items: {path: warm.jsonl, columns: {item: item_id, title: title, categories: categories}}
split: {kind: leave_one_out}
"""
Floats = NDArray[np.float64]
Combine = Callable[..., Floats]


def main(folder: Path, out: Path, own: bool, overrides: list[str]) -> None:
    """Make the dataset, train, add the cold items, and write the figures."""
    _llmrec("data", "quickstart", f"run={WHOLE}")
    cold = _write_dataset(folder)
    run, option = ("cold-own", ["--own"]) if own else ("cold", [])
    settings = [*SETTINGS, *(OWN if own else SHARED), *overrides]
    _llmrec("sft", "quickstart", f"data.card={folder / 'card.yaml'}", f"run={run}", *settings)
    if not (find_run(run) / "catalogue/changes.json").is_file():
        _llmrec("items", run, "--add", str(folder / "cold.jsonl"))
    command = shlex.join(["python", "eval/cold_items.py", "FOLDER", "OUT.json", *option, *overrides])
    figures = {"settings": settings} | _figures(
        run, folder, cold, "grown rows" if own else "frozen codebooks"
    )
    write_figures(out, command, figures, "torch", "transformers", seed=SEED)
    print(json.dumps(figures, indent=1))


def _llmrec(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "llmrec.cli", *arguments], check=True)


def _write_dataset(folder: Path) -> list[str]:
    """Write the log without cold items, the items, and each user's cold target; return the cold items."""
    folder.mkdir(parents=True, exist_ok=True)
    log, items = load_interactions(find_run(WHOLE)), load_items(find_run(WHOLE))
    cold = items["item_id"].cast(pl.String).sort().sample(fraction=SHARE, seed=SEED).to_list()
    rows, targets = [], []
    names = pl.col("user_id", "item_id").cast(pl.String)
    for (user,), part in log.with_columns(names).group_by("user_id", maintain_order=True):
        bought = part["item_id"].to_list()
        warm_before = np.cumsum([item not in cold for item in bought])
        places = [i for i, item in enumerate(bought) if item in cold and warm_before[i] >= LEAST]
        end = places[-1] if places else len(bought)
        targets += [{"user": user, "item": bought[end]}] if places else []
        rows += [(user, item, t) for t, item in enumerate(bought[:end]) if item not in cold]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "log.csv")
    kept = items.with_columns(pl.col("item_id").cast(pl.String)).select("item_id", "title", "categories")
    kept.filter(~pl.col("item_id").is_in(cold)).write_ndjson(folder / "warm.jsonl")
    kept.filter(pl.col("item_id").is_in(cold)).write_ndjson(folder / "cold.jsonl")
    pl.DataFrame(targets).write_csv(folder / "targets.csv")
    (folder / "card.yaml").write_text(CARD, "utf-8")
    return cold


def _figures(run: str, folder: Path, cold: list[str], name_of_own: str) -> dict[str, Any]:
    """Ranks of both targets of each user, with and without other scores for cold items."""
    recommender = Recommender.load(run)
    names = list(recommender.items)
    place = {item: index for index, item in enumerate(names)}
    is_cold = np.array([item in set(cold) for item in names])
    first = recommender.run.catalogue.sids[:, 0].astype(np.int64)
    targets = dict(pl.read_csv(folder / "targets.csv", infer_schema=False).rows())
    test = evaluation_examples(find_run(run), "test")
    test = test.with_columns(pl.col("user_id").cast(pl.String)).filter(
        pl.col("user_id").is_in(targets.keys())
    )
    histories = [[str(item) for item in row] for row in test["history"].to_list()]
    last = [str(item) for item in test["target"].to_list()]
    cases = {
        "warm": (histories, last),
        "cold": (
            [[*history, item] for history, item in zip(histories, last, strict=True)],
            [targets[user] for user in test["user_id"].to_list()],
        ),
    }
    scores = {
        name: np.array(recommender.score(rows, [names] * len(rows)), np.float64)
        for name, (rows, _) in cases.items()
    }
    for name, (rows, _) in cases.items():
        for row, history in zip(scores[name], rows, strict=True):
            row[[place[item] for item in history]] = -np.inf
    answers = {name: np.array([place[item] for item in wanted]) for name, (_, wanted) in cases.items()}
    other = _replacements(run, folder, names, is_cold, first)
    counts = {"users": len(last), "items": len(names), "cold_items": int(is_cold.sum())}
    found = {name_of_own: {n: _recall(scores[n], answers[n]) for n in cases}}
    without = np.where(is_cold, -np.inf, scores["warm"])
    found["no cold items"] = {"warm": _recall(without, answers["warm"])}
    for method, (combine, like) in other.items():
        replaced = {name: _replaced(scores[name], is_cold, like, combine) for name in cases}
        found[method] = {name: _recall(replaced[name], answers[name]) for name in cases}
    lost = {name: _where_lost(scores[name], answers[name], first) for name in cases}
    return counts | {"recall@50": found, "where a rank is lost": lost}


def _recall(scores: Floats, answers: NDArray[np.int64]) -> dict[str, Any]:
    """Recall at `CUTOFF` with its interval over users, and the median rank."""
    rank = 1 + (scores > scores[np.arange(len(answers)), answers][:, None]).sum(axis=1)
    hits = (rank <= CUTOFF).astype(np.float64)
    low, high = percentile_interval(bootstrap_means(hits[:, None], 1000, SEED), 0.95)[0]
    about = {"value": float(hits.mean()), "interval": [float(low), float(high)]}
    return {name: np.round(value, 4).tolist() for name, value in about.items()} | {
        "median_rank": float(np.median(rank))
    }


def _where_lost(scores: Floats, answers: NDArray[np.int64], first: NDArray[np.int64]) -> dict[str, float]:
    """Medians of a target's rank among first codes, among the items under its own, and of their number."""
    probability = np.exp(scores)
    mass = np.stack([probability[:, first == code].sum(axis=1) for code in range(first.max() + 1)], axis=1)
    users, code = np.arange(len(answers)), first[answers]
    under = first[None, :] == code[:, None]
    own = scores[users, answers][:, None]
    within = 1 + (under & (scores > own)).sum(axis=1)
    open_items = (under & np.isfinite(scores)).sum(axis=1)
    share = probability[users, answers] / mass[users, code]
    return {
        "rank_of_first_code": float(np.median(1 + (mass > mass[users, code][:, None]).sum(axis=1))),
        "first_codes": int(first.max() + 1),
        "rank_under_first_code": float(np.median(within)),
        "items_under_first_code": float(np.median(open_items)),
        "last_under_first_code": float(np.round((within >= open_items).mean(), 4)),
        "share_of_first_code": float(f"{np.median(share):.3g}"),
    }


def _replacements(
    run: str, folder: Path, names: list[str], is_cold: NDArray[np.bool_], first: NDArray[np.int64]
) -> dict[str, tuple[Combine, NDArray[np.bool_]]]:
    """For each method, how probabilities are combined, and of which warm items for each cold one, [cold, items]."""
    tables = [pl.read_ndjson(folder / f"{part}.jsonl") for part in ("warm", "cold")]
    order = pl.DataFrame({"item_id": names})
    items = order.join(pl.concat(tables), on="item_id", how="left", maintain_order="left")
    where = find_run(run)
    vectors = new_item_vectors(where, load_run_recipe(where), items, {}, "items").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors[is_cold] @ vectors.T
    near[:, is_cold] = -np.inf
    nearest = near >= np.sort(near, axis=1)[:, -NEIGHBOURS, None]
    siblings = (first[is_cold][:, None] == first[None, :]) & ~is_cold
    siblings[~siblings.any(axis=1)] = ~is_cold
    return {
        "mean of the first code": (np.mean, siblings),
        "mean of the nearest texts": (np.mean, nearest),
        "largest of the nearest texts": (np.max, nearest),
    }


def _replaced(
    scores: Floats, is_cold: NDArray[np.bool_], like: NDArray[np.bool_], combine: Combine
) -> Floats:
    """Scores with those of cold items replaced by the log of what is combined of warm items' probabilities."""
    replaced, probability = scores.copy(), np.exp(scores)
    combined = np.stack([combine(probability[:, row], axis=1) for row in like], axis=1)
    with np.errstate(divide="ignore"):
        replaced[:, is_cold] = np.log(combined)
    return replaced


if __name__ == "__main__":
    more = sys.argv[3:]
    main(
        Path(sys.argv[1]).absolute(),
        Path(sys.argv[2]),
        "--own" in more,
        [key for key in more if key != "--own"],
    )
