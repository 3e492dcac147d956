"""`llmrec init` on folders as people bring them: the right card, read by the data stage with the right counts."""

import io
import sys

import pytest
from folders import contents, exports, files_of
from folders.cards import CASES
from folders.platform_cards import PLATFORMS

from llmrec import pipeline
from llmrec.cli import main
from llmrec.config import Recipe
from llmrec.data import examples
from llmrec.data.guess.card import scalar
from llmrec.data.guess.folder import guess_folder
from llmrec.files import read_json
from llmrec.yaml_files import parse_yaml, read_yaml

ALL = len(contents.PAIRS)


def write(files, folder):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def init(tmp_path, files, *options):
    """Run `llmrec init` on a folder with files; return the exit code and the card's path."""
    folder = write(files, tmp_path / "export")
    return main(["init", str(folder), "--out", str(tmp_path / "card.yaml"), *options]), tmp_path / "card.yaml"


def build(card, run):
    pipeline.execute(Recipe.model_validate({"name": "t", "data": {"card": str(card)}}), run, until="data")
    return read_json(run / "data/report.json")


def includes(whole, part):
    """Assert that a nested mapping has all entries of another one; None: it has no such key."""
    for key, value in part.items():
        if isinstance(value, dict):
            includes(whole[key], value)
        elif value is None:
            assert key not in whole, (key, whole[key])
        else:
            assert whole.get(key) == value, (key, whole.get(key))


@pytest.mark.parametrize("name", CASES | PLATFORMS)
def test_the_card_of_a_folder(name, tmp_path, capsys):
    expected, counts = (CASES | PLATFORMS)[name]
    code, path = init(tmp_path, files_of(name), "--yes")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    card = read_yaml(path)
    includes(card, expected)
    report = build(path, tmp_path / "run")
    found = {key: report["counts"][key] for key in ("users", "items", "interactions")}
    assert found == {"users": contents.USERS, "items": contents.ITEMS, "interactions": ALL} | counts
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
    "two_logs": "to take another, change `interactions.path` in the card",
    "doubtful_days": "to take another, change `interactions.time_format` in the card",
}


@pytest.mark.parametrize("name", sorted(CLEAR))
def test_nothing_is_asked_that_the_files_show(name, tmp_path, monkeypatch):
    def asked(question):
        raise AssertionError(question)

    guess = guess_folder(write(files_of(name), tmp_path / "export"), asked, scratch(tmp_path))
    assert guess.log.columns.keys() >= {"user", "item"}


def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", OPEN)
def test_a_guess_that_could_be_another_is_said(name, tmp_path, capsys):
    code, _ = init(tmp_path, files_of(name), "--yes")
    told = capsys.readouterr().err.splitlines()
    assert code == 0 and sum(OPEN[name] in line for line in told) == 1
    assert all(len(line) <= 300 for line in told)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal("9\nviews\n2\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    code, card = init(tmp_path, exports.two_logs())
    assert code == 0
    assert read_yaml(card)["interactions"]["path"] == "views.csv"
    shown = sys.stderr.getvalue()
    assert "several files: the log of who chose what?" in shown and shown.count("number [1]: ") == 3


def test_without_a_terminal_the_best_guess_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    code, card = init(tmp_path, exports.two_logs())
    assert code == 0 and read_yaml(card)["interactions"]["path"] == "purchases.csv"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (exports.unrelated(), "no file has a column of users and one of items"),
        (exports.unrelated(), "llmrec cp template my-shop.yaml"),
        (exports.orders_twice(), "join both by 'order_id'"),
        ({"shop.xlsx": b"PK\x03\x04"}, "export it as CSV"),
        ({"dump.zip": b"PK\x03\x04"}, "unpack it"),
        ({"empty.csv": b""}, "the file is empty"),
        ({}, "no such folder"),
    ],
)
def test_where_nothing_fits_one_line_says_what_to_do(files, says, tmp_path, capsys):
    code, card = init(tmp_path, files, "--yes")
    shown = capsys.readouterr()
    assert code == 2 and not card.exists()
    assert says in shown.err and len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_a_card_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "card.yaml").write_text("name: mine\n")
    code, card = init(tmp_path, exports.pairs_only(), "--yes")
    assert code == 2 and "--force overwrites it" in capsys.readouterr().err
    assert card.read_text() == "name: mine\n"
    code, card = init(tmp_path, {}, "--yes", "--force")
    assert code == 0 and read_yaml(card)["name"] == "card"


def test_the_folder_names_the_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(exports.pairs_only(), tmp_path / "My shop, 2024")
    assert main(["init", "My shop, 2024", "--yes"]) == 0
    assert "llmrec run own-data data.card=My-shop-2024.yaml" in capsys.readouterr().out
    assert read_yaml(tmp_path / "My-shop-2024.yaml")["root"] == "My shop, 2024"


