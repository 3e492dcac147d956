"""What to do about a folder in which no table is a log."""

from __future__ import annotations

from llmrec.data.guess.columns import CLEAR
from llmrec.data.guess.files import listed_columns
from llmrec.data.guess.sheets import Sheet
from llmrec.data.tables.notes import short

_FEW_LEVELS = 20
_FEWEST_ITEMS = 10


def nothing_fits(sheets: list[Sheet]) -> str:
    """Return the error for a folder without a log, with what its nearest table lacks."""
    for sheet in sheets:
        if _is_matrix(sheet):
            return (
                f"{sheet.path} looks like a matrix with a column for each item; write a row for each user and item "
                "(`melt` of pandas, `unpivot` of polars), and run this again"
            )
    person = next((sheet for sheet in sheets if _is_of_one_person(sheet)), None)
    if person is not None:
        return (
            f"{person.path}: no column tells users apart, so this is one person's history; one person has one test "
            "item, which measures nothing. Files of several people, one each (anna.csv, ben.csv; or a folder each), "
            "are read as one log, with their names as users"
        )
    way = (
        "write a card by hand: `llmrec cp template my-shop.yaml`, then set `interactions.path`, `columns.user` and "
        "`columns.item`"
    )
    with_user = [(sheet, column) for sheet in sheets for column in sheet.named("user")]
    with_item = [(sheet, column) for sheet in sheets for column in sheet.named("item")]
    for one, user in with_user or [(s, c) for s in sheets for c in s.columns if c.score("user") >= CLEAR]:
        for other, item in with_item:
            shared = sorted(set(one.found.columns) & set(other.found.columns))
            if one is not other and shared:
                return (
                    f"users are in {one.path} ({user.name!r}) and items in {other.path} ({item.name!r}): join both "
                    f"by {shared[0]!r} to one file with a row for each user and item, and run this again"
                )
    for found, lacking, named, missing in (
        (with_user, with_item, "users", "items"),
        (with_item, with_user, "items", "users"),
    ):
        if found and not lacking:
            sheet, column = found[0]
            columns = short(listed_columns(sheet.found), 60)
            has = f"{sheet.path} has {named} ({column.name!r})"
            return f"{has}, but no column is named like {missing} ({columns}); {way}"
    seen = "; ".join(f"{sheet.path}: {listed_columns(sheet.found)}" for sheet in sheets[:3])
    return f"no file has a column of users and one of items ({short(seen, 150)}); {way}"


def _is_of_one_person(sheet: Sheet) -> bool:
    """Whether a table has items and times, and no user or the same in all rows."""
    users = [column for column in sheet.columns if column.score("user") >= 1 and column.distinct > 1]
    has_items = any(c.score("item") >= 0.6 or c.score("title") >= CLEAR for c in sheet.columns)
    return has_items and not users and any(column.is_time for column in sheet.columns)


def _is_matrix(sheet: Sheet) -> bool:
    """Whether a table has a row for each user and a column for each item: most columns hold a few small numbers."""
    counts = [column for column in sheet.columns if column.is_number and column.distinct <= _FEW_LEVELS]
    return len(counts) > max(_FEWEST_ITEMS, 0.8 * len(sheet.columns))
