"""Filters, order, duplicates and k-core against the long way round."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import Filters
from llmrec.data.clean import clean, k_core
from llmrec.data.log import Log
from llmrec.errors import UserError

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=50)


def make_log(rows, **columns):
    """A log of (user, item, time), as read from a file."""
    user, item, time = (list(column) for column in zip(*rows, strict=True))
    frame = pl.DataFrame(
        {"user": user, "item": item, "time": time} | columns,
        schema_overrides={"user": pl.UInt32, "item": pl.UInt32, "time": pl.Float64, "event": pl.UInt32},
    )
    users, items = (pl.Series([f"{kind}{n}" for n in range(5)]) for kind in "ui")
    return Log(frame, users, items, pl.Series(["view", "buy"])).compact()


def triples(log):
    rows = log.rows
    return list(zip(log.users[rows["user"]], log.items[rows["item"]], rows["time"], strict=True))


@settings(deadline=None)
@given(ROWS, st.sampled_from(["none", "exact", "first", "last"]))
def test_rows_are_ordered_and_duplicates_are_dropped(rows, kind):
    log, removed = clean(make_log(rows), Filters(deduplicate=kind))
    users = list(dict.fromkeys(user for user, _, _ in rows))
    ordered = sorted(rows, key=lambda row: (users.index(row[0]), row[2]))
    if kind == "exact":
        ordered = list(dict.fromkeys(ordered))
    elif kind == "first":
        ordered = list({row[:2]: row for row in reversed(ordered)}.values())
    elif kind == "last":
        ordered = list({row[:2]: row for row in ordered}.values())
    ordered.sort(key=lambda row: (users.index(row[0]), row[2]))
    found = triples(log)
    assert sorted(found) == sorted((f"u{u}", f"i{i}", float(t)) for u, i, t in ordered)
    assert [(u, t) for u, _, t in found] == [(f"u{u}", float(t)) for u, _, t in ordered]
    assert removed["deduplicate"] == len(rows) - len(ordered)


@settings(deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_fixed_point(rows, min_user, min_item):
    user, item = (np.array(column, np.uint32) for column in list(zip(*rows, strict=True))[:2])
    kept = list(range(len(rows)))
    while True:
        users, items = Counter(user[kept].tolist()), Counter(item[kept].tolist())
        fewer = [row for row in kept if users[user[row]] >= min_user and items[item[row]] >= min_item]
        if fewer == kept:
            break
        kept = fewer
    assert np.flatnonzero(k_core(user, item, min_user, min_item)).tolist() == kept


def test_ties_keep_the_order_of_the_file():
    log, _ = clean(make_log([(0, 3, 7), (1, 0, 1), (0, 1, 7), (0, 2, 7)]), Filters())
    assert [item for user, item, _ in triples(log) if user == "u0"] == ["i3", "i1", "i2"]


def test_rating_event_and_window_filters_count_what_they_remove():
    rows = [(0, item, 86_400 * item) for item in range(5)]
    log = make_log(rows, rating=[1.0, 5.0, None, 4.0, 3.0], event=[1, 1, 1, 0, 1])
    filters = Filters(events=["buy"], min_rating=3, window=("1970-01-02", "1970-01-05"))
    kept, removed = clean(log, filters)
    assert triples(kept) == [("u0", "i1", 86_400.0)]
    assert removed == {"events": 1, "min_rating": 2, "window": 1, "deduplicate": 0, "k_core": 0}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(min_user=3), "the k-core of min_user=3, min_item=1 leaves no interactions"),
        (Filters(min_rating=3), "filters.min_rating needs interactions.columns.rating"),
        (Filters(events=["buy"]), "filters.events needs interactions.columns.event"),
        (Filters(window=("yesterday", None)), "'yesterday' is neither epoch seconds nor a date"),
        (Filters(window=(10, None)), "leaves no interactions"),
    ],
)
def test_a_filter_that_cannot_work_is_an_error(filters, message):
    with pytest.raises(UserError, match=message):
        clean(make_log([(0, 0, 0), (1, 1, 1)]), filters)
