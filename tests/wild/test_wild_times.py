"""Times as people bring them: what they mean is told, and what stands for no time is refused or dropped."""

import re
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_data import build

from llmrec.data.card import load_card
from llmrec.data.log import read_log
from llmrec.data.tables.described import Interactions
from llmrec.data.times.wording import MONTHS
from llmrec.errors import UserError

APRIL = 1_649_376_000
"""2022-04-08 in seconds since 1970."""
CLOCK = 13 * 3600 + 5 * 60
SECOND = 6


def read_times(folder, moments, **table):
    """Seconds since 1970 of a log's times, in the order of the file."""
    path = folder / "log.csv"
    rows = "".join(f'u,{n},"{time}"\n' for n, time in enumerate(moments))
    path.write_text("user,item,time\n" + rows)
    described = Interactions(
        path=path.name, columns={"user": "user", "item": "item", "time": "time"}, **table
    )
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    log = read_log(described, [path], scratch)
    return log.seconds().tolist(), log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("times")


@pytest.mark.parametrize(
    ("text", "seconds", "name"),
    [
        (str(APRIL), APRIL, "seconds since 1970"),
        (str(APRIL * 1000), APRIL, "milliseconds since 1970"),
        (str(APRIL * 10**6 + 5), APRIL, "microseconds since 1970"),
        (str(APRIL * 10**9 + 999_999_999), APRIL, "nanoseconds since 1970"),
        (f"{APRIL}.75", APRIL, "seconds since 1970"),
        ("2022-04-08", APRIL, "dates (year, month, day)"),
        ("2022-04-08 13:05:06", APRIL + CLOCK + SECOND, "dates (year, month, day)"),
        ("2022-04-08T13:05:06.250Z", APRIL + CLOCK + SECOND, "dates (year, month, day)"),
        ("2022-04-08T13:05:06+02:00", APRIL + CLOCK + SECOND - 7200, "dates (year, month, day)"),
        ("2022-04-08 13:05:06 UTC", APRIL + CLOCK + SECOND, "dates (year, month, day)"),
        ("2022/4/8 13:05", APRIL + CLOCK, "dates (year/month/day)"),
        ("Fri Apr 08 13:05:06 +0000 2022", APRIL + CLOCK + SECOND, "dates (year last)"),
        ("Fri Apr 08 13:05:06 +0200 2022", APRIL + CLOCK + SECOND - 7200, "dates (year last)"),
        ("Fri, 08 Apr 2022 13:05:06 GMT", APRIL + CLOCK + SECOND, "dates (month in words)"),
        ("Fri, 08 Apr 2022 13:05:06 +0200", APRIL + CLOCK + SECOND - 7200, "dates (month in words)"),
        ("04/28/2022", APRIL + 20 * 86_400, "dates (month/day/year)"),
        ("4/28/2022 1:05:06 PM", APRIL + 20 * 86_400 + CLOCK + SECOND, "dates (month/day/year)"),
        ("28/04/2022 13:05", APRIL + 20 * 86_400 + CLOCK, "dates (day/month/year)"),
        ("28-04-2022", APRIL + 20 * 86_400, "dates (day-month-year)"),
        ("08.04.2022", APRIL, "dates (day.month.year)"),
        ("08.04.2022 13:05", APRIL + CLOCK, "dates (day.month.year)"),
        ("04 08, 2022", APRIL, "dates (month in words)"),
        ("Apr 8, 2022", APRIL, "dates (month in words)"),
        ("April 8, 2022", APRIL, "dates (month in words)"),
        ("8 April 2022", APRIL, "dates (month in words)"),
        ("08-Apr-2022", APRIL, "dates (month in words)"),
        ("8-Apr-22 1:05 PM", APRIL + CLOCK, "dates (month in words, short year)"),
        ("Friday, April 8, 2022", APRIL, "dates (month in words)"),
        ("Apr 8, 2022, 1:05:06 PM", APRIL + CLOCK + SECOND, "dates (month in words)"),
        ("Apr  8 2022  1:05PM", APRIL + CLOCK, "dates (month in words)"),
        ("4/28/22 13:05", APRIL + 20 * 86_400 + CLOCK, "dates (month/day/two digits of the year)"),
        ("28/04/22", APRIL + 20 * 86_400, "dates (day/month/two digits of the year)"),
        ("08.04.22 13:05", APRIL + CLOCK, "dates (day.month.two digits of the year)"),
        ("2022.04.08 13:05", APRIL + CLOCK, "dates (year.month.day)"),
        ("20220408T130506Z", APRIL + CLOCK + SECOND, "dates (year, month, day without signs)"),
        ("08/Apr/2022:13:05:06 +0200", APRIL + CLOCK + SECOND - 7200, "dates (web server)"),
        ("[08/Apr/2022:13:05:06 +0000]", APRIL + CLOCK + SECOND, "dates (web server)"),
        (
            "Fri Apr 08 2022 13:05:06 GMT+0200 (Central European Summer Time)",
            APRIL + CLOCK + SECOND - 7200,
            "dates (month in words)",
        ),
        ("2022-04-08 13:05:06 CEST", APRIL + CLOCK + SECOND - 7200, "dates (year, month, day)"),
        (
            "2022-04-08T13:05:06+02:00[Europe/Berlin]",
            APRIL + CLOCK + SECOND - 7200,
            "dates (year, month, day)",
        ),
        ("2022-04-08 13:05:06 GMT+2", APRIL + CLOCK + SECOND - 7200, "dates (year, month, day)"),
        ("2022-04-08 13:05:06,250", APRIL + CLOCK + SECOND, "dates (year, month, day)"),
        ("08.04.2022, 13:05 Uhr", APRIL + CLOCK, "dates (day.month.year)"),
        ("Fr, 08.04.2022 13:05:06 +02:00", APRIL + CLOCK + SECOND - 7200, "dates (day.month.year)"),
        ("4/28/2022, 1:05:06\u202fPM", APRIL + 20 * 86_400 + CLOCK + SECOND, "dates (month/day/year)"),
        ("4/28/2022 13:05 EST", APRIL + 20 * 86_400 + CLOCK + 18_000, "dates (month/day/year)"),
        ("Apr 8, 2022 1:05:06 p.m. PDT", APRIL + CLOCK + SECOND + 25_200, "dates (month in words)"),
        ("8. April 2022", APRIL, "dates (month in words)"),
        ("Freitag, 8. Apr. 2022 um 13:05 Uhr", APRIL + CLOCK, "dates (month in words)"),
        ("8 avril 2022 à 13:05", APRIL + CLOCK, "dates (month in words)"),
        ("1er avril 2022", APRIL - 7 * 86_400, "dates (month in words)"),
        ("8 de abril de 2022", APRIL, "dates (month in words)"),
        ("venerdì 8 aprile 2022", APRIL, "dates (month in words)"),
        ("April 8th, 2022 at 13:05", APRIL + CLOCK, "dates (month in words)"),
        ("2022-Apr-08", APRIL, "dates (month in words)"),
        ("Fri Apr  8 13:05:06 CEST 2022", APRIL + CLOCK + SECOND - 7200, "dates (year last)"),
        ("20220408", APRIL, "dates in digits (year, month, day)"),
        ("202204081305", APRIL + CLOCK, "dates in digits (year, month, day)"),
        ("20220408130506", APRIL + CLOCK + SECOND, "dates in digits (year, month, day)"),
    ],
)
def test_usual_times_are_understood_and_told(folder, capsys, text, seconds, name):
    found, _ = read_times(folder, [text, text])
    assert found == [seconds] * 2
    day = datetime.fromtimestamp(seconds, UTC).date()
    expected = f"log.csv: times read as {name}, {day} to {day}"
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize(
    ("text", "time_format", "seconds"),
    [
        ("08/04/2022", "%d/%m/%Y", APRIL),
        ("04/08/2022", "%m/%d/%Y", APRIL),
        ("08|04|22 13h05", "%d|%m|%y %Hh%M", APRIL + CLOCK),
        ("Posted April 8, 2022.", "Posted %B %d, %Y.", APRIL),
        ("am 8. März 2022", "am %d. %B %Y", APRIL - 31 * 86_400),
        ("04/08/2022, 13:05 EST", "%m/%d/%Y %H:%M", APRIL + CLOCK + 18_000),
        ("2022-04-08 13:05:06.500", "%Y-%m-%d %H:%M:%S.%f", APRIL + CLOCK + SECOND),
        ("08.04.2022 13:05 +0100", "%d.%m.%Y %H:%M %z", APRIL + CLOCK - 3600),
        ("2022-04-08", ["%d.%m.%Y", "%Y-%m-%d"], APRIL),
        ("44659", "excel", APRIL),
        ("44659.545208333", "excel", APRIL + CLOCK + SECOND),
        (str(APRIL), "s", APRIL),
        (f"{APRIL}.9", "s", APRIL),
        (str(APRIL * 1000), "ms", APRIL),
        ("20220408", "s", 20_220_408),
        ("86400000", "ms", 86_400),
        (str(APRIL * 10**9 + 7), "ns", APRIL),
    ],
)
def test_time_format_decides(folder, text, time_format, seconds):
    assert read_times(folder, [text, text], time_format=time_format)[0] == [seconds] * 2


