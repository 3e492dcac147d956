"""Files of items that join a trained run's catalogue: by the run's card, or with llmrec's own names."""

import json

import pytest
from own_data import build

from llmrec.catalogue.item_files import items_in_card, read_new_items
from llmrec.data.examples import load_items
from llmrec.errors import UserError

LOG = {"path": "log.csv", "columns": {"user": "user", "item": "item"}}
ROWS = "user,item\nu,1\nu,2\nu,3\n"
SHOP = {
    "path": "artikel-*.csv",
    "columns": {
        "item": "Artikel",
        "title": "{Name} ({Jahr})",
        "categories": "Gruppe",
        "price": "Preis",
        "brand": "Marke",
    },
    "split_on": {"categories": ">"},
    "decimal": ",",
}
HEAD = "Artikel;Name;Jahr;Gruppe;Preis;Marke\n"
EXPORT = HEAD + "1;Krug;2020;Haus > Küche;12,90;Nord\n2;Topf;2021;Haus;1.299,00;\n3;Öl;2022;Essen;3,5;Süd\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder of a run of which only the data stage is done, on a German export in cp1252."""
    folder = tmp_path_factory.mktemp("shop")
    build(
        folder,
        {"log.csv": ROWS, "artikel-1.csv": EXPORT.encode("cp1252")},
        {"interactions": LOG, "items": SHOP},
    )
    return folder / "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same on files with llmrec's own names."""
    folder = tmp_path_factory.mktemp("plain")
    rows = [{"item_id": number, "title": f"T{number}", "categories": ["a"]} for number in (1, 2, 3)]
    items = {
        "path": "items.jsonl",
        "columns": {name: name for name in ("title", "categories")} | {"item": "item_id"},
    }
    files = {"log.csv": ROWS, "items.jsonl": "\n".join(map(json.dumps, rows))}
    build(folder, files, {"interactions": LOG, "items": items})
    return folder / "run"


def add(run, tmp_path, name, text):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_new_items(file, load_items(run), items_in_card(run))


def test_another_export_of_the_same_shop_is_read_by_the_runs_card(shop, tmp_path, capsys):
    new = HEAD + "7;Schüssel;2024;Haus > Küche > Glas;1.012,50;\n"
    (row,) = add(shop, tmp_path, "neu.csv", new.encode("cp1252")).rows(named=True)
    assert row["item_id"] == "7" and row["title"] == "Schüssel (2024)" and row["brand"] is None
    assert row["categories"] == ["Haus", "Küche", "Glas"] and row["price"] == pytest.approx(1012.5)
    assert "left out" not in capsys.readouterr().err


def test_a_column_that_the_new_file_lacks_is_left_out_and_told(shop, tmp_path, capsys):
    (row,) = add(shop, tmp_path, "neu.csv", "Artikel;Gruppe;Preis\n7;Haus;2,50\n").rows(named=True)
    assert (row["item_id"], row["title"], row["categories"]) == ("7", "7", ["Haus"])
    told = capsys.readouterr().err
    assert (
        "no column '{Name} ({Jahr})'; the id stands for the title" in told
        and "no column 'Marke'; brand is" in told
    )


def test_another_format_is_read_by_its_ending(shop, tmp_path):
    line = {"Artikel": 7, "Name": "Krug", "Jahr": 2024, "Gruppe": "A > B", "Preis": "2,5", "Marke": "N"}
    (row,) = add(shop, tmp_path, "neu.jsonl", json.dumps(line)).rows(named=True)
    assert (row["title"], row["categories"], row["brand"]) == ("Krug (2024)", ["A", "B"], "N")
    assert row["price"] == pytest.approx(2.5)


def test_llmrecs_own_names_are_read_too(shop, plain, tmp_path):
    (row,) = add(shop, tmp_path, "new.csv", "item_id,title,categories,price\n7,Krug,A|B,2.5\n").rows(
        named=True
    )
    assert (row["title"], row["categories"], row["price"]) == ("Krug", ["A", "B"], 2.5)
    (row,) = add(plain, tmp_path, "new.csv", "item_id,title,categories\n7,Krug,A|B\n").rows(named=True)
    assert (row["title"], row["categories"]) == ("Krug", ["A", "B"])
    (row,) = add(plain, tmp_path, "new.jsonl", json.dumps({"item_id": 7, "categories": ["A"]})).rows(
        named=True
    )
    assert (row["title"], row["categories"]) == ("7", ["A"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sku;Name\n7;Krug\n", "no column 'item_id', or 'Artikel' as in the run's card (it has sku"),
        (HEAD + ";Krug;2020;A;1,0;N\n", "row 1: item is empty: every item needs an id"),
        (HEAD + "7;a;1;A;1,0;N\n7;b;1;A;1,0;N\n", "item '7' occurs twice"),
        (HEAD, "no items in it"),
    ],
)
def test_files_without_usable_ids_are_refused(shop, tmp_path, text, message):
    with pytest.raises(UserError) as refused:
        add(shop, tmp_path, "neu.csv", text)
    assert message in str(refused.value)


def test_a_card_of_an_earlier_version_is_not_used(plain, tmp_path, capsys):
    card = plain / "card.yaml"
    kept = card.read_text()
    try:
        card.write_text(kept + "unheard_of: 1\n")
        assert add(plain, tmp_path, "new.csv", "item_id,title\n7,Krug\n")["title"].to_list() == ["Krug"]
    finally:
        card.write_text(kept)
    assert "--add: the run's card is not used" in capsys.readouterr().err
