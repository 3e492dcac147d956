"""What text means: words for nothing, HTML, lists as text, prices, and JSON as it comes."""

import gzip
import json
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_data import LOG, build, build_items

from llmrec import pipeline
from llmrec.catalogue.item_files import read_new_items
from llmrec.config import Recipe
from llmrec.data import examples
from llmrec.data.words import MISSING, clean_text, is_missing, joined, labels, prices
from llmrec.errors import UserError
from llmrec.ids import exchange


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12.99", 12.99),
        ("$12.99", 12.99),
        ("12,99 €", 12.99),
        ("1.299,00", 1299.0),
        ("1,299.00", 1299.0),
        ("$1,299.00 - $1,499.00", 1299.0),
        ("1 299,00 EUR", 1299.0),
        ("1\u00a0299,00\u00a0€", 1299.0),
        ("1'299.50 CHF", 1299.5),
        ("1.299.000", 1_299_000.0),
        ("1,00,000", 100_000.0),
        ("$.99", 0.99),
        ("0,5", 0.5),
        ("0.125", 0.125),
        ("1299", 1299.0),
        ("1,299", 1299.0),
        ("12,- €", 12.0),
        ("from 3.5", 3.5),
        ("&pound;4.99", 4.99),
        ("<span>$5</span>", 5.0),
        ("1e3", 1000.0),
        ("£1,299", 1299.0),
        (9.99, 9.99),
        (7, 7.0),
        ("-5", None),
        ("-$5", None),
        ("\u22125", None),
        ("$-5", None),
        (-5.0, None),
        ("Free", None),
        (".a-box{margin:1.0;padding:2px}", None),
        ("margin: 1.0; padding: 2px", None),
        ("50% off", None),
        ("1.2.3", None),
        ("1,234,56", None),
        (float("inf"), None),
        ("x" * 200 + "5", None),
    ],
)
def test_a_price_is_its_first_amount_or_none_and_counted(text, amount):
    found = prices([text])
    assert found.amounts == [None if amount is None else pytest.approx(amount)]
    assert found.unread == (amount is None)


@pytest.mark.parametrize(
    ("texts", "decimal", "amounts", "is_sure"),
    [
        (["1.299", "2,50"], None, [1299, 2.5], True),
        (["1,299", "2.50"], None, [1299, 2.5], True),
        (["1.299"], None, [1.299], False),
        (["1.299"], ",", [1299], True),
        (["1,299"], ",", [1.299], True),
        (["2,50", "3.50", "4.50", "1.299"], None, [2.5, 3.5, 4.5, 1.299], True),
        ([None, "N/A", "", "\\N"], None, [None] * 4, False),
    ],
)
def test_a_doubtful_sign_is_read_like_the_others_of_its_column(texts, decimal, amounts, is_sure):
    found = prices(texts, decimal)
    assert found.amounts == amounts and found.is_sure == is_sure and found.unread == 0


@given(
    st.integers(0, 10**7),
    st.integers(0, 99),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]),
)
def test_written_prices_come_back(whole, cents, signs):
    thousands, decimal = signs
    text = f"{whole:,}".replace(",", thousands) + f"{decimal}{cents:02d}"
    assert prices([f"€ {text}"]).amounts == [pytest.approx(whole + cents / 100)]


@pytest.mark.parametrize("word", [*MISSING, "", "  ", " NULL "])
def test_words_for_nothing_are_missing_everywhere(word):
    assert is_missing(word) and labels(word) == labels([word]) == [] and prices([word]).unread == 0
    assert joined([word, "a"]) == "a"


