"""Builds a dataset from its card: `interactions.parquet`, `items.parquet`, `users.parquet` and `report.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.artifacts import StageContext
from llmrec.config import Split, Ties
from llmrec.data.attributes import bare_items, read_items, read_users
from llmrec.data.card import load_card
from llmrec.data.clean import by_user_and_time, clean, order_ties, tied_targets, without_leaks
from llmrec.data.guess.doubts.swapped import tell_swapped
from llmrec.data.log import Log, read_log
from llmrec.data.source import Dataset, locate
from llmrec.data.split import FINDINGS, SPLITS, Labels, findings, split, words_of_parts
from llmrec.data.tables.described import PART
from llmrec.data.tables.notes import tell
from llmrec.data.write import write_interactions
from llmrec.errors import UserError
from llmrec.files import write_json
from llmrec.progress.bar import Progress

MANY_TIES = 0.1
"""Share of tied test targets above which the order of a file can decide a comparison, and `ties: auto` shuffles."""


def build(context: StageContext) -> None:
    """Read, clean, split and write a dataset.

    Raises:
        UserError: invalid data or an invalid key; the message names the file and row, or the key.
    """
    config, scratch, folder = context.recipe.data, context.scratch, context.work / "data"
    for leftover in scratch.iterdir():
        leftover.unlink()
    card = load_card(config.card)
    dataset = locate(card, config.root)
    tell_swapped(dataset, scratch)
    filters = config.filters or card.filters
    split_config = config.split or card.split

    with Progress("data: reading, filtering, ordering", 3, "part", has_lines=False) as bar:
        log, leaks = without_leaks(read_interactions(dataset, split_config, scratch))
        log, removed = clean(log, filters, config.ties, context.recipe.seed)
        removed = log.dropped | ({"two_parts": leaks} if leaks else {}) | removed
        bar.update()
        bar.rename("data: splitting, writing")
        log, labels, tied, ties = _split(log, split_config, config.ties, context.recipe.seed)
        time = log.seconds()
        write_interactions(log, time, labels, folder / "interactions.parquet")
        report: dict[str, Any] = {
            "dataset": card.name,
            "origin": dataset.origin,
            "seed": context.recipe.seed,
            "split": split_config.model_dump(mode="json"),
            "filters": filters.model_dump(mode="json"),
            "time": {"read_as": log.clock(), "first": int(time.min()), "last": int(time.max())},
            "read": len(log.rows) + sum(removed.values()),
            "removed": removed,
            "counts": _counts(log, labels),
            "tied_targets": tied,
        }
        if split_config.kind == "given":
            report["given"] = findings(log.rows["user"].to_numpy(), time, labels)
        if ties != "file":
            report["ties"] = ties
        bar.update()
        bar.rename("data: items and users")
        report |= _write_attributes(dataset, log, folder, scratch)
        bar.update()
    write_json(folder / "report.json", report)
    _print_summary(report)
    _tell_findings(report.get("given", {}), leaks)
    _tell_ties(tied["test"], ties)


def _split(log: Log, config: Split, ties: Ties, seed: int) -> tuple[Log, Labels, dict[str, float], Ties]:
    """Split an ordered log; under `auto`, shuffle equal times first where they decide many test targets.

    Returns:
        The log, the part of each row, the share of tied targets of valid and test before they were shuffled, and what
        decides the order of equal times.
    """
    labels = _labels(log, config, seed)
    tied = {name: tied_targets(log, labels, config.kind, SPLITS.index(name)) for name in ("valid", "test")}
    if ties != "auto":
        return log, labels, tied, ties
    if tied["test"] <= MANY_TIES:
        return log, labels, tied, "file"
    log = by_user_and_time(order_ties(log, "shuffle", seed))
    return log, _labels(log, config, seed), tied, "shuffle"


def _tell_findings(given: dict[str, int], leaks: int) -> None:
    """Say what is wrong with a given split; `leaks` counts the interactions that were in two parts."""
    if leaks:
        tell(
            "split",
            f"{leaks:,} interactions are in two parts, same user, item and time; the later part keeps them",
        )
    for name, count in given.items():
        tell("split", f"{count:,} {FINDINGS[name]}")


def read_interactions(dataset: Dataset, config: Split, scratch: Path) -> Log:
    """Read the log of a dataset, with the parts of its rows if the split is given.

    Args:
        dataset: the card's tables and their files.
        config: the split.
        scratch: folder for rewritten copies.

    Raises:
        UserError: a bad value, whose file and row the message names, or a given split that nothing gives.
    """
    table, files = dataset.interactions
    if config.kind != "given":
        return read_log(table, files, scratch, joined=dataset.joined)
    if config.column is None and not dataset.parts:
        raise UserError(
            "split.kind given needs split.column, or `path: {train: …, valid: …, test: …}` of the interactions"
        )
    table = table if config.column is None else table.with_part(config.column)
    return read_log(table, files, scratch, dataset.parts, words_of_parts(config), dataset.joined)


def _labels(log: Log, config: Split, seed: int) -> Labels:
    """The part of each row of an ordered log."""
    time = log.seconds() if log.has_times else None
    given = log.rows[PART].to_numpy() if PART in log.rows.columns else None
    return split(log.rows["user"].to_numpy(), time, config, seed, given)


def _tell_ties(share: float, ties: Ties) -> None:
    """Say how many test targets are tied in time, and what decides which of them is last."""
    if not share:
        return
    told = f"{share:.1%} of the test targets have the same time as another interaction of their user; "
    decides = {"shuffle": "chance", "item": "the item's id", "file": "the file's order"}[ties]
    warning = ", and models can learn that order" if ties == "file" and share > MANY_TIES else ""
    tell("data", f"{told}{decides} decides which is last{warning} (recipe key data.ties)")


def _write_attributes(dataset: Dataset, log: Log, folder: Path, scratch: Path) -> dict[str, Any]:
    """Write the tables beside the log; return their counts."""
    report: dict[str, Any] = {"items": {"without_metadata": len(log.items)}}
    items = bare_items(log.items)
    if dataset.items is not None:
        items, report["items"] = read_items(*dataset.items, log.items, scratch, log.users)
    items.write_parquet(folder / "items.parquet")
    if dataset.users is not None:
        users, report["users"] = read_users(*dataset.users, log.users, scratch, log.items)
        users.write_parquet(folder / "users.parquet")
    return report


def _counts(log: Log, labels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Count users, items and interactions, in total and per split."""
    counts: dict[str, Any] = {"users": len(log.users), "items": len(log.items), "interactions": len(log.rows)}
    user, item = log.rows["user"].to_numpy(), log.rows["item"].to_numpy()
    for code, name in enumerate(SPLITS):
        rows = labels == code
        counts[name] = {
            "users": int((np.bincount(user[rows]) > 0).sum()),
            "items": int((np.bincount(item[rows]) > 0).sum()),
            "interactions": int(rows.sum()),
        }
    return counts


_NOTICES = {
    "without_metadata": "items without metadata (titled `item <id>`)",
    "without_title": "items with an empty title (titled `item <id>`)",
    "without_interactions": "items of the metadata that nobody chose (dropped)",
    "without_id": "metadata rows without an id (dropped)",
    "duplicate_rows": "metadata rows with a repeated id (dropped)",
}


def _print_summary(report: dict[str, Any]) -> None:
    """Print one line on stderr: the size of the dataset, and the numbers of dropped and repaired rows."""
    counts = report["counts"]
    parts = [f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions"]
    parts += [
        f"{count:,} interactions removed by {name}" for name, count in report["removed"].items() if count
    ]
    parts += [
        f"{report['items'][key]:,} {text}" for key, text in _NOTICES.items() if report["items"].get(key)
    ]
    print(f"data: {'; '.join(parts)}", file=sys.stderr)
