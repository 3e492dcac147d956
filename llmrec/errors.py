"""Exceptions for mistakes that the user can correct."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence

LONGEST = 300
"""Largest number of characters of a message."""
ENDING = 120
"""Number of characters that are kept of the end of a longer one, where the remedy stands."""


def one_line(text: str) -> str:
    """Return text as one line of at most `LONGEST` characters; a longer one loses its middle."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST - ENDING - 3]} … {line[-ENDING:]}"


def printable_line(text: str) -> str:
    """Return text of others as one line without control characters, of any length."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def shortened(line: str, length: int) -> str:
    """Return a line with at most `length` characters; one that is cut ends in `…`."""
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


class UserError(Exception):
    """A mistake in input, recipe or environment that the user can correct.

    The message is one line of at most `LONGEST` characters: what is wrong, where, and how to correct it. The command
    line prints it and exits with status 2. A Python caller can catch it, or one of its kinds below.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InvalidValuesError(UserError):
    """Invalid values in a recipe, a card, a request or another file of settings.

    Attributes:
        problems: a line for each key; the message has as many as fit.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems) or [str(self)]

    @classmethod
    def of(cls, where: str, problems: Sequence[str]) -> InvalidValuesError:
        """Return the error for the problems of a file, or of what else `where` names."""
        return cls.of_places([(where, problem) for problem in problems])

    @classmethod
    def of_places(cls, problems: Sequence[tuple[str, str]]) -> InvalidValuesError:
        """Return the error for problems at several places: (place, problem); a place may be empty."""
        lines = [f"{where}: {problem}" if where else problem for where, problem in problems]
        message, left = lines[0], len(lines) - 1
        for (before, _), (where, problem), line in zip(problems, problems[1:], lines[1:], strict=False):
            told = problem if where == before else line
            if len(f"{message}; {told}; and {left} more") > LONGEST:
                break
            message, left = f"{message}; {told}", left - 1
        more = f"; and {left} more" if left else ""
        return cls(message + more, [one_line(line) for line in lines])


class UnknownRunError(UserError):
    """No run, export or merged checkpoint has this name or folder."""


class UnfinishedRunError(UserError):
    """A run without a finished stage that is needed; without SFT, no model can answer."""


class ChangedRunError(UserError):
    """A run that has to be opened again: it was trained since, and the weights that it was opened on are gone."""


class ChangedCatalogueError(ChangedRunError):
    """A run that has to be opened again: items were added since, and the weights that it was opened on are gone."""


class UnknownModelError(UserError):
    """A run has no model of this name."""


class InvalidRequestError(UserError):
    """A request that cannot be answered: an empty history, a list without items, an id that is not an id."""


class UnknownItemError(InvalidRequestError):
    """An item that is not in a run's catalogue.

    Attributes:
        item: the id that was given.
        nearest: id of the item that is most like it; None if none is near.
        run: name of the run.
    """

    def __init__(
        self, message: str, item: str = "", nearest: str | None = None, run: str | None = None
    ) -> None:
        super().__init__(message)
        self.item, self.nearest, self.run = item, nearest, run


class UnknownUserError(InvalidRequestError):
    """A user who is not in a run's data.

    Attributes:
        user: the id that was given.
        nearest: id of the user that is most like it; None if none is near.
    """

    def __init__(self, message: str, user: str = "", nearest: str | None = None) -> None:
        super().__init__(message)
        self.user, self.nearest = user, nearest


def did_you_mean(name: str, valid: Sequence[str], otherwise: str = "known") -> str:
    """Suggest the nearest valid name as a question; if none is near, list all after the word `otherwise`."""
    near = close_name(name, valid)
    return f"did you mean {near!r}?" if near else f"{otherwise}: {', '.join(valid) or 'none'}"


def close_name(name: str, valid: Sequence[str]) -> str | None:
    """Return the valid name, of a few, that another may be a mistake of; None if none is near.

    Names with letters in common come first, then a word of the other name (`per_device_train_batch_size`: `batch`) or
    the first letters of its words (`learning_rate`: `lr`).
    """
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    initials = "".join(word[0] for word in words)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return next(iter([*near, *(other for other in valid if other in words or other == initials)]), None)


_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
COMPARED = 2_000
"""Number of names that `nearest_name` compares letter by letter, so that a message takes no longer than an answer."""


def same_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that another one means without a doubt; None if there is none.

    It differs by case, spaces around it, leading zeros of a number (`cust 58` of `cust 0058`), or by words before the
    number that the other consists of (`58` of `cust 0058`), in this order.
    """
    wanted = _plain_name(name)
    plain = {other: _plain_name(other) for other in valid}
    by_case = name.strip().casefold()
    return (
        next((other for other in plain if other.strip().casefold() == by_case), None)
        or next((other for other, text in plain.items() if text == wanted), None)
        or next(
            (other for other, text in plain.items() if wanted.isdecimal() and _ends_in(text, wanted)), None
        )
    )


def _plain_name(name: str) -> str:
    """Return a name in lower case, without spaces around it and without leading zeros of its numbers."""
    return _LEADING_ZEROS.sub("", name.strip().casefold())


def _ends_in(text: str, number: str) -> bool:
    """Whether a text ends in a number, and not in a longer one."""
    return text.endswith(number) and not text.removesuffix(number)[-1:].isdecimal()


def nearest_name(name: str, valid: Sequence[str]) -> str | None:
    """Return the valid name that is most like another; None if none is near.

    A name that is meant without a doubt (`same_name`) is preferred. Of more than `COMPARED` names, only those are
    compared that have one half of the name and about its length: one mistake leaves a half as it is.
    """
    same = same_name(name, valid)
    if same is not None:
        return same
    if len(valid) > COMPARED:
        head, tail = name[: (len(name) + 1) // 2], name[len(name) // 2 :]
        alike = (
            o for o in valid if abs(len(o) - len(name)) <= 2 and (o.startswith(head) or o.endswith(tail))
        )
        valid = list(itertools.islice(alike, COMPARED))
    return next(iter(difflib.get_close_matches(name, valid, n=1, cutoff=0.6)), None)
