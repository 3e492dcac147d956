"""Hold the figures of README, docs/ and recipes/ to the files of `eval/results/`, as `eval/sources.yaml` says.

    python eval/sources.py            # writes the files' figures into the pages, and lists what has no file

`sources.yaml` names, for each page, files and lines of the page with a path in braces where a figure stands:

    docs/models.md:
      sid-rows-start.json figures/arms: |
        `levels` (the default) | {levels at chance/first} | {levels at chance/windows/50}

The page says how a figure is rounded and written (`.0649`, `+.0095`, `1,036`, `eleven`); an interval behind it,
`[.0615, .0684]`, is that of the file. A path is keys with `/` between them: a number is a place in a list, `name=x`
the element of a list whose `name` is x. `-path` is its negative. Paths and numbers (`60.0`) may be combined from left
to right by ` + `, ` - `, ` * ` and ` / `; a mapping of numbers, such as the seconds of stages, stands for their sum.
`~2` at the end rounds to two digits.
Numbers that nobody measured here (settings, published figures) stand under `not measured`.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS, SOURCES = ROOT / "eval/results", ROOT / "eval/sources.yaml"
NOT_MEASURED = "not measured"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBER = r"[+−-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e-\d+)?"
FIGURE = re.compile(
    rf"(\*{{0,2}})({NUMBER}|{'|'.join(WORDS)})(\*{{0,2}})(?:(\s+\[)({NUMBER})(,\s+)({NUMBER})(\]\*{{0,2}}))?"
)
UNITS = r"(?:x|%|ms|s|seconds?|minutes?|hours?|MB|GB|nats)(?!\w)"
MEASURED = re.compile(
    rf"(?<![\w.])[+−-]?\d*\.\d+(?![\w.])|(?<![\w.])(?:[\d,.]*\d[\s-]?|(?:{'|'.join(WORDS)})[\s-]){UNITS}"
)
"""A number with a decimal point, or with a unit."""
CODE = re.compile(r"^(```).*?^```|`[^`\n]+`|\]\([^)]*\)|^    [^\n]*", re.MULTILINE | re.DOTALL)
OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Line(NamedTuple):
    """A line of a page: its text with paths in braces, and where they begin.

    Attributes:
        text: the line as `sources.yaml` has it.
        file: file in `eval/results/`.
        prefix: keys that lead to where the paths begin.
    """

    text: str
    file: str
    prefix: str


class Checked(NamedTuple):
    """What became of a page.

    Attributes:
        text: the page with the files' figures.
        absent: lines of `sources.yaml` that the page does not have.
        unsourced: lines of the page with a measured figure that no file is named for.
    """

    text: str
    absent: list[str]
    unsourced: list[str]


def read_sources() -> dict[str, tuple[list[Line], list[str]]]:
    """Return for each page the lines with figures of files, and the texts whose numbers nobody measured here."""
    pages = {}
    for page, blocks in yaml.safe_load(SOURCES.read_text("utf-8")).items():
        lines = []
        for place, texts in blocks.items():
            file, _, prefix = place.partition(" ")
            lines += [
                Line(text.strip(), file, prefix) for text in texts.splitlines() if place != NOT_MEASURED
            ]
        pages[page] = lines, blocks.get(NOT_MEASURED, "").splitlines()
    return pages


def check(page: str, lines: list[Line], not_measured: list[str]) -> Checked:
    """Write the files' figures into a page's text, and find figures without a file.

    Raises:
        KeyError: a file has no such key.
        ValueError: two lines have different figures for one place.
    """
    spans: list[tuple[int, int]] = []
    changes: dict[tuple[int, int], str] = {}
    absent = []
    for line in lines:
        matches = list(_pattern(line.text).finditer(page))
        absent += [] if matches else [line.text]
        paths = re.findall(r"\{([^}]*)\}", line.text)
        for match in matches:
            for number, path in enumerate(paths):
                span = match.span(f"f{number}")
                spans.append(span)
                figure = rewrite(match[f"f{number}"], path, line)
                if changes.setdefault(span, figure) != figure:
                    raise ValueError(f"two lines of sources.yaml differ in {match[0]!r}")
    for text in not_measured:
        matches = list(_pattern(text).finditer(page))
        absent += [] if matches else [text]
        spans += [match.span() for match in matches]
    unsourced = list(_unsourced(page, spans))
    for (start, end), text in sorted(changes.items(), reverse=True):
        page = page[:start] + text + page[end:]
    return Checked(page, absent, unsourced)


def _pattern(text: str) -> re.Pattern[str]:
    """The regular expression of a line: any space is any white space, braces are figures."""
    parts = re.split(r"\{[^}]*\}", text)
    figure = re.sub(r"\((?!\?)", "(?:", FIGURE.pattern)
    pattern = r"\s+".join(map(re.escape, parts[0].split(" ")))
    for number, part in enumerate(parts[1:]):
        pattern += f"(?P<f{number}>{figure})" + r"\s+".join(map(re.escape, part.split(" ")))
    return re.compile(pattern)


def _unsourced(page: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """Lines with a figure outside the spans; code and the targets of links do not count."""
    hidden = bytearray(len(page))
    for start, end in [*spans, *(match.span() for match in CODE.finditer(page))]:
        hidden[start:end] = b"\1" * (end - start)
    start = 0
    for line in page.splitlines(keepends=True):
        shown = "".join("#" if hidden[start + place] else letter for place, letter in enumerate(line))
        if found := MEASURED.search(shown):
            yield f"{found[0].strip()}: {line.strip()}"
        start += len(line)


def rewrite(printed: str, path: str, line: Line) -> str:
    """Return a figure as its file has it, in the form in which it is printed.

    Args:
        printed: the figure on the page, with or without an interval.
        path: the path in braces.
        line: the line that it belongs to.
    """
    path, _, digits = path.partition(" ~")
    value, interval = evaluate(path, line.file, line.prefix)
    match = FIGURE.fullmatch(printed)
    assert match is not None, printed
    before, number, after, opening, low, comma, high, closing = match.groups()
    text = before + written_like(number, value, int(digits or 0)) + after
    if opening is None:
        return text
    if interval is None:
        raise KeyError(f"{line.file}: no interval beside {line.prefix}/{path}")
    return text + opening + written_like(low, interval[0]) + comma + written_like(high, interval[1]) + closing


def written_like(printed: str, value: float, digits: int = 0) -> str:
    """Write a value with the decimals, sign and separators of another number; unchanged if it is that number.

    Args:
        printed: the other number.
        value: the value.
        digits: round to so many significant digits; 0 rounds to the printed decimals.
    """
    if digits:
        value = float(f"{value:.{digits - 1}e}")
    if printed in WORDS:
        whole = round(value)
        return WORDS[whole - 1] if 0 < whole <= len(WORDS) else f"{whole:,}"
    plain = float(printed.replace(",", "").replace("−", "-"))
    mantissa, _, exponent = printed.partition("e")
    decimals = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    if abs(value - plain) <= 0.5 * unit * (1 + 1e-6):
        return printed
    if exponent:
        return f"{value:.{decimals}e}".replace("e-0", "e-")
    text = f"{abs(value):,.{decimals}f}"
    text = text.removeprefix("0") if printed.lstrip("+−-").startswith(".") else text
    minus = "-" if printed.startswith("-") else "−"
    return (minus if value < 0 else "+" if printed[0] in "+−-" else "") + text


def evaluate(expression: str, file: str, prefix: str) -> tuple[float, list[float] | None]:
    """Return the value of a path, or of several and numbers combined, and the interval of a single path.

    Raises:
        KeyError: a file has no such key.
    """
    first, *rest = re.split(r" ([-+*/]) ", expression)
    value, interval = _term(first.removeprefix("-"), file, prefix)
    if first.startswith("-"):
        value, interval = -value, interval and [-end for end in reversed(interval)]
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        value = OPERATORS[sign](value, _term(term, file, prefix)[0])
    return value, None if rest else interval


def _term(term: str, file: str, prefix: str) -> tuple[float, list[float] | None]:
    if re.fullmatch(r"\d+\.\d+", term):
        return float(term), None
    node, key, above = _load(file), "", []
    for key in filter(None, [*prefix.split("/"), *term.split("/")]):
        above.append(node)
        node = _step(node, key, file)
    if isinstance(node, list):
        return float(node[0]), node[1:]
    if isinstance(node, dict):
        if "difference" in node:
            return float(node["difference"]), node["interval"]
        return float(node["median"] if "median" in node else sum(node.values())), None
    for mapping in above[:-3:-1]:  # beside the value, or beside the values of all metrics
        if isinstance(mapping, dict) and mapping.keys() & {"interval", "intervals"}:
            return float(node), mapping["interval"] if "interval" in mapping else mapping["intervals"].get(
                key
            )
    return float(node), None


def _step(node: Any, key: str, file: str) -> Any:
    try:
        if not isinstance(node, list):
            return node[key]
        name, sign, wanted = key.partition("=")
        return next(entry for entry in node if str(entry[name]) == wanted) if sign else node[int(key)]
    except (KeyError, IndexError, StopIteration):
        raise KeyError(f"{file}: no {key!r}") from None


@cache
def _load(file: str) -> Any:
    return json.loads((RESULTS / file).read_text("utf-8"))


def main() -> int:
    """Write the figures into all pages; print what is absent or has no file."""
    failed = False
    for name, (lines, not_measured) in read_sources().items():
        page = ROOT / name
        checked = check(page.read_text("utf-8"), lines, not_measured)
        page.write_text(checked.text, "utf-8")
        for text in checked.absent:
            print(f"{name}: not on the page: {text}")
        for text in checked.unsourced:
            print(f"{name}: no file for {text}")
        failed |= bool(checked.absent or checked.unsourced)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
