"""Blocks of lines under the name of an item, as in the files of the Netflix prize; titles with commas; many files."""

import pytest
from folders.contents import ITEMS, PAIRS, TIMES, day, lines, log, stars, when
from own_data import build

from llmrec.cli import main
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

RATINGS = log(when, stars)
COLUMNS = {"user": "user", "item": "item", "rating": "rating", "time": "date"}
HEADER = ["item", "user", "rating", "date"]


def block(item):
    rows = [f"{u},{rating},{day(t)}\n" for u, i, t, rating in RATINGS if i == item]
    return f"{item}:\n" + "".join(rows)


def init(tmp_path, files):
    (tmp_path / "export").mkdir()
    for name, content in files.items():
        (tmp_path / "export" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return main(["init", str(tmp_path / "export"), "--out", str(tmp_path / "card.yaml"), "--yes"])


def test_blocks_are_read(tmp_path):
    files = {
        "part_1.txt": "".join(map(block, range(5))),
        "part_2.txt": "\r\n".join(map(block, range(5, ITEMS))),
    }
    card = {"interactions": {"path": "part_*.txt", "format": "blocks", "header": HEADER, "columns": COLUMNS}}
    built = build(tmp_path, files, card)
    found = set(built.rows("user_id", "item_id", "rating"))
    assert found == {(str(u), str(i), float(rating)) for u, i, _, rating in RATINGS}
    assert len(built.log) == len(PAIRS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,5,2024-01-01\n", "line 1: a block starts with a line `NAME:`"),
        ("7:\n1,5,2024-01-01\n2,5\n", "line 3: not 3 values"),
    ],
)
def test_lines_that_are_in_no_block_are_named(tmp_path, text, says):
    card = {"interactions": {"path": "log.txt", "format": "blocks", "header": HEADER, "columns": COLUMNS}}
    with pytest.raises(UserError, match=says):
        build(tmp_path, {"log.txt": text}, card)


def test_blocks_need_names_of_columns(tmp_path):
    card = {"interactions": {"path": "log.txt", "format": "blocks", "columns": COLUMNS}}
    with pytest.raises(UserError, match="format blocks needs `header`"):
        build(tmp_path, {"log.txt": block(1)}, card)


def test_init_finds_blocks_and_titles_with_commas(tmp_path, capsys):
    titles = "".join(f"{i},{1990 + i},Film {i}{', the' if i == 1 else ''}\n" for i in range(ITEMS))
    files = {
        "combined_1.txt": "".join(map(block, range(5))),
        "combined_2.txt": "".join(map(block, range(5, ITEMS))),
    }
    assert init(tmp_path, files | {"movie_titles.csv": titles + "10,NULL,É\n"}) == 0
    card, (out, err) = read_yaml(tmp_path / "card.yaml"), capsys.readouterr()
    assert card["interactions"]["format"] == "blocks"
    assert card["interactions"]["columns"].keys() == COLUMNS.keys()
    assert "Film 1, the" in out and "the last column takes the rest of each line" in err
    assert f"12 users, {ITEMS} items, {len(PAIRS)} interactions" in out


def test_a_separator_in_another_column_than_the_last_is_a_mistake(tmp_path, capsys):
    names = "".join(f"Film {i}{', the' if i == 3 else ''},{i},{1990 + i}\n" for i in range(ITEMS))
    rows = [(u, i, t) for u, i, t, _ in RATINGS]
    assert init(tmp_path, {"log.csv": lines([("user", "item", "time"), *rows]), "films.csv": names}) == 0
    assert "films.csv: left out" in capsys.readouterr().err


def test_files_beyond_those_that_are_looked_at_belong_to_their_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llmrec.data.guess.files._MOST_FILES", 3)
    days = {
        f"day-{n:02d}.csv": lines([("user", "item", "time"), *[(u, i, TIMES[n]) for u, i in PAIRS]])
        for n in range(6)
    }
    assert init(tmp_path, days | {"z1.csv": b"x", "z2.csv": b"x"}) == 0
    out, err = capsys.readouterr()
    assert "6 files" in out and f"{6 * len(PAIRS)} interactions" in out
    assert "z1.csv: left out, as 1 more; only the first 3 files are looked at" in err
