"""TIGER: its tokens by hand, its lists against exhaustive scoring, and that training and files are reproducible."""

import numpy as np
import pytest
import torch
from circle import CIRCLE, EVERYTHING_SEEN, ITEMS, VALID

from llmrec.config import TigerConfig
from llmrec.data.examples import with_masked
from llmrec.errors import UserError
from llmrec.tiger.baseline import Tiger
from llmrec.tiger.network import encoder_inputs, item_tokens
from llmrec.tiger.training import windows_by_target

SIDS = np.array([[n % 3, n // 3] for n in range(12)], np.int32)
"""i0 … i11: three codes of four items each, in an order that is not the trie's."""
CODES = [3, 5]
SMALL = TigerConfig(
    dim=16,
    layers=1,
    heads=2,
    head_dim=8,
    feed_forward=32,
    history=6,
    batch=64,
    lr=5e-3,
    epochs=15,
    patience=15,
    patient_steps=0,
)


HISTORIES = [["i3"], ["i1", "i2", "i3", "i4"], ["i7", "i0"]]


def fit(seed=0, valid=VALID, **settings):
    return Tiger.fit(CIRCLE, ITEMS, SIDS, CODES, SMALL.model_copy(update=settings), seed, valid)


@pytest.fixture(scope="module")
def trained():
    return fit()


@pytest.fixture(scope="module")
def rough():
    """A model of one epoch, whose scores lie close to each other."""
    return fit(epochs=1)[0]


def exhaustive(model, history):
    """The log-probability of every item's ID, each computed on its own, item id → score."""
    tokens = item_tokens(model.sids, model.codes)
    row = np.array([model.items.index(item) for item in history])
    ids, attention = encoder_inputs([row], tokens)
    found = {}
    for item, codes in zip(model.items, tokens, strict=True):
        with torch.no_grad():
            logits = model.model(
                input_ids=ids, attention_mask=attention, labels=torch.tensor(codes[None])
            ).logits
        logs = logits[0].log_softmax(-1)
        found[item] = sum(float(logs[place, code]) for place, code in enumerate(codes))
    return found


def test_tokens_and_inputs_by_hand():
    tokens = item_tokens(np.array([[0, 0], [2, 4]], np.int32), CODES)
    assert tokens.tolist() == [[1, 4], [3, 8]]
    ids, attention = encoder_inputs([np.array([1]), np.array([0, 1])], tokens)
    assert ids.tolist() == [[3, 8, 0, 0], [1, 4, 3, 8]]
    assert attention.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_every_item_but_the_first_is_a_target():
    windows = windows_by_target([np.array([5, 6, 7, 8]), np.array([9])], 2)
    assert [window.items.tolist() for window in windows] == [[5, 6], [5, 6, 7], [6, 7, 8]]


@pytest.mark.parametrize("beams", [3, 50])
def test_lists_are_legal_sorted_and_those_of_exhaustive_scoring(rough, beams, monkeypatch):
    monkeypatch.setattr(rough, "config", SMALL.model_copy(update={"beams": beams}))
    items, scores = rough.recommend(HISTORIES, 3, [["i3", "i4"], [], ["i0"]])
    for history, banned, row, values in zip(
        HISTORIES, [["i3", "i4"], [], ["i0"]], items, scores, strict=True
    ):
        every = {item: score for item, score in exhaustive(rough, history).items() if item not in banned}
        assert len(row) == len(set(row)) == 3 and set(row) <= every.keys()
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(values, [every[item] for item in row], atol=1e-4)
        if beams == 50:  # more than there are prefixes: nothing is dropped
            assert row == sorted(every, key=every.get, reverse=True)[:3]


def test_a_certified_list_is_the_true_one(rough, monkeypatch):
    monkeypatch.setattr(rough, "config", SMALL.model_copy(update={"beams": 2}))
    histories = [[item] for item in ITEMS]
    proven = dropped = 0
    for users, top in rough._searched(histories, 2, 1, [()] * 12):
        for user, found, is_exact in zip(users, top.items, top.is_exact, strict=True):
            every = exhaustive(rough, histories[user])
            proven += bool(is_exact)
            dropped += not is_exact
            if is_exact:
                assert rough.items[found[0]] == max(every, key=every.get)
    assert proven and proven + dropped == 12


def test_padding_has_no_influence(rough):
    alone = [rough.recommend([history], 12) for history in HISTORIES]
    together = rough.recommend(HISTORIES, 12)
    for user, (items, scores) in enumerate(alone):
        assert together[0][user] == items[0]
        np.testing.assert_allclose(together[1][user], scores[0], atol=1e-4)


def test_it_learns_who_follows_whom(trained):
    model, log = trained
    items, _ = model.recommend(VALID["history"].to_list(), 1, VALID["history"].to_list())
    assert [row[0] for row in items] == VALID["target"].to_list()
    assert log["ndcg@10"][log["best_epoch"] - 1] == max(log["ndcg@10"])


def test_unknown_items_are_ignored_and_without_any_the_popular_come(rough):
    assert rough.recommend([["new", "i3"]], 3) == rough.recommend([["i3"]], 3)
    popular = rough.popularity.recommend([[]], 4, [["i0"]])
    assert rough.recommend([["new"]], 4, [["i0"]]) == popular


@pytest.mark.cpu_alone
def test_the_number_of_threads_changes_no_bit(tmp_path):
    before = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    logs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        model, log = fit(seed=3, epochs=2)
        assert torch.get_num_threads() == number
        model.save(tmp_path / f"{number}")
        logs.append(log)
    torch.set_num_threads(before)
    assert torch.equal(torch.rand(3), expected), "the global generator is the caller's"
    assert logs[0] == logs[1]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    fit(seed=4, epochs=2)[0].save(tmp_path / "other")
    assert (tmp_path / "1").read_bytes() != (tmp_path / "other").read_bytes()


def test_a_saved_model_comes_back_as_it_was(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.safetensors")
    again = Tiger.load(tmp_path / "model.safetensors")
    assert again.recommend([*HISTORIES, []], 5) == model.recommend([*HISTORIES, []], 5)
    assert (again.config, again.codes, again.parameters) == (model.config, CODES, model.parameters)


def test_a_file_that_is_not_ours_is_one_clear_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as TIGER"):
        Tiger.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="run the stage tiger first"):
        Tiger.load(tmp_path / "absent.safetensors")


def test_without_validation_targets_patience_epochs_are_trained():
    _, log = fit(valid=VALID.clear(), patience=2)
    assert (log["epochs"], log["best_epoch"], log["ndcg@10"]) == (2, 2, [])


@pytest.mark.parametrize("mask_seen", [True, False])
def test_repeats_count_in_validation_where_they_may_be_recommended(mask_seen):
    _, log = fit(valid=with_masked(EVERYTHING_SEEN, mask_seen), epochs=2)
    assert (max(log["ndcg@10"]) == 0) == mask_seen


def test_a_device_without_memory_is_no_broken_file(trained, tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trained[0].save(tmp_path / "model.safetensors")
    monkeypatch.setattr(type(trained[0].model), "to", full)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        Tiger.load(tmp_path / "model.safetensors")
