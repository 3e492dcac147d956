"""Splits of generated logs: nothing of valid or test is among, or before, what is trained on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import Split
from llmrec.data.split import held_out_users, leave_one_out, split, target_rows, temporal
from llmrec.errors import UserError

TRAIN, VALID, TEST = range(3)


@st.composite
def logs(draw):
    """User codes and times of a log, ordered by user and time."""
    rows = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=1, max_size=60))
    names = {name: code for code, name in enumerate(dict.fromkeys(user for user, _ in rows))}
    ordered = sorted((names[user], time) for user, time in rows)
    return np.array([u for u, _ in ordered], np.uint32), np.array([t for _, t in ordered], np.int64)


@settings(deadline=None)
@given(logs())
def test_leave_one_out_takes_the_last_two_of_each_user_with_three(log):
    user, _ = log
    labels = leave_one_out(user)
    for code in np.unique(user):
        mine = labels[user == code].tolist()
        tail = [VALID, TEST] if len(mine) >= 3 else []
        assert mine == [TRAIN] * (len(mine) - len(tail)) + tail


@settings(deadline=None)
@given(logs(), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_temporal_trains_on_the_past_of_everyone(log, valid, test):
    _, time = log
    labels = temporal(time, valid, test)
    latest = {code: time[labels == code].max(initial=-1) for code in (TRAIN, VALID)}
    assert (time[labels == VALID] > latest[TRAIN]).all()
    assert (time[labels == TEST] > max(latest.values())).all()


def test_temporal_keeps_its_fractions_where_times_differ():
    labels = temporal(np.random.default_rng(0).permutation(1000), 0.2, 0.1)
    assert np.bincount(labels).tolist() == [700, 200, 100]


@settings(deadline=None)
@given(logs(), st.floats(0.05, 0.5), st.integers(0, 5))
def test_held_out_users_are_whole_and_never_trained_on(log, fraction, seed):
    user, _ = log
    labels = held_out_users(user, fraction, seed)
    for code in np.unique(user):
        mine = labels[user == code]
        assert len(set(mine.tolist())) == 1
        assert mine[0] == TRAIN or len(mine) >= 2


def test_held_out_users_are_drawn_by_seed_and_fraction():
    user = np.repeat(np.arange(100, dtype=np.uint32), 3)
    first, again, other = (held_out_users(user, 0.1, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert np.bincount(first).tolist() == [240, 30, 30]


@pytest.mark.parametrize(
    ("config", "time", "message"),
    [
        (Split(kind="leave_one_out"), [0, 1], "valid and test empty"),
        (Split(kind="temporal"), [5, 5], "train and valid empty"),
        (Split(kind="temporal"), None, "name their column in the card .interactions.columns.time"),
        (Split(kind="temporal", fractions=(0.6, 0.4)), [0, 1], "their sum must be below 1"),
        (Split(kind="held_out_users"), [0, 1], "empty"),
    ],
)
def test_a_split_that_leaves_a_part_empty_is_an_error(config, time, message):
    user = np.array([0, 0], np.uint32)
    with pytest.raises(UserError, match=message):
        split(user, None if time is None else np.array(time), config, seed=0)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("leave_one_out", [1]), ("temporal", [1]), ("given", [1, 4]), ("held_out_users", [2, 4])],
)
def test_a_user_has_one_target_which_something_precedes(kind, rows):
    user = np.array([0, 0, 0, 1, 1, 2, 3], np.uint32)
    held_out = np.array([False, True, True, True, True, True, False])
    assert target_rows(user, held_out, kind).tolist() == rows
