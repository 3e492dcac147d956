"""`llmrec init FOLDER`: look at the files of a folder and write a card for them."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path

from llmrec import assets
from llmrec.data.guess.card import card_of, card_text
from llmrec.data.guess.choices import Choose, Question
from llmrec.data.guess.files import describe
from llmrec.data.guess.folder import Guess, guess_folder
from llmrec.data.guess.reading import read_dataset
from llmrec.data.guess.sheets import Sheet
from llmrec.data.source import locate
from llmrec.data.tables.notes import short, tell
from llmrec.errors import UserError
from llmrec.files import atomic_write
from llmrec.report.dataset import print_counts, print_rows, shown


def run(folder: Path, out: Path | None, yes: bool, force: bool) -> None:
    """Guess what the files of a folder are, show rows as they are read, and write a card.

    Args:
        folder: folder of the files.
        out: file of the card; None for `<name of the folder>.yaml` in the current folder.
        yes: whether the best guess is taken where something is open, instead of asking.
        force: whether an existing card is replaced.

    Raises:
        UserError: nothing in the folder fits; or the card exists; or the files are not read by the card, which is
            written then all the same, so that its keys can be corrected.
    """
    folder = assets.expand_home(folder)
    out = _card_path(folder) if out is None else assets.expand_home(out)
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out}: a card's name ends in .yaml")
    if out.exists() and not force:
        raise UserError(f"{out}: exists already; --force overwrites it")
    with tempfile.TemporaryDirectory(prefix="llmrec-init-") as scratch:
        guess = guess_folder(folder, _chooser(yes), _new(scratch, "guess"))
        _print_guess(guess)
        try:
            card = card_of(card_text(guess, out, None), out)
            understood = read_dataset(locate(card), card.filters, card.split, _new(scratch, "read"))
        except UserError as error:
            _write(out, card_text(guess, out, None))
            raise UserError(f"{out} is written, but its data cannot be read yet: {error}") from None
    text = card_text(guess, out, understood)
    card_of(text, out)  # what is written can be read back
    _write(out, text)
    print_rows(understood)
    print_counts(understood)
    name = shlex.quote(f"run={out.stem}")
    print(f"\n{out}: written. Next: llmrec run own-data {shlex.quote(f'data.card={out}')} {name}")


def _new(scratch: str, name: str) -> Path:
    folder = Path(scratch) / name
    folder.mkdir()
    return folder


def _write(out: Path, text: str) -> None:
    with atomic_write(out) as partial:
        partial.write_text(text, "utf-8")


def _card_path(folder: Path) -> Path:
    name = re.sub(r"[^\w-]+", "-", folder.resolve().name).strip("-")
    return Path(f"{name or 'my-data'}.yaml")


def _chooser(yes: bool) -> Choose:
    """Return what answers questions: the user on a terminal, else the best guess."""
    is_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return _ask if is_terminal and not yes else _take_best


def _ask(question: Question) -> int:
    print(f"{shown(question.where)}: {shown(question.what)}?", file=sys.stderr)
    for number, option in enumerate(question.options, start=1):
        print(f"  {number}  {shown(option)}", file=sys.stderr)
    while True:
        print(f"  number [{question.best + 1}]: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip()  # empty, too, where the input has ended
        if not answer:
            return question.best
        if answer.isdecimal() and 1 <= int(answer) <= len(question.options):
            return int(answer) - 1


def _take_best(question: Question) -> int:
    """Take the best guess, and say what else would have fitted."""
    taken = question.options[question.best]
    others = [option for place, option in enumerate(question.options) if place != question.best]
    others_said = (
        f"{len(others)} others fit too, such as {others[0]}" if len(others) > 1 else f"not {others[0]}"
    )
    tell(
        shown(question.where),
        shown(
            f"{question.what}: {short(taken, 90)} is taken, {short(others_said, 90)}; "
            f"to take another, change `{question.key}` in the card"
        ),
    )
    return question.best


def _print_guess(guess: Guess) -> None:
    for name, guessed in (("interactions", guess.log), ("items", guess.items), ("users", guess.users)):
        if guessed is not None:
            found = guessed.sheet.found
            joined = (
                "" if found.join is None or name != "interactions" else f", joined to {found.join.found.path}"
            )
            print(shown(f"{name}: {guessed.sheet.path} ({describe(found)}){joined}"))
            columns = ", ".join(
                f"{meaning} = {_column(guessed.sheet, column.name)}"
                for meaning, column in guessed.columns.items()
            )
            print(f"  {shown(columns)}")
    for note in guess.notes:
        tell("init", shown(note))


def _column(sheet: Sheet, name: str) -> str:
    return name if sheet.found.has_header else f"column {sheet.found.columns.index(name) + 1}"
