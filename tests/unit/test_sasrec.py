"""SASRec: its losses by hand, what it sees, what it learns, and that training and files are reproducible."""

import math
from threading import Barrier

import numpy as np
import polars as pl
import pytest
import simulated_device
import torch
from circle import CIRCLE, EVERYTHING_SEEN, ITEMS, VALID, round_trip, training
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sasrec.baseline import Sasrec
from llmrec.collaborative.sasrec.model import SasrecModel
from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.sequential import losses, ranker
from llmrec.collaborative.sequential.dropout import Dropout
from llmrec.collaborative.sequential.early_stopping import patience_in_epochs
from llmrec.collaborative.sequential.losses import bce_loss, ce_loss
from llmrec.collaborative.sequential.training import NegativeSampler
from llmrec.collaborative.sequential.windows import Piece, Window, batches, cut_windows, pad, split_batch
from llmrec.collaborative.sequential.workers import start_workers
from llmrec.data.examples import with_masked
from llmrec.errors import UserError

SMALL = SasrecSettings(
    dim=16, heads=2, history=6, dropout=0.1, lr=5e-3, batch=64, epochs=25, patience=25, patient_steps=0
)


@pytest.fixture(scope="module")
def shop_histories():
    """A shop of 300 users who mostly walk around the catalogue: histories, items and validation users."""
    draw = np.random.default_rng(0)
    items = [f"i{n}" for n in range(60)]
    rows = []
    for _ in range(300):
        steps = 1 + draw.binomial(1, 0.2, draw.integers(3, 25)) * draw.integers(0, 5)
        rows.append([items[i] for i in np.cumsum(steps) % len(items)])
    valid = pl.DataFrame({"history": [row[:-1] for row in rows], "target": [row[-1] for row in rows]})
    return training([row[:-1] for row in rows]), items, with_masked(valid, mask_seen=True)


@pytest.fixture(scope="module", params=["bce", "ce"])
def trained(request):
    return Sasrec.fit(CIRCLE, ITEMS, request.param, SMALL, seed=0, valid=VALID)


HIDDEN = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
TABLE = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.0, 1.0]])


