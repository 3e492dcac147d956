"""The data stage on bad files, cards and sources: one line that names what is wrong, and no file left behind."""

import gzip

import pytest
from small_dump import CARD, LOG, run_data, write_dump

from llmrec.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_dump(tmp_path)


def fails(folder, message, **data):
    with pytest.raises(UserError, match=message) as caught:
        run_data(folder / "card.yaml", folder / "run", **data)
    assert "\n" not in str(caught.value)
    assert not list((folder / "run").glob("data/*")) and not list((folder / "run").glob(".work*"))


LINES = LOG.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", None, r"log\.csv: no such file"),
        ("log.csv", "", r"log\.csv: the file is empty"),
        ("log.csv", LINES[0], r"log\.csv: no interactions in it"),
        ("log.csv", LOG.replace("stars", "star"), r"log\.csv: no column 'stars' \(did you mean 'star'\?\)"),
        ("log.csv", LOG.replace("2,3,302", "2,3,soon"), r"log\.csv: row 1: time = 'soon': not a time"),
        ("log.csv", LOG.replace("1,3,301", "1,3,-301"), r"row 2: time = '-301': negative"),
        ("log.csv", LOG.replace("1,3,301", "1,3,"), r"row 2: time is empty: not a time"),
        ("log.csv", LOG.replace("1,3,301", ",3,301"), r"row 2: user is empty: an empty user id"),
        ("log.csv", LOG.replace("1,3,301", "1,NaN,301"), r"row 2: item = 'NaN': an empty item id"),
        ("log.csv", LOG.replace("301,4", "301,good"), r"row 2: rating = 'good': not a number"),
        ("log.csv", LOG + "1,2,3,4,5\n", r"log\.csv: line 8: 5 values for 4 columns"),
        ("log.csv", LOG.encode() + b"1,2,3,\x81\n", r"log\.csv: line 8: not UTF-8"),
        ("items.jsonl", '{"sku": 1, "name": "x"}\n{oops\n', r"items\.jsonl: line 2: cannot be read as jsonl"),
        ("items.jsonl", '{"sku": "", "name": "x"}\n', r"items\.jsonl: row 1: item = '': an empty item id"),
        ("items.jsonl", '{"sku": "1", "title": "x"}\n', r"items\.jsonl: column 'name' is empty"),
    ],
)
def test_bad_files_are_named(folder, name, content, message):
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(folder, message)


def test_several_mistakes_are_told_at_once(folder):
    (folder / "log.csv").write_text(LOG.replace("2,3,302", ",3,soon"))
    fails(folder, r"an empty user id .*; .*not a time")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user,item\n1,2\n", "not a whole gzip file"),
        (gzip.compress(LOG.encode(), mtime=0)[:-9], "not a whole gzip file"),
    ],
)
def test_broken_gzip_is_named(folder, content, message):
    (folder / "log.csv.gz").write_bytes(content)
    (folder / "card.yaml").write_text(CARD.replace("log.csv", "log.csv.gz"))
    fails(folder, message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.py", "{'user': 1}\n[1]\n", "line 2 is not a Python dict"),
        ("log.py", "{'user': __import__('os')}\n", "line 1 is not a Python dict"),
    ],
)
def test_loose_json_is_data_not_code(folder, name, text, message):
    (folder / name).write_text(text)
    (folder / "card.yaml").write_text(CARD.replace("path: log.csv", f"path: {name}\n  format: loose_jsonl"))
    fails(folder, message)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (
            CARD.replace("columns", "column", 1),
            r"unknown key 'interactions.column' \(did you mean 'columns'\?\)",
        ),
        (CARD + "split: {kind: leave_one}\nfilter: {}\n", r"split.kind.*unknown key 'filter'"),
        (CARD.replace("item: item,", ""), "columns: 'item' is required"),
        (CARD.replace("title: name", "titel: name"), r"'title' is required \(did you mean it by 'titel'\?\)"),
        (CARD.replace("rating: stars", "ratings: stars"), r"'ratings' has no .* \(did you mean 'rating'\?\)"),
        (CARD + "  split_on: {categorie: '>'}\n", r"'categorie' is not .* \(did you mean 'categories'\?\)"),
        (
            CARD.replace("path: log.csv", "path: ${where}"),
            r"\$\{where\} is not .* variables \(there are: none\)",
        ),
        (CARD.replace("path: log.csv", "path: log.csv\n  encoding: klingon"), "no such encoding"),
        (CARD + "root: nowhere\n", "nowhere: no such folder; set data.root=FOLDER"),
        (CARD + "sources: [{url: a, pypi: b}]\n", "give either url or pypi"),
        (CARD + "filters: {min_user: 9}\n", "the k-core of min_user=9, min_item=1 leaves no interactions"),
    ],
)
def test_bad_cards_are_named(folder, card, message):
    (folder / "card.yaml").write_text(card)
    fails(folder, message)


def test_sources_that_cannot_be_reached_are_all_named(folder, monkeypatch):
    monkeypatch.setenv("LLMREC_HOME", str(folder / "home"))
    sources = "sources: [{url: 'https://127.0.0.1:9/a.zip'}, {url: 'ftp://example.org/b.zip'}]\n"
    (folder / "card.yaml").write_text(CARD + sources)
    fails(
        folder,
        r"no source can be reached \(https://127\.0\.0\.1:9/a\.zip: .*; ftp://example\.org/b\.zip: .*https",
    )
