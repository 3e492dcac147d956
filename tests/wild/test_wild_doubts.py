"""What `llmrec init` must not take in silence: columns and lines whose meaning is doubtful."""

import json

import polars as pl
import pytest
from folders.contents import lines, log, objects, when

from llmrec.cli import main
from llmrec.data.guess.columns import Column
from llmrec.data.guess.files import FoundTable
from llmrec.data.guess.sheets import Sheet
from llmrec.yaml_files import read_yaml

HEAD = ("user", "item", "time")
ROWS = log(when)


@pytest.fixture
def init(tmp_path, capsys):
    """Run `llmrec init` on files; return its exit code, the card's tables, and what it said."""

    def run(files):
        folder, card = tmp_path / "export", tmp_path / "card.yaml"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        code = main(["init", str(folder), "--out", str(card), "--yes"])
        return code, read_yaml(card) if card.exists() else {}, capsys.readouterr().err

    return run


@pytest.mark.parametrize("size", [2, 3])
def test_lists_of_equally_many_items_are_no_columns(init, size):
    rows = [(f"user_{u}", ";".join(f"item_{(i + n) % 6}" for n in range(size))) for u, i in log()]
    code, card, _ = init({"histories.csv": lines([("user", "items"), *rows])})
    assert code == 0 and card["interactions"]["split_on"] == {"item": ";"}
    assert "skip" not in card["interactions"] and "header" not in card["interactions"]


def test_a_first_row_with_few_values_is_a_row(init):
    rows = [("user_1", "item_1", "", "", ""), *((f"user_{u}", f"item_{i}", t, 5, "x") for u, i, t in ROWS)]
    code, card, _ = init({"log.csv": lines(rows)})
    log_of_card = card["interactions"]
    assert code == 0 and "skip" not in log_of_card and len(log_of_card["header"]) == 5
    assert log_of_card["columns"]["user"] == log_of_card["header"][0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Report\n\n" + lines([HEAD, *ROWS]), "log.csv: 2 lines above the header line are left out"),
        (
            lines([HEAD, *((n, *row) for n, row in enumerate(ROWS))]),
            "log.csv: line 1 has a name less than the lines below have values",
        ),
    ],
)
def test_lines_above_a_table_are_told(init, content, says):
    code, card, err = init({"log.csv": content})
    assert code == 0 and card["interactions"]["skip"] and says in err


def test_versions_are_no_times(init):
    rows = [(u, i, f"{u % 9 + 1}.{i % 12 + 1}.{n % 30}") for n, (u, i) in enumerate(log())]
    code, card, err = init({"log.csv": lines([("user", "item", "app_version"), *rows])})
    assert code == 0 and "time" not in card["interactions"]["columns"] and "no column of times" in err


def test_a_session_in_place_of_a_user_is_told(init):
    code, card, err = init({"log.csv": lines([("session_id", *HEAD[1:]), *ROWS])})
    assert code == 0 and card["interactions"]["columns"]["user"] == "session_id"
    assert "'session_id' is taken for the id of users" in err


def test_columns_that_some_months_lack_are_told(init):
    january = lines([("user", "item", "shop"), *((u, i, 3) for u, i in log())])
    february = lines([("user", "item", "shop", "time"), *((u, i, 3, t) for u, i, t in ROWS)])
    code, card, err = init({"sales_jan.csv": january, "sales_feb.csv": february})
    assert code == 0 and card["interactions"]["path"] == "sales_*.csv"
    assert "sales_*.csv: some of its files lack time, so that is not used" in err


def test_tables_that_each_have_a_column_of_their_own_are_not_one(init):
    files = {
        "t1.csv": lines([("id", "name", "price"), *((i, f"Lamp {i}", i) for i in range(10))]),
        "t2.csv": lines([("id", "name", "email"), *((f"p{u}", f"Anna {u}", "a@x.org") for u in range(10))]),
        "log.csv": lines([HEAD, *ROWS]),
    }
    code, card, _ = init(files)
    assert code == 0 and card["items"]["path"] == "t1.csv"


def test_ids_with_a_point_in_both_tables_are_alike(init):
    files = {
        "items.csv": lines([("id", "title"), *((f"{i}.0", f"Lamp {i}") for i in range(20))]),
        "log.csv": lines([("user", "item_id"), *((u, f"{i}.0") for u, i in log())]),
    }
    code, card, _ = init(files)
    assert code == 0 and card["items"]["columns"] == {"item": "id", "title": "title"}
    assert "pattern" not in card["interactions"]


def test_an_artist_of_several_tracks_is_no_title(init):
    rows = [(u, i, f"Band {i % 2}") for u, i in log()]
    code, card, _ = init({"log.csv": lines([("user", "track_id", "artist"), *rows])})
    assert code == 0 and "items" not in card


def test_objects_without_end_end_soon(init):
    deep = json.loads('{"a":' * 300 + "1" + "}" * 300)
    wide = [{f"k{n}_{k}": 1 for k in range(30)} for n in range(len(ROWS))]
    rows = [dict(zip(HEAD, row, strict=True)) | {"x": deep, "y": wide[n]} for n, row in enumerate(ROWS)]
    code, card, _ = init({"log.jsonl": objects(rows)})
    assert code == 0 and card["interactions"]["columns"] == dict(zip(HEAD, HEAD, strict=True))


def test_fields_that_are_looked_at_are_few():
    text = json.dumps({f"k{n}": {"a": {"b": {"c": {"d": 1}}}} for n in range(300)})
    rows = pl.DataFrame({"user": ["1"], "x": [text]})
    assert {name.count(".") for name in (c.name for c in Column("x", rows["x"]).fields())} == {1, 2, 3, 4}
    assert len(Sheet(FoundTable("a.jsonl", [], {"format": "jsonl"}, rows, True)).columns) <= 202