@pytest.mark.parametrize("form", ["%Q", "%d.%m", "%H:%M", "year", "", ["s", "ms"], ["%Y-%m-%d", "m"]])
def test_a_format_without_a_date_is_refused(tmp_path, form):
    with pytest.raises(UserError, match=r"interactions\.time_format"):
        build(
            tmp_path,
            {},
            {"interactions": {"path": "x.csv", "columns": {"user": "u", "item": "i"}, "time_format": form}},
        )


def test_integers_stay_integers(folder):
    start = APRIL * 10**9
    _, log = read_times(folder, [start + 210, start + 200, start + 205])
    assert log.rows["time"].to_list() == [start + 210, start + 200, start + 205]


def test_decimals_after_a_thousand_whole_numbers_are_kept(folder):
    _, log = read_times(folder, [*range(APRIL, APRIL + 1100), f"{APRIL}.5"])
    assert log.rows["time"][-1] == APRIL + 0.5


def test_nanoseconds_of_parquet_keep_their_order(tmp_path):
    times = pl.Series([APRIL * 10**9 + 210, APRIL * 10**9 + 200]).cast(pl.Datetime("ns"))
    frame = pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": times})
    frame.write_parquet(tmp_path / "log.parquet")
    table = Interactions(path="log.parquet", columns={"user": "user", "item": "item", "time": "time"})
    assert (
        read_log(table, [tmp_path / "log.parquet"], tmp_path).rows["time"].to_list()
        == times.to_physical().to_list()
    )


