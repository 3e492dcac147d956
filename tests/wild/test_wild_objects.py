"""Fields of objects, in lists and in none, and written as text: which there are, and what reading them costs."""

import csv
import io
import json
import weakref

import polars as pl
import pytest
from folders.contents import parquet
from own_data import build

from llmrec.cli import main
from llmrec.data.log import read_log
from llmrec.data.tables import prepare
from llmrec.data.tables.described import Interactions
from llmrec.data.tables.lists import nested_rows
from llmrec.errors import UserError


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder, content, name, columns, **table):
    """Return the items of a log in order."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    scratch = folder / "scratch"
    scratch.mkdir()
    log = read_log(
        Interactions.model_validate({"path": name, "columns": columns} | table), [folder / name], scratch
    )
    return log.items[log.rows["item"]].to_list()


def test_a_point_in_a_name_is_no_field_of_an_object(tmp_path):
    rows = [{"u": 1, "i": item} | ({"at.t": 5} if item == "c" else {}) for item in "abc"]
    columns = {"user": "u", "item": "i", "time": "at.t"}
    with pytest.raises(UserError, match="row 1: time is empty"):
        read(tmp_path, json_lines(rows), "log.jsonl", columns)


@pytest.mark.parametrize("later", [[{"sku": "b"}, {"sku": "c"}], {"sku": "b"}])
def test_one_object_where_later_rows_have_a_list_of_them(tmp_path, later):
    rows = [{"u": 1, "of": {"sku": "a"}}, {"u": 1, "of": later}]
    found = read(tmp_path, json_lines(rows), "log.jsonl", {"user": "u", "item": "of.sku"})
    assert found == ["a", "b", "c"][: 1 + len(later)]


def test_rows_without_the_list_are_not_held_until_one_has_it(tmp_path):
    held = []
    rows = [{"u": 1, "of": None}] * 1000 + [{"u": 1, "of": [{"sku": "a"}]}]

    def rows_from_the_first():
        for row in rows:
            held.append(weakref.ref(kept := Kept(row)))
            assert sum(ref() is not None for ref in held) < 10
            yield kept

    assert [*nested_rows(tmp_path, rows_from_the_first, *[["u", "of.sku"]] * 2)] == [{"u": 1, "of.sku": "a"}]


class Kept(dict):
    """A row that can be watched."""


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_two_lists_of_one_object_are_two_lists(tmp_path, suffix):
    rows = [{"u": 1, "of": {"x": [{"a": "a"}], "y": [{"b": 5}]}}]
    path = tmp_path / f"log.{suffix}"
    pl.DataFrame(rows).write_parquet(path)
    content = path.read_bytes() if suffix == "parquet" else json_lines(rows)
    with pytest.raises(UserError, match=r"columns of several lists \(of.x, of.y\)"):
        read(tmp_path, content, path.name, {"user": "u", "item": "of.x.a", "time": "of.y.b"})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_of_objects_are_no_ids(tmp_path, suffix):
    rows = [{"u": 1, "of": [{"sku": "a"}, {"sku": "b"}]}]
    path = tmp_path / f"log.{suffix}"
    pl.DataFrame(rows).write_parquet(path)
    content = path.read_bytes() if suffix == "parquet" else json_lines(rows)
    with pytest.raises(UserError, match=r"holds objects; name the field that is the id, such as 'of\.id'"):
        read(tmp_path, content, path.name, {"user": "u", "item": "of"})


def test_bytes_that_are_no_text_leave_other_texts_as_they_are(tmp_path):
    pl.DataFrame({"u": [b"1"] * 3, "i": [b"a", b"\xff", "\ufffd".encode()]}).write_parquet(
        tmp_path / "log.parquet"
    )
    content = (tmp_path / "log.parquet").read_bytes()
    found = read(tmp_path, content, "log.parquet", {"user": "u", "item": "i"}, without_id="drop")
    assert found == ["a", "\ufffd"]


def test_a_long_object_is_not_tried_at_each_block(tmp_path, monkeypatch):
    tried = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, *args):
            tried.append(args)
            return super().raw_decode(*args)

    monkeypatch.setattr(prepare, "_BLOCK", 64)
    monkeypatch.setattr("json.JSONDecoder", Counting)
    rows = [{"u": 1, "i": f"i{n}"} for n in range(1000)]
    found = read(tmp_path, json.dumps({"rows": rows}, indent=1), "log.json", {"user": "u", "item": "i"})
    assert len(found) == 1000 and len(tried) < 40


ORDERS = [
    {"user_id": u, "day": f"2024-01-0{n}", "lines": [{"sku": sku, "name": f"Thing {sku}"} for sku in skus]}
    for u, n, skus in [(1, 1, "ab"), (1, 2, "c"), (2, 1, "b"), (2, 3, "ca"), (3, 1, ""), (3, 2, "abc")]
]
LINES = {"user": "user_id", "item": "lines.sku", "time": "day"}


def table(rows, write=json.dumps):
    """CSV of rows whose lists and objects are written as text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([write(v) if isinstance(v, list | dict) else v for v in row.values()] for row in rows)
    return buffer.getvalue()


