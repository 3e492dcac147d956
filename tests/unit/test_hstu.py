"""HSTU: a layer against NumPy by hand, what a position sees, times, and that training and files are reproducible."""

import numpy as np
import polars as pl
import pytest
import torch
from circle import CIRCLE, ITEMS, VALID
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.collaborative.hstu.baseline import Hstu
from llmrec.collaborative.hstu.model import BUCKETS, HstuLayer, HstuModel, time_buckets
from llmrec.collaborative.hstu.settings import HstuSettings
from llmrec.collaborative.hstu.system import HstuSystem
from llmrec.collaborative.sequential.dropout import keep_all
from llmrec.collaborative.sequential.windows import pad
from llmrec.errors import UserError

SMALL = HstuSettings(
    dim=16, heads=2, history=6, dropout=0.1, lr=5e-3, batch=64, epochs=25, patience=25, patient_steps=0
)
TIMED = SMALL.model_copy(update={"times": True})


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def layer_by_hand(layer, hidden, buckets, config):
    """Equations 1 to 3 of the paper, position by position and head by head."""
    weight = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    inputs = silu(norm(hidden) @ weight["expand.weight"].T + weight["expand.bias"])
    gate, value, query, key = np.split(inputs, 4, axis=-1)
    width = config.dim // config.heads
    mixed = np.zeros_like(hidden)
    for head in range(config.heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(hidden)):
            for j in range(i + 1):
                bias = weight["by_distance.weight"][i - j, 0]
                if buckets is not None:
                    bias += weight["by_time.weight"][buckets[i, j], 0]
                share = silu(query[i, part] @ key[j, part] + bias) / config.history
                mixed[i, part] += share * value[j, part]
    return hidden + (norm(mixed) * gate) @ weight["out.weight"].T + weight["out.bias"]


@pytest.mark.parametrize("config", [SMALL, TIMED], ids=["order", "times"])
def test_a_layer_is_the_papers_equations(config):
    torch.manual_seed(0)
    layer = HstuLayer(config)
    for parameter in layer.parameters():  # away from the start, where biases are 0 and weights small
        torch.nn.init.normal_(parameter, std=0.7)
    hidden = np.random.default_rng(0).standard_normal((3, config.dim))
    times = torch.tensor([[100, 107, 4000]])
    buckets = time_buckets(times) if config.times else None
    found = layer(torch.from_numpy(hidden[None]).float(), keep_all, buckets)
    expected = layer_by_hand(layer, hidden, None if buckets is None else buckets[0].numpy(), config)
    np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-4)


def test_buckets_of_times_by_hand():
    # ln 7 / .301 = 6.46, ln 3900 / .301 = 27.5, ln 3893 / .301 = 27.5; a century is beyond the last bucket.
    found = time_buckets(torch.tensor([[100, 107, 4000, 100]]))[0]
    assert found[0].tolist() == [0, 6, 27, 0]
    assert found[2].tolist() == [27, 27, 0, 27]
    assert time_buckets(torch.tensor([[0, 100 * 365 * 86400]])).max() == BUCKETS - 1


def test_scores_are_cosines_over_the_temperature():
    torch.manual_seed(0)
    model = HstuModel(12, SMALL)
    rows, lengths = pad([np.array([3, 4, 5])])
    scores = model(rows, lengths)[0, -1] @ model.table().T
    assert scores.abs().max() <= 1 / SMALL.temperature + 1e-4
    np.testing.assert_allclose(model.table().norm(dim=1).detach().numpy(), 1, rtol=1e-5)


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=6), st.lists(st.integers(0, 11), min_size=1, max_size=6)
)
@settings(max_examples=20, deadline=None)
def test_neither_padding_nor_later_items_are_seen(one, other):
    torch.manual_seed(0)
    model = HstuModel(12, TIMED).eval()
    rows = [np.array(one), np.array(other)]
    times = [np.arange(len(row)) * 50 for row in rows]

    def states(rows, times):
        return model(*pad(rows), times=pad(times)[0])

    alone = [states([row], [time]) for row, time in zip(rows, times, strict=True)]
    together = states(rows, times)
    for row, items, output in zip(together, rows, alone, strict=True):
        torch.testing.assert_close(row[: len(items)], output[0], atol=1e-4, rtol=1e-3)
    items, later = rows[0].copy(), times[0].copy()
    items[-1], later[-1] = (items[-1] + 1) % 12, later[-1] + 10**6
    torch.testing.assert_close(states([items], [later])[0, :-1], alone[0][0, :-1])


@pytest.fixture(scope="module")
def trained():
    return Hstu.fit(CIRCLE, ITEMS, "ce", SMALL, seed=0, valid=VALID)


def test_it_learns_who_follows_whom(trained):
    model, log = trained
    items, scores = model.recommend(VALID["history"].to_list(), 3, VALID["history"].to_list())
    assert [row[0] for row in items] == VALID["target"].to_list()
    assert all(row == sorted(row, reverse=True) for row in scores)
    assert log["ndcg@10"][log["best_epoch"] - 1] == max(log["ndcg@10"])
    np.testing.assert_allclose(np.exp(model.log_probs([["i3"], []], ITEMS)).sum(axis=1), 1, atol=1e-5)


def test_it_learns_from_times():
    """The next item depends on how long ago the last one was, and on nothing else."""
    draw = np.random.default_rng(0)
    late = draw.random(200) < 0.5
    frame = pl.DataFrame(
        {
            "user_id": [str(user) for user in range(200)],
            "items": [["i0", "i1", "i3" if is_late else "i2"] for is_late in late],
            "times": [[0, 5000 if is_late else 5, 5000 if is_late else 5] for is_late in late],
        }
    )
    config = TIMED.model_copy(update={"patience": 8})
    model, _ = Hstu.fit(frame, ITEMS, "ce", config, seed=0)
    items, _ = model.recommend([["i0", "i1"]] * 2, 1, [["i0", "i1"]] * 2, [[0, 5], [0, 5000]])
    assert items == [["i2"], ["i3"]]
    unknown = model.recommend([["new", "i0", "i1"]], 1, [["i0", "i1"]], [[0, 0, 5000]])
    assert unknown[0] == [["i3"]], "the time of an item that the model lacks goes with it"


@pytest.mark.cpu_alone
@pytest.mark.parametrize("config", [SMALL, TIMED], ids=["order", "times"])
def test_the_number_of_threads_changes_no_bit(config, tmp_path):
    histories = CIRCLE.with_columns(times=pl.lit([3, 10, 70, 75, 9000]))
    valid = VALID.with_columns(times=pl.lit([3, 10, 70, 75, 9000]))
    before = torch.get_num_threads()
    logs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        model, log = Hstu.fit(
            histories, ITEMS, "ce", config.model_copy(update={"epochs": 3}), seed=1, valid=valid
        )
        model.save(tmp_path / f"{number}")
        logs.append(log)
    torch.set_num_threads(before)
    assert logs[0] == logs[1]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_saved_model_comes_back_as_it_was(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.safetensors")
    again = Hstu.load(tmp_path / "model.safetensors")
    histories = [*VALID["history"].to_list(), []]
    assert again.recommend(histories, 5) == model.recommend(histories, 5)
    assert again.config == SMALL
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as HSTU"):
        Hstu.load(tmp_path / "model.safetensors")


def test_settings_stand_in_the_recipe():
    assert HstuSystem().needs_times is False
    assert HstuSystem(times=True).needs_times
    with pytest.raises(ValueError, match="no multiple of heads"):
        HstuSystem(dim=10, heads=4)
