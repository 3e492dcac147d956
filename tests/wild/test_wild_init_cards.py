"""`llmrec init` on folders as people bring them: the right card, read by the data stage with the right counts."""

import folders
import pytest
from folder_cards import ALL, CASES
from initialised import build, includes, init, write

from llmrec.data import examples
from llmrec.data.guess.folder import guess_folder
from llmrec.yaml_files import read_yaml


@pytest.mark.parametrize("name", CASES)
def test_the_card_of_a_folder(name, tmp_path, capsys):
    expected, counts = CASES[name]
    code, path = init(tmp_path, getattr(folders, name)(), "--yes")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    card = read_yaml(path)
    includes(card, expected)
    report = build(path, tmp_path / "run")
    found = {key: report["counts"][key] for key in ("users", "items", "interactions")}
    assert found == {"users": folders.USERS, "items": folders.ITEMS, "interactions": ALL} | counts
    assert card["size"] == found


CLEAR = {
    *(
        "messy_shop",
        "movielens_1m",
        "movielens_csv",
        "amazon_2023",
        "amazon_2014",
        "steam",
        "steam_libraries",
        "yelp",
    ),
    *(
        "no_times",
        "typed_parquet",
        "parts",
        "retail",
        "excel",
        "sequences",
        "recbole",
        "baskets",
        "events",
        "json_array",
    ),
}
OPEN = {
    "pairs_only": "data.txt: the columns of user and item: user column_1 (0, 0, 0, …; 12 different), item column_2",
    "two_logs": "`interactions.path` names another",
    "doubtful_days": "`interactions.time_format` names another",
}


@pytest.mark.parametrize("name", sorted(CLEAR))
def test_nothing_is_asked_that_the_files_show(name, tmp_path, monkeypatch):
    def asked(question):
        raise AssertionError(question)

    guess = guess_folder(write(getattr(folders, name)(), tmp_path / "export"), asked, scratch(tmp_path))
    assert guess.log.columns.keys() >= {"user", "item"}


def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", OPEN)
def test_a_guess_that_could_be_another_is_said(name, tmp_path, capsys):
    code, _ = init(tmp_path, getattr(folders, name)(), "--yes")
    told = capsys.readouterr().err.splitlines()
    assert code == 0 and sum(OPEN[name] in line for line in told) == 1
    assert all(len(line) <= 300 for line in told)


@pytest.mark.parametrize("name", ["messy_shop", "amazon_2014", "json_array", "excel", "parts"])
def test_a_large_file_is_judged_by_its_first_rows(name, tmp_path, monkeypatch):
    monkeypatch.setattr("llmrec.data.guess.files._HEAD", 1_500)
    monkeypatch.setattr("llmrec.data.guess.files.ROWS", 8)
    expected, counts = CASES[name]
    code, path = init(tmp_path, getattr(folders, name)(), "--yes")
    assert code == 0
    card = read_yaml(path)
    if "items" in card:
        card["items"].setdefault(
            "encoding", "cp1252"
        )  # derived by the reader, where not every row was looked at
    includes(card, expected)
    assert build(path, tmp_path / "run")["counts"]["interactions"] == counts.get("interactions", ALL)


def test_rows_that_cannot_be_used_are_dropped_and_counted(tmp_path, capsys):
    rows = folders.log(folders.when)
    bad = [("", 1, folders.START), (1, "", folders.START), (2, 2, ""), (3, 3, 0)]
    files = {"orders.csv": folders.lines([("user", "item", "time"), *rows, *bad])}
    code, card = init(tmp_path, files, "--yes")
    assert code == 0
    text = card.read_text()
    assert "without_id: drop            # 2 rows" in text and "times: drop                 # 2 rows" in text
    assert build(card, tmp_path / "run")["counts"]["interactions"] == ALL


def test_personal_columns_of_users_stay_out(tmp_path, capsys):
    people = [
        (u, f"Anna {u}", f"a{u}@example.org", ("NL", "DE")[u % 2], 20 + u) for u in range(folders.USERS)
    ]
    files = folders.no_times() | {
        "customers.csv": folders.lines([("customer", "full_name", "E-Mail", "country", "age"), *people])
    }
    code, card = init(tmp_path, files, "--yes")
    assert code == 0 and read_yaml(card)["users"]["columns"] == {
        "user": "customer",
        "country": "country",
        "age": "age",
    }
    assert "'full_name', 'E-Mail' may name a person" in capsys.readouterr().err
    build(card, tmp_path / "run")
    assert examples.load_users(tmp_path / "run").columns == ["user_id", "country", "age"]


def test_what_was_guessed_is_what_the_stage_writes(tmp_path):
    _, card = init(tmp_path, folders.messy_shop(), "--yes")
    build(card, tmp_path / "run")
    items = examples.load_items(tmp_path / "run").sort("item_id")
    assert items.row(4) == (
        "A004",
        "Größe 4 Stück",
        ["Küche", "Töpfe", "Edelstahl"],
        pytest.approx(5.4),
        "Schöne Ware 4",
    )
    assert items["title"][3] == "item A003"
    first = examples.load_interactions(tmp_path / "run").row(0, named=True)
    assert (first["user_id"], first["item_id"], first["time"]) == ("K0000", "A000", folders.START)


def test_a_log_with_titles_describes_items_by_what_belongs_to_them(tmp_path):
    rows = [
        (*row, f"Thing {row[1]}", folders.KINDS[row[1] % 5], row[0] + 0.5)
        for row in folders.log(folders.when)
    ]
    head = ("user", "item", "time", "title", "category", "price")
    _, card = init(tmp_path, {"orders.csv": folders.lines([head, *rows])}, "--yes")
    # The price differs from user to user, so it is none of the item's.
    assert read_yaml(card)["items"] == {
        "path": "orders.csv",
        "columns": {"item": "item", "title": "title", "categories": "category"},
        "split_on": {"categories": ">"},
    }
