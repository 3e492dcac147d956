"""Rows that hold lists: a user with all items, with or without times; objects in objects; lines of ids."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_data import build

from llmrec.data.log import read_log
from llmrec.data.tables.described import Interactions
from llmrec.errors import UserError

PAIRS = [("1", "a"), ("1", "b"), ("1", "c"), ("2", "b"), ("2", "a"), ("2", "d")]
HISTORIES = {1: ["a", "b", "c"], 2: ["b", "a", "d"]}
TIMES = {1: [30, 10, 20], 2: [5, 6, 7]}
TIMED = [("1", "b", 10), ("1", "c", 20), ("1", "a", 30), ("2", "b", 5), ("2", "a", 6), ("2", "d", 7)]
COLUMNS = {"user": "u", "item": "items"}


def read_pairs(folder, content, name, columns=COLUMNS, **table):
    card = {"interactions": {"path": name, "columns": columns} | table}
    return build(folder, {name: content}, card, ties="file").rows(
        *("user_id", "item_id", "time")[: 3 if "time" in columns else 2]
    )


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"u": u, "items": items} for u, items in HISTORIES.items()]
TIMED_ROWS = [row | {"t": TIMES[row["u"]]} for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "table"),
    [
        ("log.jsonl", json_lines(ROWS), {}),
        ("log.json", json.dumps(ROWS, indent=1), {}),
        ("log.py", "\n".join(map(repr, ROWS)), {"format": "loose_jsonl"}),
        ("log.csv", "u,items\n" + "".join(f'{u},"{items}"\n' for u, items in HISTORIES.items()), {}),
        ("log.csv", "u,items\n1,a b c\n2, b  a d \n", {"split_on": {"item": " "}}),
        ("log.csv", "u,items\n1,a|b|c\n2,b|a|d\n", {"split_on": {"item": "|"}}),
        ("log.jsonl", json_lines([*ROWS, {"u": 3, "items": []}, {"u": 4, "items": None}]), {}),
    ],
)
def test_lists_become_rows_in_order(tmp_path, capsys, name, content, table):
    assert read_pairs(tmp_path, content, name, **table) == PAIRS
    assert "rows with lists (item) read as one row for each entry" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
def test_lists_of_times_beside_lists_of_items(tmp_path, name):
    content = json_lines(TIMED_ROWS)
    if name == "log.csv":
        content = "u,items,t\n" + "".join(f'{r["u"]},"{r["items"]}","{r["t"]}"\n' for r in TIMED_ROWS)
    assert read_pairs(tmp_path, content, name, COLUMNS | {"time": "t"}) == TIMED


@pytest.mark.parametrize("is_array", [False, True])
def test_lists_in_parquet(tmp_path, is_array):
    frame = pl.DataFrame(TIMED_ROWS)
    if is_array:
        frame = frame.with_columns(pl.col("items").list.to_array(3), pl.col("t").list.to_array(3))
    frame.write_parquet(tmp_path / "log.parquet")
    content = (tmp_path / "log.parquet").read_bytes()
    assert read_pairs(tmp_path, content, "log.parquet", COLUMNS | {"time": "t"}) == TIMED


def test_one_time_beside_a_list_is_that_of_all_entries(tmp_path):
    rows = [{"u": 1, "items": ["a", "b"], "t": 5}, {"u": 1, "items": ["c"], "t": 3}]
    found = read_pairs(tmp_path, json_lines(rows), "log.jsonl", COLUMNS | {"time": "t"})
    assert found == [("1", "c", 3), ("1", "a", 5), ("1", "b", 5)]


STEAM = [
    {
        "u": u,
        "n": 3,
        "library": [
            {"item_id": item, "name": "x", "at": {"t": t}}
            for item, t in zip(HISTORIES[u], TIMES[u], strict=True)
        ],
    }
    for u in HISTORIES
]


@pytest.mark.parametrize(
    ("name", "content", "table"),
    [
        ("log.py", "\n".join(map(repr, STEAM)), {"format": "loose_jsonl"}),
        ("log.jsonl", json_lines(STEAM), {}),
        ("log.json", json.dumps(STEAM), {}),
        ("log.jsonl", json_lines([*STEAM, {"u": 3, "library": []}, {"u": 4}]), {}),
    ],
)
def test_fields_of_objects_in_a_list(tmp_path, name, content, table):
    columns = {"user": "u", "item": "library.item_id"}
    assert read_pairs(tmp_path, content, name, columns, **table) == PAIRS
    timed = columns | {"time": "library.at.t"}
    assert read_pairs(tmp_path, content, name, timed, **table) == TIMED


ORDERS = [
    {"by": {"id": u, "at": {"t": t}}, "lines": [{"sku": item, "of": {"name": f"T{item}"}}]}
    for u in HISTORIES
    for item, t in zip(HISTORIES[u], TIMES[u], strict=True)
]
OBJECTS = {"user": "by.id", "item": "lines.sku", "time": "by.at.t"}
NOTHING = {"by": None, "lines": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", json_lines(ORDERS)),
        ("log.json", json.dumps(ORDERS, indent=1)),
        ("log.json", json.dumps({"orders": ORDERS, "count": 6})),
        ("log.jsonl", json_lines([NOTHING, *ORDERS, {"by": {"id": 3}, "lines": []}])),
        ("log.parquet", None),
    ],
)
def test_fields_of_objects_beside_those_of_a_list(tmp_path, name, content):
    if content is None:
        rows = [*ORDERS, {"by": {"id": 3, "at": None}, "lines": []}, NOTHING]
        pl.DataFrame(rows).write_parquet(tmp_path / name)
        content = (tmp_path / name).read_bytes()
    items = {"path": name, "columns": {"item": "lines.sku", "title": "lines.of.name"}}
    built = build(
        tmp_path, {name: content}, {"interactions": {"path": name, "columns": OBJECTS}, "items": items}
    )
    assert built.rows() == TIMED
    assert set(built.items.select("item_id", "title").rows()) == {(item, f"T{item}") for item in "abcd"}


def test_a_missing_object_is_a_missing_value(tmp_path):
    rows = [{"by": None, "item": "a"}, *({"by": {"id": 1}, "item": item} for item in "abc")]
    columns = {"user": "by.id", "item": "item"}
    with pytest.raises(UserError, match="row 1: user is empty"):
        read_pairs(tmp_path, json_lines(rows), "log.jsonl", columns)
    assert read_pairs(tmp_path, json_lines(rows), "log.jsonl", columns, without_id="drop") == PAIRS[:3]


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        ("1 a b c\n2 b a d\n", None),
        ("1\ta\tb\tc\n2\tb\ta\td", None),
        ("\ufeff1  a b   c \n\n2 b a d\n3\n", None),
        ("1,a,b,c\n2,b,a,d\n", ","),
    ],
)
def test_lines_of_a_user_and_items(tmp_path, content, separator):
    columns = {"user": "user", "item": "item"}
    found = read_pairs(tmp_path, content, "log.txt", columns, format="sequences", separator=separator)
    assert found == PAIRS


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            [{"u": 1, "items": ["a", "b"], "t": [1]}],
            {"time": "t"},
            "row 1: time = .*not as many entries as item",
        ),
        ([{"u": 1, "items": "a", "t": [1]}], {"time": "t"}, "time holds lists and item does not"),
        ([{"u": 1, "items": ["a", None, "c"]}], {}, "entry 2: item is empty: an empty item id"),
        ([{"u": 1, "items": ["a", "b"], "t": [1, "x"]}], {"time": "t"}, "entry 2: time = 'x': not a time"),
        ([{"u": 1, "x": 5}], {"item": "x.y"}, "row 1: 'x.y' needs a list of objects"),
        ([{"u": 1, "x": [5]}], {"item": "x.y"}, "row 1: 'x.y' needs a list of objects"),
        ([{"u": 1, "x": None}], {"item": "x.y"}, "no object has the field 'x.y'"),
        ([{"u": 1, "x": [], "y": []}], {"item": "x.a", "time": "y.b"}, "columns of several lists"),
    ],
)
def test_lists_that_do_not_fit_are_named(tmp_path, rows, columns, message):
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(tmp_path, json_lines(rows), "log.jsonl", COLUMNS | columns)
    assert "\n" not in str(caught.value) and len(str(caught.value).replace(str(tmp_path), "")) <= 300


def test_ids_in_brackets_are_no_lists(tmp_path):
    log = "u,items\n" + "".join(f"1,[{item}]\n" for item in "abc")
    assert read_pairs(tmp_path, log, "log.csv") == [("1", "[a]"), ("1", "[b]"), ("1", "[c]")]


IDS = st.text(st.sampled_from("ab,'\" \\é["), min_size=1, max_size=5).filter(
    lambda text: text.strip() == text
)


@settings(max_examples=60, database=None)
@given(st.lists(st.lists(IDS, max_size=4), min_size=1, max_size=4), st.booleans())
def test_lists_as_text_come_back(tmp_path_factory, histories, is_python):
    folder = tmp_path_factory.mktemp("lists")
    if not any(histories):
        return
    path = folder / "log.jsonl"
    write = repr if is_python else json.dumps
    path.write_text(
        "".join(json.dumps({"u": u, "i": write(items)}) + "\n" for u, items in enumerate(histories))
    )
    log = read_log(
        Interactions(path=path.name, columns={"user": "u", "item": "i"}, missing=[]), [path], folder
    )
    found = list(zip(log.users[log.rows["user"]], log.items[log.rows["item"]], strict=True))
    assert found == [(str(user), item) for user, items in enumerate(histories) for item in items]
