"""CSV as people bring it: the rows that Python's reader finds, or an error that names the line."""

import csv
import gzip
import io
import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmrec.data.tables import csv_check, read
from llmrec.data.tables.csv_check import Check
from llmrec.data.tables.described import Table
from llmrec.errors import UserError


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("csv")


def read_rows(folder, content, name="log.csv", columns="abc", **table):
    """Rows of a file under a card; empty text for null."""
    path, scratch = folder / name, folder / "scratch"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    scratch.mkdir(exist_ok=True)
    for leftover in scratch.iterdir():
        leftover.unlink()
    described = Table(path=name, columns={column: column for column in columns}, **table)
    parts = read.scan(described, [path], scratch)
    (frame,) = read.collect(parts, described, read.combined(parts))
    return [list(row) for row in frame.fill_null("").rows()]


def refused(folder, content, message, **table):
    with pytest.raises(UserError, match=message) as caught:
        read_rows(folder, content, **table)
    text = str(caught.value).removeprefix(f"{folder}/")
    assert "\n" not in text and len(text) <= 300


ROWS = [["1", "2", "3"], ["4", "5", "6"]]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b,c\n1,2,3\n4,5,6\n", ROWS),
        ("a,b,c\n1,2,3\n4,5,6", ROWS),
        ("a,b,c\r\n1,2,3\r\n4,5,6\r\n", ROWS),
        ("a,b,c\r1,2,3\r4,5,6\r", ROWS),
        ("\n\na,b,c\n\n1,2,3\n\r\n4,5,6\n\n", ROWS),
        ("\ufeffa,b,c\n1,2,3\n4,5,6\n", ROWS),
        ('"a","b","c"\n"1","2","3"\n"4","5","6"\n', ROWS),
        ('\ufeff"a",b,c\n1,2,3\n4,5,6\n', ROWS),
        ("a,b,c\n,,\n", [["", "", ""]]),
        ('a,b,c\n"x, y","say ""so""","1\n2"\n', [["x, y", 'say "so"', "1\n2"]]),
        ('a,b,c\n27" screen,5" disk,"x"\n', [['27" screen', '5" disk', "x"]]),
        ("a,b,c\n1,é,\u6771\n", [["1", "é", "\u6771"]]),
        ('a,b,c\n1,"2\r3",4\r\n', [["1", "2\r3", "4"]]),
        ("c,b,a\n3,2,1\n6,5,4\n", ROWS),
    ],
)
def test_plain_files(folder, content, rows):
    assert read_rows(folder, content) == rows


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('a,b,c\n1,2,"27 screen\n2,2,n\n3,2,n\n4,2,"15 screen\n5,2,n\n', 2),
        ('a,b,c\n1,2,3\n2,"never closed,3\n3,2,3\n', 3),
        ('a,b,c\n1,"a \\"b",3\n', 2),
        ("a,b,c\n1,2,3\n1,this, or so,3\n", 3),
        ("a,b,c\n1,2,3\n\n1,2\n", 4),
        ("a,b,c\n1,2,3,4,5\n", 2),
        ("a,b,c\n1,2,3\n4,5,6,\n", 3),
        ('a,b,c\n1,"2\n2\n2",3\n4,5\n', 5),
        ('a,b,c\n1,"2"2,3\n', 2),
        ('a,b,c\n1, "2, 2",3\n', 2),
        ("a,b,c\r1,2,3\r1,2\r", 3),
        ("a,b,c\n" + "1,2,3\n" * 400_000 + "1,2\n" + "1,2,3\n" * 10, 400_002),
        ("a,b,c\n" + "1,2,3\n" * 400_000 + '1,2,"x\n' + "1,2,3\n" * 400_000 + '1,"2",3\n', 400_002),
    ],
)
@pytest.mark.parametrize("columns", ["abc", "ab"])
def test_the_first_wrong_line_is_named_whatever_is_mapped(folder, content, line, columns):
    refused(folder, content, rf"log\.csv: line {line}: .*`quote", columns=columns)


