"""Exchange of data in the JSON files of LC-Rec, LETTER and MiniOneRec.

name.index.json  {"12": ["<a_3>", "<b_41>", "<c_7>"], …}      an item's tokens, one letter a level; also as one text,
                 as `<s_a_3>` or `<item_a_3>`, and between `<|sid_begin|>` and `<|sid_end|>`
name.item.json   {"12": {"title": …, "description": …, "brand": …, "categories": "One,Two"}, …}
name.inter.json  {"7": [12, 3, 40], …}                        a user's items, oldest first
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from llmrec.data.examples import load_interactions, load_items
from llmrec.data.words import is_missing, joined, labels, list_of
from llmrec.errors import UserError
from llmrec.files import atomic_write, cause_of
from llmrec.ids.load import load_sids
from llmrec.ids.tokenizer import Codes
from llmrec.ids.tokens import MARKS, parse_token, sid_token, split_tokens

LEVELS = string.ascii_lowercase
MAX_BYTES, MAX_CODES = 2**30, 2**20
TEXTS = ("title", "description", "brand")


def read_index(path: Path, items: list[str]) -> Codes:
    """Read finished semantic IDs from an index file, and check its content.

    Args:
        path: a `*.index.json`.
        items: the catalogue's item ids; other items of the file are ignored.

    Returns:
        Code paths in the catalogue's order; `unique` if no two items share a path. The size of a level is its highest
        code plus 1.

    Raises:
        UserError: no such file, a file of another form, an item without an index, paths of unequal length, or tokens
            that are not like `<a_0>`, with `a` on the first level, `b` on the second, ….
    """
    index = _read_mapping(path)
    missing = [item for item in items if item not in index]
    if missing:
        raise UserError(
            f"{path}: no index for {len(missing)} of {len(items)} items, such as {_preview(missing[0])}; "
            "its keys must be the data's item ids"
        )
    tokens = {item: _tokens(index[item]) for item in items}
    first = tokens[items[0]]
    width = len(first) if isinstance(first, list) else 0
    codes = np.array([_path(tokens[item], width, item, path) for item in items], np.int32)
    unique = len(np.unique(codes, axis=0)) == len(codes)
    return Codes(codes, (codes.max(axis=0) + 1).tolist(), unique=unique)


def write_index(items: list[str], sids: NDArray[np.int32], path: Path) -> None:
    """Write semantic IDs as an index file.

    Args:
        items: item ids.
        sids: int32 `[items, levels]`, at most 26 levels.
        path: the `*.index.json` to write.
    """
    rows = zip(items, sids.tolist(), strict=True)
    _write(path, {item: [sid_token(level, code) for level, code in enumerate(sid)] for item, sid in rows})


def export(run: Path, folder: Path, name: str) -> list[Path]:
    """Write a run's semantic IDs, items and histories as these files; items keep their ids.

    A history contains all items of a user. Those projects use the last one as test target and the one before it as
    validation target, as in a `leave_one_out` split.

    Args:
        run: a run folder with `data/` and `ids/`.
        folder: destination; created if missing.
        name: prefix of the files' names.

    Returns:
        The paths of the files.

    Raises:
        UserError: the run has no semantic IDs.
    """
    items, sids = load_sids(run)
    paths = [folder / f"{name}.{part}.json" for part in ("index", "item", "inter")]
    write_index(items, sids, paths[0])
    _write(paths[1], {str(row["item_id"]): _features(row) for row in load_items(run).iter_rows(named=True)})
    histories = load_interactions(run).group_by("user_id", maintain_order=True).agg("item_id")
    _write(paths[2], dict(histories.iter_rows()))
    return paths


def to_tables(folder: Path, dest: Path, name: str | None = None) -> Path:
    """Convert a folder of these files into a dataset: `interactions.csv`, `items.jsonl` and a card that names them.

    Args:
        folder: contains one `*.inter.json`, and optionally an `*.item.json` of the same name with titles.
        dest: destination; created if missing.
        name: which `*.inter.json`, if there are several.

    Returns:
        The path of the card.

    Raises:
        UserError: no or several `*.inter.json`, a file of another form, or a card already at `dest`.
    """
    logs = sorted(folder.glob(f"{name or '*'}.inter.json"))
    if len(logs) != 1:
        names = ", ".join(path.name for path in logs) or "none"
        raise UserError(f"{folder}: one *.inter.json is needed ({names} found); --name chooses")
    found = logs[0].name.removesuffix(".inter.json")
    split = {"kind": "leave_one_out"}
    return write_dataset(
        dest, found, lambda: read_log(logs[0]), read_items(folder / f"{found}.item.json"), split
    )


def card_path(dest: Path) -> Path:
    """Return the path of the card of a dataset that is to be written.

    Raises:
        UserError: a card already there.
    """
    card = dest / "card.yaml"
    if card.exists():
        raise UserError(f"{card}: exists already; name another folder, or remove it")
    return card


def write_dataset(
    dest: Path,
    name: str,
    read: Callable[[], pl.DataFrame],
    items: pl.DataFrame | None,
    split: dict[str, str],
) -> Path:
    """Write `interactions.csv`, `items.jsonl` and a card that names them.

    Args:
        dest: destination; created if missing.
        name: name of the dataset.
        read: reads the interactions, `user_id: str, item_id: str, position: int` and any others.
        items: `item_id: str, title: str` and any others; None if there are no texts.
        split: the card's split.

    Returns:
        The path of the card.

    Raises:
        UserError: a card already at `dest`.
    """
    card = card_path(dest)
    tree: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name),
        "interactions": {
            "path": "interactions.csv",
            "columns": {"user": "user_id", "item": "item_id", "time": "position"},
        },
        "split": split,
    }
    log = read()
    dest.mkdir(parents=True, exist_ok=True)
    with atomic_write(dest / "interactions.csv") as partial:
        log.write_csv(partial)
    if items is not None:
        with atomic_write(dest / "items.jsonl") as partial:
            items.write_ndjson(partial)
        columns = {"item": "item_id"} | {column: column for column in items.columns if column != "item_id"}
        tree["items"] = {"path": "items.jsonl", "columns": columns}
    with atomic_write(card) as partial:
        partial.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return card


def _path(tokens: Any, width: int, item: str, path: Path) -> list[int]:
    """The codes of one item's tokens, checked."""
    if not isinstance(tokens, list) or not 0 < len(tokens) <= len(LEVELS):
        raise UserError(f"{path}: item {_preview(item)}: a list of 1 to {len(LEVELS)} tokens is needed")
    if len(tokens) != width:
        raise UserError(
            f"{path}: item {_preview(item)} has {len(tokens)} tokens, the first item {width}; "
            "all need the same number"
        )
    codes = []
    for letter, token in zip(LEVELS, tokens, strict=False):
        parsed = parse_token(token) if isinstance(token, str) else None
        if parsed is None or parsed[0] != letter or parsed[1] >= MAX_CODES:
            raise UserError(
                f"{path}: item {_preview(item)}: {_preview(token)} is no token such as <{letter}_0>, "
                f"its number below {MAX_CODES}"
            )
        codes.append(parsed[1])
    return codes


