"""Targets of alignment: which of them their own history holds, and that GRPO's tasks grow with the interactions."""

from types import SimpleNamespace

import polars as pl
import pytest

from llmrec.errors import UserError
from llmrec.train.alignment.grpo import make_rollout_tasks
from llmrec.train.alignment.rollouts import NO_TARGET
from llmrec.train.alignment.targets import draw_targets


class Counting(dict):
    """Places of items, which count how often one is looked up."""

    lookups = 0

    def __getitem__(self, item):
        self.lookups += 1
        return super().__getitem__(item)


def write_run(folder, histories):
    rows = [(user, item, time, "train") for user, row in histories.items() for time, item in enumerate(row)]
    (folder / "data").mkdir()
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "time", "split"], orient="row")
    table.write_parquet(folder / "data/interactions.parquet")
    return folder


def tasks_of(run, items, mask_seen=True, prompts="training_targets"):
    index = Counting({item: place for place, item in enumerate(items)})
    encoder = SimpleNamespace(prompt=lambda template, history: [index.get(item) for item in history])
    initial = SimpleNamespace(
        seed=0,
        run=SimpleNamespace(
            folder=run, encoder=encoder, template=None, catalogue=SimpleNamespace(index=index)
        ),
    )
    recipe = SimpleNamespace(
        grpo=SimpleNamespace(per_user=None, users=None, prompts=prompts),
        data=SimpleNamespace(history=2, mask_seen=mask_seen),
    )
    return make_rollout_tasks(recipe, initial), index


def test_a_target_that_its_history_holds_is_a_repeat(tmp_path):
    run = write_run(tmp_path, {"ann": ["a", "b", "a", "c", "b", "c"], "bob": ["c", "a"]})
    targets, _ = draw_targets(run, 3, None, None, 0)
    assert targets.chosen == ["b", "a", "c", "b", "c", "a"]
    assert targets.repeats.tolist() == [False, True, False, True, True, False]
    at_end, _ = draw_targets(run, 3, None, None, 0, at_history_end=True)
    assert at_end.chosen == [None, None] and not at_end.repeats.any()


def test_rollouts_leave_out_all_items_before_a_target_where_decoding_does(tmp_path):
    run = write_run(tmp_path, {"ann": ["a", "b", "a", "c"], "bob": ["c", "a"]})
    hidden, _ = tasks_of(run, "abc")
    assert hidden.targets.tolist() == [1, 2, 0]
    assert hidden.denied == [[0], [0, 1, 0], [2]] and hidden.histories == [["a"], ["b", "a"], ["c"]]
    assert hidden.take([2, 1]).denied == [[2], [0, 1, 0]]
    shown, _ = tasks_of(run, "abc", mask_seen=False)
    assert shown.targets.tolist() == [1, 0, 2, 0] and shown.denied == [[]] * 4
    at_end, _ = tasks_of(run, "abc", prompts="history_end")
    assert at_end.targets.tolist() == [NO_TARGET] * 2 and at_end.denied == [[0, 1, 0, 2], [2, 0]]


def test_a_long_history_is_looked_up_once_and_shared_by_its_targets(tmp_path):
    """A list of seen items for each target took n² / 2 look-ups, and as many numbers in memory."""
    items = [f"i{n}" for n in range(500)]
    tasks, index = tasks_of(write_run(tmp_path, {"ann": items}), items)
    assert len(tasks.prompts) == 499 and index.lookups <= 2 * len(items)
    assert len({id(row) for row in tasks.items}) == 1
    assert tasks.take([498]).denied == [list(range(499))]


def test_nothing_is_learned_where_every_target_repeats(tmp_path):
    with pytest.raises(UserError, match="every target is in its own history"):
        tasks_of(write_run(tmp_path, {"ann": ["a", "a"]}), "a")