@pytest.mark.parametrize("word", ["none", "Nonesuch", "Na", "0", "-", "null and void"])
def test_other_words_are_text(word):
    assert not is_missing(word) and labels(word) == [word]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<b>Very</b> good<br/>indeed", "Very good indeed"),
        ("<p>One</p><p>Two</p>", "One Two"),
        ('a <a href="http://x">link</a>', "a link"),
        ("<!-- hidden --> shown", "shown"),
        ('<script type="text/javascript">var a = 1;</script>After', "After"),
        ("<STYLE>p {margin: 0}</STYLE>text", "text"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("&amp;lt;br&amp;gt;x", "x"),
        ("<<b>b>x", "x"),
        ("<b\x00>x", "x"),
        ("2 < 3 and 4 > 1", "2 < 3 and 4 > 1"),
        ("<a_12><b_3> <|im_end|>", "<a_12><b_3> <|im_end|>"),
        ("<unclosed", "<unclosed"),
        ("I <3 you", "I <3 you"),
        ("<b></b>", None),
    ],
)
def test_left_overs_of_html_go_and_other_marks_stay(text, clean):
    found = clean_text(text, 100)
    assert found.text == clean and found.markup == (clean != text)


@given(st.text(st.sampled_from("<>/bpr!-& ;ltgamp\x00"), max_size=40))
def test_clean_text_is_clean_also_of_markup(raw):
    once = clean_text(raw, 100).text
    assert clean_text(once, 100).text == once


@pytest.mark.parametrize(
    ("value", "flat", "text"),
    [
        ("['Home', 'Pens']", ["Home", "Pens"], "Home Pens"),
        ('["Home", "Pens"]', ["Home", "Pens"], "Home Pens"),
        ("[['A', 'B'], ['A']]", ["A", "B"], "[['A', 'B'], ['A']]"),
        ("['It\\'s', \"B\"]", ["It's", "B"], "It's B"),
        ("['a', None]", ["a"], "a"),
        ("[1984]", ["1984"], "[1984]"),
        ("[sic]", ["[sic]"], "[sic]"),
        ("[]", [], ""),
        ("['open'", ["['open'"], "['open'"),
        ("[__import__('os')]", ["[__import__('os')]"], "[__import__('os')]"),
    ],
)
def test_lists_as_text_are_lists(value, flat, text):
    assert labels(value) == flat and joined(value) == text


ITEMS = [{"id": n, "t": f"T{n}"} for n in (1, 2, 3)]
BY_ID = {str(n): {"t": f"T{n}"} for n in (1, 2, 3)}
LINES = "".join(json.dumps(item) + "\n" for item in ITEMS)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip(),
        "\n" + LINES.replace("\n", "\n\n"),
        "\ufeff" + LINES,
        LINES.encode("utf-16"),
        json.dumps(ITEMS),
        json.dumps(ITEMS, indent=2),
        "\ufeff" + json.dumps(ITEMS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ITEMS)) + "\n]\n",
        "\n".join(json.dumps(item, indent=1) for item in ITEMS),
        json.dumps(BY_ID),
        json.dumps(BY_ID, indent=2),
        json.dumps({"page": 1, "data": ITEMS}),
        json.dumps({"data": ITEMS, "next": None}, indent=2),
        json.dumps({key: {str(n): item[key] for n, item in enumerate(ITEMS)} for key in ("id", "t")}),
        LINES.replace('"t": "T3"', '"t": "T3", "x": NaN, "y": [-Infinity]'),
        "[" + LINES.replace('"t": "T3"', '"t": "T3", "x": NaN').replace("}\n{", "},{") + "]",
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_json_as_it_comes(tmp_path, content, is_packed):
    data = content.encode() if isinstance(content, str) else content
    name = "items.json.gz" if is_packed else "items.json"
    items = build_items(tmp_path, gzip.compress(data, mtime=0) if is_packed else data, name=name)
    assert items["title"].to_list() == ["T1", "T2", "T3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "t": "a"}\n{"id": 2,\n', "line 2: cannot be read as jsonl"),
        ('[{"id": 1, "t": "a"}, {"id": 2,]', "the JSON object that starts in line 1 is broken"),
        ('[\n{"id": 1, "t": "a"},\n7]', "line 3 is not a JSON object"),
        ('{"id": 1, "t": "a"}\n[1]\n', "line 2: cannot be read as jsonl"),
        ("[]", "no JSON object in it"),
        (json.dumps({"1": {"x": 1, "y": "a"}}), "one JSON object of 1 entries"),
        ("id,t\n1,a\n", "line 1: cannot be read as jsonl"),
        ("[" + json.dumps("x" * 6_000_000) + "]", "line 1 is not a JSON object"),
    ],
)
def test_json_that_is_no_table_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        build_items(tmp_path, content)
    assert "\n" not in str(caught.value) and len(str(caught.value).replace(str(tmp_path), "")) <= 300


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["id", "t", "x"]), st.text(max_size=4) | st.integers()), max_size=6
    )
)
def test_objects_of_an_array_are_those_of_lines(tmp_path_factory, rows):
    from llmrec.data.tables import json_files, prepare

    path = tmp_path_factory.mktemp("json") / "a.json"
    for indent in (None, 1):
        path.write_text(json.dumps(rows, indent=indent))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare, "_BLOCK", 7)
            assert list(json_files._objects(path, "utf-8")) == rows