def _tokens(written: Any) -> Any:
    """Return an item's tokens without the marks around them; what is no list or text stays as it is."""
    if isinstance(written, str):
        written = split_tokens(written)
    return [token for token in written if token not in MARKS] if isinstance(written, list) else written


def _features(row: dict[str, Any]) -> dict[str, str]:
    """An item's texts and categories for those projects; a missing text is empty, because they expect every key."""
    texts = {key: str(row.get(key) or "") for key in TEXTS}
    return texts | {"categories": ",".join(str(name) for name in row.get("categories") or [])}


def read_log(path: Path) -> pl.DataFrame:
    """Interactions `user_id: str, item_id: str, position: int` of an `*.inter.json`."""
    users: list[str] = []
    items: list[str] = []
    positions: list[int] = []
    for user, history in _read_mapping(path).items():
        is_history = isinstance(history, list) and all(type(item) in (int, str) for item in history)
        if not is_history:
            raise UserError(f"{path}: user {_preview(user)}: a list of item ids is needed")
        users += [_text(user)] * len(history)
        items += map(_text, history)
        positions += range(len(history))
    return pl.DataFrame({"user_id": users, "item_id": items, "position": positions})


def read_items(path: Path) -> pl.DataFrame | None:
    """Items of an `*.item.json`: `item_id`, `title` and the fields with values; None if there is no such file."""
    if not path.is_file():
        return None
    rows = []
    for item, entry in _read_mapping(path).items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}: item {_preview(item)}: an object with a title is needed")
        texts = {key: _joined(entry.get(key)) for key in TEXTS}
        names = list_of(entry.get("categories"))
        named = labels(names, "," if isinstance(names, str) else None)
        rows.append({"item_id": _text(item)} | texts | {"categories": [_text(name) for name in named]})
    schema = {"item_id": pl.String} | dict.fromkeys(TEXTS, pl.String) | {"categories": pl.List(pl.String)}
    frame = pl.DataFrame(rows, schema=schema)
    fields = [name for name in ("description", "brand") if frame[name].null_count() < len(frame)]
    fields += ["categories"] if frame["categories"].list.len().sum() else []
    return frame.select("item_id", pl.col("title").fill_null(pl.col("item_id")), *fields)


def _joined(value: Any) -> str | None:
    """An item's text as a card would read it: a list of texts joined, also one that is written as text; None if there
    is none."""
    text = None if is_missing(value) else joined(value)
    return None if is_missing(text) else _text(text).strip()


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object from an untrusted file."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{size:,} bytes; at most {MAX_BYTES:,} are read")
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_unique_keys)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: a JSON object with an entry for each item or user is needed")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"key {_preview(twice)} is written twice")
    return mapping


def _text(value: Any) -> str:
    """A value as text that can be encoded in UTF-8; JSON may contain halves of surrogate pairs."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _preview(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
