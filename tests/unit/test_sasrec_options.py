"""Options of SASRec: augmentation by (seed, epoch), the start vector, relative positions, and BSARec's filter."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.collaborative.sasrec.baseline import Sasrec
from llmrec.collaborative.sasrec.model import FrequencyFilter, SasrecModel
from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.sequential import training
from llmrec.collaborative.sequential.windows import Piece, augment, cut_windows, pad

SMALL = SasrecSettings(
    dim=16, heads=2, history=8, dropout=0.1, lr=5e-3, batch=64, epochs=4, patience=4, patient_steps=0
)
HISTORIES = [np.arange(user, user + 3 + user % 7) for user in range(40)]


def with_options(**options):
    return SMALL.model_copy(update=options)


def drawn(config, seed=0, epoch=1):
    return augment(HISTORIES, config, np.random.default_rng([seed, epoch]))


def as_lists(pieces):
    return [(piece.user, piece.items.tolist(), piece.is_first) for piece in pieces]


def test_without_options_each_history_is_trained_as_it_is():
    assert as_lists(drawn(SMALL)) == [(user, items.tolist(), True) for user, items in enumerate(HISTORIES)]


@pytest.mark.parametrize("options", [{"crop": 0.5}, {"shuffle": 0.5}, {"crop": 1.0, "shuffle": 1.0}])
def test_augmentation_depends_on_seed_and_epoch_alone(options):
    config = with_options(**options)
    first = as_lists(drawn(config, seed=3, epoch=2))
    assert first == as_lists(drawn(config, seed=3, epoch=2))
    assert first != as_lists(drawn(config, seed=3, epoch=3))
    assert first != as_lists(drawn(config, seed=4, epoch=2))


def test_an_epoch_draws_its_own_augmentation(monkeypatch):
    seen = []

    def recorded(*given):
        seen.append(augment(*given))
        return seen[-1]

    monkeypatch.setattr(training, "augment", recorded)
    config = with_options(crop=0.5, epochs=2, patience=2)
    for _ in range(2):
        training.train(SasrecModel, training.Histories(HISTORIES), 60, "ce", config, 5, None)
    first, second, *again = map(as_lists, seen)
    assert first != second and again == [first, second]
    assert first == as_lists(drawn(config, seed=5, epoch=1))


def test_a_cropped_history_is_two_pieces_that_share_one_item():
    pieces = drawn(with_options(crop=1.0))
    for user, items in enumerate(HISTORIES):
        one, *rest = (piece for piece in pieces if piece.user == user)
        assert one.is_first and not any(piece.is_first for piece in rest)
        whole = np.concatenate([one.items, *(piece.items[1:] for piece in rest)])
        assert whole.tolist() == items.tolist()
        assert all(len(piece.items) >= 2 for piece in (one, *rest))
        assert len(rest) == 1
    assert len({len(piece.items) for piece in pieces if piece.user == 6}) <= 2


@given(st.integers(2, 5), st.integers(0, 20))
def test_a_shuffled_history_keeps_its_items_near_their_places(window, seed):
    pieces = drawn(with_options(shuffle=1.0, shuffle_window=window), seed=seed)
    for piece, items in zip(pieces, HISTORIES, strict=True):
        assert sorted(piece.items.tolist()) == items.tolist()
        assert (np.abs(piece.items - items) < window).all()


def test_half_of_the_histories_are_shuffled():
    histories = [np.arange(30)] * 2000
    pieces = augment(histories, with_options(shuffle=0.5), np.random.default_rng(0))
    assert np.mean([(piece.items == np.arange(30)).all() for piece in pieces]) == pytest.approx(0.5, abs=0.04)


def test_with_a_start_the_first_item_is_a_target():
    pieces = [
        Piece(0, np.array([4, 5, 6])),
        Piece(1, np.array([7])),
        Piece(2, np.array([8, 9]), is_first=False),
    ]
    windows = cut_windows(pieces, 2, start=60)
    assert [(window.user, window.items.tolist()) for window in windows] == [
        (0, [4, 5, 6]),
        (0, [60, 4]),
        (1, [60, 7]),
        (2, [8, 9]),
    ]


OPTIONS = [
    {"start": True},
    {"positions": "relative"},
    {"filter": 0.7},
    {"filter": 1.0, "positions": "relative"},
    {"filter": 0.5, "frequencies": 5, "positions": "relative", "start": True},
]


def trained_model(**options):
    """A network whose every weight has been drawn, so that none hides a path."""
    model = SasrecModel(30, with_options(**options))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=draw)
    return model


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("place", range(1, 8))
def test_a_later_item_changes_no_earlier_output(options, place):
    model = trained_model(**options)
    row = np.arange(8)
    changed = row.copy()
    changed[place] = 20
    before, after = model(*pad([row]))[0], model(*pad([changed]))[0]
    torch.testing.assert_close(after[:place], before[:place], rtol=0, atol=0)
    assert not torch.allclose(after[place], before[place])


@pytest.mark.parametrize("options", [options for options in OPTIONS if "positions" in options])
def test_with_relative_positions_each_position_is_trained_as_the_last_one(options):
    model = trained_model(**options)
    row = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    whole = model(*pad([row]))[0]
    for length in range(1, 9):
        alone = model(*pad([row[:length]]))[0, -1]
        torch.testing.assert_close(whole[length - 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_changes_no_output(options):
    model = trained_model(**options)
    rows = [np.array([3, 1, 4]), np.arange(8)]
    alone, together = model(*pad(rows[:1])), model(*pad(rows))
    torch.testing.assert_close(together[0, :3], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("history", "frequencies"), [(8, 1), (8, 3), (8, 5), (7, 4), (9, 2), (8, 99)])
def test_the_filter_is_the_published_one_at_the_last_item_of_each_prefix(history, frequencies):
    module = FrequencyFilter(with_options(history=history, frequencies=frequencies))
    with torch.no_grad():
        module.scale.copy_(torch.linspace(0.2, 2, 16))
    draw = np.random.default_rng(0)
    for length in (1, history // 2, history):
        values = draw.normal(size=(length, 16)).astype(np.float32)
        outputs = module(torch.from_numpy(values)[None])[0].detach().numpy()
        for end in range(1, length + 1):
            row = np.zeros((history, 16))
            row[history - end :] = values[:end]
            waves = np.fft.rfft(row, axis=0)
            waves[frequencies:] = 0
            low = np.fft.irfft(waves, history, axis=0)
            published = low + np.linspace(0.2, 2, 16) ** 2 * (row - low)
            np.testing.assert_allclose(outputs[end - 1], published[-1], atol=1e-5)


ITEMS = [f"i{n}" for n in range(12)]
TRAINING = pl.DataFrame(
    {
        "user_id": [str(user) for user in range(60)],
        "items": [
            [ITEMS[3], *(ITEMS[(user + step) % 12] for step in range(user % 5 + 1))] for user in range(60)
        ],
    }
)


def test_a_start_answers_an_empty_history():
    model, _ = Sasrec.fit(TRAINING, ITEMS, "ce", with_options(start=True, epochs=40, patience=40))
    lists, scores = model.recommend([[], ["unknown"]], 3)
    assert lists[0] == lists[1] and lists[0][0] == "i3"  # every history begins with it
    log_probs = model.log_probs([[]], ITEMS)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)
    assert log_probs[0, 3] > np.log(0.5)
    assert scores[0] == sorted(scores[0], reverse=True)


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize("options", [*OPTIONS, {"crop": 0.5, "shuffle": 0.5}])
def test_a_model_with_options_is_saved_and_loaded(options, loss, tmp_path):
    model, _ = Sasrec.fit(TRAINING, ITEMS, loss, with_options(**options, patience=2))
    model.save(tmp_path / "model.safetensors")
    again = Sasrec.load(tmp_path / "model.safetensors")
    histories = [["i1", "i2"], [], ITEMS]
    assert again.recommend(histories, 5) == model.recommend(histories, 5)


def test_the_kept_weights_are_a_moving_average():
    """With all targets in one batch, an epoch is one step: the average of the first weights and the next ones."""
    config = with_options(batch=10_000, patience=1)
    stepped, _ = training.train(SasrecModel, training.Histories(HISTORIES), 60, "ce", config, 5, None)
    averaged, _ = training.train(
        SasrecModel,
        training.Histories(HISTORIES),
        60,
        "ce",
        config.model_copy(update={"averaging": 0.75}),
        5,
        None,
    )
    torch.manual_seed(5)
    first = SasrecModel(60, config).state_dict()
    for name, weights in stepped.state_dict().items():
        assert not torch.equal(weights, first[name]) or "positions" in name
        expected = 0.75 * first[name] + 0.25 * weights
        torch.testing.assert_close(averaged.state_dict()[name], expected, rtol=1e-5, atol=1e-6)
