"""What a teacher makes up: items behind a history, and beside those that users have chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import with_chances
from six_items import (
    HALF,
    ITEMS,
    Counting,
    Tilted,
    catalogue,
    collated,
    expected,
    flat,
    folded,
    with_branches,
)

from llmrec.token_tree import IGNORE
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.teacher.drawn_items import Branching, SyntheticContinuations


@pytest.fixture
def teacher():
    return Teacher(Tilted(), catalogue(), 0.25)


def continuations(teacher, count, history=20):
    return SyntheticContinuations(teacher, count, seed=0, history=history)


def test_what_a_teacher_makes_up_is_new_and_drawn_by_its_chances(teacher):
    histories = [["i0", "i2"]] * 4000
    made_up = [row.items for row in continuations(teacher, 2)(histories, epoch=0)]
    assert all(len({*row, "i0", "i2"}) == 4 for row in made_up)
    chance = np.exp(Tilted().log_probs([["i0", "i2"]], ITEMS))[0]
    chance[[0, 2]] = 0
    first = np.bincount([ITEMS.index(row[0]) for row in made_up], minlength=len(ITEMS)) / 4000
    np.testing.assert_allclose(first, chance / chance.sum(), atol=0.03)
    assert histories[0] == ["i0", "i2"], "the histories stay as they were"
    assert [row.items for row in continuations(teacher, 2)(histories, epoch=0)] == made_up
    assert [row.items for row in continuations(teacher, 2)(histories, epoch=1)] != made_up
    few = continuations(teacher, 9)([ITEMS[:4] * 2, ITEMS[:1]], 0)
    assert [len(row.items) for row in few] == [2, 5]


def test_what_is_made_up_is_taught_as_it_was_drawn(teacher):
    """Rows of one batch have continuations of different lengths, and one none; windows begin late or hold all."""
    histories = [["i4", "i0", "i3"], ["i1"], [*ITEMS[:4], *ITEMS[:4]]]
    drawn = continuations(teacher, 3)(histories, epoch=0)
    windows = [
        [*map(ITEMS.index, [*history, *row.items])] for history, row in zip(histories, drawn, strict=True)
    ]
    known = [3, 1, 8]
    lessons = [
        TrainingTree(flat(window), np.array(window, np.int32), count, chances=row.chances)
        for window, count, row in zip(windows, known, drawn, strict=True)
    ]
    lessons.insert(1, TrainingTree(flat([0, 3]), np.array([0, 3], np.int32), 2))
    # Two items fit into a window here, and both are made up; the first is asked for after nothing, so not at all.
    late = np.array(windows[0][-2:], np.int32)
    lessons.append(TrainingTree(flat(late.tolist()), late, 0, chances=drawn[0].chances))
    batch = collated(lessons)
    learned = batch["shift_labels"] != IGNORE
    after, row_of = batch["history_length"][learned].tolist(), learned.nonzero()[:, 0].tolist()
    asked = 0
    for depth, level in enumerate(teacher.distributions(batch)):
        for at, ids, chances, is_observed in zip(*vars(level).values(), strict=True):
            row, cut = row_of[at], int(after[at])
            window = lessons[row].window_items.tolist()
            whole = windows[0][: len(windows[0]) - 2 + cut] if row == 4 else window[:cut]
            exact = expected([*whole, window[cut]], len(whole), depth)
            said = {t: c for t, c in zip(ids.tolist(), chances.tolist(), strict=True) if c > 0}
            assert said == pytest.approx(exact, abs=HALF)
            assert is_observed == (cut < lessons[row].observed)
            asked += not is_observed
    assert asked == 2 * (3 + 3 + 2 + 1)


def test_the_teacher_draws_after_as_many_items_as_the_student_reads(teacher):
    """With prompts of three items and two to make up, the last two are read; those before them stay seen."""
    drawn = continuations(teacher, 2, history=3)([["i0", "i4", "i2", "i1"]] * 500, epoch=0)
    window = np.array([2, 1, ITEMS.index(drawn[0].items[0])], np.int32)
    exact = with_chances(TrainingTree(flat(window.tolist()), window, 2), teacher).chances
    np.testing.assert_array_equal(drawn[0].chances[: len(exact)], exact)
    assert {item for row in drawn for item in row.items} == {"i3", "i5"}


def test_what_is_made_up_is_taught_by_everybody():
    windows = [[0, 5], [1, 2]]
    teacher = folded(windows, ["u", "v"], folds=2)
    made_up = continuations(teacher, 1)([["i0"]], epoch=0)[0]
    chance = np.exp(Counting(windows).log_probs([["i0"]], ITEMS))[0]
    assert made_up.chances[2] == pytest.approx(chance[4] + chance[5], abs=HALF)


def test_what_hangs_beside_is_drawn_by_chances_without_the_item_chosen(teacher):
    window = np.array([0, 2, 4], np.int32)
    branch = Branching(teacher, 2, seed=0)
    draws = [branch(owner, window) for owner in range(3000)]
    for cut in (1, 2):
        rows = np.array([draw[cut - 1].tolist() for draw in draws])
        assert not (rows == window[cut]).any()
        assert (rows[:, 0] != rows[:, 1]).all()
        chance = np.exp(Tilted().log_probs([[ITEMS[i] for i in window[:cut]]], ITEMS))[0]
        chance[window[cut]] = 0
        first = np.bincount(rows[:, 0], minlength=len(ITEMS)) / len(rows)
        np.testing.assert_allclose(first, chance / chance.sum(), atol=0.03)
    again, other = (Branching(replace(teacher), 2, seed) for seed in (0, 1))
    assert (again(7, window) == draws[7]).all()
    assert not all((other(owner, window) == draws[owner]).all() for owner in range(20))


def test_words_on_branches_are_the_same_whether_they_were_kept_or_not(teacher):
    window = np.array([0, 3, 1, 5], np.int32)
    drawn = Branching(teacher, 2, seed=3)(0, window)
    assert (drawn.dtype, drawn.shape) == (np.int32, (3, 2))
    batch = collated([with_branches(window.tolist(), drawn.tolist())])
    for one, other in zip(teacher.distributions(batch), replace(teacher).distributions(batch), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