IN_TEXT = {
    "json.csv": table(ORDERS),
    "python.csv": table(ORDERS, repr),
    "missing.csv": table(
        [*ORDERS, {"user_id": 4, "day": "", "lines": ""}, {"user_id": 4, "day": "", "lines": "NULL"}]
    ),
    "text.jsonl": json_lines([row | {"lines": json.dumps(row["lines"])} for row in ORDERS]),
    "text.parquet": parquet(pl.DataFrame([row | {"lines": json.dumps(row["lines"])} for row in ORDERS])),
}


@pytest.mark.parametrize("name", IN_TEXT)
def test_objects_that_are_written_as_text(tmp_path, name):
    items = {"path": name, "columns": {"item": "lines.sku", "title": "lines.name"}}
    card = {"interactions": {"path": name, "columns": LINES}, "items": items}
    built = build(tmp_path, {name: IN_TEXT[name]}, card, ties="file")
    assert built.rows("user_id", "item_id") == [
        *(("1", sku) for sku in "abc"),
        *(("2", sku) for sku in "bca"),
        *(("3", sku) for sku in "abc"),
    ]
    assert set(built.items["title"]) == {f"Thing {sku}" for sku in "abc"}


def test_one_object_as_text_beside_plain_columns(tmp_path):
    rows = [{"u": u, "of": {"sku": sku, "page": {"at": n}}} for u in (1, 2) for n, sku in enumerate("abc")]
    columns = {"user": "u", "item": "of.sku", "time": "of.page.at"}
    assert read(tmp_path, table(rows), "log.csv", columns) == list("abcabc")


@pytest.mark.parametrize(
    ("rows", "columns", "says"),
    [
        ([*ORDERS, {"user_id": 1, "day": "", "lines": "two things"}], {}, "row 7: 'lines.sku' needs a list"),
        (ORDERS, {"item": "lines.ean"}, "'lines.ean'"),
        (ORDERS, {"item": "line.sku"}, "no column 'line.sku'"),
        (ORDERS, {"user": "usr_id"}, "no column 'usr_id'.*did you mean 'user_id'"),
    ],
)
def test_a_text_that_holds_no_such_object_is_named(tmp_path, rows, columns, says):
    with pytest.raises(UserError, match=says) as caught:
        read(tmp_path, table(rows), "log.csv", LINES | columns)
    assert "\n" not in str(caught.value)


FILMS = [
    {"id": sku, "title": f"Film {sku}", "genres": [{"id": 1, "name": "Drama"}, {"id": 2, "name": sku}]}
    for sku in "ab"
] + [{"id": "c", "title": "Film c", "genres": []}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("films.csv", table(FILMS, repr)),
        ("films.jsonl", json_lines(FILMS)),
        ("films.parquet", parquet(pl.DataFrame(FILMS))),
    ],
)
def test_a_list_that_describes_an_item_makes_no_rows(tmp_path, name, content):
    columns = {"item": "id", "title": "title", "categories": "genres.name"}
    card = {
        "interactions": {"path": "log.csv", "columns": {"user": "u", "item": "i"}},
        "items": {"path": name, "columns": columns},
    }
    built = build(tmp_path, {"log.csv": "u,i\n1,a\n1,b\n1,c\n", name: content}, card)
    assert built.items["categories"].to_list() == [["Drama", "a"], ["Drama", "b"], []]
    assert built.report["items"]["duplicate_rows"] == 0


def test_init_finds_what_is_written_as_text(tmp_path, capsys):
    (tmp_path / "shop").mkdir()
    rows = [row | {"user_id": f"u{n}{row['user_id']}"} for n in range(4) for row in ORDERS]
    rows = [
        row | {"lines": [{"product_id": each["sku"], "genre": "x"} for each in row["lines"]]} for row in rows
    ]
    (tmp_path / "shop/orders.csv").write_text(table(rows))
    films = [{"product_id": film["id"]} | film for film in FILMS]
    (tmp_path / "shop/films.csv").write_text(table(films, repr))
    assert main(["init", str(tmp_path / "shop"), "--out", str(tmp_path / "card.yaml"), "--yes"]) == 0
    out = capsys.readouterr().out
    assert "item = lines.product_id" in out and "categories = genres.name" in out
    assert main(["validate", "own-data", f"data.card={tmp_path / 'card.yaml'}"]) == 0
    assert "lines" not in next(line for line in capsys.readouterr().out.splitlines() if "not used" in line)
