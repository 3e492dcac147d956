"""What times mean: numbers since 1970, dates in the usual formats, or the formats that a card names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, cast

import polars as pl

from llmrec.data.tables import read
from llmrec.data.tables.notes import short
from llmrec.data.tables.read import TableFile
from llmrec.data.times.wording import Wording
from llmrec.errors import UserError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Names in `time_format` of numbers since 1970, and their number in a second."""
UNIT_NAMES = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
TWO_DIGITS = "two digits of the year"
"""Part of the name of dates such as 1/25/24."""
_EXCEL = "excel"
_EPOCH_OF_EXCEL = 25_569
"""1970-01-01 in the days that spreadsheets count."""
YEAR = 365 * 86_400
"""Numbers below a year's seconds are positions."""
LATEST = 4_102_444_800
"""First second of 2100; later times stand for no time."""
_EARLY = 631_152_000
"""First second of 1990: a time that is sensible in another unit is later."""
_MICROSECOND = 10**6
_SAMPLE = 1000
_CLOCKS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")


def _with_clocks(*dates: str) -> tuple[str, ...]:
    return tuple(date + clock for date in dates for clock in _CLOCKS)


# In a family all formats are tried on each row, so those that are rarely written are families of their own. Two
# families that differ in the order of day and month are rivals. `%Y` takes two digits, too, so `%y` is tried first.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "year, month, day": (
        *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"),
        *("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"),
    ),
    "year, month, day without signs": ("%Y%m%dT%H%M%S%#z", "%Y%m%dT%H%M%S"),
    "year/month/day": _with_clocks("%Y/%m/%d"),
    "year.month.day": _with_clocks("%Y.%m.%d"),
    f"month/day/{TWO_DIGITS}": _with_clocks("%m/%d/%y"),
    f"day/month/{TWO_DIGITS}": _with_clocks("%d/%m/%y"),
    f"day.month.{TWO_DIGITS}": _with_clocks("%d.%m.%y"),
    "month/day/year": _with_clocks("%m/%d/%Y"),
    "day/month/year": _with_clocks("%d/%m/%Y"),
    "day-month-year": _with_clocks("%d-%m-%Y"),
    "month-day-year": _with_clocks("%m-%d-%Y"),
    "day.month.year": _with_clocks("%d.%m.%Y"),
    "month in words, short year": _with_clocks("%d-%B-%y", "%d %B %y"),
    "month in words": (*_with_clocks("%B %d %Y", "%d %B %Y", "%d-%B-%Y", "%Y-%B-%d"), "%m %d %Y"),
    "web server": ("%d/%B/%Y:%H:%M:%S", "[%d/%B/%Y:%H:%M:%S %z]"),
    "year last": ("%B %d %H:%M:%S %z %Y", "%B %d %H:%M:%S %Y"),
}
_RIVALS = (
    (f"month/day/{TWO_DIGITS}", f"day/month/{TWO_DIGITS}"),
    ("month/day/year", "day/month/year"),
    ("day-month-year", "month-day-year"),
)
_YEAR_1000 = -30_610_224_000_000_000
"""Microseconds of a date before which a year had two digits."""
_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True)
class Reading:
    """How a column of times is read.

    Attributes:
        values: the times as Int64 or Float64; null for a value that is no time.
        unit: number of these in a second; None for numbers whose unit is to be derived.
        name: what the times are, for the user.
        is_doubtful: whether the order of day and month could be another.
    """

    values: pl.Expr
    unit: int | None
    name: str
    is_doubtful: bool = False


def reading(
    column: pl.Expr, parts: list[TableFile], formats: list[str], missing: list[str], has_clock: bool
) -> Reading:
    """Decide how the column `time` of a log is read, by its type and its first thousand values.

    Args:
        column: the time in the files' frames.
        parts: the files.
        formats: formats that the card names; none derives them.
        missing: words that mean a missing value.
        has_clock: whether the card names a column of days and a second one of clock times or milliseconds.

    Raises:
        UserError: dates whose day and month are in different orders.
    """
    dtype = parts[0].frame.collect_schema()["time"]
    if dtype == pl.Datetime("ns"):
        return Reading(column.dt.epoch("ns"), 10**9, "dates")
    if dtype.is_temporal():
        return Reading(column.cast(pl.Datetime("us")).dt.epoch("us"), _MICROSECOND, "dates")
    if dtype.is_float() and not formats:
        whole = column.fill_nan(None)
        return Reading(whole, None, "numbers")
    text = read.without_missing(column.cast(pl.String).str.strip_chars(), missing)
    sample = _sample(text, parts)
    if formats:
        return _named(text, formats, Wording(sample))
    if dtype.is_integer() or sample.cast(pl.Float64, strict=False).is_not_null().any() or not len(sample):
        return _number(text, sample, column if dtype.is_integer() else None)
    if has_clock and sample.str.contains(r"^\S+ \d+$").all():
        day = _date(text.str.extract(r"^(\S+) "), sample.str.extract(r"^(\S+) "), parts)
        offset = text.str.extract(r" (\d+)$").cast(pl.Int64, strict=False) * 1000
        return Reading(day.values + offset, _MICROSECOND, "days and milliseconds", day.is_doubtful)
    return _date(text, sample, parts)