def test_a_card_far_from_its_files_names_their_whole_path(tmp_path):
    folder = write(exports.pairs_only(), tmp_path / "export")
    card = tmp_path / "a/b/c/card.yaml"
    assert main(["init", str(folder), "--out", str(card), "--yes"]) == 0
    assert read_yaml(card)["root"] == str(folder)
    assert build(card, tmp_path / "run")["counts"]["interactions"] == ALL


def test_rows_are_shown_as_they_are_read(tmp_path, capsys):
    init(tmp_path, exports.no_times(), "--yes")
    shown = capsys.readouterr()
    assert "0     7     Thing 7  Garden | Tools" in shown.out
    assert "12 users, 10 items, 66 interactions" in shown.out
    assert "the order of its rows" in shown.err


def test_text_of_the_files_is_never_markup_or_control(tmp_path, capsys):
    rows = [(f"u{u}", f"\x1b[31m{i}", f"[bold]Thing\x1b[2J {i}[/bold]") for u, i in contents.PAIRS]
    files = {
        "orders.csv": contents.lines([("user", "item", "ti\x1btle"), *rows]),
        "a\x1b[1m.csv": b"x,y\n1,2\n",
    }
    code, card = init(tmp_path, files, "--yes")
    shown = capsys.readouterr()
    assert code == 0 and "\x1b" not in shown.out + shown.err + card.read_text()
    build(card, tmp_path / "run")


def test_a_file_that_cannot_be_read_to_its_end_leaves_a_card_to_correct(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llmrec.data.guess.files._HEAD", 4_000)
    log = b"customer,product\n" + b"1,2\n2,1\n" * 1_000 + b"1,2,3\n"
    code, card = init(tmp_path, exports.no_times() | {"purchases.csv": log}, "--yes")
    shown = capsys.readouterr().err
    assert code == 2 and "card.yaml is written, but its data cannot be read yet: " in shown
    assert "line 2002: 3 values" in shown
    assert read_yaml(card)["interactions"]["columns"] == {"user": "customer", "item": "product"}


@pytest.mark.parametrize("name", ["messy_shop", "amazon_2014", "json_array", "excel", "parts"])
def test_a_large_file_is_judged_by_its_first_rows(name, tmp_path, monkeypatch):
    monkeypatch.setattr("llmrec.data.guess.files._HEAD", 1_500)
    monkeypatch.setattr("llmrec.data.guess.files.ROWS", 8)
    expected, counts = CASES[name]
    code, path = init(tmp_path, files_of(name), "--yes")
    assert code == 0
    card = read_yaml(path)
    if "items" in card:
        card["items"].setdefault(
            "encoding", "cp1252"
        )  # derived by the reader, where not every row was looked at
    includes(card, expected)
    assert build(path, tmp_path / "run")["counts"]["interactions"] == counts.get("interactions", ALL)


def test_rows_that_cannot_be_used_are_dropped_and_counted(tmp_path, capsys):
    rows = contents.log(contents.when)
    bad = [("", 1, contents.START), (1, "", contents.START), (2, 2, ""), (3, 3, 0)]
    files = {"orders.csv": contents.lines([("user", "item", "time"), *rows, *bad])}
    code, card = init(tmp_path, files, "--yes")
    assert code == 0
    text = card.read_text()
    assert "without_id: drop            # 2 rows" in text and "times: drop                 # 2 rows" in text
    assert build(card, tmp_path / "run")["counts"]["interactions"] == ALL


def test_personal_columns_of_users_stay_out(tmp_path, capsys):
    people = [
        (u, f"Anna {u}", f"a{u}@example.org", ("NL", "DE")[u % 2], 20 + u) for u in range(contents.USERS)
    ]
    files = exports.no_times() | {
        "customers.csv": contents.lines([("customer", "full_name", "E-Mail", "country", "age"), *people])
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
    _, card = init(tmp_path, exports.messy_shop(), "--yes")
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
    assert (first["user_id"], first["item_id"], first["time"]) == ("K0000", "A000", contents.START)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "a: b",
        "#",
        "yes",
        "1e-4",
        "12",
        "",
        " x",
        'a"b',
        "\x1b",
        "ü→",
        "{x}",
        "*",
        "-",
        "~",
        "a #b",
        "\x85",
        "😀",
    ],
)
def test_a_value_of_yaml_is_read_back(text):
    line = f"key: {scalar(text)}"
    assert "\n" not in line and parse_yaml(line, "test") == {"key": text}
    assert parse_yaml(f"key: [{scalar(text)}]", "test") == {"key": [text]}


def test_a_log_with_titles_describes_items_by_what_belongs_to_them(tmp_path):
    rows = [
        (*row, f"Thing {row[1]}", contents.KINDS[row[1] % 5], row[0] + 0.5)
        for row in contents.log(contents.when)
    ]
    head = ("user", "item", "time", "title", "category", "price")
    _, card = init(tmp_path, {"orders.csv": contents.lines([head, *rows])}, "--yes")
    # The price differs from user to user, so it is none of the item's.
    assert read_yaml(card)["items"] == {
        "path": "orders.csv",
        "columns": {"item": "item", "title": "title", "categories": "category"},
        "split_on": {"categories": ">"},
    }