def test_bce_by_hand():
    # Scores: 2 for item 1 against 1 for item 0; then 2 for item 2 against 2.5 for item 0.
    terms = [
        math.log1p(math.exp(-2)) + math.log1p(math.exp(1)),
        math.log1p(math.exp(-2)) + math.log1p(math.exp(2.5)),
    ]
    loss = bce_loss(HIDDEN, TABLE, torch.tensor([1, 2]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-6)


def test_cross_entropy_by_hand():
    # Scores of the items: 1, 2, 0; then 2.5, −1, 2.
    first = math.log(math.exp(1) + math.exp(2) + math.exp(0)) - 2
    second = math.log(math.exp(2.5) + math.exp(-1) + math.exp(2)) - 2
    loss = ce_loss(HIDDEN, TABLE, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("loss", [bce_loss, ce_loss])
def test_threads_leave_the_gradient_as_it_is(loss):
    """Every item is met by many positions, and their shares are always added up in one order."""
    draw = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(6000, 64, generator=draw), torch.randn(300, 64, generator=draw)
    chosen = torch.randint(300, (1 if loss is ce_loss else 2, 6000), generator=draw)
    table.requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (torch.autograd.grad(loss(hidden, table, *chosen), table)[0] for _ in range(12))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("items", [40, 3000])
def test_cross_entropy_in_bfloat16_is_close_to_float32(items, monkeypatch):
    """The values of both precisions are near those of torch; 700 positions and 3,000 items need two tiles."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 64, generator=draw, requires_grad=True)
    table = (0.2 * torch.randn(items, 64, generator=draw)).requires_grad_()
    targets = torch.randint(items, (700,), generator=draw)
    expected = torch.nn.functional.cross_entropy(hidden @ table.T, targets)
    gradients = torch.autograd.grad(expected, [hidden, table])
    for is_fast, error in ((False, 1e-5), (True, 0.01)):
        monkeypatch.setattr(losses, "has_fast_bfloat16", lambda _, is_fast=is_fast: is_fast)
        loss = ce_loss(hidden, table, targets)
        assert loss.item() == pytest.approx(expected.item(), rel=error / 10)
        for own, true in zip(torch.autograd.grad(loss, [hidden, table]), gradients, strict=True):
            assert (own - true).norm() / true.norm() < error


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=6), st.lists(st.integers(0, 11), min_size=1, max_size=6)
)
@settings(max_examples=20)
def test_neither_padding_nor_later_items_are_seen(one, other):
    torch.manual_seed(0)
    model = SasrecModel(12, SMALL).eval()
    rows = [np.array(one), np.array(other)]
    alone = [model(*pad([row])) for row in rows]
    together = model(*pad(rows))
    for row, items, output in zip(together, rows, alone, strict=True):
        torch.testing.assert_close(row[: len(items)], output[0], atol=1e-5, rtol=1e-4)
    changed = rows[0].copy()
    changed[-1] = (changed[-1] + 1) % 12
    torch.testing.assert_close(model(*pad([changed]))[0, :-1], alone[0][0, :-1])


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 3))
def test_windows_have_every_item_but_the_first_as_a_target_once(lengths, history):
    histories = [np.arange(length) for length in lengths]
    windows = cut_windows([Piece(user, items) for user, items in enumerate(histories)], history)
    assert all(2 <= len(window.items) <= history + 1 for window in windows)
    for user, items in enumerate(histories):
        targets = [item for window in windows if window.user == user for item in window.items[1:].tolist()]
        assert sorted(targets) == items[1:].tolist()


def test_an_epoch_has_every_window_once():
    windows = cut_windows([Piece(user, np.arange(2 + user % 5)) for user in range(100)], 6)
    batch_list = list(batches(windows, 20, np.random.default_rng(0)))
    assert sorted(window.user for batch in batch_list for window in batch) == list(range(100))
    targets = [sum(len(window.items) - 1 for window in batch) for batch in batch_list]
    assert len(batch_list) == 15 and max(targets) < 20 + 5


def test_negatives_are_items_that_the_user_lacks():
    histories = [np.array([0, 1, 2]), np.array([3, 3, 4]), np.arange(6)]
    users = np.repeat([0, 1, 2], 200)
    negatives = NegativeSampler(histories, 6).draw(users, np.random.default_rng(0))
    assert set(negatives[users == 0]) == {3, 4, 5}
    assert set(negatives[users == 1]) == {0, 1, 2, 5}
    assert set(negatives[users == 2]) <= set(range(6))


def test_it_learns_who_follows_whom(trained):
    model, log = trained
    items, _ = model.recommend(VALID["history"].to_list(), 1, VALID["history"].to_list())
    assert [row[0] for row in items] == VALID["target"].to_list()
    assert log["loss"][-1] < 0.5 * log["loss"][0]
    assert log["ndcg@10"][log["best_epoch"] - 1] == max(log["ndcg@10"])


def test_seen_items_are_left_out_and_lists_are_sorted(trained):
    model, _ = trained
    history = round_trip(0, 4)
    items, scores = model.recommend([history, history], 12, [history, []])
    assert set(items[0]) == set(ITEMS) - set(history)
    assert set(items[1]) == set(ITEMS)
    assert all(row == sorted(row, reverse=True) for row in scores)


def test_log_probs_sum_to_one_and_rank_as_the_lists_do(trained):
    model, _ = trained
    order = ITEMS[::-1]
    log_probs = model.log_probs([["i3", "i4"], []], order)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-5)
    ranked, _ = model.recommend([["i3", "i4"]], 12)
    assert [order[i] for i in np.argsort(-log_probs[0], kind="stable")] == ranked[0]


def test_items_unknown_to_the_model_are_ignored_in_a_history_and_have_no_chance(trained):
    model, _ = trained
    assert model.recommend([["new", "i3", "i4"]], 3) == model.recommend([["i3", "i4"]], 3)
    log_probs = model.log_probs([["i3"]], ["new", *ITEMS])
    assert log_probs[0, 0] == -np.inf
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1, atol=1e-5)


def test_a_history_without_known_items_gets_what_is_popular():
    log = training([["i3", "i4", "i5"], ["i5", "i4"], ["i5"]])
    model, _ = Sasrec.fit(log, ITEMS, "ce", SMALL.model_copy(update={"patience": 1}))
    popularity = Popularity.fit(log, ITEMS)
    assert model.recommend([[], ["new"]], 4, [["i5"], []]) == popularity.recommend([[], []], 4, [["i5"], []])
    np.testing.assert_allclose(model.log_probs([[]], ITEMS), popularity.log_probs([[]], ITEMS))


def test_only_the_last_items_of_a_history_count(trained):
    model, _ = trained
    recent = round_trip(2, 6)
    assert model.recommend([["i9", "i1", *recent]], 3) == model.recommend([recent], 3)


@pytest.mark.cpu_alone
def test_a_seed_gives_one_model_and_leaves_the_generator_alone(tmp_path):
    config = SMALL.model_copy(update={"epochs": 2})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for name in ("one", "two"):
        Sasrec.fit(CIRCLE, ITEMS, "bce", config, seed=3, valid=VALID)[0].save(tmp_path / name)
    Sasrec.fit(CIRCLE, ITEMS, "bce", config, seed=4, valid=VALID)[0].save(tmp_path / "other")
    assert torch.equal(torch.rand(3), expected)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


@pytest.fixture
def threads():
    """Torch's number of threads, which a test may change."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.cpu_alone
@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_number_of_threads_changes_no_bit(loss, threads, shop_histories, tmp_path):
    histories, items, valid = shop_histories
    config = SMALL.model_copy(update={"epochs": 3, "dim": 32, "history": 20})
    logs = []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        model, log = Sasrec.fit(histories, items, loss, config, seed=1, valid=valid)
        assert torch.get_num_threads() == number
        model.save(tmp_path / f"{number}")
        logs.append(log)
    assert logs[0] == logs[1] == logs[2]
    first = (tmp_path / "1").read_bytes()
    assert (tmp_path / "2").read_bytes() == first == (tmp_path / "4").read_bytes()


def test_workers_share_jobs_and_keep_their_order(threads):
    torch.set_num_threads(3)
    meeting = Barrier(2, timeout=60)  # passed only by two jobs at a time

    def job(number):
        meeting.wait()
        return number, torch.get_num_threads()

    with start_workers(2) as run_all:
        assert run_all(job, range(6)) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


def test_a_batch_is_cut_into_parts_of_equal_work():
    batch = [Window(user, np.arange(1 + length)) for user, length in enumerate([1, 1, 2, 4, 4, 4])]
    parts = split_batch(batch, 2)
    assert [[window.user for window in part] for part in parts] == [[0, 1, 2, 3], [4, 5]]
    assert [len(part) for part in split_batch(batch[:1], 2)] == [1]


def test_dropout_keeps_the_mean_and_follows_its_generator():
    values = torch.full((1001, 30), 2.0)
    first, again = (Dropout(0.3, np.random.SFC64([5, 1]))(values) for _ in range(2))
    other = Dropout(0.3, np.random.SFC64([5, 2]))(values)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.unique().tolist() == pytest.approx([0, 2 / 0.7])
    assert (first == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(Dropout(0.0, np.random.SFC64(0))(values), values)


def test_a_saved_model_comes_back_as_it_was(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.safetensors")
    again = Sasrec.load(tmp_path / "model.safetensors")
    histories = [*VALID["history"].to_list(), []]
    assert again.recommend(histories, 5) == model.recommend(histories, 5)
    np.testing.assert_array_equal(again.vectors, model.vectors)


def test_a_loaded_model_scores_on_the_device_as_on_the_cpu(trained, tmp_path, monkeypatch):
    model, _ = trained
    model.save(tmp_path / "model.safetensors")
    monkeypatch.setattr(ranker, "choose_device", lambda: simulated_device.DEVICE)
    with simulated_device.switched_on():
        again = Sasrec.load(tmp_path / "model.safetensors")
        assert str(again.model.items.weight.device) == simulated_device.DEVICE
        histories = [*VALID["history"].to_list(), []]
        found = again.log_probs(histories, ITEMS)
        np.testing.assert_allclose(again.vectors, model.vectors)
    np.testing.assert_allclose(found, model.log_probs(histories, ITEMS), atol=1e-4)


def test_items_without_training_interactions_have_zero_vectors():
    model, _ = Sasrec.fit(
        training([["i0", "i1"], ["i2"]]), ITEMS, "ce", SMALL.model_copy(update={"patience": 1})
    )
    assert model.vectors.any(axis=1).tolist() == [True] * 3 + [False] * 9


def test_without_validation_targets_patience_epochs_are_trained():
    config = SMALL.model_copy(update={"patience": 3})
    _, log = Sasrec.fit(CIRCLE, ITEMS, "ce", config, valid=VALID.clear())
    assert (log["epochs"], log["best_epoch"], log["ndcg@10"]) == (3, 3, [])


def test_with_little_data_patience_is_counted_in_steps():
    """An epoch of the circle is one step here: three epochs without a better value are three steps."""
    hopeless = VALID.with_columns(target=pl.col("history").list.last())
    config = SMALL.model_copy(update={"patience": 3, "patient_steps": 20, "batch": 10_000, "epochs": 50})
    _, log = Sasrec.fit(CIRCLE, ITEMS, "ce", config, valid=hopeless)
    assert (log["epochs"], log["best_epoch"]) == (21, 1)
    assert patience_in_epochs(3, 300, samples=4000, batch=768) == 50
    assert patience_in_epochs(3, 300, samples=150_000, batch=768) == 3
    assert patience_in_epochs(3, 300, samples=0, batch=768) == 300


@pytest.mark.parametrize("mask_seen", [True, False])
def test_repeats_count_in_validation_where_they_may_be_recommended(mask_seen):
    valid = with_masked(EVERYTHING_SEEN, mask_seen)
    _, log = Sasrec.fit(CIRCLE, ITEMS, "ce", SMALL.model_copy(update={"epochs": 3}), valid=valid)
    assert (max(log["ndcg@10"]) == 0) == mask_seen


def test_training_stops_when_validation_no_longer_improves():
    hopeless = VALID.with_columns(target=pl.col("history").list.last())
    _, log = Sasrec.fit(CIRCLE, ITEMS, "ce", SMALL.model_copy(update={"patience": 2}), valid=hopeless)
    assert (log["epochs"], log["best_epoch"]) == (3, 1)


@pytest.mark.parametrize("histories", [[["i1"]], [["i1"], ["i2"]]])
def test_histories_without_any_target_still_give_a_model(histories):
    model, log = Sasrec.fit(training(histories), ITEMS, "bce", SMALL, valid=VALID)
    assert set(log["loss"]) == {0.0}
    assert np.isfinite(model.log_probs([["i1"]], ITEMS)).all()


def test_a_file_that_is_not_ours_is_one_clear_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as SASRec"):
        Sasrec.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="run the stage collaborative first"):
        Sasrec.load(tmp_path / "absent.safetensors")


def test_a_device_without_memory_is_no_broken_file(tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model, _ = Sasrec.fit(training([["i1"]]), ITEMS, "bce", SMALL, valid=VALID)
    model.save(tmp_path / "model.safetensors")
    monkeypatch.setattr(SasrecModel, "to", full)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        Sasrec.load(tmp_path / "model.safetensors")
