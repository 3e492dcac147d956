"""A catalogue of twelve items around which all users walk, so that the next item of a history is known."""

import polars as pl

ITEMS = [f"i{n}" for n in range(12)]


def training(histories):
    return pl.DataFrame({"user_id": [str(user) for user in range(len(histories))], "items": histories})


def round_trip(start, length):
    """Items in the order of the catalogue, from the first on again after the last."""
    return [ITEMS[(start + step) % len(ITEMS)] for step in range(length)]


CIRCLE = training([round_trip(user % 12, 5) for user in range(48)])
VALID = pl.DataFrame(
    {
        "history": [round_trip(user, 5) for user in range(12)],
        "target": [ITEMS[(user + 5) % 12] for user in range(12)],
    }
)
