"""How many users are scored together where each has a score for every item: one rule for all such arrays."""

from __future__ import annotations

BLOCK_BYTES = 1 << 29
"""Most bytes that the scores of one block take, with the arrays that they are computed from."""
MOST_USERS = 512
"""Most users of a block; in a small catalogue more at once are no faster."""
SCORE_BYTES = 4 * 8
"""Bytes that a score takes while it is computed: itself in float64, and as much in each of three more arrays."""


def users_at_once(columns: int, score_bytes: int = SCORE_BYTES, most: int = MOST_USERS) -> int:
    """Return the number of users of a block, at least 1.

    Args:
        columns: number of scores of a user: the items of the catalogue, say.
        score_bytes: bytes that each of them takes at the peak, all arrays of the computation together.
        most: the largest number to return.
    """
    return max(1, min(most, BLOCK_BYTES // max(1, columns * score_bytes)))


def user_blocks(
    users: int, columns: int, score_bytes: int = SCORE_BYTES, most: int = MOST_USERS
) -> list[slice]:
    """Return the blocks of `users` users, in their order; the other arguments are those of `users_at_once`."""
    size = users_at_once(columns, score_bytes, most)
    return [slice(start, min(start + size, users)) for start in range(0, users, size)]
