"""What a run knows of its items, for metrics of lists: popularity, categories, text vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from llmrec import layout
from llmrec.collaborative.systems import files_of
from llmrec.collaborative.text_knn import centred, load_vectors
from llmrec.config import OWN_STAGES, Recipe
from llmrec.data.examples import load_items
from llmrec.data.tables.notes import tell
from llmrec.metrics.lists import ItemData
from llmrec.metrics.metric import Metric, Need, load_metrics

LACKS: dict[Need, str] = {
    "categories": "the items have no categories",
    "text_vectors": "text_knn, whose text vectors it reads, is not among eval.baselines",
}


def load_item_data(run: Path, recipe: Recipe, histories: pl.DataFrame) -> ItemData:
    """Load what the recipe's metrics need of the items.

    Args:
        run: the run folder.
        recipe: the recipe.
        histories: `items: list[str]`, training interactions, one row a user.

    Raises:
        UserError: a stage before has not run.
    """
    table = load_items(run)
    catalogue = table["item_id"].cast(pl.String)
    needed = {need for metric in load_metrics(recipe.eval.metrics) for need in metric.needs}
    categories = table["categories"] if "categories" in needed & set(table.columns) else None
    file = layout.system_file("text_knn", ".safetensors")
    systems = [name for name in recipe.eval.baselines if name not in OWN_STAGES]
    has_vectors = "text_vectors" in needed and file in files_of(recipe.collaborative, systems)
    vectors = centred(load_vectors(run / file), catalogue.to_list()) if has_vectors else None
    return ItemData.of(catalogue, histories, categories, vectors)


def split_by_need(metrics: Sequence[Metric], items: ItemData) -> tuple[list[Metric], dict[str, str]]:
    """Return the metrics that can be computed, and why each of the others cannot; one line a metric tells it."""
    lacking = {
        metric.name: LACKS[need]
        for metric in metrics
        for need in metric.needs
        if getattr(items, need) is None
    }
    for name, reason in lacking.items():
        tell("eval", f"eval.metrics: {name} is left out: {reason}")
    return [metric for metric in metrics if metric.name not in lacking], lacking
