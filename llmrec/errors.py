"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in input, recipe or environment that the user can mend.

    The message is one line naming what, where and how to mend it. The command line prints it and
    exits with status 2; a Python caller can catch it.
    """


def did_you_mean(name: str, known: Sequence[str], otherwise: str = "known") -> str:
    """The nearest known name as a question; where none is near, all of them after the word `otherwise`."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(known) or 'none'}"
