"""Tables as pandas writes them to JSON: names of columns outside or inside, an index, or names apart from values."""

import json

import pytest
from folders.contents import ITEMS, log, when

from llmrec.cli import main
from llmrec.data.log import read_log
from llmrec.data.tables.described import Interactions
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

NAMES = ("user_id", "product_id", "time", "stars")
ROWS = [(f"u{u}", f"p{i}", t, (u + i) % 5) for u, i, t in log(when)]
THINGS = [(f"p{i}", f"Thing {i}", "A") for i in range(ITEMS)]
HEAD = ("product_id", "title", "kind")


def columns(names, rows, index):
    return {
        name: dict(zip(index, values, strict=True))
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def index_of(names, rows, index):
    return {key: dict(zip(names, row, strict=True)) for key, row in zip(index, rows, strict=True)}


def split(names, rows, index):
    return {"columns": names, "index": list(index), "data": rows}


def typed(names, rows, index):
    data = [{"index": key} | dict(zip(names, row, strict=True)) for key, row in zip(index, rows, strict=True)]
    return {"schema": {"fields": [{"name": name, "type": "string"} for name in names]}, "data": data}


ORIENTS = [columns, index_of, split, typed]


def read(folder, table):
    (folder / "log.json").write_text(json.dumps(table))
    (folder / "scratch").mkdir()
    described = Interactions(
        path="log.json", columns={"user": "user_id", "item": "product_id", "time": "time"}
    )
    found = read_log(described, [folder / "log.json"], folder / "scratch")
    users, items = (names[found.rows[side]] for side, names in (("user", found.users), ("item", found.items)))
    return list(zip(users, items, found.rows["time"], strict=True))


@pytest.mark.parametrize("orient", ORIENTS)
@pytest.mark.parametrize("step", [1, 7])
def test_every_orient_is_read(tmp_path, orient, step):
    index = [step * n for n in range(len(ROWS))]
    index = index if orient in (split, typed) else list(map(str, index))
    assert read(tmp_path, orient(NAMES, ROWS, index)) == [row[:3] for row in ROWS]


@pytest.mark.parametrize("orient", ORIENTS)
@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("has_index", [False, True])
def test_init_reads_every_orient(tmp_path, capsys, orient, step, has_index):
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [str(step * n) for n in range(len(ROWS))]
    (folder / "orders.json").write_text(json.dumps(orient(NAMES, ROWS, rows)))
    keys, names = [thing[0] for thing in THINGS], HEAD[1:] if has_index else HEAD
    things = [thing[1:] for thing in THINGS] if has_index else THINGS
    keys = keys if has_index else [str(step * n) for n in range(ITEMS)]
    (folder / "products.json").write_text(json.dumps(orient(names, things, keys)))
    assert main(["init", str(folder), "--out", str(tmp_path / "card.yaml"), "--yes"]) == 0
    card, out = read_yaml(tmp_path / "card.yaml"), capsys.readouterr().out
    assert (
        card["interactions"]["columns"]["item"] == "product_id"
        and card["items"]["columns"]["title"] == "title"
    )
    assert f"{ITEMS} of {ITEMS} items are described" in out


def test_a_few_rows_are_told_from_columns_by_their_types(tmp_path):
    table = {
        "p1": {"user_id": "u", "product_id": "a", "time": 5},
        "p2": {"user_id": "u", "product_id": "b", "time": 6},
    }
    assert read(tmp_path, table) == [("u", "a", 5), ("u", "b", 6)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([list(row) for row in ROWS], "line 1 is not a JSON object: a list has no names of columns"),
        (
            {"columns": ["user_id", "product_id"], "data": [["u", "a"], ["u"]]},
            "a row with another number of values",
        ),
    ],
)
def test_what_has_no_names_is_refused(tmp_path, table, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, table)
