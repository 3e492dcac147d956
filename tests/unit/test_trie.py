"""The CSR trie, its masks and its overlay against dictionaries of prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.trie import ROOT, Trie
from llmrec.errors import UserError

CODES = 4
catalogues = st.integers(1, 3).flatmap(
    lambda length: st.sets(st.tuples(*[st.integers(0, CODES - 1)] * length), min_size=1, max_size=20).map(
        sorted
    )
)


def build(sids):
    return Trie.build(np.array(sids), [CODES] * len(sids[0]))


def walk_all(trie):
    """Every prefix of a trie with its node, found by stepping from the root."""
    found = {(): ROOT}
    here = {(): ROOT}
    for depth in range(trie.length):
        child, token, legal = trie.expand(torch.tensor(list(here.values())), depth)
        here = {
            (*prefix, int(t) - depth * CODES): int(c)
            for prefix, cs, ts, ls in zip(here, child, token, legal, strict=True)
            for c, t, is_child in zip(cs, ts, ls, strict=True)
            if is_child
        }
        found |= here
    return found


def prefixes(sids):
    return {sid[:depth] for sid in sids for depth in range(len(sid) + 1)}


@given(catalogues)
def test_stepping_down_gives_every_prefix_once_and_ends_in_the_items(sids):
    trie = build(sids)
    nodes = walk_all(trie)
    assert set(nodes) == prefixes(sids)
    assert len(set(nodes.values())) == trie.nodes == len(nodes)
    for item, sid in enumerate(sids):
        assert trie.item(torch.tensor(nodes[sid])) == item
    for prefix, node in nodes.items():
        under = [item for item, sid in enumerate(sids) if sid[: len(prefix)] == prefix]
        (low, high) = trie.spans(torch.tensor(node))[0]
        assert list(range(low, high)) == under and trie.count(torch.tensor(node)) == len(under)


@given(catalogues)
def test_prefixes_of_different_depths_can_be_stepped_together(sids):
    trie = build(sids)
    nodes = walk_all(trie)
    child, token, legal = trie.expand(torch.tensor(list(nodes.values())))
    for row, prefix in enumerate(nodes):
        got = {int(t): int(c) for c, t in zip(child[row][legal[row]], token[row][legal[row]], strict=True)}
        longer = (p for p in nodes if len(p) == len(prefix) + 1 and p[:-1] == prefix)
        assert got == {p[-1] + len(prefix) * CODES: nodes[p] for p in longer}


@given(catalogues, st.lists(st.integers(0, CODES - 1), max_size=3))
def test_walking_finds_the_node_of_a_prefix_and_nothing_else(sids, codes):
    trie = build(sids)
    tokens = [code + depth * CODES for depth, code in enumerate(codes)]
    assert trie.walk(tokens) == walk_all(trie).get(tuple(codes))


@given(catalogues, st.data())
def test_a_prefix_is_open_while_an_allowed_item_is_under_it(sids, data):
    items = st.sets(st.integers(0, len(sids) - 1))
    allow, deny = data.draw(st.none() | items), data.draw(items)
    trie = build(sids)
    nodes = walk_all(trie)
    mask = build_item_mask(trie, [None if allow is None else list(allow)], [list(deny)])
    allowed = (set(range(len(sids))) if allow is None else allow) - deny
    if mask is None:
        assert allow is None and not deny
        return
    got = mask.has_allowed_item(trie, torch.tensor([list(nodes.values())]))[0].tolist()
    assert got == [prefix in prefixes([sids[item] for item in allowed]) for prefix in nodes]


def test_the_mask_of_some_requests_is_as_wide_as_their_lists():
    trie = build([(0, 1), (0, 3), (2, 0), (2, 2)])
    allow, deny = [None, [0, 1, 2], None, None], [[3], [1], [], [0, 1, 2]]
    masks = mask_factory(trie, allow, deny)
    some = masks([1, 0])
    assert some.lists[:, :1].tolist() == [[0], [3]] and some.lists.shape == (2, 2)
    assert masks([2]) is None
    nodes = torch.tensor([list(walk_all(trie).values())])
    whole = build_item_mask(trie, allow, deny)
    for request in (0, 1, 3):
        alone = masks([request]).has_allowed_item(trie, nodes)
        assert torch.equal(alone, whole.select(torch.tensor([request])).has_allowed_item(trie, nodes))


@given(catalogues, st.data())
def test_an_overlay_steps_like_a_trie_built_anew(sids, data):
    sid = st.tuples(*[st.integers(0, CODES - 1)] * len(sids[0]))
    removed = data.draw(st.sets(st.integers(0, len(sids) - 1)))
    alive = [s for item, s in enumerate(sids) if item not in removed]
    added = sorted(data.draw(st.sets(sid, max_size=8)) - set(alive))
    if not alive and not added:
        return
    overlay = build_overlay(build(sids), np.array(added).reshape(-1, len(sids[0])), sorted(removed))
    nodes = walk_all(overlay)
    assert set(nodes) == prefixes(alive + added)
    index = {s: item for item, s in enumerate(sids) if item not in removed}
    index |= {s: len(sids) + item for item, s in enumerate(added)}
    denied = data.draw(st.sets(st.sampled_from(sorted(index.values()))))
    mask = build_item_mask(overlay, None, [sorted(denied | removed)])
    for prefix, node in nodes.items():
        under = {item for s, item in index.items() if s[: len(prefix)] == prefix}
        assert overlay.count(torch.tensor(node)) == len(under)
        if mask is not None:
            assert mask.has_allowed_item(overlay, torch.tensor([[node]])).item() == bool(under - denied)
        if len(prefix) == overlay.length:
            assert {int(overlay.item(torch.tensor(node)))} == under


def test_a_saved_trie_opens_as_it_was(tmp_path):
    trie = build([(0, 1), (0, 3), (2, 0)])
    trie.save(tmp_path / "trie.safetensors")
    again = Trie.open(tmp_path / "trie.safetensors")
    assert walk_all(again) == walk_all(trie)
    assert (again.starts, again.codes, again.fanout) == (trie.starts, trie.codes, trie.fanout)


def test_a_broken_trie_file_is_refused(tmp_path):
    path = tmp_path / "trie.safetensors"
    with pytest.raises(UserError, match="no trie that can be read"):
        Trie.open(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="no trie that can be read"):
        Trie.open(path)
    trie = build([(0, 1), (0, 3)])
    shape = {"starts": "0 1 2 9", "codes": "4 4", "fanout": "1 2"}
    arrays = {name: getattr(trie, name) for name in ("first", "token", "low", "high")}
    save_file(arrays, path, metadata=shape)
    with pytest.raises(UserError, match="do not fit"):
        Trie.open(path)


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        (np.zeros((0, 2), int), "catalogue is empty"),
        (np.array([[0, 1], [0, 1]]), "share one semantic ID"),
        (np.array([[1, 0], [0, 1]]), "not in trie order"),
        (np.array([[0, 4]]), "codes beyond"),
        (np.array([[0, 1, 2]]), "2 levels"),
    ],
)
def test_wrong_catalogues_are_refused(sids, message):
    with pytest.raises(UserError, match=message):
        Trie.build(sids, [CODES, CODES])


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ([(0, 1)], [], "semantic ID of an item that is there"),
        ([(0, 2), (0, 2)], [], "share one semantic ID"),
        ([(0, 9)], [], "codes beyond"),
        ([], [7], "removed item 7"),
        ([], [0, 1], "every item is removed"),
    ],
)
def test_wrong_changes_are_refused(added, removed, message):
    with pytest.raises(UserError, match=message):
        build_overlay(build([(0, 1), (0, 3)]), np.array(added).reshape(-1, 2), removed)
