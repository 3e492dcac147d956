"""Index, item and interaction files of other projects: read with suspicion, written as they read them."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmrec.data.card import load_card
from llmrec.data.source import locate
from llmrec.errors import UserError
from llmrec.ids import exchange

GOOD = {"0": ["<a_3>", "<b_0>"], "1": ["<a_0>", "<b_2>"], "other": ["<a_9>", "<b_9>"]}


def written(folder, content, name="x.index.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_codes_come_in_the_catalogue_s_order(tmp_path):
    codes = exchange.read_index(written(tmp_path, GOOD), ["1", "0"])
    np.testing.assert_array_equal(codes.codes, [[0, 2], [3, 0]])
    assert codes.sizes == [4, 3] and codes.unique and codes.codes.dtype == np.int32


@pytest.mark.parametrize(
    "index",
    [
        {"0": ["<s_a_3>", "<s_b_0>"], "1": ["<s_a_0>", "<s_b_2>"]},
        {"0": ["<item_a_3>", "<item_b_0>"], "1": ["<item_a_0>", "<item_b_2>"]},
        {"0": "<a_3><b_0>", "1": "<a_0> <b_2>"},
        {"0": "<|sid_begin|><s_a_3><s_b_0><|sid_end|>", "1": "<|sid_begin|><s_a_0><s_b_2><|sid_end|>"},
        {"0": ["<|sid_begin|>", "<s_a_3>", "<s_b_0>", "<|sid_end|>"], "1": ["<a_0>", "<b_2>"]},
    ],
)
def test_other_spellings_are_the_same_codes(tmp_path, index):
    np.testing.assert_array_equal(
        exchange.read_index(written(tmp_path, index), ["0", "1"]).codes, [[3, 0], [0, 2]]
    )


def test_shared_paths_are_left_to_the_collision_rule(tmp_path):
    codes = exchange.read_index(written(tmp_path, {"0": ["<a_1>"], "1": ["<a_1>"]}), ["0", "1"])
    assert not codes.unique and codes.sizes == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": ["<a_1>"]}, "no index for 1 of 2 items, such as '1'"),
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}, "item '1' has 2 tokens, the first item 1"),
        ({"0": ["<b_1>"], "1": ["<a_1>"]}, "'<b_1>' is no token such as <a_0>"),
        ({"0": ["<a_1>"], "1": ["<a_-1>"]}, "no token"),
        ({"0": ["<a_1>"], "1": ["<a_٣>"]}, "no token"),
        ({"0": ["<a_1>"], "1": ["<a_9999999>"]}, "its number below 1048576"),
        ({"0": ["<a_1>"], "1": [1]}, "1 is no token"),
        ({"0": [], "1": []}, "a list of 1 to 26 tokens"),
        ({"0": {"a": 1}, "1": "<a_2>"}, "a list of 1 to 26 tokens"),
        ({"0": "no token", "1": "<a_2>"}, "'no token' is no token such as <a_0>"),
        ({"0": "<a_1> and <b_2>", "1": "<a_2>"}, "is no token such as <a_0>"),
        ({"0": ["<x_a_1>"], "1": ["<a_2>"]}, "'<x_a_1>' is no token"),
        ([["<a_1>"]], "a JSON object"),
        ({}, "a JSON object"),
        ('{"0": ["<a_1>"], "0": ["<a_2>"], "1": ["<a_3>"]}', "key '0' is written twice"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"0": ' + "9" * 10_000 + "}", "cannot be read"),
    ],
)
def test_what_is_wrong_with_an_index_is_said_in_one_line(tmp_path, content, message):
    with pytest.raises(UserError) as caught:
        exchange.read_index(written(tmp_path, content), ["0", "1"])
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_missing_and_an_oversized_file_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        exchange.read_index(tmp_path / "none.index.json", ["0"])
    monkeypatch.setattr(exchange, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="at most 10"):
        exchange.read_index(written(tmp_path, GOOD), ["0"])


paths = arrays.arrays(
    np.int32, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=st.integers(0, 300)
)


@given(paths, st.text(max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, codes, name):
    items = [f"{name}{n}" for n in range(len(codes))]
    path = tmp_path_factory.mktemp("index") / "x.index.json"
    exchange.write_index(items, codes, path)
    np.testing.assert_array_equal(exchange.read_index(path, items).codes, codes)


def make_run(folder):
    (folder / "data").mkdir(parents=True)
    (folder / "ids").mkdir()
    items = {"item_id": ["i1", "i2"], "title": ['Ü "one"', "two"], "categories": [["A", "B"], None]}
    pl.DataFrame(items).write_parquet(folder / "data/items.parquet")
    log = {
        "user_id": ["u", "u", "v"],
        "item_id": ["i2", "i1", "i1"],
        "time": [0, 1, 0],
        "split": ["train"] * 3,
    }
    pl.DataFrame(log).write_parquet(folder / "data/interactions.parquet")
    sids = {"item_id": ["i1", "i2"], "sid": [[4, 0, 1], [2, 7, 0]]}
    pl.DataFrame(sids).write_parquet(folder / "ids/sids.parquet")
    return folder


def test_a_run_is_written_as_other_projects_read_it(tmp_path):
    files = exchange.export(make_run(tmp_path / "run"), tmp_path / "out", "toys")
    assert [path.name for path in files] == ["toys.index.json", "toys.item.json", "toys.inter.json"]
    index, item, inter = (json.loads(path.read_text("utf-8")) for path in files)
    assert index == {"i1": ["<a_4>", "<b_0>", "<c_1>"], "i2": ["<a_2>", "<b_7>", "<c_0>"]}
    assert item["i1"] == {"title": 'Ü "one"', "description": "", "brand": "", "categories": "A,B"}
    assert item["i2"]["categories"] == ""
    assert inter == {"u": ["i2", "i1"], "v": ["i1"]}


def test_their_files_become_a_dataset_that_a_card_describes(tmp_path):
    written(tmp_path, {"0": [5, 7, 5], "1": [7]}, "Yelp.inter.json")
    about = {
        "5": {"title": "Greek, great", "description": "Diners", "brand": "", "categories": "Food, Greek"},
        "7": {"title": None, "description": "half a pair \ud800"},
    }
    written(tmp_path, about, "Yelp.item.json")
    card_path = exchange.to_tables(tmp_path, tmp_path / "out")
    card = load_card(str(card_path))
    assert [path.name for path in locate(card).files()] == ["interactions.csv", "items.jsonl"]
    log = pl.read_csv(tmp_path / "out/interactions.csv", schema_overrides={"user_id": pl.String})
    assert log.rows() == [("0", 5, 0), ("0", 7, 1), ("0", 5, 2), ("1", 7, 0)]
    items = pl.read_ndjson(tmp_path / "out/items.jsonl")
    assert items["title"].to_list() == ["Greek, great", "7"]
    assert items["categories"].to_list() == [["Food", "Greek"], []]
    assert "brand" not in items.columns and card.items.columns["categories"] == "categories"
    with pytest.raises(UserError, match="exists already"):
        exchange.to_tables(tmp_path, tmp_path / "out")


def test_a_dataset_without_titles_is_one_still(tmp_path):
    written(tmp_path, {"0": [1, 2]}, "x.inter.json")
    assert load_card(str(exchange.to_tables(tmp_path, tmp_path / "out"))).items is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "one \\*.inter.json is needed"),
        ({"a.inter.json": {"0": [1]}, "b.inter.json": {"0": [1]}}, "a.inter.json, b.inter.json found"),
        ({"a.inter.json": {"0": [[1]]}}, "user '0': a list of item ids"),
        ({"a.inter.json": {"0": [True]}}, "user '0': a list of item ids"),
        ({"a.inter.json": {"0": [1]}, "a.item.json": {"1": "text"}}, "item '1': an object"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_before_anything_is_written(tmp_path, files, message):
    for name, content in files.items():
        written(tmp_path, content, name)
    with pytest.raises(UserError, match=message):
        exchange.to_tables(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