CSV = "id,t,brand,price,categories,description\n"


def test_a_table_of_missing_words_markup_prices_and_lists(tmp_path, capsys):
    rows = [
        "1,<b>Pen</b> &amp; ink,NULL,\"12,99 €\",\"['Home', 'Pens']\",\"['Nice.', 'Very.']\"",
        "2,N/A,Acme,1.299,Home > Desk,<p>One</p><p>two</p>",
        "3,None of it,\\N,free,Home > Pens,nan",
    ]
    columns = {name: name for name in ("brand", "price", "categories", "description")}
    items = build_items(tmp_path, CSV + "\n".join(rows), name="items.csv", **columns)
    assert items["title"].to_list() == ["Pen & ink", "item 2", "None of it"]
    assert items["brand"].to_list() == [None, "Acme", None]
    assert items["price"].to_list() == [pytest.approx(12.99), 1299.0, None]
    assert items["categories"].to_list() == [["Home", "Pens"], ["Home > Desk"], ["Home > Pens"]]
    assert items["description"].to_list() == ["Nice. Very.", "One two", None]
    err = capsys.readouterr().err
    for told in (
        r"items\.csv: prices are read with a comma before the cents",
        r"items\.csv: 1 of 3 prices are no amount",
        r"items\.csv: 2 words such as None or NULL in brand are read as missing values; .*`missing: \[\]`",
        r"items\.csv: categories: 'Home > Desk' is read as one label; .*`split_on: \{categories: '>'\}`",
    ):
        assert re.search(told, err), (told, err)


def test_keys_of_a_card_decide_otherwise(tmp_path):
    rows = '1,NA,a,"1,299",A>B,x\n2,b,b,1,C,x\n3,c,,2,,x\n'
    table = {"missing": [], "decimal": ",", "split_on": {"categories": ">"}}
    columns = {"price": "price", "categories": "categories"}
    items = build_items(tmp_path, CSV + rows, table, name="items.csv", **columns)
    assert items["title"].to_list() == ["NA", "b", "c"]
    assert items["price"].to_list() == [pytest.approx(1.299), 1, 2]
    assert items["categories"].to_list() == [["A", "B"], ["C"], []]


def test_a_template_takes_a_missing_word_for_nothing(tmp_path):
    rows = "1,Pen,NULL,1,,\n2,Ink,Acme,1,,\n3,NULL,Acme,1,,\n"
    items = build_items(tmp_path, CSV + rows, name="items.csv", title="{t} ({brand})")
    assert items["title"].to_list() == ["Pen", "Ink (Acme)", "item 3"]


