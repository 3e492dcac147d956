"""Locates a dataset's files: in a local folder, or fetched once from the card's sources."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmrec import assets
from llmrec.config import Part
from llmrec.data.card import Card, Source
from llmrec.data.split import SPLITS
from llmrec.data.tables.described import Interactions, Items, Table
from llmrec.errors import UserError
from llmrec.files import cause_of

Located = tuple[Table, list[Path]]


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: each table's description and its files, in order.

    Attributes:
        origin: folder, addresses or wheel of the files.
        interactions: table and files of the log.
        joined: files of the table that is joined to the log, if any.
        parts: part of a given split that each file of the log holds; empty if a card does not say so.
        items: table and files of the items' metadata, or None.
        users: table and files of the users' attributes, or None.
    """

    origin: str
    interactions: tuple[Interactions, list[Path]]
    items: Located | None
    users: Located | None
    joined: tuple[Path, ...] = ()
    parts: tuple[Part, ...] = ()

    def files(self) -> list[Path]:
        """Return the files of all tables."""
        tables = (self.interactions, self.items, self.users)
        return [path for table in tables if table for path in table[1]] + list(self.joined)


def locate(card: Card, root: str | None = None) -> Dataset:
    """Locate a card's files; fetch them if necessary.

    The recipe's `root` has priority, then the card's `root` (relative to the card), then the card's sources in
    order (sources that were fetched before come first). A card with neither uses its own folder.

    Args:
        card: the dataset's card.
        root: the recipe's `data.root`, a folder relative to the current one.

    Raises:
        UserError: no file matches, or no source could be fetched.
    """
    folder = _local_folder(card, root)
    if folder is not None:
        return _in_folder(card, folder)
    failures = []
    for source in sorted(card.sources, key=lambda source: not _folder(source).is_dir()):
        try:
            return _in_folder(card, _fetch(source), source)
        except UserError as error:
            failures.append(str(error))
            print(f"{card.name}: {error}", file=sys.stderr)
    raise UserError(
        f"{card.name}: no source can be reached ({'; '.join(failures)}); "
        f"fetch it by hand from {card.homepage} and set data.root=FOLDER"
    )


def locate_here(card: Card, root: str | None = None) -> Dataset | None:
    """Locate a card's files as `locate` does, but fetch nothing; None if they would have to be fetched.

    Raises:
        UserError: no file matches.
    """
    folder = _local_folder(card, root)
    if folder is not None:
        return _in_folder(card, folder)
    fetched = next((source for source in card.sources if _folder(source).is_dir()), None)
    return None if fetched is None else _in_folder(card, _fetch(fetched), fetched)


def _local_folder(card: Card, root: str | None) -> Path | None:
    """Return the user's own folder with a card's files; None if they come from the card's sources."""
    if root is not None:
        return assets.expand_home(root)
    card_folder = card.path.resolve().parent
    if card.root is not None:
        folder = (card_folder / assets.expand_home(card.root)).resolve()
        if folder.is_dir() or not card.sources:
            return folder
    return None if card.sources else card_folder


def items_table(card: Card, origin: str) -> Items | None:
    """Return the description by which a dataset's items were read; None if it describes none.

    Args:
        card: the dataset's card.
        origin: where the files came from, as `data/report.json` has it.
    """
    source = next((source for source in card.sources if _origin(source) == origin), None)
    return card.items if source is None or source.interactions is None else source.items


def _origin(source: Source) -> str:
    return source.pypi or ", ".join(source.urls())


def _in_folder(card: Card, folder: Path, source: Source | None = None) -> Dataset:
    """Match the files of each table in a folder. A source's own tables replace those of the card."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; set data.root=FOLDER to the folder of {card.name}")
    origin = str(folder) if source is None else _origin(source)
    interactions, items, users = card.interactions, card.items, card.users
    if source is not None and source.interactions is not None:
        interactions, items, users = source.interactions, source.items, source.users
    files, parts = _match_parts(interactions, folder)
    return Dataset(
        origin,
        (interactions, files),
        (items, _match_parts(items, folder)[0]) if items else None,
        (users, _match_parts(users, folder)[0]) if users else None,
        tuple(_match_parts(interactions.join, folder)[0]) if interactions.join else (),
        parts,
    )


def _match_parts(table: Table, folder: Path) -> tuple[list[Path], tuple[Part, ...]]:
    """Return the files of a table, and the part that each holds if the table has files of parts.

    Raises:
        UserError: no file matches, or one file belongs to two parts.
    """
    if isinstance(table.path, str):
        return _match(table.path, folder), ()
    matched: dict[Path, Part] = {}
    for part in SPLITS:
        for path in _match(table.path[part], folder) if part in table.path else []:
            if path in matched:
                raise UserError(
                    f"{path}: matches `path` of both {matched[path]} and {part}; correct the card"
                )
            matched[path] = part
    return list(matched), tuple(matched.values())


def _match(pattern: str, folder: Path) -> list[Path]:
    """Return the files that match a name or glob, sorted by name."""
    literal = folder / assets.expand_home(pattern)
    if literal.is_file():
        return [literal]
    matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - patterns may be absolute
    files = sorted(folder / name for name in matches)
    files = [path for path in files if path.is_file()]
    if not files and literal.is_dir():
        raise UserError(f"{literal}: a folder; name its files in `path`, such as {pattern}/*.csv")
    if not files:
        raise UserError(f"{literal}: no such file; correct `path` in the card, or set data.root=FOLDER")
    return files


def _folder(source: Source) -> Path:
    """Return the folder of a source's fetched files, whether or not it exists."""
    if source.pypi is not None:
        package = source.pypi.removeprefix("pypi:").partition("/")[0]
        return assets.home() / "wheels" / package.replace("==", "-")
    digest = hashlib.sha256("\n".join(source.urls()).encode()).hexdigest()[:12]
    return assets.home() / "datasets" / digest


def _fetch(source: Source) -> Path:
    """Fetch a source if necessary, and return the folder with its unpacked files."""
    if source.pypi is not None:
        return assets.from_pypi(source.pypi)
    folder = _folder(source)
    if folder.is_dir():
        return folder
    files = [
        assets.from_url(url, sha256) for url, sha256 in zip(source.urls(), source.checksums(), strict=True)
    ]
    partial = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in files:
            unpack(file, partial)
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a folder; any other file is moved there.

    Raises:
        UserError: a broken archive, or a member that would land outside the folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for name in zipped.namelist():
                    if not (folder / name).resolve().is_relative_to(folder.resolve()):
                        raise UserError(
                            f"{archive}: member {name!r} would leave the folder; nothing unpacked"
                        )
                zipped.extractall(folder)  # noqa: S202 - names are checked above
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                tarred.extractall(folder, filter="data")
        else:
            archive.replace(folder / archive.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be unpacked: {cause_of(error)}") from None
