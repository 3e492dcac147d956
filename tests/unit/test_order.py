"""Epochs of trees: written once, visited in batches of like length, the same for any number of processes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.batch_order import group_by_length, order_epochs
from llmrec.train.sft.epochs import Epochs, LengthGroupedSampler, files_of, write_epoch
from llmrec.train.sft.samples import TrainingTree


def tree(length, token=1):
    builder = TargetTreeBuilder()
    builder.add([token] * (length + 1), length)
    return TrainingTree(builder.build(), np.arange(length, dtype=np.int32), length - 1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 5))
def test_an_order_visits_every_tree_once_and_sorts_by_length(lengths, batch, seed):
    lengths = np.array(lengths)
    order = group_by_length(lengths, batch, [seed, 0])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    if len(lengths) <= 50 * batch:  # one window
        whole = len(lengths) // batch * batch
        batches = [lengths[order[at : at + batch]] for at in range(0, whole, batch)]
        spans = sorted((int(one.min()), int(one.max())) for one in batches)
        assert all(low[1] <= high[0] or low[0] == high[0] for low, high in pairwise(spans))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 16), st.integers(1, 5))
def test_rows_that_fill_no_batch_wait_for_the_next_epoch(lengths, batch, count):
    """So every batch but the last is one of `group_by_length`: no other order of these rows pads less."""
    rows = np.arange(len(lengths))
    *parts, left = order_epochs([rows] * count, np.array(lengths), batch, 0)
    assert len(parts) == count and len(left) < batch and all(len(part) % batch == 0 for part in parts)
    assert sorted(np.concatenate([*parts, left]).tolist()) == sorted(rows.tolist() * count)
    for part in parts:
        batches = np.array(lengths)[part].reshape(-1, batch)
        spans = sorted(zip(batches.min(1).tolist(), batches.max(1).tolist(), strict=True))
        assert all(low[1] <= high[0] for low, high in pairwise(spans))


def test_a_training_pads_no_more_in_later_epochs_than_in_the_first(epochs):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 100, 203).tolist()
    written = epochs(lambda _: [tree(size) for size in sizes], 4, False)
    order = np.array(list(LengthGroupedSampler(written, 8, seed=0)))
    assert sorted(order.tolist()) == sorted([*range(203)] * 4)
    batches = written.lengths[order[: len(order) // 8 * 8]].reshape(-1, 8)
    padded = batches.max(1) * 8 - batches.sum(1)
    assert padded[25:].mean() < 1.2 * padded[:25].mean()


@pytest.fixture
def epochs(tmp_path):
    return lambda make, count, differ: Epochs.write(make, count, differ, tmp_path)


def test_epochs_come_back_as_they_were_made(epochs):
    trees = {epoch: [tree(3 + epoch, 7), tree(9, epoch)] for epoch in range(3)}
    written = epochs(trees.__getitem__, 2.5, True)
    assert written.bounds == [(0, 2), (2, 4), (4, 6)] and written.tree_count == 5
    for epoch, (start, end) in enumerate(written.bounds):
        for row, expected in zip(range(start, end), trees[epoch], strict=True):
            for name in ("input_ids", "depth", "end", "labels", "history_length"):
                assert written.rows[row][name].tolist() == getattr(expected.tree, name).tolist()
            assert written.rows[row]["window_items"].tolist() == expected.window_items.tolist()
            assert written.rows[row]["observed"].tolist() == [expected.observed]


def test_epochs_that_are_alike_are_written_once(epochs):
    written = epochs(lambda _: [tree(4), tree(5)], 3, False)
    assert len(written.rows) == 3 and written.bounds == [(0, 2)] * 3 and written.tree_count == 6
    order = list(LengthGroupedSampler(written, 2, seed=0))
    assert sorted(order) == [0, 0, 0, 1, 1, 1]


def test_processes_that_take_turns_see_the_steps_of_one(epochs):
    rng = np.random.default_rng(0)
    written = epochs(lambda _: [tree(int(n)) for n in rng.integers(1, 30, 41)], 2, False)
    alone = list(LengthGroupedSampler(written, 8, seed=3))
    shared = list(LengthGroupedSampler(written, 8, seed=3, multiple=8))
    assert shared[: len(alone)] == alone and len(shared) % 8 == 0
    filler = {int(row) for row in shared[len(alone) :]}
    assert all((written.rows[row]["labels"] == IGNORE).all() for row in filler)
    assert alone != list(LengthGroupedSampler(written, 8, seed=4))


def test_epochs_that_processes_share_are_those_that_one_writes(tmp_path):
    def make(epoch):
        return [tree(3 + epoch, 7), tree(9, epoch)]

    for folder in ("alone", "shared"):
        (tmp_path / folder).mkdir()
    alone = Epochs.write(make, 2.5, True, tmp_path / "alone")
    for process in (1, 0):
        for epoch in range(process, files_of(2.5, True), 2):
            write_epoch(make(epoch), epoch, tmp_path / "shared")
    shared = Epochs.open(2.5, True, tmp_path / "shared")
    assert shared.bounds == alone.bounds and shared.tree_count == alone.tree_count == 5
    assert shared.lengths.tolist() == alone.lengths.tolist()
    assert [row["input_ids"].tolist() for row in shared.rows] == [
        row["input_ids"].tolist() for row in alone.rows
    ]
