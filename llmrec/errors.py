"""Exceptions for mistakes that the user can correct."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

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
_BETWEEN = "\0"
COMPARED = 2_000
"""Number of names that `nearest` compares letter by letter, so that a message takes no longer than an answer."""


class KnownNames:
    """Names, prepared for many questions which of them another name means.

    They are kept as two long texts, in which a name is found far sooner than name by name.

    Args:
        names: where several would do, the first is taken.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names if isinstance(names, Sequence) else list(names)

    def nearest(self, name: str) -> str | None:
        """Return the name that is most like another, preferably one that it means; None if none is near."""
        same = self.same(name)
        return self.alike(name) if same is None else same

    def same(self, name: str) -> str | None:
        """Return the name that another one means without a doubt; None if there is none.

        It differs by case, spaces around it, leading zeros of a number (`cust 58` of `cust 0058`), or by words before
        the number that the other consists of (`58` of `cust 0058`), in this order.
        """
        folded = _folded(name)
        plain = _LEADING_ZEROS.sub("", folded)
        for text, wanted in ((self._folded, folded), (self._plain, plain)):
            place = text.find(f"{_BETWEEN}{wanted}{_BETWEEN}") if wanted else -1
            if place >= 0:
                return self._at(text, place + 1)
        return self._at(self._plain, self._ending_in(plain)) if plain.isdecimal() else None

    def alike(self, name: str) -> str | None:
        """Return the name with the most letters in common; None if there are too few.

        Of more than `COMPARED` names, only those are compared that have one half of the name and about its length:
        one mistake leaves a half as it is.
        """
        names: Sequence[str] = self._names
        if len(names) > COMPARED:
            head, tail, length = name[: (len(name) + 1) // 2], name[len(name) // 2 :], len(name)
            half = (o for o in names if o.startswith(head) or o.endswith(tail))
            names = list(itertools.islice((o for o in half if abs(len(o) - length) <= 2), COMPARED))
        return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), None)

    def _ending_in(self, number: str) -> int:
        """Place of a number that ends a name of the plain text, and not a longer number; −1 if there is none."""
        place = self._plain.find(number + _BETWEEN)
        while place > 0 and self._plain[place - 1].isdecimal():
            place = self._plain.find(number + _BETWEEN, place + 1)
        return place

    def _at(self, text: str, place: int) -> str | None:
        """The name at a place of a text; None at −1."""
        return None if place < 0 else self._names[text.count(_BETWEEN, 0, place) - 1]

    @cached_property
    def _folded(self) -> str:
        """All names in lower case and without spaces around them, each between two separators."""
        return _BETWEEN.join(["", *map(_folded, self._names), ""])

    @cached_property
    def _plain(self) -> str:
        """The same without leading zeros of numbers."""
        return _LEADING_ZEROS.sub("", self._folded)


def _folded(name: str) -> str:
    return name.strip().casefold().replace(_BETWEEN, " ")


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is most like another (`KnownNames.nearest`); None if none is near."""
    return KnownNames(valid).nearest(name)