def _sample(text: pl.Expr, parts: list[TableFile]) -> pl.Series:
    """Return the first values that are present."""
    for part in parts:
        values = read.sample(replace(part, frame=part.frame.select(time=text)), "time", _SAMPLE)
        if len(values):
            return values
    return pl.Series("time", [], dtype=pl.String)


def _number(text: pl.Expr, sample: pl.Series, integers: pl.Expr | None) -> Reading:
    """Read numbers since 1970, or dates that are written in digits only."""
    lengths = sample.str.len_chars().unique()
    form = _DIGITS.get(int(lengths[0])) if len(lengths) == 1 else None
    if form is not None and sample.str.contains(r"^\d+$").all():
        dates = pl.DataFrame({"time": sample}).select(_parse(pl.col("time"), form))["time"]
        if dates.null_count() == 0 and dates.is_between(0, LATEST * _MICROSECOND).all():
            return Reading(_parse(text, form), _MICROSECOND, "dates in digits (year, month, day)")
    if integers is not None:
        return Reading(integers.cast(pl.Int64), None, "numbers")
    if sample.str.contains(r"^[+-]?\d+$").all() and len(sample):
        return Reading(text.cast(pl.Int64, strict=False), None, "numbers")
    return as_floats(text)


def as_floats(text: pl.Expr) -> Reading:
    """Read numbers of which some are not whole."""
    number = text.cast(pl.Float64, strict=False)
    return Reading(pl.when(number.is_finite()).then(number), None, "numbers")