@pytest.mark.parametrize("word", MISSING)
def test_a_missing_word_as_an_id_is_an_error_or_dropped(tmp_path, word):
    card = {"interactions": {"path": "log.csv", "columns": {"user": "user", "item": "item"}}}
    log = {"log.csv": LOG + f"{word},1\nu,{word}\n"}
    with pytest.raises(UserError, match=r"row 4: user = .*an empty user id.*`without_id: drop`"):
        build(tmp_path, log, card)
    card["interactions"]["without_id"] = "drop"
    built = build(tmp_path, log, card)
    assert [row[1] for row in built.rows()] == ["1", "2", "3"] and built.report["removed"]["without_id"] == 2


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    lines = '{"id": 1, "t": "NaN, really: NaN", "price": NaN}\n{"id": 2, "t": "b", "price": 5}\n'
    items = build_items(tmp_path, lines, price="price")
    assert items["title"].to_list() == ["NaN, really: NaN", "b", "item 3"]
    assert items["price"].to_list() == [None, 5.0, None]


def test_loose_dicts_may_hold_nan(tmp_path):
    lines = "{'id': 1, 't': 'nan', 'price': nan}\n{'id': 2, 't': 'b', 'price': 5}\n"
    items = build_items(tmp_path, lines, {"format": "loose_jsonl"}, price="price")
    assert items["price"].to_list() == [None, 5.0, None]


def test_prices_of_a_parquet_column(tmp_path):
    frame = pl.DataFrame({"id": [1, 2, 3], "t": ["a", "b", "c"], "price": [1.5, -1.0, float("nan")]})
    frame.write_parquet(tmp_path / "items.parquet")
    items = build_items(
        tmp_path, (tmp_path / "items.parquet").read_bytes(), name="items.parquet", price="price"
    )
    assert items["price"].to_list() == [1.5, None, None]


def test_imports_read_values_by_the_same_rules(tmp_path):
    entries = {
        "0": {
            "title": "Pens",
            "description": "['Nice.', 'Very.']",
            "brand": "None",
            "categories": "['Home', 'Pens']",
        },
        "1": {"title": "nan", "description": [], "brand": "Acme", "categories": "Home,Ink"},
        "2": {"title": "Ink &amp; <b>pens</b>", "description": "", "brand": "Acme", "categories": ["A, B"]},
    }
    (tmp_path / "Office.item.json").write_text(json.dumps(entries))
    (tmp_path / "Office.inter.json").write_text(json.dumps({"7": [0, 1, 2]}))
    card = exchange.to_tables(tmp_path, tmp_path / "out")
    recipe = Recipe.model_validate({"name": "t", "data": {"card": str(card)}})
    pipeline.execute(recipe, tmp_path / "run", until="data")
    items = examples.load_items(tmp_path / "run")
    assert items["title"].to_list() == ["Pens", "1", "Ink & pens"]
    assert items["description"].to_list() == ["Nice. Very.", None, None]
    assert items["brand"].to_list() == [None, "Acme", "Acme"]
    assert items["categories"].to_list() == [["Home", "Pens"], ["Home", "Ink"], ["A, B"]]


LIKE = pl.DataFrame(
    schema={"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String), "price": pl.Float32}
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "new.csv",
            "item_id;title;categories;price\n7;<b>Pen</b> caf\xe9;['Home', 'Pens'];12,99\n".encode("cp1252"),
        ),
        ("new.csv", "item_id\ttitle\tcategories\tprice\n7\tPen caf\xe9\tHome|Pens\t12.99\n".encode("utf-16")),
        (
            "new.json",
            json.dumps(
                [{"item_id": 7, "title": "Pen caf\xe9", "categories": ["Home", "Pens"], "price": "$12.99"}]
            ),
        ),
        (
            "new.jsonl",
            '{"item_id": 7, "title": "Pen caf\xe9", "categories": "[\'Home\', \'Pens\']", "price": 12.99}',
        ),
    ],
)
def test_new_items_are_read_by_the_same_rules(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    added = read_new_items(tmp_path / name, LIKE)
    assert added.rows() == [("7", "Pen caf\xe9", ["Home", "Pens"], pytest.approx(12.99))]
    lines = capsys.readouterr().err.splitlines()
    assert len(set(lines)) == len(lines), "each line once"
