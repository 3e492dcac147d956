"""Exports as shops, trackers and spreadsheets write them: what is said of them, and what the data stage keeps."""

import gzip

import polars as pl
import pytest
from folders.contents import lines, log, objects, parquet, when
from own_data import build

from llmrec.cli import main
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

HEAD = ("user_id", "item_id", "time")
TABLE = lines([HEAD, *log(when)])


def init(tmp_path, files):
    """Run `llmrec init` on files; return its exit code and its card."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return main(["init", str(folder), "--out", str(tmp_path / "card.yaml"), "--yes"]), tmp_path / "card.yaml"


OTHER_KINDS = [
    (gzip.compress(TABLE), "a gzip file: let its name end in .gz"),
    (b"PK\x03\x04\x14\0\0\0" + TABLE, "a zip archive, or a spreadsheet"),
    (b"SQLite format 3\0" + b"\0" * 90, "a database: export its tables as CSV"),
    (b"ARROW1\0\0" + b"\xff" * 90, "an Arrow file: write it as Parquet"),
]


@pytest.mark.parametrize(("content", "says"), OTHER_KINDS)
def test_a_file_that_is_no_text_is_named_by_its_content(tmp_path, capsys, content, says):
    code, _ = init(tmp_path, {"log.csv": content})
    err = capsys.readouterr().err
    assert code == 2 and says in err and len(err.splitlines()) == 1
    card = {"interactions": {"path": "log.csv", "columns": {"user": "user_id", "item": "item_id"}}}
    with pytest.raises(UserError, match=f"log.csv: {says}"):
        build(tmp_path, {"log.csv": content}, card)


def test_text_may_begin_like_another_kind(tmp_path):
    card = {"interactions": {"path": "log.csv", "columns": {"user": "ORC", "item": "item"}}}
    assert len(build(tmp_path, {"log.csv": "ORC,item\nu,1\nu,2\nu,3\n"}, card).log) == 3


def test_files_with_the_columns_of_the_log_are_not_left_out_in_silence(tmp_path, capsys):
    rows = log(when)
    code, _ = init(tmp_path, {"north.csv": lines([HEAD, *rows[:40]]), "south.csv": lines([HEAD, *rows[40:]])})
    assert code == 0
    assert (
        "south.csv: not used, though it has the columns of the log; `interactions.path`"
        in capsys.readouterr().err
    )


DAYS = [45_296 + n / 4 for n in range(len(log()))]


@pytest.mark.parametrize(
    ("head", "rows", "told"),
    [
        (
            ("user", "item"),
            [(f"7.6561{u}E+16", i) for u, i in log()],
            "66 ids in 'user', such as '7.65610E+16', were",
        ),
        (
            ("email", "item"),
            [(f"{u}@x.org", i) for u, i in log()],
            "'email' may name a person, and is the only id",
        ),
        (
            ("user", "item", "Datum"),
            [(u, i, "KW 12 2024") for u, i in log()],
            "'Datum' (KW 12 2024) is not understood as a time",
        ),
        (("user", "item", "n"), [(*row, 1) for row in log()], "no column of times"),
        (
            ("email", "item"),
            [("" if n % 2 else u, i) for n, (u, i) in enumerate(log())],
            "50% of the rows have no 'email' and are dropped; if it stands only on the first line of each order",
        ),
    ],
)
def test_doubts_about_the_log_are_told(tmp_path, capsys, head, rows, told):
    code, _ = init(tmp_path, {"log.csv": lines([head, *rows])})
    err = capsys.readouterr().err.splitlines()
    assert code == 0 and sum(told in line for line in err) == 1
    assert all(len(line) <= 300 for line in err)


def test_items_of_one_title_are_counted(tmp_path, capsys):
    things = [(i, f"Thing {i // 2 if i < 4 else i}") for i in range(10)]
    code, _ = init(tmp_path, {"log.csv": TABLE, "items.csv": lines([("item_id", "name"), *things])})
    assert code == 0 and "4 items have the title of another item" in capsys.readouterr().out


def test_rows_that_say_that_an_item_came_back_are_told(tmp_path, capsys):
    rows = [(*row, "retourniert" if n % 4 == 0 else "versandt") for n, row in enumerate(log(when))]
    code, _ = init(tmp_path, {"log.csv": lines([(*HEAD, "Status"), *rows])})
    err = capsys.readouterr().err
    assert code == 0 and "26% of the rows have a 'Status' such as 'retourniert', and count as chosen" in err
    assert "map `event: Status` and name the others in `filters.events`" in err


@pytest.mark.parametrize("days", [DAYS, [int(day) for day in DAYS]])
def test_days_of_a_spreadsheet_are_times(tmp_path, capsys, days):
    rows = [(*row, day) for row, day in zip(log(), days, strict=True)]
    code, card = init(tmp_path, {"log.csv": lines([("user", "item", "date"), *rows])})
    assert code == 0 and read_yaml(card)["interactions"]["time_format"] == "excel"
    assert "times read as days of a spreadsheet, 2024-01-05 to 2024-01-21 (UTC)" in capsys.readouterr().err


def test_a_matrix_of_users_and_items_is_named(tmp_path, capsys):
    matrix = [(f"u{u}", *((u * i) % 6 for i in range(30))) for u in range(20)]
    code, _ = init(tmp_path, {"matrix.csv": lines([("user", *(f"item_{i}" for i in range(30))), *matrix])})
    assert (
        code == 2 and "matrix.csv looks like a matrix with a column for each item" in capsys.readouterr().err
    )


CARD = {
    "interactions": {"path": "log.csv", "columns": {"user": "user_id", "item": "item_id", "time": "time"}}
}


def parquet_of_objects():
    rows = [{"user_id": {"id": u}, "item_id": {"id": i}, "time": t} for u, i, t in log(when)]
    return parquet(pl.DataFrame(rows))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "log.jsonl",
            objects({"user_id": {"id": u}, "item_id": i, "time": 1} for u, i in log()),
            "such as 'user_id.id'",
        ),
        ("log.parquet", parquet_of_objects(), "holds objects; name the field that is the id"),
        ("log.csv", parquet_of_objects(), "a Parquet file: let its name end in .parquet"),
        ("log.parquet", TABLE, "not a Parquet file.*`format` in the card"),
        ("log.xlsx", b"PK\x03\x04", "log.xlsx: a spreadsheet; export it as CSV"),
        ("log/1.csv", TABLE, "log: a folder; name its files in `path`, such as log/"),
    ],
)
def test_what_a_card_cannot_read_has_a_way_out(tmp_path, name, content, says):
    (tmp_path / "log").mkdir()
    card = {"interactions": CARD["interactions"] | {"path": name.removesuffix("/1.csv")}}
    with pytest.raises(UserError, match=says) as caught:
        build(tmp_path, {name: content}, card)
    text = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in text and len(text) <= 200


def test_a_comma_before_the_decimals_of_a_rating(tmp_path):
    rows = [(*row, f"{row[1] % 5},5") for row in log(when)]
    card = {
        "interactions": {"path": "log.csv", "columns": CARD["interactions"]["columns"] | {"rating": "stars"}}
    }
    built = build(tmp_path, {"log.csv": lines([(*HEAD, "stars"), *rows], ";")}, card)
    assert set(built.log["rating"]) == {0.5, 1.5, 2.5, 3.5, 4.5}
    rows[7] = (*rows[7][:3], "1,234")  # a thousand, or not
    with pytest.raises(UserError, match="row 8: rating = '1,234': not a number"):
        build(tmp_path, {"log.csv": lines([(*HEAD, "stars"), *rows], ";")}, card)


def test_two_columns_of_one_name_are_told(tmp_path, capsys):
    rows = [(*row, 1) for row in log(when)]
    built = build(tmp_path, {"log.csv": lines([(*HEAD, "time"), *rows])}, CARD)
    assert built.log["time"].min() > 1
    assert "log.csv: 2 columns are named 'time'; the first is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            ("user", "x", "y"),
            "log.csv has users ('user'), but no column is named like items (user, x, y)",
        ),
        (("who", "sku", "at"), "log.csv has items ('sku'), but no column is named like users (who, sku, at)"),
    ],
)
def test_the_side_that_is_missing_is_named(tmp_path, capsys, head, says):
    code, _ = init(
        tmp_path, {"log.csv": lines([head, *((u, i, f"{n % 9}.5") for n, (u, i) in enumerate(log()))])}
    )
    err = capsys.readouterr().err
    assert code == 2 and says in err and "`columns.item`" in err and len(err) <= 300


def test_a_table_whose_lines_differ_is_not_left_out_in_silence(tmp_path, capsys):
    ragged = b"user_id,item_id\n" + b"".join(b"u" + b",x" * (n % 5 + 1) + b"\n" for n in range(50))
    code, _ = init(tmp_path, {"log.csv": TABLE, "ragged.csv": ragged})
    assert code == 0
    assert (
        "ragged.csv: left out, no table: its lines have different numbers of values"
        in capsys.readouterr().err
    )


def test_one_line_says_that_a_table_of_items_has_lost_its_zeros(tmp_path, capsys):
    files = {
        "orders.csv": lines([("user", "sku"), *((u, f"{i + 1:06d}") for u, i in log())]),
        "articles.csv": lines(
            [("sku", "prod_code", "prod_name"), *((i + 1, 500 + i, f"Thing {i}") for i in range(10))]
        ),
    }
    code, _ = init(tmp_path, files)
    told = [line for line in capsys.readouterr().err.splitlines() if "articles.csv" in line]
    assert code == 0 and len(told) == 1
    assert "100% would be, but for leading zeros, case or `.0`: write them alike in both" in told[0]
