"""Lists that were made elsewhere: every format, what is refused in one line, and what is only told."""

import gzip
import json

import polars as pl
import pytest

from llmrec.errors import UserError
from llmrec.evaluate.given_lists import lists_of_split, read_given_lists

ROWS = [("u", "b", 2, 0.5), ("u", "a", 1, 0.9), ("v", "c", 1, 3.0)]
SORTED = [("u", "a", 1), ("u", "b", 2), ("v", "c", 1)]


def frame_of(rows=ROWS, names=("user", "item", "rank", "score")):
    return pl.DataFrame([row[: len(names)] for row in rows], schema=list(names), orient="row")


def write(path, frame):
    text = frame.write_ndjson() if ".jsonl" in path.name else frame.write_csv()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        path.write_text(text if path.suffix != ".tsv" else frame.write_csv(separator="\t"))
    return path


def examples(**histories):
    schema = {"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String}
    columns = {
        "user_id": list(histories),
        "history": list(histories.values()),
        "target": ["a"] * len(histories),
    }
    return pl.DataFrame(columns, schema=schema)


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("names", [("user", "item", "rank", "score"), ("user_id", "item_id", "rank")])
def test_every_format_gives_the_same_lists(ending, names, tmp_path):
    given = read_given_lists(write(tmp_path / f"made.{ending}", frame_of(names=names)))
    assert given.select("user_id", "item_id", "rank").rows() == SORTED
    assert given["split"].unique().to_list() == ["test"]
    assert given["score"].to_list() == ([0.9, 0.5, 3.0] if "score" in names else [-1.0, -2.0, -1.0])


def test_without_ranks_the_highest_score_is_first_and_the_earlier_row_wins_a_tie(tmp_path):
    frame = pl.DataFrame({"user": [1, 1, 1], "item": [7, 8, 9], "score": [0.5, 0.9, 0.5]})
    given = read_given_lists(write(tmp_path / "made.parquet", frame))
    assert given.select("user_id", "item_id", "rank").rows() == [("1", "8", 1), ("1", "7", 2), ("1", "9", 3)]


def test_ranks_may_have_gaps_and_splits_are_kept_apart(tmp_path):
    rows = [("u", "a", 5, "valid"), ("u", "b", 9, "valid"), ("u", "c", 5, "test")]
    frame = pl.DataFrame(rows, schema=["user", "item", "rank", "split"], orient="row")
    given = read_given_lists(write(tmp_path / "made.csv", frame))
    assert given.select("split", "item_id", "rank").rows() == [
        *(("test", "c", 1), ("valid", "a", 1), ("valid", "b", 2))
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,rank\nu,1\n", "no column 'item'"),
        ("item,rank\na,1\n", "no column 'user'"),
        ("user,item\nu,a\n", "no column 'rank or score'"),
        ("user,item,rank\n", "no rows"),
        ("", "empty"),
        ("user,item,rank\nu,,1\n", "row 1: item_id is empty"),
        ("user,item,rank\nu,a,1\n ,b,1\n", "row 2: user_id is empty"),
        ("user,item,rank\nu,a,0\n", "row 1: rank is '0', not a whole number from 1"),
        ("user,item,rank\nu,a,1.5\n", "row 1: rank is '1.5'"),
        ("user,item,rank\nu,a,1\nu,b,first\n", "row 2: rank is 'first'"),
        ("user,item,rank\nu,a,1\nu,b,1\n", "user 'u' has rank 1 twice"),
        ("user,item,rank\nu,a,99999999999999999999\n", "row 1: rank is"),
        ("user,item,score\nu,a,nan\n", "row 1: score is 'nan', not a finite number"),
        ("user,item,score\nu,a,inf\n", "not a finite number"),
        ("user,item,rank,split\nu,a,1,train\n", "split 'train'; splits are valid and test"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(text, message, tmp_path):
    path = tmp_path / "made.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_given_lists(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_given_lists(tmp_path / "made.csv")
    for name in ("made.parquet", "made.csv.gz", "made.jsonl"):
        (tmp_path / name).write_bytes(b"\x80\x04\x95 not what its name says")
        with pytest.raises(UserError, match=name):
            read_given_lists(tmp_path / name)


def given(*rows):
    schema = {"split": pl.String, "user_id": pl.String, "item_id": pl.String, "rank": pl.Int32}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(score=-pl.col("rank").cast(pl.Float64))


def test_seen_items_are_left_out_like_those_of_all_systems(capsys):
    rows = given(("test", "u", "a", 1), ("test", "u", "b", 2), ("test", "u", "c", 3), ("test", "x", "a", 1))
    asked = examples(u=["a"], v=[])
    lists = lists_of_split(rows, "test", asked, ["a", "b"], 2, True, "lists:made")
    assert lists.select("user_id", "rank", "item_id").rows() == [("u", 1, "b"), ("u", 2, "c")]
    told = capsys.readouterr().err
    assert "lists:made: 1 of 2 test users have no list, and count as misses" in told
    assert "1 places of test lists hold no item of the catalogue, such as 'c'" in told
    unmasked = lists_of_split(rows, "test", asked, ["a", "b"], 2, False, "lists:made")
    assert unmasked["item_id"].to_list() == ["a", "b"]


def test_a_split_without_lists_is_left_out_and_lists_of_strangers_are_refused(capsys):
    rows = given(("test", "x", "a", 1))
    assert lists_of_split(rows, "valid", examples(u=[]), ["a"], 2, True, "lists:made") is None
    assert "no lists for the split valid" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no list is of a user .* its users are u …, those of the file x …"):
        lists_of_split(rows, "test", examples(u=[]), ["a"], 2, True, "lists:made")


def test_json_values_that_are_no_ids_are_refused(tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text(json.dumps({"user": "u", "item": {"a": 1}, "rank": "x"}) + "\n")
    with pytest.raises(UserError, match=r"made\.jsonl"):
        read_given_lists(path)
