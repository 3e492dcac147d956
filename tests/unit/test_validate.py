"""`llmrec validate` and `--dry-run` on a card of one's own: what is understood, what is missing, what it costs."""

import json

import pytest

from llmrec.cli import main

CARD = """
interactions: {path: log-*.csv, columns: {user: customer, item: product, time: at}}
items: {path: items.jsonl, columns: {item: sku, title: name}}
"""
ITEMS = [{"sku": f"p{i}", "name": f"Thing {i}", "colour": "red"} for i in range(5)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A shop of 6 customers and 5 products in two files, and a card without `size`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    for number, users in enumerate(([0, 1, 2], [3, 4, 5])):
        rows = [f"c{user},p{(user + step) % 5},{100 + step},web" for user in users for step in range(4)]
        (tmp_path / f"log-{number}.csv").write_text("\n".join(["customer,product,at,channel", *rows]) + "\n")
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    (tmp_path / "shop.yaml").write_text(CARD)
    return tmp_path


def test_validate_shows_what_is_understood_of_the_files_and_what_is_missing(folder, capsys):
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    shown = capsys.readouterr().out
    assert (
        "interactions: log-0.csv, log-1.csv (2 files)\n  user = customer, item = product, time = at\n"
        in shown
    )
    assert (
        "  not used: channel\nitems: items.jsonl\n  item = sku, title = name\n  not used: colour\n" in shown
    )
    missing = "rating, event, review, summary; of the items categories, brand, price, description; users"
    assert f"not described: {missing}\n" in shown
    assert shown.count("Thing") == 3 and "c0" in shown
    assert "6 users, 5 items, 24 interactions" in shown and shown.endswith("quickstart.yaml: valid\n")


def test_validate_applies_the_recipes_filters_and_finds_a_broken_row(folder, capsys):
    assert main(["validate", "quickstart", "data.card=shop.yaml", "data.filters={window: [101, 103]}"]) == 0
    assert "6 users, 5 items, 12 interactions" in capsys.readouterr().out
    with (folder / "log-1.csv").open("a") as file:
        file.write("c9,p1,soon,web\n")
    assert main(["validate", "quickstart", "data.card=shop.yaml", "sft.lr=-1"]) == 2
    told = capsys.readouterr().err
    assert "sft.lr" in told and "log-1.csv: row 13: time = 'soon': not a time" in told
    (folder / "items.jsonl").unlink()
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 2
    assert "items.jsonl: no such file" in capsys.readouterr().err


def test_a_plan_counts_the_files_of_a_card_without_a_size(folder, capsys):
    assert main(["run", "own-data", "data.card=shop.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "(6 users, 5 items, 24 interactions; " in shown and "unknown" not in shown
    assert not (folder / "runs").exists()
    (folder / "log-1.csv").write_text("customer,product\n")
    assert main(["run", "own-data", "data.card=shop.yaml", "--dry-run"]) == 0
    assert "cost unknown (" in (shown := capsys.readouterr().out) and "no column 'at'" in shown


def test_items_without_a_title_are_counted_with_their_share_of_the_interactions(folder, capsys):
    """One title is empty, one is blank, one is null, and one item is not in the table."""
    titles = ["", "  ", None, "Thing 3"]
    rows = [{"sku": f"p{number}", "name": title} for number, title in enumerate(titles)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "log-1.csv").unlink()
    with (folder / "log-0.csv").open("a") as log:
        log.writelines(f"c3,p3,{time},web\n" for time in range(6))
    told = "4 of 5 items, with 50.0% of the interactions, have no title: prompts and semantic IDs from text call them"
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    assert f"{told} `item <id>`\n" in capsys.readouterr().out
    assert main(["init", ".", "--out", "guessed.yaml", "--yes"]) == 0
    assert f"{told} `item <id>`\n" in capsys.readouterr().out
    (folder / "shop.yaml").write_text(CARD.splitlines()[1])
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    assert "5 of 5 items, with 100.0% of the interactions, have no title" in capsys.readouterr().out


def test_nothing_is_said_of_titles_where_all_items_have_one(folder, capsys):
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    assert "title:" not in capsys.readouterr().out


def test_a_missing_column_of_each_table_is_told_and_nothing_is_shown_as_understood(folder, capsys):
    (folder / "shop.yaml").write_text(CARD.replace("product", "prodcut").replace("sku", "skuu"))
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 2
    out, told = capsys.readouterr()
    assert "no column 'prodcut' (did you mean 'product'?)" in told
    assert "no column 'skuu' (did you mean 'sku'?)" in told
    assert out == ""


def test_a_column_that_is_hardly_that_of_the_users_is_asked_about(folder, capsys):
    (folder / "shop.yaml").write_text(CARD.replace("customer", "channel"))
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    assert "a user has 20 interactions on average, more than there are items" in capsys.readouterr().out


def test_items_that_nobody_chose_are_counted(folder, capsys):
    with (folder / "items.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"sku": "p9", "name": "Dust"}))
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    told = "5 of 5 items are described; 1 more items of the file have no interaction and are left out"
    assert told in capsys.readouterr().out


def test_what_is_noticed_of_a_file_is_told_once(folder, capsys):
    for path in folder.glob("log-*.csv"):
        path.write_text(path.read_text().replace(",", ";"))
    assert main(["validate", "quickstart", "data.card=shop.yaml"]) == 0
    told = capsys.readouterr().err
    assert told.count("log-0.csv: its columns are taken to be separated by ';'") == 1
