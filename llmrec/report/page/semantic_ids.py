"""The page's section on semantic IDs: how evenly codes are used, the code tree, figures of each level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from llmrec import layout
from llmrec.data.examples import load_items
from llmrec.files import read_json
from llmrec.report.plots import code_tree, usage_chart

# Colours in the page's style sheet for categories of the code tree; all other categories are grey.
TREE_STYLES, OTHER_STYLE = ("g0", "g1", "g2", "g3", "g4"), "other"


def diagnosis(run: Path) -> dict[str, Any] | None:
    """The diagnosis of the semantic IDs with its charts; None if the run has none."""
    path = run / layout.SIDS
    if not (run / layout.IDS_REPORT).is_file() or not path.is_file():
        return None
    report = read_json(run / layout.IDS_REPORT)
    table = pl.read_parquet(path)
    if "sid" not in table.columns or "levels" not in report:
        return None
    sids = np.array(table["sid"].to_list(), dtype=np.int32)
    charts: list[tuple[dict[str, Any], Markup]] = []
    for index, level in enumerate(report["levels"]):
        counts = np.bincount(sids[:, index], minlength=level["codes"]).tolist()
        charts.append((level, usage_chart(counts, f"Items per code of level {level['name']}")))
    groups, names = _category_groups(run, table["item_id"], report.get("purity"))
    styles = (*TREE_STYLES[: len(names) - 1], OTHER_STYLE) if names else TREE_STYLES[:1]
    return {
        "report": report,
        "charts": charts,
        "columns": _level_columns(report),
        "tree": code_tree(sids, groups, names, styles, "The code tree, a row a level"),
        "groups": list(zip(styles, names, strict=True)) if names else [],
    }


def textual_ids(run: Path) -> int:
    """Number of items with textual IDs."""
    path = run / layout.SIDS
    table = pl.read_parquet(path) if path.is_file() else pl.DataFrame()
    return len(table) if "text" in table.columns else 0


def _category_groups(
    run: Path, items: pl.Series, purity: dict[str, Any] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return each item's group number, and the groups' names: the five largest categories, then all others.

    Items without categories form one group without a name.
    """
    table = load_items(run)
    if not purity or "categories" not in table.columns:
        return np.zeros(len(items), np.int64), []
    at_depth = pl.col("categories").list.get(purity["depth"] - 1, null_on_oob=True).cast(pl.String)
    categories = table.select(pl.col("item_id").cast(pl.String), category=at_depth)
    rows = pl.DataFrame({"item_id": items.cast(pl.String)})
    category = rows.join(categories, on="item_id", how="left", maintain_order="left")["category"]
    counts = pl.DataFrame({"category": category.drop_nulls()}).group_by("category").len()
    largest = counts.sort(["len", "category"], descending=[True, False])["category"].to_list()[
        : len(TREE_STYLES)
    ]
    number = {name: index for index, name in enumerate(largest)}
    groups = [number.get(name, len(largest)) for name in category.to_list()]
    return np.array(groups, np.int64), [*largest, "other or none"]


def _level_columns(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Columns of the level table: a heading, and one cell per level. Columns without figures are left out."""
    levels = report["levels"]
    purity = report.get("purity") or {"purity": [], "chance": []}
    pure = [f"{p:.2f} ({c:.2f})" for p, c in zip(purity["purity"], purity["chance"], strict=True)]
    columns = {
        "perplexity": [f"{level['perplexity']:,.0f}" for level in levels if "perplexity" in level],
        "prefixes": [f"{level['prefixes']['distinct']:,}" for level in levels if "prefixes" in level],
        "largest": [f"{level['prefixes']['largest']:,}" for level in levels if "prefixes" in level],
        "variance left": [f"{share:.3f}" for share in report.get("reconstruction_error") or []],
        "purity (chance)": pure,
    }
    return [(head, cells + ["–"] * (len(levels) - len(cells))) for head, cells in columns.items() if cells]
