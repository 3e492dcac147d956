"""Writes a guessed card as YAML with comments: what was seen, what was left out, which keys could be wanted."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from llmrec.config import validate
from llmrec.data.card import Card
from llmrec.data.guess.attributes import TableGuess, meaning_of
from llmrec.data.guess.columns import Column, depends_on
from llmrec.data.guess.files import FoundTable
from llmrec.data.guess.folder import Guess
from llmrec.data.guess.interactions import LogGuess
from llmrec.data.guess.reading import Understood
from llmrec.data.tables.described import Table
from llmrec.data.words import plain
from llmrec.errors import UserError
from llmrec.yaml_files import parse_yaml

_WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z_][\w.*/-]*(?: [\w.*/-]+)*", re.ASCII)
_NOT_TEXT = re.compile(r"(?:y|n|yes|no|on|off|true|false|null)", re.IGNORECASE)
_AT = 31  # column of the comments


def card_text(guess: Guess, out: Path, understood: Understood | None) -> str:
    """Return the YAML of a card.

    Args:
        guess: what the files are.
        out: file that the card will be written to; the data's folder is named relative to it.
        understood: the dataset as it is read by the card; None before, then rows that cannot be used are dropped.
    """
    lines = [
        f"# Written by `llmrec init` from the files in {_comment(guess.folder.name)}. Correct what is wrong: "
        "`llmrec cat template` shows every key,",
        "# docs/data.md explains them.",
        f"name: {scalar(out.stem)}",
        f"description: {scalar(f'Interactions of {guess.log.sheet.path}.')}",
    ]
    if understood is not None:
        sizes = {name: getattr(understood, name) for name in ("users", "items", "interactions")}
        size = ", ".join(f"{name}: {count}" for name, count in sizes.items())
        lines.append(f"size: {{{size}}}")
    lines += [f"root: {scalar(root_of(guess.folder, out))}", "", "# Who chose which item, and when."]
    lines += _log(guess, understood)
    if guess.items is not None:
        lines += ["", f"# What the items are. Of the log's items {guess.items.share:.0%} are in this file."]
        is_log = guess.items.sheet is guess.log.sheet
        report = None if understood is None else understood.item_report
        lines += _attributes("items", guess.items, report, is_log)
    else:
        lines += [
            "",
            "# items:                      # no file describes the items; titles help a text model most",
            *_NO_ITEMS,
        ]
    if guess.users is not None:
        lines += ["", "# Who the users are."]
        lines += _attributes("users", guess.users, None if understood is None else understood.user_report)
    return "\n".join([*lines, "", *_filters(guess, understood), "", *_SPLIT]) + "\n"


def card_of(text: str, out: Path) -> Card:
    """Return the card that a text is, as it will be read from a file."""
    return validate(Card, parse_yaml(text, str(out)) | {"path": out}, str(out))


def root_of(folder: Path, out: Path) -> str:
    """Return a folder relative to a card if it is near, else its whole path."""
    try:
        relative = os.path.relpath(folder.resolve(), out.resolve().parent)
    except ValueError:  # another drive
        return str(folder.resolve())
    return str(folder.resolve()) if relative.startswith(os.path.join("..", "..")) else relative  # noqa: PTH118


_NO_ITEMS = ["#   path: products.csv", "#   columns: {item: id, title: name}"]
_SPLIT = [
    "# Each user's last interaction is the test, the last but one the validation. Others: `llmrec cat template`.",
    "split: {kind: leave_one_out}",
]


def _log(guess: Guess, understood: Understood | None) -> list[str]:
    log = guess.log
    columns = {meaning: column.name for meaning, column in log.columns.items()}
    lines = ["interactions:", *_written(log.sheet.found, _header(log.sheet.found, columns))]
    if (join := log.sheet.found.join) is not None:
        lines.append(f"  join: {_flow(_writing(join.found) | {'by': join.by})}")
    lines.append("  columns:")
    names = _mapped(log.sheet.found, columns)
    for meaning, name in names.items():
        if meaning == "time" and log.clock is not None:
            lines.append(f"    time: [{scalar(name)}, {scalar(log.clock.name)}]")
        else:
            lines.append(f"    {meaning}: {scalar(name)}")
    used = [*log.columns.values(), *([log.clock] if log.clock else [])]
    for column in log.sheet.columns:
        role = "summary" if column.score("title") >= 2 else "review"
        if guess.items is not None and guess.items.sheet is log.sheet:
            break
        if column not in used and column.is_text and (column.length > 30 or role == "summary"):
            lines.append(
                _line(f"    # {role}: {scalar(column.name)}", "text of the user, for the task `review`")
            )
    lines += _rest(log, guess.items)
    lines += [f"  split_on: {_flow(log.split_on)}"] if log.split_on else []
    if guess.pattern:
        lines.append(_line(f"  pattern: {_flow(guess.pattern)}", "7.0 is the id 7"))
    if guess.time_format:
        formats = guess.time_format
        lines.append(f"  time_format: {scalar(formats[0]) if len(formats) == 1 else _flow(formats)}")
    dropped = None if understood is None else understood.dropped
    for key, what in (("without_id", "without a user or an item"), ("times", "without a time")):
        if key == "times" and "time" not in log.columns:
            continue
        if dropped is None or dropped.get(key):
            lines.append(_line(f"  {key}: drop", "" if dropped is None else f"{dropped[key]:,} rows {what}"))
    return lines


def _rest(log: LogGuess, items: TableGuess | None) -> list[str]:
    used = {column.name for column in log.columns.values()} | ({log.clock.name} if log.clock else set())
    if items is not None and items.sheet is log.sheet:
        used |= {column.name for column in items.columns.values()}
    return _not_used(
        column for column in log.sheet.columns if column.name not in used and not column.is_field
    )


def _not_used(columns: Iterable[Column]) -> list[str]:
    names = ", ".join(_comment(column.name) for column in columns if column.has_name)
    if not names:
        return []
    return textwrap.wrap(f"Not used: {names}", _WIDTH - 4, initial_indent="  # ", subsequent_indent="  #   ")


def _attributes(
    block: str, guess: TableGuess, report: dict[str, int] | None, is_log: bool = False
) -> list[str]:
    found = guess.sheet.found
    columns = {meaning: column.name for meaning, column in guess.columns.items()}
    lines = [f"{block}:", *_written(found, _header(found, columns)), "  columns:"]
    lines += [f"    {meaning}: {scalar(name)}" for meaning, name in _mapped(found, columns).items()]
    if block == "items":
        free = [
            c for c in guess.sheet.columns if c.name not in columns.values() and c.has_name and not c.is_empty
        ]
        if is_log:
            free = [c for c in free if depends_on(c.raw, guess.columns["item"].raw)]
        for column in [c for c in free if not c.is_field and not c.nested and not c.is_unique][:6]:
            meaning = meaning_of(column.name)
            if meaning and meaning not in columns:
                lines.append(f"    # {meaning}: {scalar(column.name)}")
    lines += [f"  split_on: {_flow(guess.split_on)}"] if guess.split_on else []
    lines += [f"  decimal: {scalar(guess.decimal)}"] if guess.decimal else []
    if report is None or report.get("without_id"):
        count = "" if report is None else f"{report['without_id']:,} rows without an id"
        lines.append(_line("  without_id: drop", count))
    return lines


def _filters(guess: Guess, understood: Understood | None) -> list[str]:
    lines = [
        "# Which interactions are kept. Many studies keep users and items with 5 or more of them.",
        "filters:",
        _line(
            "  deduplicate: exact", "none | exact (same user, item, time) | first | last (of a user and item)"
        ),
    ]
    kept = ""
    if understood is not None:
        kept = f"both 5: {understood.in_core:,} of {understood.interactions:,} interactions would stay"
    lines += [_line("  # min_user: 5", kept), "  # min_item: 5"]
    if "rating" in guess.log.columns:
        lines.append(_line("  # min_rating: 4", "keep only what users liked"))
    if "event" in guess.log.columns:
        event = guess.log.columns["event"]
        lines.append(
            _line(
                f"  # events: {_flow([str(event.values[0])])}",
                "found: " + _comment(", ".join(event.examples())),
            )
        )
    return lines


def _written(found: FoundTable, header: list[str] | None) -> list[str]:
    """Return the lines of path and writing; what the ending of the name tells is left out."""
    keys = _writing(found)
    if header is not None:
        keys["header"] = header
    return [
        f"  {key}: {_flow(value) if isinstance(value, list) else scalar(value)}"
        for key, value in keys.items()
    ]


def _writing(found: FoundTable) -> dict[str, Any]:
    """Return the keys of path and writing; what the ending of the name tells is left out."""
    written = dict(found.written)
    kind = written.pop("format")
    keys: dict[str, Any] = {"path": found.path}
    if any(_format_of(found.path, path) != kind for path in found.files):
        keys["format"] = kind
    usual = "\t" if ".tsv" in found.files[0].suffixes else ","
    if written.get("separator") == usual and not written.get("rest"):
        written.pop("separator")
    return keys | written


def _format_of(name: str, path: Path) -> str | None:
    try:
        return Table(path=name, columns={}).format_of(path)
    except UserError:
        return None


def _header(found: FoundTable, columns: dict[str, str]) -> list[str] | None:
    """Return the names for files without a header line: the meaning of a column, or its number."""
    if found.has_header:
        return None
    meanings = {name: meaning for meaning, name in reversed(columns.items())}
    return [meanings.get(name, name) for name in found.written["header"]]


def _mapped(found: FoundTable, columns: dict[str, str]) -> dict[str, str]:
    """Return meaning → name in the card."""
    return columns if found.has_header else {meaning: meaning for meaning in columns}


def scalar(value: Any) -> str:
    """Return a value as YAML in one line that is read back as the same."""
    if value is None or isinstance(value, int):
        return yaml.safe_dump(value).split("\n")[0]
    text = str(value)
    if _PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 20).rstrip("\n")


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if not isinstance(value, list | tuple):
        return scalar(value)
    return "[" + ", ".join(map(scalar, value)) + "]"


def _line(text: str, comment: str) -> str:
    return f"{text:<{_AT - 2}} # {comment}" if comment else text


def _comment(text: str) -> str:
    """Return text of the files in one line without control characters."""
    return plain(text, 200)
