"""Splits a log into train, valid and test: leave-one-out, global temporal, held-out users, or as the data says."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec.config import Part, Split
from llmrec.errors import UserError

SPLITS: tuple[Part, ...] = ("train", "valid", "test")
KNOWN = 3
"""Label of an interaction that is shown in histories, and neither trained on nor a target; given splits have them."""
LABELS: tuple[str, ...] = (*SPLITS, "history")
"""Names of labels in the column `split` of the interactions."""
_TRAIN, _VALID, _TEST = range(3)
_WORDS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
Labels = npt.NDArray[np.uint8]


def split(
    user: npt.NDArray[np.uint32],
    time: npt.NDArray[np.int64] | None,
    config: Split,
    seed: int,
    parts: Labels | None = None,
) -> Labels:
    """Label each interaction of a log that is ordered by user and time.

    Args:
        user: user code of each row `[rows]`, not decreasing.
        time: time of each row `[rows]`, not decreasing within a user; None if the data has no times.
        config: the kind of split and its fractions.
        seed: seed of `held_out_users`.
        parts: index into `LABELS` of each row `[rows]` as the data says; `given` needs them.

    Returns:
        Index into `LABELS` of each row `[rows]`.

    Raises:
        UserError: train, valid or test is empty, or the split needs times that the data does not have.
    """
    if config.kind == "leave_one_out":
        labels = leave_one_out(user)
    elif config.kind == "held_out_users":
        labels = held_out_users(user, config.fraction, seed)
    elif config.kind == "given":
        assert parts is not None  # the log was read with its parts
        labels = given(user, parts, config.valid)
    else:
        if time is None:
            raise UserError(
                "split.kind temporal needs times: name their column in the card (interactions.columns.time)"
            )
        labels = temporal(time, *config.fractions)
    empty = [name for code, name in enumerate(SPLITS) if not (labels == code).any()]
    if empty:
        raise UserError(
            f"split.kind {config.kind} leaves {' and '.join(empty)} empty; {_ADVICE[config.kind]}"
        )
    return labels


_ADVICE = {
    "given": "`valid: last` in the split takes each user's last training interaction; train and test need rows",
    "leave_one_out": "no user has the 3 interactions it needs",
    "temporal": "too many interactions share one time: change split.fractions",
    "held_out_users": "too few users have the 2 interactions it needs: change split.fraction",
}


def given(user: npt.NDArray[np.uint32], parts: Labels, valid: Literal["given", "last"]) -> Labels:
    """Return the parts that the data gives; with `last`, some training rows become valid.

    Args:
        user: user code of each row `[rows]`, not decreasing.
        parts: index into `LABELS` of each row `[rows]`.
        valid: `last` labels the last training row of each user with at least two of them valid.
    """
    labels = parts.copy()
    if valid == "last":
        train = np.flatnonzero(labels == _TRAIN)
        is_last = np.append(user[train][1:] != user[train][:-1], True)[: len(train)]
        has_more = np.append(False, user[train][1:] == user[train][:-1])[: len(train)]
        labels[train[is_last & has_more]] = _VALID
    return labels


def target_rows(
    user: npt.NDArray[np.uint32], is_of_split: npt.NDArray[np.bool_], kind: str
) -> npt.NDArray[np.int64]:
    """Return the rows that are the targets of a split, one a user, in the order of the users.

    All rows of a held-out user belong to the split, and the last one is the target. Otherwise the target is the first
    row that does; a given split may start a user's rows by one, and the next is the target then. A row that nothing
    precedes is no target, because a list needs a history.

    Args:
        user: user code of each row `[rows]`, ordered by user; the rows of a user by time.
        is_of_split: whether each row belongs to the split `[rows]`.
        kind: kind of the split.
    """
    is_first = np.append(True, user[1:] != user[:-1])[: len(user)]
    rows = np.flatnonzero(is_of_split & ~is_first if kind == "given" else is_of_split)
    changes = user[rows][1:] != user[rows][:-1]
    is_target = np.append(changes, True) if kind == "held_out_users" else np.append(True, changes)
    targets = rows[is_target[: len(rows)]]
    return targets[~is_first[targets]]


def words_of_parts(config: Split) -> dict[str, int]:
    """Return which values of the column of a given split name which part, in lower case: an index into `LABELS`."""
    if config.values:
        return {value.strip().lower(): SPLITS.index(part) for value, part in config.values.items()}
    words = {word: LABELS.index(part) for part, words in _WORDS.items() for word in words}
    return words | {LABELS[KNOWN]: KNOWN}


def findings(user: npt.NDArray[np.uint32], time: npt.NDArray[np.int64], labels: Labels) -> dict[str, int]:
    """Count what a given split has that other splits never have.

    Args:
        user: user code of each row `[rows]`, not decreasing.
        time: time or position of each row `[rows]`, not decreasing within a user.
        labels: index into `LABELS` of each row `[rows]`.

    Returns:
        The counts that are not 0: `trained_on_later`, users with training interactions after a valid or test target;
        `valid_after_test`, users with a valid target after a test target; `without_training`, users with a target
        and no training interaction; `without_history`, users with a target and nothing before it;
        `further_targets`, rows of valid and test beyond the first of a user, which is the one that is ranked.
    """
    users = int(user.max()) + 1
    first = {code: _extreme(np.minimum, user, time, labels == code, users) for code in (_VALID, _TEST)}
    last_train = _extreme(np.maximum, user, time, labels == _TRAIN, users)
    last_valid = _extreme(np.maximum, user, time, labels == _VALID, users)
    held_out = np.minimum(first[_VALID], first[_TEST])
    has_target = held_out < _LATEST
    has_training = last_train > -_LATEST
    is_start = np.append(True, user[1:] != user[:-1])
    counts = {
        "trained_on_later": int((last_train > held_out).sum()),
        "valid_after_test": int((last_valid > first[_TEST]).sum()),
        "without_training": int((has_target & ~has_training).sum()),
    }
    without_history = further = 0
    for code in (_VALID, _TEST):
        targets = np.bincount(user[(labels == code) & ~is_start], minlength=users)
        without_history += int((targets[user[is_start & (labels == code)]] == 0).sum())
        further += int(np.maximum(targets - 1, 0).sum())
    counts |= {"without_history": without_history, "further_targets": further}
    return {name: count for name, count in counts.items() if count}


_LATEST = np.iinfo(np.int64).max
FINDINGS = {
    "trained_on_later": "users have training interactions after a target of theirs: models learn from the future",
    "valid_after_test": "users have a valid target after a test target",
    "without_training": "users have a target and no training interaction",
    "without_history": "targets are left out, because nothing is before them",
    "further_targets": "rows of valid and test are no target: each user's first in a part is ranked",
}
"""What each finding of a given split means; a count stands before it."""


def _extreme(
    take: np.ufunc, user: npt.NDArray[np.uint32], time: npt.NDArray[np.int64], rows: Any, users: int
) -> npt.NDArray[np.int64]:
    """Return the smallest or largest time of each user's selected rows `[users]`; ∓`_LATEST` if there is none."""
    start = _LATEST if take is np.minimum else -_LATEST
    found = np.full(users, start, dtype=np.int64)
    take.at(found, user[rows], time[rows])
    return found


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