@pytest.mark.parametrize(
    ("second", "seconds"),
    [("13:05:06", CLOCK + SECOND), ("13:05", CLOCK), ("1:05 PM", CLOCK), ("526309", 526), ("0", 0)],
)
@pytest.mark.parametrize("day", ["2022-04-08", "08.04.2022"])
def test_a_day_and_a_clock_or_milliseconds(tmp_path, day, second, seconds):
    if day.startswith("2022") and second == "1:05 PM":
        day = "2022/04/08"
    log = "user,item,day,clock\n" + "".join(f"u,{n},{day},{second}\n" for n in range(3))
    card = {"path": "log.csv", "columns": {"user": "user", "item": "item", "time": ["day", "clock"]}}
    assert [row[2] for row in build(tmp_path, {"log.csv": log}, {"interactions": card}).rows()] == [
        APRIL + seconds
    ] * 3


@pytest.mark.parametrize(
    ("texts", "seconds", "is_doubtful"),
    [
        (["04/08/2022", "04/08/2022"], APRIL, True),
        (["04/08/2022"] * 1500 + ["04/28/2022"], APRIL, False),
        (["08/04/2022"] * 1500 + ["28/04/2022"], APRIL, False),
        (["08-04-2022", "08-04-2022"], APRIL, True),
        (["04-08-2022"] * 1500 + ["04-28-2022"], APRIL, False),
    ],
)
def test_day_and_month_are_told_apart_by_the_whole_column(folder, capsys, texts, seconds, is_doubtful):
    assert read_times(folder, texts)[0][0] == seconds
    assert ("if day and month are the other way round" in capsys.readouterr().err) == is_doubtful


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [APRIL, APRIL * 1000, APRIL, APRIL],
            r"row 1: time = '1649376000' is in seconds since 1970, .*row 2: time = ",
        ),
        (
            [APRIL * 1000, APRIL * 1000, APRIL],
            r"row 1: .* milliseconds since 1970, .*row 3: time = '1649376000' is not",
        ),
        ([APRIL * 1000, APRIL * 10**6], "row 1.*milliseconds.*row 2"),
        (
            ["28/04/2022", "04/28/2022"],
            "row 2: time = '04/28/2022' and .*row 1: time = '28/04/2022': day and month",
        ),
        ([APRIL, -1], r"row 2: time = '-1': before 1970 .*`times: drop`"),
        ([APRIL, 0], r"row 2: time = '0': 1970-01-01 00:00.*`times: drop`"),
        ([APRIL, ""], r"row 2: time = '': not a time.*`time_format`.*`times: drop`"),
        ([APRIL, "NULL"], "row 2: time = 'NULL': not a time"),
        ([APRIL, "soon"], "row 2: time = 'soon': not a time"),
        ([APRIL, 253402300799, APRIL], "row 2: time = '253402300799': after 2100"),
        (["2022-04-08", "9999-12-31"], "row 2: time = '9999-12-31': after 2100"),
        (["2022-04-08", "1969-12-31"], "row 2: time = '1969-12-31': before 1970"),
        (["2022-04-08", "1970-01-01"], "row 2: time = '1970-01-01': 1970-01-01 00:00"),
        (["2022-04-08", "08-04-22x"], "row 2: time = '08-04-22x': not a time"),
        ([3, 2, -1], "row 3: time = '-1': negative"),
        (["soon", "later"], "row 1: time = 'soon': not a time"),
    ],
)
def test_what_is_no_time_is_named(folder, times, message):
    with pytest.raises(UserError, match=message) as caught:
        read_times(folder, times)
    assert "\n" not in str(caught.value) and len(str(caught.value).replace(str(folder), "")) <= 300


