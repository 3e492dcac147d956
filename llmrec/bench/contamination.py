"""Probe whether a run's base has memorised its dataset: the list of titles continued in order, and shuffled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from llmrec.artifacts import find_run
from llmrec.config import BaseConfig
from llmrec.config.recipe import load_run_recipe
from llmrec.data.examples import load_items
from llmrec.errors import UserError
from llmrec.evaluate.contamination import continue_lists, listed_titles, summarise
from llmrec.metrics.statistics import format_estimate
from llmrec.report.figures import write_figures
from llmrec.report.screen import show


def run(
    run: str,
    base: str | None = None,
    questions: int = 200,
    before: int = 20,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
) -> dict[str, Any]:
    """Ask an untuned base to continue the list of a run's titles, in order of the item ids and shuffled.

    Args:
        run: a run with a finished data stage (`llmrec data RECIPE`).
        base: the model, as `base.model`; None takes that of the run's recipe.
        questions: number of titles that are asked for.
        before: number of titles that stand before each.
        seed: seed of the places and of the shuffled orders.
        device: a torch device, or `auto`.
        out: JSON file for the figures; None writes nothing.

    Returns:
        The figures of `llmrec.evaluate.contamination.summarise`, with the base and the dataset's size.

    Raises:
        UserError: the base is `tiny`, cannot be loaded, or the list is too short.
    """
    from llmrec.decode.batches import resolve_device
    from llmrec.models.base import load_base
    from llmrec.models.device import move_model

    folder = find_run(run)
    recipe = load_run_recipe(folder)
    name = base or recipe.base.model
    if name == "tiny":
        raise UserError(
            "bench contamination: base.model=tiny has random weights; name a trained one by base=MODEL"
        )
    titles = listed_titles(load_items(folder))
    model, tokenizer = load_base(BaseConfig(model=name, dtype=recipe.base.dtype), (), seed)
    asked = move_model(model, resolve_device(device)).eval()
    figures = summarise(continue_lists(asked, tokenizer, titles, questions, before, seed), seed)
    figures = {"base": name, "titles": len(titles), "before": before} | figures
    _show(figures)
    command = (
        f"llmrec bench contamination {run} base={name} questions={questions} before={before} seed={seed}"
    )
    write_figures(out, command, figures, "torch", "transformers", seed=seed)
    return figures


def _show(figures: dict[str, Any]) -> None:
    table = Table(
        title=f"{figures['base']}: the next of {figures['titles']:,} titles, {figures['questions']} asked"
    )
    for column in ("the titles before it", "named exactly"):
        table.add_column(column)
    table.add_row("in the list's order", f"{figures['exact_in_order']:.1%}")
    table.add_row("shuffled", f"{figures['exact_shuffled']:.1%}")
    ends = figures["intervals"]["log_prob_gain"]
    gain = format_estimate(figures["log_prob_gain"], ends, places=2, signed=True)
    table.caption = f"gain in log-probability by the order: {escape(gain)} nats a title"
    show(table)
    print(figures["verdict"])