@pytest.mark.parametrize(
    ("content", "keys", "rows"),
    [
        ('a,b,c\n1,"a \\"b",3\n', {"escape": "\\"}, [["1", 'a "b', "3"]]),
        ("a,b,c\n1,2\\,2,3\n", {"escape": "\\", "quote": None}, [["1", "2,2", "3"]]),
        ('a,b,c\n1,2,"27 screen\n2,2,"n\n', {"quote": None}, [["1", "2", '"27 screen'], ["2", "2", '"n']]),
        ("a,b,c\n1,'2,2',3\n", {"quote": "'"}, [["1", "2,2", "3"]]),
        ("a,b,c\n1,«2,2«,3\n", {"quote": "«"}, [["1", "2,2", "3"]]),
        ("a^b^c\n1^2^3\n", {"separator": "^"}, [["1", "2", "3"]]),
        ("a::b::c\n1::2::3\n", {"separator": "::"}, [["1", "2", "3"]]),
        ('a::b::c\n1::"2::2"::3\n', {"separator": "::"}, [["1", "2::2", "3"]]),
        ("a¦b¦c\n1¦2¦3\n", {"separator": "¦"}, [["1", "2", "3"]]),
        ("1,2,3\n4,5,6\n", {"header": ["a", "b", "c"]}, ROWS),
        ("1;2;3\n4;5;6\n", {"header": ["a", "b", "c"]}, ROWS),
        ("1 2 3\n4 5 6\n", {"header": ["a", "b", "c"]}, ROWS),
        ("1::2::3\n4::5::6\n", {"header": ["a", "b", "c"], "quote": None}, ROWS),
        ("a,b,c\n1,\xe9,3\n".encode("latin-1"), {"encoding": "latin-1"}, [["1", "é", "3"]]),
        ('"A title, 27"\n\na,b,c\n1,2,3\n4,5,6\n', {"skip": 2}, ROWS),
        ("\ufeffsep=;\r\na;b;c\r\n1;2;3\r\n4;5;6\r\n", {"skip": 1}, ROWS),
        ("Größe\na,b,c\n1,2,é\n".encode("cp1252"), {"skip": 1}, [["1", "2", "é"]]),
        ("title\na::b::c\n1::2::3\n4::5::6\n".encode("utf-16"), {"skip": 1}, ROWS),
        ("a b\n1,2,3\n4,5,6\n", {"skip": 1, "header": ["a", "b", "c"]}, ROWS),
    ],
)
def test_keys_decide(folder, content, keys, rows):
    assert read_rows(folder, content, **keys) == rows


@pytest.mark.parametrize(
    ("content", "rows", "told"),
    [
        ("a;b;c\n1;2,5;3\n", [["1", "2,5", "3"]], "separated by ';'"),
        ("a\tb\tc\n1\t2\t3\n", [["1", "2", "3"]], r"separated by '\\t'"),
        ("a|b|c\n1|2|3\n", [["1", "2", "3"]], r"separated by '\|'"),
        ("a::b::c\n1::2::3\n", [["1", "2", "3"]], "separated by '::'"),
        (
            "a,b,c\n1,caf\xe9 \x80,3\n".encode("latin-1"),
            [["1", "café €", "3"]],
            "line 2 is not UTF-8.*cp1252",
        ),
        ('a,b,c\n1,27" x,3\n', [["1", '27" x', "3"]], "line 2: a quote inside a value is taken as text"),
        (
            'a,b,c\n1,2,"27 screen\n2,2,n\n3,2,n\n4,2,15"\n5,2,n\n',
            [["1", "2", "27 screen\n2,2,n\n3,2,n\n4,2,15"], ["5", "2", "n"]],
            "2 lines inside quotes look like rows .* line 3.*`quote: null`",
        ),
    ],
)
def test_what_was_understood_is_told(folder, capsys, content, rows, told):
    assert read_rows(folder, content) == rows
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(told, err), err


def test_a_header_that_is_given_and_there_is_told(folder, capsys):
    read_rows(folder, "a,b,c\n1,2,3\n", header=["A", "b", "d"], columns="Abd")
    assert "its first line looks like the names of the columns" in capsys.readouterr().err


