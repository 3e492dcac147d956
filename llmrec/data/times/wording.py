"""Writes dates in one way before they are read: months in English, zones as offsets, no other words."""

from __future__ import annotations

import polars as pl

MONTHS = (
    "jan january januar jänner januari janvier janv enero ene gennaio gen",
    "feb february februar februari février fevrier févr febrero febbraio",
    "mar march märz maerz mär mrz maart mrt mars marzo",
    "apr april avril avr abril abr aprile",
    "may mai mei mayo maggio mag",
    "jun june juni juin junio giugno giu",
    "jul july juli juillet juil julio luglio lug",
    "aug august augustus août aout agosto ago",
    "sep sept september septembre septiembre settembre set",
    "oct october oktober okt octobre octubre ottobre ott",
    "nov november novembre noviembre",
    "dec december dezember dez décembre decembre déc diciembre dic dicembre",
)
"""Names of each month in English, German, French, Spanish, Italian and Dutch; the first is what it is read as."""
_ZONES = {
    "+0000": "utc gmt wet",
    "+0100": "cet mez bst west",
    "+0200": "cest mesz eet",
    "+0300": "eest msk",
    "-0400": "edt",
    "-0500": "est cdt",
    "-0600": "cst mdt",
    "-0700": "mst pdt",
    "-0800": "pst",
}
_NO_DATE = (
    "mon monday tue tues tuesday wed wednesday thu thur thurs thursday fri friday sat saturday sun sunday "
    "mo montag di dienstag mi mittwoch do donnerstag fr freitag sa samstag sonnabend so sonntag lundi mardi mer "
    "mercredi jeu jeudi ven vendredi sam samedi dim dimanche lun lunes martes mié miércoles jue jueves vie viernes "
    "sáb sábado dom domingo lunedì martedì mercoledì gio giovedì venerdì sab sabato domenica ma maandag dinsdag wo "
    "woensdag donderdag vr vrijdag za zaterdag zo zondag uhr um at of on the de del à le il om alle las"
)
"""Days of the week, and words between a day, its month and its clock."""


def _in_english() -> dict[str, str]:
    """Return word → what is written for it, the longest words first: `mardi` is no `mar`."""
    found = dict.fromkeys(_NO_DATE.split(), " ")
    found |= {f" {name}": f" {offset}" for offset, names in _ZONES.items() for name in names.split()}
    found |= {name: names.partition(" ")[0] for names in MONTHS for name in names.split()}
    # Of letters beyond ASCII the search does not know the large ones.
    found |= {
        form: found[word] for word in found if not word.isascii() for form in (word.upper(), word.title())
    }
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


_IN_ENGLISH = _in_english()
_ALWAYS = (
    (r"^(\d{4}-\d{2}-\d{2})T", "${1} "),
    (r" (?:UTC|GMT|\([^)]*\))$", ""),
)
_OFFSETS = (
    (r"([+-]\d{2}:?\d{2})\[[\w/]+\]$", "${1}"),  # 10:00+01:00[Europe/Berlin]
    (r"(?i)(?:utc|gmt) ?([+-]\d)", "${1}"),
    (r"(:\d{2} ?[+-])(\d)$", "${1}0${2}"),
)
_SIGNS = (
    (r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? ", ""),
    (r"(:\d{2}),(\d{3,6})", "${1}.${2}"),
    (r"(?i)\b([ap])\. ?m\.?", "${1}m"),
    (r"(?i)(\d)([ap]m)", "${1} ${2}"),
    (r"(?i)(\d)(?:st|nd|rd|th|er|º)", "${1}"),
    (r"(\d)\. ?(\p{L})", "${1} ${2}"),
    (r"(\p{L})\.", "${1} "),
    (r",", " "),
    (r"\s{2,}|[^\S ]", " "),
    (r"^ | $", ""),
)
_PLAIN = (
    r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)(?:day|sday|nesday|rsday|urday)?\b|\b(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|"
    r"apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:tember)?|oct(?:ober)?|(?:nov|dec)(?:ember)?|[ap]m)\b|"
    r"T\d|\dZ$| (?:UTC|GMT)$"
)
"""What a date in English may hold besides digits and signs."""
_ZONE = r"(:\d{2}(?:\.\d+)?(?: [apAP][mM])?) ?(?:([+-])(\d{1,2}):?(\d{2})?|[zZ])$"
_ISO = r"^\d{4}-\d{2}-\d{2}"


class Wording:
    """How the dates of a column are written, by some of them: with words, with zones.

    Attributes:
        has_words: whether there are words in them that no format names: `14. März 2024, 22:14 Uhr`.
        has_zones: whether there are offsets behind clocks, other than in dates that begin with a year (ISO).
    """

    def __init__(self, sample: pl.Series) -> None:
        """Look at dates as text."""
        dates = pl.DataFrame({"time": sample})
        column = pl.col("time")
        self.has_words = bool(sample.str.replace_all(_PLAIN, "").str.contains(r"\p{L}{2}").any())
        self._signs: tuple[tuple[str, str], ...] = ()
        for rule in _SIGNS:
            if dates.select(self._written(column).str.contains(rule[0]).any()).item():
                self._signs = (*self._signs, rule)
        others = dates.filter(~column.str.contains(_ISO))
        self.has_zones = bool(others.select(self._written(column).str.contains(_ZONE).any()).item())

    def translated(self, text: pl.Expr) -> pl.Expr:
        """Return dates with months in English, offsets in place of zones' names, and no other words."""
        if not self.has_words:
            return text
        return _replaced(text, _OFFSETS).str.replace_many(
            list(_IN_ENGLISH), list(_IN_ENGLISH.values()), ascii_case_insensitive=True, leftmost=True
        )

    def plain(self, text: pl.Expr) -> pl.Expr:
        """Return dates without what no format needs: words, commas, points behind days, and zones."""
        written = self._written(text)
        return written.str.replace(_ZONE, "${1}") if self.has_zones else written

    def offset(self, text: pl.Expr) -> pl.Expr:
        """Return the microseconds that the zones of dates are ahead of UTC; 0 where there is no zone."""
        if not self.has_zones:
            return pl.lit(0, pl.Int64)
        zone = self._written(text).str.extract_groups(_ZONE).struct
        hours, minutes = (zone.field(group).cast(pl.Int64).fill_null(0) for group in ("3", "4"))
        sign = pl.when(zone.field("2") == "-").then(-1).otherwise(1)
        return sign * (hours * 60 + minutes) * 60_000_000

    def _written(self, text: pl.Expr) -> pl.Expr:
        return _replaced(self.translated(_replaced(text, _ALWAYS)), self._signs)


def _replaced(text: pl.Expr, rules: tuple[tuple[str, str], ...]) -> pl.Expr:
    for pattern, replacement in rules:
        text = text.str.replace_all(pattern, replacement)
    return text
