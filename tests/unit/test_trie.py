"""The CSR trie against a dictionary of prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.decode.trie import Trie, build_levels
from llmrec.errors import UserError

catalogues = st.integers(1, 3).flatmap(
    lambda length: st.sets(st.tuples(*[st.integers(0, 3)] * length), min_size=1, max_size=20).map(sorted)
)


def make(sids):
    array = np.array(sids)
    token_ids = [100 * (level + 1) + np.arange(4) for level in range(array.shape[1])]
    return Trie(array, token_ids)


def prefixes(sids, depth):
    return sorted({sid[:depth] for sid in sids})


@given(catalogues)
def test_step_gives_the_children_and_their_tokens(sids):
    trie = make(sids)
    for depth in range(len(sids[0])):
        here, deeper = prefixes(sids, depth), prefixes(sids, depth + 1)
        child, token, legal = trie.step(depth, torch.arange(len(here)))
        for node, prefix in enumerate(here):
            expected = [p for p in deeper if p[:depth] == prefix]
            assert [deeper[c] for c in child[node][legal[node]].tolist()] == expected
            assert token[node][legal[node]].tolist() == [100 * (depth + 1) + p[-1] for p in expected]


@given(catalogues, st.data())
def test_a_prefix_is_open_while_an_item_under_it_is_not_masked(sids, data):
    trie = make(sids)
    masked = data.draw(st.sets(st.integers(0, len(sids) - 1)))
    row = torch.tensor([[*sorted(masked), len(sids)]])
    for depth in range(1, len(sids[0]) + 1):
        here = prefixes(sids, depth)
        got = trie.open(depth, torch.arange(len(here))[None], row)[0].tolist()
        left = {sid[:depth] for item, sid in enumerate(sids) if item not in masked}
        assert got == [prefix in left for prefix in here]


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        (np.zeros((0, 3), int), "catalogue is empty"),
        (np.array([[0, 1], [0, 1]]), "share one semantic ID"),
        (np.array([[1, 0], [0, 1]]), "not in trie order"),
    ],
)
def test_wrong_catalogues_are_refused(sids, message):
    with pytest.raises(UserError, match=message):
        build_levels(sids)