def test_plain_files_are_read_in_silence(folder, capsys):
    read_rows(folder, 'a,b,c\n1,"2\n2",3\n')
    read_rows(folder, "a\tb\tc\n1\t2\t3\n", name="log.tsv")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_byte_order_marks(folder, encoding, is_packed):
    text = "a,b,c\n1,é,\u6771\n"
    data = (text if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff" + text).encode(encoding)
    name = "log.csv.gz" if is_packed else "log.csv"
    content = gzip.compress(data, mtime=0) if is_packed else data
    assert read_rows(folder, content, name=name) == [["1", "é", "\u6771"]]


@pytest.mark.parametrize(
    ("content", "message", "keys"),
    [
        (
            "a,b,c\nna\u00efve,caf\u00e9,\u6771\n".encode() + b"x,\xff,1\n",
            "line 3: not UTF-8.*`encoding`",
            {},
        ),
        (b"a,b,c\n1,\x81,3\n", "line 2: not UTF-8.*`encoding`", {}),
        (
            b"a,b,c\n1,\xe9,3\n",
            "line 2: not utf-8, which the card names as `encoding`",
            {"encoding": "utf-8"},
        ),
        (
            b"a,b,c\n1,\xe9,3\n",
            "line 2: not ascii; name the file's `encoding` in the card",
            {"encoding": "ascii"},
        ),
        (b"", "the file is empty", {}),
        (b"\n\n", "no columns", {}),
        (b"a;b\n1;2\n", "no column 'c' .*it has a, b", {}),
        (b"1,2\n3,4\n", "line 1: 2 values for 3 columns", {"header": ["a", "b", "c"]}),
        (b"A title\na,b,c\n1,2,3\n", "line 2: 3 values for 1 columns.*`skip` leaves out lines above", {}),
        (b"title\n\na,b,c\n1,2,3\n1,2\n", "line 5: 2 values for 3 columns", {"skip": 2}),
        (b'title\na,b,c\n1,2,"3\n', "line 3: a quote opens", {"skip": 1}),
        (b'title\na,b,c\n1,2"2,3\n1,"2"2,3\n', "line 4: text stands between", {"skip": 1}),
        (b"a,b,c\n1,2,3\n", "no columns in it", {"skip": 9}),
    ],
)
def test_other_refusals(folder, content, message, keys):
    refused(folder, content, message, **keys)


def oracle(text, width):
    """Rows of Python's reader, or the line of the first that is wrong."""
    rows, before = [], 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row and len(row) != width:
                return None, before + 1
            rows += [row] if row else []
            before = reader.line_num
    except csv.Error:
        return None, before + 1
    return rows, None


WILD = st.lists(
    st.sampled_from(
        [*'ab,";\\ é', "\n", "\n", "\r\n", "\r", '""', ',"', '",', '"\n', "1,2,3\n", '1,"2",3\n']
    ),
    max_size=14,
).map("".join)


@settings(max_examples=2000, database=None)
@given(WILD, st.sampled_from(["abc", "a", "bc"]))
@example('"a\n"b,c,d\n', "abc")
@example("x\r", "abc")
def test_wild_text_is_read_as_by_python_or_refused(folder, text, columns):
    text = "a,b,c\n" + text
    rows, line = oracle(text, 3)
    if rows is None:
        with pytest.raises(UserError, match=rf"log\.csv: line {line}: "):
            read_rows(folder, text, columns=columns)
    else:
        kept = [["abc".index(column) for column in columns]]
        assert read_rows(folder, text, columns=columns) == [[row[at] for at in kept[0]] for row in rows[1:]]


FIELDS = st.text(st.sampled_from("xy1 ,;|\t\"'\n\r\\é€:"), max_size=6)
DIALECTS = {
    "comma": {"delimiter": ","},
    "semicolon": {"delimiter": ";"},
    "tab": {"delimiter": "\t"},
    "bar": {"delimiter": "|", "quoting": csv.QUOTE_ALL},
    "escaped": {"delimiter": ",", "escapechar": "\\", "doublequote": False, "quoting": csv.QUOTE_ALL},
    "apostrophe": {"delimiter": ";", "quotechar": "'"},
}


@settings(max_examples=400, database=None)
@given(
    st.lists(st.lists(FIELDS, min_size=3, max_size=3), max_size=5),
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_written_rows_come_back(folder, rows, dialect, encoding, end):
    writing = {"quoting": csv.QUOTE_MINIMAL} | DIALECTS[dialect]
    buffer = io.StringIO()
    # Python leaves a carriage return bare unless it is part of the line's end.
    csv.writer(buffer, lineterminator="\r\n", **writing).writerows([["a", "b", "c"], *rows])
    keys = {"escape": writing.get("escapechar"), "quote": writing.get("quotechar", '"')}
    if encoding == "cp1252":
        keys["encoding"] = encoding
    text = buffer.getvalue() if end == "\r\n" else plain_ends(buffer.getvalue(), writing)
    assert read_rows(folder, text.encode(encoding), **keys) == rows


def plain_ends(text, writing):
    """The same rows with line feeds between them, and every value in quotes."""
    rows = list(csv.reader(io.StringIO(text, newline=""), **writing))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", **writing | {"quoting": csv.QUOTE_ALL}).writerows(rows)
    return buffer.getvalue()


@settings(max_examples=150, database=None)
@given(
    st.lists(st.sampled_from(["1,2,3\n", '"1\n,","2",3\n', '"""1""",2,3\n']), min_size=1, max_size=30),
    st.data(),
)
def test_blocks_do_not_matter(folder, lines, data):
    """A row, a quoted value or an escaped quote may lie across the blocks in which a file is checked."""
    text = "".join(lines)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.sampled_from([",", '"', "\n"])) + text[place:]
    path = folder / "blocks.csv"
    path.write_bytes(text.encode())
    found = []
    for size in (5, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_check, "_BLOCK", size)
            check = Check(",", '"', 3)
            finding = check.run(path)
            found.append(finding is None and (check.rows_in_quotes.count, check.rows_in_quotes.offset))
    assert found[0] == found[1]


def test_a_line_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr(csv_check, "LONGEST_LINE", 1 << 21)
    refused(folder, "a,b,c\n" + "x" * (1 << 22), "a line of more than 2 MB")


def test_rows_of_a_hundred_thousand_with_two_wrong_quotes(folder):
    rows = [f"{n},i{n % 7},note {n}" for n in range(100_000)]
    rows[98], rows[49_998] = '98,i0,"27 inch', '49998,i4,"27 inch'
    refused(
        folder,
        "\n".join(["a,b,c", *rows]),
        r"line 100: text stands .*line 50000.*`quote: null`",
        columns="ab",
    )
    assert len(read_rows(folder, "\n".join(["a,b,c", *rows]), columns="ab", quote=None)) == 100_000


def test_polars_agrees_with_the_oracle_on_plain_rows(folder):
    """The check is needed: Polars alone reads a file with a quote too many in silence, with fewer rows."""
    path = folder / "alone.csv"
    path.write_text('a,b,c\n1,2,"27 screen\n2,2,n\n3,2,n\n4,2,"15 screen\n5,2,n\n')
    assert len(pl.scan_csv(path, infer_schema=False).select("a").collect()) < 5
