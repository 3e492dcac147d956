"""Groups of users whose metrics are shown apart: by activity, by how well known the target is, by attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from llmrec.config import Recipe
from llmrec.data.tables.notes import tell
from llmrec.evaluate.summary import Users, rounded
from llmrec.metrics.fairness import GroupGap, group_gaps
from llmrec.metrics.statistics import Bootstrap

ATTRIBUTES = "user_attributes"
"""Name in `eval.slices` of one slice for each attribute of users."""
OF_USER = "user:"
"""Prefix of the name of an attribute's slice."""
NEW, UNKNOWN, OTHER = "new", "unknown", "all others"
MOST_GROUPS, FEWEST_USERS = 5, 10
"""Most groups of an attribute, and fewest users of a group; the users of all further groups are one group."""
OF_TARGETS = ("item_frequency", "cold_items")
"""Slices by the target. All others are known before it, so that groups of users can be compared."""


@dataclass(frozen=True)
class Slice:
    """One division of the evaluated users into groups.

    Attributes:
        name: an entry of `eval.slices`, or `user:` and the name of an attribute.
        labels: the label of each user's group, str `[users]`.
        order: the labels of the groups that have users, in the order in which they are shown.
    """

    name: str
    labels: pl.Series
    order: list[str]


def make_slices(examples: pl.DataFrame, recipe: Recipe, attributes: pl.DataFrame | None) -> list[Slice]:
    """Divide the evaluated users by each of the recipe's `eval.slices`.

    Args:
        examples: `user_id, history_length, item_frequency`, one row a user: number of items before the target, and of
            training interactions of the target.
        recipe: the recipe.
        attributes: `user_id` and one column for each attribute; None if the data describes no users.
    """
    slices: list[Slice] = []
    for name in recipe.eval.slices:
        if name == ATTRIBUTES:
            slices += _of_attributes(examples["user_id"], attributes)
        elif name == "cold_items":
            slices.append(_cold_items(examples["item_frequency"], recipe.eval.cold_item))
        elif name == "cold_users":
            slices.append(_cold_users(examples["history_length"], recipe.eval.cold_user))
        else:
            slices.append(Slice(name, *quartile_labels(examples[name])))
    return slices


def quartile_labels(values: pl.Series) -> tuple[pl.Series, list[str]]:
    """Divide numbers into at most four groups of about equal size.

    Args:
        values: `[users]`, without missing values.

    Returns:
        Each user's label, such as `5–8` (the least and greatest value of the group), and the labels in order.
    """
    numbers = values.to_numpy()
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    groups = np.searchsorted(edges, numbers)
    labels = {}
    for group in np.unique(groups):
        members = numbers[groups == group]
        low, high = f"{members.min():.12g}", f"{members.max():.12g}"
        labels[group] = low if low == high else f"{low}–{high}"
    return pl.Series(values.name, [labels[group] for group in groups], pl.String), list(labels.values())


def _cold_items(frequency: pl.Series, most: int) -> Slice:
    """Targets that no training interaction holds, rare ones and the others.

    Under a temporal split the first are the items that were first seen after the cut.
    """
    few, many = f"1–{most}" if most > 1 else "1", f"over {most}"
    label = (
        pl.when(frequency == 0)
        .then(pl.lit(NEW))
        .when(frequency <= most)
        .then(pl.lit(few))
        .otherwise(pl.lit(many))
    )
    return _present("cold_items", pl.select(label).to_series(), (NEW, few, many))


def _cold_users(length: pl.Series, most: int) -> Slice:
    few, many = f"at most {most}", f"over {most}"
    label = pl.when(length <= most).then(pl.lit(few)).otherwise(pl.lit(many))
    return _present("cold_users", pl.select(label).to_series(), (few, many))


def _present(name: str, labels: pl.Series, order: Sequence[str]) -> Slice:
    """Return a slice with the labels that occur."""
    found = set(labels)
    return Slice(name, labels.alias(name), [label for label in order if label in found])


def _of_attributes(users: pl.Series, attributes: pl.DataFrame | None) -> Iterator[Slice]:
    """Yield one slice for each attribute that divides the users into at least two groups."""
    if attributes is None:
        tell("eval", f"eval.slices: the data describes no users, so {ATTRIBUTES} has no groups")
        return
    rows = users.to_frame("user_id").join(
        attributes.with_columns(pl.col("user_id").cast(pl.String)),
        on="user_id",
        how="left",
        maintain_order="left",
    )
    for name in attributes.columns:
        if name == "user_id" or isinstance(rows.schema[name], pl.List):
            continue
        labels, order = _attribute_labels(rows[name])
        if len(order) > 1:
            yield Slice(OF_USER + name, labels, order)


def _attribute_labels(values: pl.Series) -> tuple[pl.Series, list[str]]:
    """Label users by an attribute: numbers of many values by their quartiles, others by the value itself.

    A missing value is `unknown`. The users of small groups, and of all but the largest ones, are `all others`.
    """
    values = values.alias("value")
    numbers = values.cast(pl.Float64, strict=False)
    numbers = pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
    if numbers.null_count() == values.null_count() and numbers.n_unique() > MOST_GROUPS:
        known, order = quartile_labels(numbers.drop_nulls())
        label = iter(known)
        rows = [None if number is None else next(label) for number in numbers]
        return _with_unknown(pl.Series(values.name, rows, pl.String), order)
    texts = values.cast(pl.String)
    counts = texts.drop_nulls().value_counts().sort(["count", "value"], descending=[True, False])
    large = counts.filter(pl.col("count") >= FEWEST_USERS)["value"].to_list()
    shown = large if len(large) == len(counts) <= MOST_GROUPS else large[: MOST_GROUPS - 1]
    labels = pl.select(
        pl.when(texts.is_null() | texts.is_in(shown)).then(texts).otherwise(pl.lit(OTHER))
    ).to_series()
    return _with_unknown(labels, [*shown, *([OTHER] if OTHER not in shown else [])])


def _with_unknown(labels: pl.Series, order: list[str]) -> tuple[pl.Series, list[str]]:
    filled = labels.fill_null(UNKNOWN)
    found = set(filled)
    return filled, [label for label in dict.fromkeys([*order, UNKNOWN]) if label in found]


def fairness(
    users: Users, slices: Sequence[Slice], metrics: Sequence[str], draws: Bootstrap
) -> dict[str, Any]:
    """Compare groups of users by each system's metrics.

    Args:
        users: per system a frame with the columns `metrics`, one row per user, the same users in one order.
        slices: divisions of these users; those by the target, and those of one group, are left out.
        metrics: columns to compare.
        draws: as for `group_gaps`.

    Returns:
        `{slice: {system: {metric: {"lowest": label, "highest": label, "gap", "interval", "p"}}}}`.
    """
    values = np.hstack([frame.select(metrics).to_numpy() for frame in users.values()])
    found: dict[str, Any] = {}
    for entry in slices:
        if entry.name in OF_TARGETS or len(entry.order) < 2:
            continue
        number = {label: place for place, label in enumerate(entry.order)}
        groups = entry.labels.replace_strict(number, return_dtype=pl.Int64).to_numpy()
        gaps = iter(group_gaps(values, groups, draws))
        found[entry.name] = {
            system: {metric: _described(next(gaps), entry.order) for metric in metrics} for system in users
        }
    return found


def _described(gap: GroupGap, order: Sequence[str]) -> dict[str, Any]:
    return {
        "lowest": order[gap.lowest],
        "highest": order[gap.highest],
        "gap": rounded(gap.gap),
        "interval": [rounded(end) for end in gap.interval],
        "p": rounded(gap.p),
    }
