"""What `llmrec init` asks, says and writes: questions, errors, the card's file, text that is never markup."""

import io
import sys

import folders
import pytest
from folder_cards import ALL
from initialised import build, init, write

from llmrec.cli import main
from llmrec.data.guess.card import scalar
from llmrec.yaml_files import parse_yaml, read_yaml


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal("9\nviews\n2\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    code, card = init(tmp_path, folders.two_logs())
    assert code == 0
    assert read_yaml(card)["interactions"]["path"] == "views.csv"
    shown = sys.stderr.getvalue()
    assert "several files: the log of who chose what?" in shown and shown.count("number [1]: ") == 3


def test_without_a_terminal_the_best_guess_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    code, card = init(tmp_path, folders.two_logs())
    assert code == 0 and read_yaml(card)["interactions"]["path"] == "purchases.csv"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (folders.unrelated(), "no file has a column of users and one of items"),
        (folders.unrelated(), "llmrec cp template my-shop.yaml"),
        (folders.order_lines(), "join both by 'order_id'"),
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
    code, card = init(tmp_path, folders.pairs_only(), "--yes")
    assert code == 2 and "--force overwrites it" in capsys.readouterr().err
    assert card.read_text() == "name: mine\n"
    code, card = init(tmp_path, {}, "--yes", "--force")
    assert code == 0 and read_yaml(card)["name"] == "card"


def test_the_folder_names_the_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(folders.pairs_only(), tmp_path / "My shop, 2024")
    assert main(["init", "My shop, 2024", "--yes"]) == 0
    assert "llmrec run own-data data.card=My-shop-2024.yaml" in capsys.readouterr().out
    assert read_yaml(tmp_path / "My-shop-2024.yaml")["root"] == "My shop, 2024"


def test_a_card_far_from_its_files_names_their_whole_path(tmp_path):
    folder = write(folders.pairs_only(), tmp_path / "export")
    card = tmp_path / "a/b/c/card.yaml"
    assert main(["init", str(folder), "--out", str(card), "--yes"]) == 0
    assert read_yaml(card)["root"] == str(folder)
    assert build(card, tmp_path / "run")["counts"]["interactions"] == ALL


def test_rows_are_shown_as_they_are_read(tmp_path, capsys):
    init(tmp_path, folders.no_times(), "--yes")
    shown = capsys.readouterr()
    assert "0     7     Thing 7  Garden | Tools" in shown.out
    assert "12 users, 10 items, 66 interactions" in shown.out
    assert "the order of its rows" in shown.err


def test_text_of_the_files_is_never_markup_or_control(tmp_path, capsys):
    rows = [(f"u{u}", f"\x1b[31m{i}", f"[bold]Thing\x1b[2J {i}[/bold]") for u, i in folders.PAIRS]
    files = {
        "orders.csv": folders.lines([("user", "item", "ti\x1btle"), *rows]),
        "a\x1b[1m.csv": b"x,y\n1,2\n",
    }
    code, card = init(tmp_path, files, "--yes")
    shown = capsys.readouterr()
    assert code == 0 and "\x1b" not in shown.out + shown.err + card.read_text()
    build(card, tmp_path / "run")


def test_a_file_that_cannot_be_read_to_its_end_leaves_a_card_to_correct(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llmrec.data.guess.files._HEAD", 4_000)
    log = b"customer,product\n" + b"1,2\n2,1\n" * 1_000 + b"1,2,3\n"
    code, card = init(tmp_path, folders.no_times() | {"purchases.csv": log}, "--yes")
    shown = capsys.readouterr().err
    assert code == 2 and "card.yaml is written, but its data cannot be read yet: " in shown
    assert "line 2002: 3 fields" in shown
    assert read_yaml(card)["interactions"]["columns"] == {"user": "customer", "item": "product"}


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
