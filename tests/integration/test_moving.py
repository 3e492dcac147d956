"""docs/moving.md, walked once for each project on miniature files in the shape that it publishes."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import yaml
from other_projects import lc_rec, letter, log, minionerec, openonerec
from own_data import Built, build
from shop import RECIPE

from llmrec.cli import main
from llmrec.data import examples
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.ids import moving
from llmrec.ids.moving import HISTORY, TARGETS

PAGE = Path(__file__).parents[2] / "docs/moving.md"


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    recipe = yaml.safe_load(RECIPE) | {"name": "mine", "ids": {}}
    recipe["eval"]["baselines"] = ["popularity"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def commands(project):
    """The commands of a section of the page."""
    section = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    lines = next(text for text in section if text.startswith(f"{project}\n")).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    llmrec ")]


def walk(project, until="ids"):
    """Import the dataset as the page says, and run it up to a stage; return its data and its IDs."""
    imported, run = commands(project)
    assert main(imported) == 0
    assert run[0] == "run" and main([until, *run[1:]]) == 0
    folder = Path("runs") / run[-1].removeprefix("run=")
    sids = pl.read_parquet(folder / "ids/sids.parquet")
    return Built(folder), dict(sids.iter_rows()), folder


def test_minionerec(cwd, capsys):
    folder = cwd / "MiniOneRec/data/Amazon"
    minionerec(folder, "Industrial_and_Scientific")
    sequences = minionerec(folder)
    built, sids, run = walk("MiniOneRec", "run")
    for user, items in sequences.items():
        mine = built.log.filter(user_id=user)
        assert mine["item_id"].to_list() == [item for item, _ in items]
        assert mine["split"].to_list()[1:] == [part for _, part in items[1:]]
        # The first item is no target in any row.
        assert mine["split"][0] == ("train" if items[1][1] == "train" else "history")
    titles = dict(built.items.select("item_id", "title").iter_rows())
    assert titles["1"] == "Elmer's Tac 'N Stik Reusable Adhesive" and titles["3"].startswith("TÜRLEN")
    description = built.items.filter(item_id="1")["description"].item()
    assert description == "Sturdy, 1/2\" wide. It's number 1."
    assert sids["7"][:3] == sids["8"][:3] and {sids["7"][3], sids["8"][3]} == {0, 1}
    assert all(sid[3] == 0 for item, sid in sids.items() if item not in ("7", "8"))
    test = {user for user, items in sequences.items() if any(part == "test" for _, part in items)}
    assert read_json(run / "eval/metrics.json")["test"]["sft"]["users"] == len(test)
    assert "rows with histories read as" in capsys.readouterr().err


def test_a_card_reads_minionerecs_files_as_they_are(cwd):
    folder = cwd / "MiniOneRec/data/Amazon"
    minionerec(folder)
    card = re.search(r"^    interactions:\n(?:      .*\n)+", PAGE.read_text("utf-8"), re.MULTILINE)[0]
    direct = build(cwd, {}, yaml.safe_load(card), root=str(folder))
    moving.import_folder(folder, cwd / "office")
    tree = yaml.safe_load((cwd / "office/card.yaml").read_text())
    (cwd / "b").mkdir()
    imported = build(cwd / "b", {}, tree, root=str(cwd / "office"))
    columns = ("user_id", "item_id", "time", "split")
    assert direct.rows(*columns) == imported.rows(*columns)


def test_lc_rec(cwd):
    lc_rec(cwd / "LC-Rec/data/Games")
    built, sids, _ = walk("LC-Rec")
    for user, seen in log().items():
        mine = built.log.filter(user_id=str(user))
        assert mine["item_id"].to_list() == [str(item) for _, item in seen]
        assert mine["split"].to_list() == ["train"] * (len(seen) - 2) + ["valid", "test"]
    assert sids["5"] == [38, 11, 5, 0] and {len(sid) for sid in sids.values()} == {4}


def test_letter(cwd):
    letter(cwd / "LETTER/data/Beauty")
    built, sids, _ = walk("LETTER")
    assert built.items["title"].str.starts_with("item ").all()
    assert sids["5"] == [38, 11, 5, 0]


def test_openonerec(cwd):
    openonerec(cwd / "OpenOneRec/data")
    built, sids, run = walk("OpenOneRec")
    seen = {user: [str(90_000_000_000 + 7 * item) for _, item in items] for user, items in log().items()}
    for user, items in seen.items():
        mine = built.log.filter(user_id=str(user))
        assert mine["item_id"].to_list() == items  # item 5 has no SID
        count = len(items)
        held_out = ["history"] * (count - 2) + ["test"] * 2
        assert mine["split"].to_list() == (["train"] * (count - 1) + ["valid"] if user < 18 else held_out)
    assert examples.evaluation_examples(run, "test").select("history", "target").rows() == [
        (items[:-2], items[-2]) for user, items in seen.items() if user >= 18
    ]
    titles = dict(built.items.select("item_id", "title").iter_rows())
    assert titles["90000000007"] == "视频 number 1 with cats" and titles["90000000000"].startswith("item ")
    assert sids["90000000007"] == [1662, 8190, 1]


@pytest.mark.parametrize(
    ("name", "left_out", "message"),
    [
        (None, None, "Industrial_and_Scientific, Office_Products found"),
        ("Toys", None, "no Toys.index.json; there are Industrial"),
        ("Office_Products", "valid/Office_Products_5_2016-10-2018-11.csv", "no Office_Products"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(tmp_path, name, left_out, message):
    for each in ("Industrial_and_Scientific", "Office_Products"):
        minionerec(tmp_path / "from", each)
    if left_out is not None:
        (tmp_path / "from" / left_out).unlink()
    with pytest.raises(UserError, match=message):
        moving.import_folder(tmp_path / "from", tmp_path / "to", name)
    assert not (tmp_path / "to").exists()


def test_tables_without_a_log_are_named(tmp_path):
    openonerec(tmp_path / "from")
    (tmp_path / "from/onerec_bench_release.parquet").unlink()
    with pytest.raises(UserError, match=r"one log with uid, split, .* \(0 found\)"):
        moving.import_folder(tmp_path / "from", tmp_path / "to")


def rewrite(path, **columns):
    """Replace columns of a table; a function changes the one that is there."""
    frame = pl.read_parquet(path)
    made = {name: new(frame[name].to_list()) if callable(new) else new for name, new in columns.items()}
    frame.with_columns(
        pl.Series(name, values or [None] * len(frame)) for name, values in made.items()
    ).write_parquet(path)


LOG, SIDS, CAPTIONS = "onerec_bench_release.parquet", "video_ad_pid2sid.parquet", "pid2caption.parquet"


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (SIDS, {"sid": lambda rows: [None, *rows[1:]]}, "pid 90000000000: its sid is None"),
        (SIDS, {"sid": lambda rows: [*rows[:-1], None]}, "pid 90000000077: its sid is None"),
        (
            SIDS,
            {"sid": lambda rows: [*rows[:-1], [1, None, 2]]},
            r"its sid is \[1, None, 2\]; every item needs",
        ),
        (
            SIDS,
            {"sid": lambda rows: [*rows[:-1], [1, 2]]},
            r"its sid is \[1, 2\]; every item needs as many codes",
        ),
        (SIDS, {"sid": lambda rows: [[*range(27)] for _ in rows]}, "as many codes as the first, 1 to 26"),
        (SIDS, {"sid": lambda rows: [[] for _ in rows]}, "as many codes as the first, 1 to 26"),
        (SIDS, {"sid": lambda rows: [*rows[:-1], [1, 2, -1]]}, "below 1,048,576"),
        (SIDS, {"sid": lambda rows: [*rows[:-1], [1, 2, 2**40]]}, "below 1,048,576"),
        (SIDS, {"sid": lambda rows: ["<a_1>" for _ in rows]}, r"column sid is of type String, not to be"),
        (
            SIDS,
            {"pid": lambda rows: [float(pid) for pid in rows]},
            "column pid is of type Float64, not to be read as String",
        ),
        (SIDS, {"pid": lambda rows: [None, *rows[1:]]}, "pid None"),
        (LOG, {"uid": lambda rows: [*rows[:-1], None]}, "row 24: no uid, or a split"),
        (LOG, {"split": lambda rows: ["a" for _ in rows]}, "row 1: no uid, or a split"),
        (
            LOG,
            {HISTORY: lambda rows: ["1,2" for _ in rows]},
            f"column {HISTORY} is of type String, not to be",
        ),
        (LOG, {HISTORY: None, TARGETS: None}, "no item of it has a semantic ID"),
        (
            CAPTIONS,
            {"dense_caption": lambda rows: [["a"] for _ in rows]},
            "column dense_caption is of type List",
        ),
    ],
)
def test_a_table_of_openonerec_of_another_form_is_named_and_nothing_is_written(
    tmp_path, table, columns, message
):
    openonerec(tmp_path / "from")
    rewrite(tmp_path / "from" / table, **columns)
    with pytest.raises(UserError, match=message) as error:
        moving.import_folder(tmp_path / "from", tmp_path / "to")
    assert str(error.value).startswith(str(tmp_path / "from" / table))
    assert not (tmp_path / "to").exists()


def test_what_is_no_table_is_named(tmp_path):
    openonerec(tmp_path / "from")
    (tmp_path / "from" / LOG).write_text("no table")
    with pytest.raises(UserError, match=f"{LOG}: no Parquet file"):
        moving.import_folder(tmp_path / "from", tmp_path / "to")
    openonerec(tmp_path / "from")
    pl.DataFrame({"pid": [1]}).write_parquet(tmp_path / "from" / SIDS)
    with pytest.raises(UserError, match=r"no .*pid2sid.* has rows with pid and sid"):
        moving.import_folder(tmp_path / "from", tmp_path / "to")


def test_ids_may_be_numbers_in_one_table_and_texts_in_another(tmp_path):
    openonerec(tmp_path / "from")
    pl.DataFrame({"pid": ["x"], "sid": [[0, 1, 2]]}).write_parquet(tmp_path / "from/more_pid2sid.parquet")
    rewrite(tmp_path / "from" / LOG, **{TARGETS: lambda rows: [["x", *map(str, row)] for row in rows]})
    card, index = moving.import_folder(tmp_path / "from", tmp_path / "to")
    assert card.exists() and read_json(index)["x"] == ["<a_0>", "<b_1>", "<c_2>"]
    assert (pl.read_csv(tmp_path / "to/interactions.csv")["item_id"] == "x").sum() == len(log())


def test_an_index_that_cannot_be_written_leaves_no_card(tmp_path):
    openonerec(tmp_path / "from")
    (tmp_path / "to/sids.index.json").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        moving.import_folder(tmp_path / "from", tmp_path / "to")
    (tmp_path / "to/sids.index.json").rmdir()
    moving.import_folder(tmp_path / "from", tmp_path / "to")
