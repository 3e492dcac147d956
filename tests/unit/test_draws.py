"""What an epoch draws: visits of rows, candidates, and pieces of histories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.data.examples import draw_pieces
from llmrec.text.candidates import CandidateSampler
from llmrec.train.sft import samples


@given(st.integers(0, 40), st.floats(0, 4), st.integers(0, 5))
def test_every_row_is_visited_as_often_as_its_weight_says(count, weight, seed):
    rows = samples.draw_visits(count, weight, np.random.default_rng(seed))
    times = np.bincount(rows, minlength=count)
    assert (np.diff(rows) >= 0).all()
    assert len(rows) == int(weight) * count + round((weight - int(weight)) * count)
    assert all(int(weight) <= n <= int(weight) + 1 for n in times)


@given(st.data())
def test_candidates_hold_the_target_once_and_nothing_the_user_chose(data):
    catalogue = [f"i{n}" for n in range(data.draw(st.integers(1, 30)))]
    chosen = data.draw(st.lists(st.sampled_from(catalogue), min_size=1))
    target, count = data.draw(st.sampled_from(chosen)), data.draw(st.integers(2, 12))
    shown = CandidateSampler(catalogue, data.draw(st.integers(0, 99))).sample(target, count, chosen)
    assert shown.count(target) == 1 and len(set(shown)) == len(shown)
    assert set(shown) & set(chosen) == {target}
    assert len(shown) == min(count, 1 + len(set(catalogue) - set(chosen)))


def test_the_target_stands_at_every_place_alike():
    catalogue = [f"i{n}" for n in range(100)]
    negatives = CandidateSampler(catalogue, 0)
    places = np.bincount([negatives.sample("i3", 5, ["i3"]).index("i3") for _ in range(2000)])
    assert len(places) == 5 and places.min() > 320 and places.max() < 480


@given(st.lists(st.integers(0, 12), max_size=8), st.floats(0, 0.95), st.integers(0, 9))
def test_a_history_keeps_two_items_whatever_is_left_out(counts, leave_out, seed):
    pieces = list(draw_pieces(counts, np.random.default_rng(seed), leave_out=leave_out))
    assert [history for history, _ in pieces] == list(range(len(counts)))
    for (_, places), count in zip(pieces, counts, strict=True):
        assert (
            min(count, 2) <= len(places) and (np.diff(places) > 0).all() and set(places) <= set(range(count))
        )


def test_as_many_items_are_left_out_as_asked():
    pieces = draw_pieces([30] * 2000, np.random.default_rng(0), leave_out=0.3)
    assert np.mean([len(places) for _, places in pieces]) == pytest.approx(21, abs=0.3)
