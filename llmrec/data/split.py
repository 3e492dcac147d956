"""Splits a log into train, valid and test: leave-one-out, global temporal, held-out users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.config import Split
from llmrec.errors import UserError

SPLITS = ("train", "valid", "test")
_TRAIN, _VALID, _TEST = range(3)
Labels = npt.NDArray[np.uint8]


def split(
    user: npt.NDArray[np.uint32], time: npt.NDArray[np.int64] | None, config: Split, seed: int
) -> Labels:
    """Label each interaction of a log that is ordered by user and time.

    Args:
        user: user code of each row `[rows]`, not decreasing.
        time: time of each row `[rows]`, not decreasing within a user; None if the data has no times.
        config: the kind of split and its fractions.
        seed: seed of `held_out_users`.

    Returns:
        Index into `SPLITS` of each row `[rows]`.

    Raises:
        UserError: train, valid or test is empty, or the split needs times but the data has none.
    """
    if config.kind == "leave_one_out":
        labels = leave_one_out(user)
    elif config.kind == "held_out_users":
        labels = held_out_users(user, config.fraction, seed)
    else:
        if time is None:
            raise UserError("split.kind temporal needs interactions.columns.time in the card")
        labels = temporal(time, *config.fractions)
    empty = [name for code, name in enumerate(SPLITS) if not (labels == code).any()]
    if empty:
        raise UserError(
            f"split.kind {config.kind} leaves {' and '.join(empty)} empty; {_ADVICE[config.kind]}"
        )
    return labels


_ADVICE = {
    "leave_one_out": "no user has the 3 interactions it needs",
    "temporal": "too many interactions share one time: change split.fractions",
    "held_out_users": "too few users have the 2 interactions it needs: change split.fraction",
}


def leave_one_out(user: npt.NDArray[np.uint32]) -> Labels:
    """Label each user's last interaction test and the one before valid; users with fewer than 3 stay in train."""
    labels = np.zeros(len(user), dtype=np.uint8)
    last = np.append(np.flatnonzero(user[1:] != user[:-1]), len(user) - 1)
    count = np.diff(last, prepend=-1)
    enough = last[count >= 3]
    labels[enough] = _TEST
    labels[enough - 1] = _VALID
    return labels


def temporal(time: npt.NDArray[np.int64], valid: float, test: float) -> Labels:
    """Label the latest interactions of all users test and those before valid. Equal times get the same label.

    Args:
        time: time of each row `[rows]`.
        valid: fraction of the interactions for validation.
        test: fraction of the interactions for the test.

    Raises:
        UserError: the fractions leave nothing for training.
    """
    if valid + test >= 1:
        raise UserError(
            f"split.fractions {valid} and {test} leave nothing to train on: their sum must be below 1"
        )
    rows = len(time)
    cuts = [min(rows - 1, round(rows * (1 - share))) for share in (valid + test, test)]
    start_valid, start_test = np.partition(time, cuts)[cuts]
    labels: Labels = (time >= start_valid).astype(np.uint8) + (time >= start_test)
    return labels


def held_out_users(user: npt.NDArray[np.uint32], fraction: float, seed: int) -> Labels:
    """Label all interactions of a random `fraction` of users valid, and those of as many other users test.

    Only users with at least 2 interactions are drawn: one for the history, one as the target.
    """
    count = np.bincount(user)
    eligible = np.flatnonzero(count >= 2)
    size = max(1, round(fraction * int((count > 0).sum())))
    drawn = np.random.default_rng(seed).permutation(eligible)[: 2 * size]
    if len(drawn) < 2:
        return np.zeros(len(user), dtype=np.uint8)
    user_labels = np.zeros(len(count), dtype=np.uint8)
    half = (len(drawn) + 1) // 2
    user_labels[drawn[:half]] = _VALID
    user_labels[drawn[half:]] = _TEST
    return user_labels[user]
