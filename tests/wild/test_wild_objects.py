"""Fields of objects, in lists and in none: which there are, and what reading them costs."""

import json
import weakref

import polars as pl
import pytest

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

    assert [*nested_rows(tmp_path, rows_from_the_first, ["u", "of.sku"])] == [{"u": 1, "of.sku": "a"}]


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