def _named(text: pl.Expr, formats: list[str], wording: Wording) -> Reading:
    """Read times by the formats that the card names, as they are written or with the months in English."""
    units = [name for name in formats if name in UNITS]
    if formats == [_EXCEL]:
        seconds = ((text.cast(pl.Float64, strict=False) - _EPOCH_OF_EXCEL) * 86_400).round()
        return Reading(seconds.cast(pl.Int64, strict=False), 1, "days of a spreadsheet")
    if units:
        whole, number = text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)
        unit = UNITS[units[0]]
        # Integers stay integers; seconds with decimals keep their microseconds.
        micro = (number * (_MICROSECOND / unit)).round().cast(pl.Int64, strict=False)
        if unit >= _MICROSECOND:
            return Reading(pl.coalesce(whole, number.cast(pl.Int64, strict=False)), unit, UNIT_NAMES[unit])
        return Reading(
            pl.coalesce(whole * (_MICROSECOND // unit), micro), _MICROSECOND, f"{UNIT_NAMES[unit]} since 1970"
        )
    forms = [form.replace(".%f", "%.f") for form in formats]
    dates = [_parse(each, form) for each in (text, wording.translated(text)) for form in forms]
    dates += [_parse(wording.plain(text), form) - wording.offset(text) for form in forms]
    return Reading(
        pl.coalesce(dates if wording.has_words or wording.has_zones else dates[: len(forms)]),
        _MICROSECOND,
        f"dates of the form {', '.join(formats)} (`time_format` in the card)",
    )


def _date(text: pl.Expr, sample: pl.Series, parts: list[TableFile]) -> Reading:
    """Read dates by the families of formats that fit the sample."""
    wording = Wording(sample)
    plain = wording.plain(pl.col("time"))
    tried = {
        name: pl.any_horizontal(
            (_parse(plain, form) > _YEAR_1000).fill_null(False) for form in _FAMILIES[name]
        )
        for name in _FAMILIES
    }
    found = pl.DataFrame({"time": sample}).select(**{name: is_date.any() for name, is_date in tried.items()})
    fits = [name for name in _FAMILIES if found[name].item()]
    plain, is_doubtful = wording.plain(text), False
    for rivals in _RIVALS:
        if set(rivals) & set(fits):
            first, is_doubtful = _order(plain, rivals, parts)
            fits = [name for name in fits if name not in rivals] + [first]
    chosen = fits or ["year, month, day"]
    values = pl.coalesce(_parse(plain, form) for name in chosen for form in _FAMILIES[name])
    name = f"dates ({' or '.join(chosen)})"
    return Reading(values - wording.offset(text), _MICROSECOND, name, is_doubtful)


def _order(plain: pl.Expr, rivals: tuple[str, str], parts: list[TableFile]) -> tuple[str, bool]:
    """Return which of two orders of day and month all dates have, the first if both; and whether both fit.

    Raises:
        UserError: some dates have only the one order, some only the other; the message names two rows.
    """
    first, second = (
        pl.coalesce(_parse(plain, form) for form in _FAMILIES[name]).is_not_null() for name in rivals
    )
    frame = pl.concat([part.frame.select("time") for part in parts])
    only_first, only_second = (
        frame.select((first & ~second).any().alias("first"), (second & ~first).any().alias("second"))
        .collect(engine="streaming")
        .row(0)
    )
    if only_first and only_second:
        places = (read.first_bad(parts, mask, "time") for mask in (first & ~second, second & ~first))
        raise UserError(
            short(
                f"{' and '.join(map(str, places))}: day and month stand in two orders; bring them into one, or write "
                "their formats into the card (`time_format`)"
            )
        )
    return rivals[1 if only_second else 0], not (only_first or only_second)


def _parse(text: pl.Expr, form: str) -> pl.Expr:
    """Return microseconds since 1970 (UTC) of dates in one format; null for other text."""
    if "z" not in form.replace("%%", ""):
        return text.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("us")
    zoned = text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
    return zoned.dt.replace_time_zone(None).dt.epoch("us")


def derived_unit(times: pl.Series) -> int:
    """Derive the units in a second: the one in which most times lie between 1990 and 2100.

    If none do, the median decides: 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
    """
    some = times.gather_every(len(times) // 100_000 + 1)
    counts = {unit: some.is_between(_EARLY * unit, LATEST * unit).sum() for unit in UNITS.values()}
    likely = max(counts, key=lambda unit: counts[unit])
    if counts[likely]:
        return likely
    median = cast(float, some.median() or 0)
    return next((10**power for power, least in ((9, 1e17), (6, 1e14), (3, 1e11)) if median >= least), 1)


def are_positions(times: pl.Series, unit: int) -> bool:
    """Whether numbers are positions and not times: all are below a year's seconds."""
    return unit == 1 and cast(float, times.max() or 0) < YEAR


def _are_sensible(times: pl.Series, unit: int) -> bool:
    """Whether all times that are there lie between 1990 and 2100."""
    first, last = cast(float, times.min() or 0), cast(float, times.max() or 0)
    return first >= _EARLY * unit and last < LATEST * unit


def mixed_units(times: pl.Series, unit: int) -> tuple[int, int] | None:
    """Return a row with a sensible time in the unit, and one that is sensible only in another; None if none is."""
    if are_positions(times, unit) or _are_sensible(times, unit):
        return None
    is_odd = (times < _EARLY * unit) | (times >= LATEST * unit)
    if not is_odd.any():
        return None
    odd = times.filter(is_odd)
    in_other = pl.Series([False] * len(odd), dtype=pl.Boolean)
    for other in UNITS.values():
        if other != unit:
            in_other = in_other | odd.is_between(_EARLY * other, LATEST * other)
    if not in_other.any():
        return None
    return cast(int, (~is_odd).arg_max()), int(is_odd.arg_true()[cast(int, in_other.arg_max())])


def no_times(times: pl.Series, unit: int) -> dict[str, pl.Series]:
    """Return masks of values that stand for no time, by what is wrong with them."""
    if _are_sensible(times, unit):
        return {}
    if are_positions(times, unit):
        return {"negative": (times < 0).fill_null(False)}
    return {
        "before 1970": (times < 0).fill_null(False),
        "1970-01-01 00:00, which stands for no time": (times == 0).fill_null(False),
        "after 2100, which stands for no time": (times >= LATEST * unit).fill_null(False),
    }


def date_of(time: float, unit: int) -> str:
    """Return the day of a time, for the user."""
    return datetime.fromtimestamp(time // unit, UTC).date().isoformat()


def formats_in_order(times: pl.Series, first: Literal["day", "month"]) -> list[str]:
    """Return formats for `time_format`, day or month first, that together read dates whose order is in doubt.

    Args:
        times: dates as text.
        first: what comes first in each date.
    """
    found, plain = [], Wording(times).plain(pl.col("time"))
    for name in (name for rivals in _RIVALS for name in rivals if name.startswith(first)):
        for form in _FAMILIES[name]:
            read_as = pl.DataFrame({"time": times}).select(_parse(plain, form))
            if (read_as["time"] > _YEAR_1000).any():
                found.append(form.replace("%.f", ".%f"))
    return found