@pytest.mark.parametrize("bad", ["-1", "0", "", "NULL", "soon", "253402300799"])
def test_what_is_no_time_is_dropped_and_counted(tmp_path, capsys, bad):
    log = "user,item,time\n" + "".join(
        f"u,{n},{time}\n" for n, time in enumerate([APRIL, bad, APRIL + 1, APRIL + 2])
    )
    table = {"path": "log.csv", "columns": {"user": "user", "item": "item", "time": "time"}, "times": "drop"}
    built = build(tmp_path, {"log.csv": log}, {"interactions": table})
    assert built.rows("item_id") == [("0",), ("2",), ("3",)]
    assert built.report["removed"]["times"] == 1 and built.report["read"] == 4
    err = capsys.readouterr().err
    assert "log.csv: 1 of 4 rows dropped, as the card says (`times: drop`)" in err
    assert re.search("times read as seconds since 1970, 2022-04-08 to 2022-04-08", err)


def test_nothing_is_left_of_a_log_without_times(folder):
    with pytest.raises(UserError, match=r"no rows are left: .*row 1: time = '-1'"):
        read_times(folder, [-1, -2], times="drop")


def test_positions_are_told_and_keep_zero(folder, capsys):
    assert read_times(folder, [0, 1, 2])[0] == [0, 1, 2]
    assert "times read as positions, 0 to 2" in capsys.readouterr().err


def test_dates_of_1970_are_dates(tmp_path):
    log = "user,item,time\n" + "".join(f"u,{n},1970-01-0{n}\n" for n in (2, 3, 4))
    columns = {"user": "user", "item": "item", "time": "time"}
    built = build(tmp_path, {"log.csv": log}, {"interactions": {"path": "log.csv", "columns": columns}})
    assert built.report["time"] == {"read_as": "dates", "first": 86_400, "last": 3 * 86_400}


FORMATS = [
    "%Y-%m-%d %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%b %d, %Y %I:%M:%S %p",
]
FORMATS += ["%a, %d %b %Y %H:%M:%S +0000", "%a %b %d %H:%M:%S +0000 %Y", "%Y-%m-%dT%H:%M:%SZ"]
MOMENTS = st.lists(st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 31)), min_size=1, max_size=5)


@settings(max_examples=40, database=None)
@given(MOMENTS, st.sampled_from(FORMATS))
def test_written_dates_come_back(folder, moments, form):
    moments = [moment.replace(microsecond=0) for moment in moments]
    expected = [int((moment - datetime(1970, 1, 1)).total_seconds()) for moment in moments]
    assert read_times(folder, [moment.strftime(form) for moment in moments])[0] == expected


@settings(max_examples=40, database=None)
@given(MOMENTS, st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_numbers_come_back_exactly(folder, moments, unit):
    seconds = [int((moment - datetime(1970, 1, 1)).total_seconds()) + 631_152_000 for moment in moments]
    values = [min(second, 4_000_000_000) * unit + unit // 2 for second in seconds]
    found, log = read_times(
        folder, values, time_format=["s", "ms", "us", "ns"][[1, 10**3, 10**6, 10**9].index(unit)]
    )
    assert found == [value // unit for value in values] and log.rows["time"].dtype == pl.Int64


def test_steam_as_it_comes():
    assert load_card("steam").interactions.time_formats() == []


@pytest.mark.parametrize("month", range(1, 13))
def test_months_in_all_languages_are_read(folder, month):
    words = MONTHS[month - 1].split()
    forms = [form for word in words for form in (word, word.title(), word.upper(), f"{word}.")]
    seconds, _ = read_times(folder, [f"8 {form} 2022 13:05" for form in forms])
    assert set(seconds) == {int(datetime(2022, month, 8, 13, 5, tzinfo=UTC).timestamp())}


def test_winter_and_summer_stand_in_one_column(folder):
    moments = ["2022-01-08 13:05:06 CET", "2022-04-08 13:05:06 CEST"]
    winter = int(datetime(2022, 1, 8, 13, 5, 6, tzinfo=UTC).timestamp())
    assert read_times(folder, moments)[0] == [winter - 3600, APRIL + CLOCK + SECOND - 7200]


def test_a_zone_that_is_not_known_is_refused(folder):
    with pytest.raises(UserError, match="row 1: time = '2022-04-08 13:05:06 Europe/Berlin': not a time"):
        read_times(folder, ["2022-04-08 13:05:06 Europe/Berlin"])
