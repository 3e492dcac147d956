"""Logs in two files, joined by the card: orders that name the user, and order lines that name the items."""

import polars as pl
import pytest
from folders.contents import lines

from llmrec.cli import main
from llmrec.config import Split
from llmrec.data.build import read_interactions
from llmrec.data.card import load_card
from llmrec.data.source import locate
from llmrec.data.tables.read import check_columns
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

CARD = """
interactions:
  path: {lines}
  join: {{path: {orders}, by: {by}}}
  columns: {{user: customer, item: sku, time: {time}}}
  without_id: {without_id}
"""
HEAD = ("order_id", "customer", "at")
ORDERS = [HEAD, (7, "ann", "2024-01-02"), (8, "bob", "2024-01-03"), (9, "ann", "2024-01-01")]
LINES = [("order_id", "sku", "n"), (9, "x", 1), (7, "y", 2), (8, "x", 1), (7, "x", 1)]
EXPECTED = [
    ("ann", "x", "2024-01-01"),
    ("ann", "y", "2024-01-02"),
    ("bob", "x", "2024-01-03"),
    ("ann", "x", "2024-01-02"),
]


def read(folder, files, **keys):
    """The log of a card, `user, item, day` in the order of the files' rows."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    settings = {
        "lines": "lines.csv",
        "orders": "orders.csv",
        "by": "order_id",
        "time": "at",
        "without_id": "error",
    }
    (folder / "card.yaml").write_text(CARD.format(**settings | keys))
    scratch = folder / "scratch"
    scratch.mkdir()
    log = read_interactions(locate(load_card(str(folder / "card.yaml"))), Split(), scratch)
    days = pl.from_epoch(log.rows["time"] // log.unit).dt.strftime("%Y-%m-%d").to_list()
    return list(zip(log.users[log.rows["user"]], log.items[log.rows["item"]], days, strict=True))


def test_columns_are_checked_without_a_reading_of_rows(tmp_path, monkeypatch):
    read(tmp_path, {"orders.csv": lines(ORDERS), "lines.csv": lines(LINES)})
    monkeypatch.setattr(pl.LazyFrame, "collect", None)
    dataset = locate(load_card(str(tmp_path / "card.yaml")))
    check_columns(*dataset.interactions, tmp_path / "scratch", dataset.joined)


def test_rows_get_the_columns_of_their_order_and_keep_their_places(tmp_path):
    assert read(tmp_path, {"orders.csv": lines(ORDERS), "lines.csv": lines(LINES)}) == EXPECTED


def test_files_of_both_tables_may_be_several_and_a_repeated_row_is_one(tmp_path):
    files = {"orders-1.csv": lines(ORDERS[:3]), "orders-2.csv": lines([ORDERS[0], *ORDERS[2:]])}
    files |= {"lines-1.csv": lines(LINES[:3]), "lines-2.csv": lines([LINES[0], *LINES[3:]])}
    assert read(tmp_path, files, lines="lines-*.csv", orders="orders-*.csv") == EXPECTED


def test_numbers_of_parquet_and_text_of_csv_meet(tmp_path):
    pl.DataFrame(ORDERS[1:], ORDERS[0], orient="row").with_columns(
        pl.col("order_id").cast(pl.Float64)
    ).write_parquet(tmp_path / "orders.parquet")
    assert read(tmp_path, {"lines.csv": lines(LINES)}, orders="orders.parquet") == EXPECTED


def test_of_two_columns_with_one_name_the_logs_is_meant_and_the_other_has_a_prefix(tmp_path):
    orders = [("id", "customer", "at"), *ORDERS[1:]]
    rows = [("id", *LINES[0], "at"), *((n, *row, "2020-05-05") for n, row in enumerate(LINES[1:]))]
    files = {"orders.csv": lines(orders), "lines.csv": lines(rows)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by = "{order_id: id}"
    assert {day for _, _, day in read(tmp_path / "a", files, by=by)} == {"2020-05-05"}
    assert read(tmp_path / "b", files, by=by, time="joined.at") == EXPECTED


def test_a_row_without_an_order_has_no_user(tmp_path, capsys):
    rows = [*LINES, (99, "z", 1), ("", "z", 1)]
    files = {"orders.csv": lines(ORDERS), "lines.csv": lines(rows)}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"lines.csv: row 5: user is empty.*`without_id: drop`"):
        read(tmp_path / "a", files)
    assert read(tmp_path / "b", files, without_id="drop") == EXPECTED
    assert "2 of 6 rows dropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("orders", "keys", "says"),
    [
        ([*ORDERS, (7, "bob", "2024-01-02")], {}, "orders.csv: order_id = '7' stands on rows that differ"),
        (ORDERS, {"by": "{order_id: id}"}, "orders.csv: no column 'id' (it has order_id"),
        (ORDERS, {"by": "{order: order_id}"}, "lines.csv: no column 'order'"),
        (ORDERS, {"time": "when"}, "lines.csv: no column 'when'"),
        (ORDERS, {"orders": "absent.csv"}, "absent.csv: no such file"),
        (ORDERS, {"by": "{a: b, c: d}"}, "give one column of the log and its column here"),
        (ORDERS, {"by": "''"}, "interactions.join.by"),
    ],
)
def test_a_join_that_cannot_be_is_told_in_a_line(orders, keys, says, tmp_path):
    with pytest.raises(UserError) as told:
        read(tmp_path, {"orders.csv": lines(orders), "lines.csv": lines(LINES)}, **keys)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert "__" not in str(told.value)  # no column of ours


def test_titles_may_stand_in_the_lines(tmp_path, capsys):
    rows = [(*LINES[0], "title"), *((*row, f"Thing {row[1]}") for row in LINES[1:])]
    (tmp_path / "orders.csv").write_bytes(lines(ORDERS))
    (tmp_path / "lines.csv").write_bytes(lines(rows))
    assert main(["init", str(tmp_path), "--out", str(tmp_path / "card.yaml"), "--yes"]) == 0
    card = read_yaml(tmp_path / "card.yaml")
    assert card["interactions"]["join"] == {"path": "orders.csv", "by": "order_id"}
    assert card["items"] == {"path": "lines.csv", "columns": {"item": "sku", "title": "title"}}
    assert main(["validate", "own-data", f"data.card={tmp_path / 'card.yaml'}"]) == 0
    assert "lines.csv, joined to orders.csv by order_id" in capsys.readouterr().out
