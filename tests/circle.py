"""A catalogue of twelve items around which all users walk, so that the next item of a history is known."""

import polars as pl

from llmrec.data.examples import with_masked

ITEMS = [f"i{n}" for n in range(12)]


def training(histories):
    return pl.DataFrame({"user_id": [str(user) for user in range(len(histories))], "items": histories})


def round_trip(start, length):
    """Items in the order of the catalogue, from the first on again after the last."""
    return [ITEMS[(start + step) % len(ITEMS)] for step in range(length)]


CIRCLE = training([round_trip(user % 12, 5) for user in range(48)])
EVERYTHING_SEEN = pl.DataFrame({"history": [round_trip(user, 12) for user in range(12)], "target": ITEMS})
"""Validation users who have been all round, so that every target was there before."""
VALID = with_masked(
    pl.DataFrame(
        {
            "history": [round_trip(user, 5) for user in range(12)],
            "target": [ITEMS[(user + 5) % 12] for user in range(12)],
        }
    ),
    mask_seen=True,
)
