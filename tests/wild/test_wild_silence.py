"""Nothing about data happens in silence: what does not join, columns without values, targets that cannot be hit."""

import json

import polars as pl
import pytest
from own_data import build

from llmrec.errors import UserError
from llmrec.evaluate.evaluation import _tell_repeats

LOG = {"path": "log.csv", "columns": {"user": "user", "item": "item"}}


def read(folder, log_ids, meta_ids, key="item"):
    """Join three ids of a log with those of a table; return what the table gave."""
    rows = [("u", "i") for _ in log_ids]
    rows = [
        (identifier, item) if key == "user" else (user, identifier)
        for identifier, (user, item) in zip(log_ids, rows, strict=True)
    ]
    log = "user,item\n" + "".join(
        f"{user},{item}{n if key == 'user' else ''}\n" for n, (user, item) in enumerate(rows)
    )
    if key == "user":
        log += "".join(
            line.replace(",i", f",j{n}") + "\n" for n in range(2) for line in log.splitlines()[1:4]
        )
    name = "items.jsonl" if key == "item" else "users.jsonl"
    table = {"path": name, "columns": {key: "id", "title": "t"} if key == "item" else {key: "id", "age": "t"}}
    lines = "".join(
        json.dumps({"id": identifier, "t": f"T{n}"}) + "\n" for n, identifier in enumerate(meta_ids)
    )
    built = build(folder, {"log.csv": log, name: lines}, {"interactions": LOG, f"{key}s": table})
    return built.items["title"].to_list() if key == "item" else built.users


@pytest.mark.parametrize("key", ["item", "user"])
@pytest.mark.parametrize(
    ("log_ids", "meta_ids", "message"),
    [
        (
            ["7", "8", "9"],
            ["007", "008", "x"],
            "such as '007' here and '7' in the log; they differ in leading zeros",
        ),
        (["007", "008", "9"], [7, 8, 1], "such as '7' here and '007' in the log"),
        (["7.0", "8.0", "9.0"], [7, 8, 9], "such as '7' here and '7.0' in the log"),
        (["B0A", "B0B", "B0C"], ["b0a", "b0b", "x"], "such as 'b0a' here and 'B0A' in the log"),
        (["a", "b", "c"], ["x", "y", "z"], "the log has (item|user) ids such as 'a'"),
    ],
)
def test_metadata_that_joins_nothing_is_an_error(tmp_path, key, log_ids, meta_ids, message):
    with pytest.raises(UserError, match=rf"no {key} of the log is in it.*{message}") as caught:
        read(tmp_path, log_ids, meta_ids, key)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_near_misses_are_told_and_counted(tmp_path, capsys):
    assert read(tmp_path, ["7", "8", "9"], ["7", "008", "009"]) == ["T0", "item 8", "item 9"]
    err = capsys.readouterr().err
    assert (
        "items.jsonl: 2 item ids differ from the log's in leading zeros, case or `.0` only, such as '008'"
        in err
    )


def test_what_joins_is_told_nothing_about(tmp_path, capsys):
    assert read(tmp_path, ["7", "8", "0"], ["7", "8", "0"]) == ["T0", "T1", "T2"]
    assert capsys.readouterr().err == "data: 1 users, 3 items, 3 interactions\n"


@pytest.mark.parametrize("column", ["brand", "price", "categories", "colour"])
def test_an_optional_column_without_a_value_is_told(tmp_path, capsys, column):
    items = "".join(json.dumps({"id": n, "t": "x", "b": None}) + "\n" for n in (1, 2, 3))
    table = {"path": "items.jsonl", "columns": {"item": "id", "title": "t", column: "b"}}
    log = "user,item\nu,1\nu,2\nu,3\n"
    build(tmp_path, {"log.csv": log, "items.jsonl": items}, {"interactions": LOG, "items": table})
    assert f"items.jsonl: column 'b' ({column}) holds no value" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["rating", "event", "review"])
def test_an_optional_column_of_the_log_without_a_value_is_told(tmp_path, capsys, column):
    log = "user,item,x\nu,1,\nu,2,\nu,3,\n"
    table = {"path": "log.csv", "columns": {"user": "user", "item": "item", column: "x"}}
    build(tmp_path, {"log.csv": log}, {"interactions": table})
    assert f"log.csv: column 'x' ({column}) holds no value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("share", "mask_seen", "told"), [(0.25, True, "HR cannot exceed 0.750"), (0.25, False, ""), (0, True, "")]
)
def test_targets_that_are_masked_are_told(capsys, share, mask_seen, told):
    _tell_repeats(share, "test", mask_seen)
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == bool(told)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"not parquet at all", "log.parquet", "not a Parquet file, or a damaged one"),
        (b"{broken", "log.jsonl", "line 1"),
        (b"user,item\n\xff\xfe\x00\x81,1\n", "log.csv", "line 2: not UTF-8"),
    ],
)
def test_errors_about_files_are_in_our_words(tmp_path, content, name, message):
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, {name: content}, {"interactions": LOG | {"path": name}})
    text = str(caught.value)
    assert not any(
        word in text.lower() for word in ("polars", "pydantic", "schema", "rust", "lazyframe", "thrift")
    )


def test_parquet_files_of_different_types_are_told_apart(tmp_path):
    for name, users in (("a", [1, 2]), ("b", ["1", "2"])):
        pl.DataFrame({"user": users, "item": ["x", "y"]}).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(
        UserError, match=r"files of one table differ in types: user is Int64 in a\.parquet and String in b"
    ):
        build(tmp_path, {}, {"interactions": LOG | {"path": "*.parquet"}})
