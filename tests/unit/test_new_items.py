"""New items under a frozen quantizer, and a catalogue with changes on top."""

import json
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from catalogue_folder import write_base
from hypothesis import given
from hypothesis import strategies as st

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import Changes, no_changes, write_changes
from llmrec.catalogue.overlay import Overlay
from llmrec.catalogue.trie import Trie
from llmrec.config import IdsConfig, Recipe
from llmrec.errors import UserError
from llmrec.ids import new_items
from llmrec.ids.inputs.fusions import fit_fusion
from llmrec.ids.new_items import (
    assign_ids,
    distances,
    has_own_codes,
    own_part,
    percentiles,
    save_distances,
)
from llmrec.ids.tokenizer import Codec

DIM = 3


class Grid(Codec):
    """Two levels of four codes each: tens and ones of a number that is the vector's sum."""

    sizes: ClassVar = [4, 4]

    def costs(self, vectors, prefix):
        left = vectors.sum(axis=1) - 10 * prefix[:, 0] if prefix.shape[1] else vectors.sum(axis=1) / 10
        return np.square(left[:, None] - np.arange(4)).astype(np.float32)

    def reconstruct(self, codes):
        total = codes @ np.array([10, 1])[: codes.shape[1]] if codes.shape[1] else np.zeros(len(codes))
        return np.repeat(total[:, None] / DIM, DIM, axis=1).astype(np.float32)

    def tensors(self):
        return {}

    @classmethod
    def from_tensors(cls, tensors):
        return cls()


def at(*numbers):
    """Vectors whose sums are these numbers."""
    return np.repeat(np.array(numbers, np.float32)[:, None] / DIM, DIM, axis=1)


NONE = np.zeros((0, 3), np.int32)


def test_a_new_item_gets_the_path_that_the_quantizer_gives_and_the_next_code():
    taken = np.array([[1, 2, 0], [1, 2, 1], [3, 0, 0]], np.int32)
    sids = assign_ids(Grid(), at(12, 30, 12, 1), taken, [4, 4, 4])
    assert sids.tolist() == [[1, 2, 2], [3, 0, 1], [1, 2, 3], [0, 1, 0]]
    assert sids.dtype == np.int32


def test_an_item_whose_path_is_full_goes_to_the_next_best_code_of_the_level_before():
    taken = np.array([[1, 2, 0], [1, 2, 1], [1, 1, 0]], np.int32)
    sids = assign_ids(Grid(), at(12.1, 12.1, 12.4, 11.8), taken, [4, 4, 2])
    assert sids.tolist() == [[1, 3, 0], [1, 3, 1], [1, 1, 1], [1, 0, 0]]


def test_an_item_leaves_its_prefix_only_when_that_is_full():
    taken = np.array([[1, code, extra] for code in range(4) for extra in range(2)], np.int32)
    assert assign_ids(Grid(), at(12, 22), taken, [4, 4, 2]).tolist() == [[2, 0, 0], [2, 2, 0]]


def test_ids_without_an_extra_level_move_to_free_paths():
    taken = np.array([[1, 2], [1, 3]], np.int32)
    assert assign_ids(Grid(), at(12, 12, 30), taken, [4, 4]).tolist() == [[1, 1], [1, 0], [3, 0]]


NUMBERS = st.lists(st.integers(0, 33), min_size=1, max_size=8)


@given(NUMBERS, NUMBERS, st.integers(1, 3))
def test_semantic_ids_are_unique_and_the_model_has_tokens_for_them(first, second, room):
    taken = assign_ids(Grid(), at(*first), NONE, [4, 4, room])
    everything = np.concatenate([taken, assign_ids(Grid(), at(*second), taken, [4, 4, room])])
    assert len(np.unique(everything, axis=0)) == len(first) + len(second)
    assert (everything >= 0).all() and (everything < [4, 4, room]).all()


@pytest.mark.parametrize(
    ("vectors", "taken", "sizes", "message"),
    [
        (np.ones((1, 5), np.float32), NONE, [4, 4, 2], "vectors have 5 numbers, the run's have 3"),
        (at(1), NONE[:, :2], [4, 8], "run the stage sft again"),
        (at(1), NONE, [4, 4, 2, 2], "run the stage sft again"),
        (at(*range(17)), NONE[:, :2], [4, 4], "17 new items, but only 16 semantic IDs are free"),
    ],
)
def test_new_items_without_a_free_id_are_refused(vectors, taken, sizes, message):
    with pytest.raises(UserError, match=message):
        assign_ids(Grid(), vectors, taken, sizes)


def test_distances_are_reported_as_percentiles_of_the_training_items(tmp_path):
    (tmp_path / "ids").mkdir()
    train = at(*np.linspace(0, 0.4, 101))  # all have the code 0, at distances that grow evenly
    codes = np.zeros((101, 3), np.int32)
    assert percentiles(tmp_path, np.zeros(1, np.float32)) is None
    save_distances(tmp_path / "ids", Grid(), train, codes)
    away = distances(Grid(), at(0, 0.1, 0.4, 9), codes[:4])
    np.testing.assert_allclose(away, np.array([0, 0.1, 0.4, 9]) / np.sqrt(DIM), rtol=1e-5)
    np.testing.assert_allclose(percentiles(tmp_path, away), [0, 25, 100, 100], atol=1e-3)


def table(**sids):
    """Added items with these semantic IDs."""
    return pl.DataFrame(
        {
            "item_id": list(sids),
            "sid": pl.Series(list(sids.values()), dtype=pl.List(pl.Int32)),
            "title": [f"Title of {item}" for item in sids],
            "distance": pl.Series([0.5] * len(sids), dtype=pl.Float32),
            "percentile": pl.Series([50.0] * len(sids), dtype=pl.Float32),
        }
    )


SIDS = np.array([[0, 0, 0], [0, 0, 1], [1, 2, 0], [2, 0, 0]], np.int32)
ADDED = {"late": [2, 1, 3], "new": [0, 0, 2], "gone": [3, 3, 3]}


@pytest.fixture
def base(tmp_path):
    write_base(tmp_path / "run" / "base", SIDS)
    return tmp_path / "run" / "base"


@pytest.fixture
def changed(base):
    """The catalogue of a run with items added, and some of both kinds retired."""
    items = Catalogue.load(base).items
    write_changes(base.parent, items, Changes(table(**ADDED), ["i1", "gone"]))
    return Catalogue.load(base)


def test_a_catalogue_opens_with_its_changes(base, changed):
    assert isinstance(changed.trie, Overlay) and isinstance(Catalogue.load(base, as_trained=True).trie, Trie)
    assert changed.items == ["i0", "i1", "i2", "i3", "new", "late"]
    assert changed.count == 5
    assert changed.sids.tolist() == [*SIDS.tolist(), ADDED["new"], ADDED["late"]]
    assert changed.added["title"].to_list() == ["Title of late", "Title of new", "Title of gone"]
    assert changed.added.columns == ["item_id", "title"]


def test_retired_items_keep_their_tokens_for_histories(base, changed):
    trained = Catalogue.load(base, as_trained=True).item_tokens()
    tokens = changed.item_tokens()
    assert {item: tokens[item] for item in trained} == trained
    assert tokens["gone"] == [10 + 4 * (level + 1) - 1 - 3 for level in range(3)]
    rows = changed.tokens_of(["gone", "i1", "new"], "candidates").tolist()
    assert rows == [tokens["gone"], tokens["i1"], tokens["new"]]


def test_allow_lists_skip_retired_items_and_refuse_unknown_items(changed):
    assert changed.indices(["late", "i1", "gone", "i0"], "allow") == [5, 0]
    with pytest.raises(UserError, match="allow: item 'nobody' is not in the catalogue"):
        changed.indices(["i0", "nobody"], "allow")


def test_the_trie_of_a_changed_catalogue_has_no_retired_items(changed):
    from llmrec.catalogue.overlay import item_paths

    reached = (item_paths(changed.trie)[:, 0] >= 0).tolist()
    assert reached == [True, False, True, True, True, True]


def test_changes_of_another_catalogue_are_refused(base, changed):
    np.save(base / "sids.npy", SIDS + np.array([0, 1, 0], np.int32))
    with pytest.raises(UserError, match=r"changes of another catalogue.* --add .*added\.parquet"):
        Catalogue.load(base)
    np.save(base / "sids.npy", SIDS)
    (base.parent / "catalogue" / "added.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"added\.parquet: cannot be read"):
        Catalogue.load(base)


def test_a_catalogue_cannot_lose_all_its_items(base):
    catalogue = Catalogue.load(base)
    with pytest.raises(UserError, match="every item is removed"):
        catalogue.with_changes(Changes(no_changes().added, catalogue.items))


def recipe(tmp_path, **ids):
    return Recipe(name="x", data={"card": "card"}, ids=IdsConfig(**ids))


ITEMS = pl.DataFrame({"item_id": ["n1", "n2"], "title": ["One", "Two"]})


def test_new_items_need_the_inputs_that_the_ids_were_made_from(tmp_path):
    own = recipe(tmp_path, vectors="v.npy")
    np.save(tmp_path / "new.npy", at(1, 2))
    item_vectors = new_items.new_item_vectors(
        tmp_path, own, ITEMS, {"vectors": tmp_path / "new.npy"}, "new.jsonl"
    )
    np.testing.assert_array_equal(item_vectors, at(1, 2))
    with pytest.raises(UserError, match="made from vectors: give the new items'"):
        new_items.new_item_vectors(tmp_path, own, ITEMS, {}, "new.jsonl")
    with pytest.raises(UserError, match="--images: this run's IDs were made from vectors, not from images"):
        new_items.new_item_vectors(tmp_path, own, ITEMS, {"images": tmp_path / "new.npy"}, "new.jsonl")
    np.save(tmp_path / "new.npy", at(1))
    with pytest.raises(UserError, match=r"new.npy: has shape \(1, 3\), but new.jsonl has 2 items"):
        new_items.new_item_vectors(tmp_path, own, ITEMS, {"vectors": tmp_path / "new.npy"}, "new.jsonl")


def test_inputs_that_new_items_lack_are_filled_as_in_training(tmp_path, capsys):
    from safetensors.numpy import save_file

    fused = recipe(tmp_path, inputs=["vectors", "images"], vectors="v.npy", images="i.npy")
    rng = np.random.default_rng(0)
    parts = {"vectors": rng.standard_normal((50, 3), np.float32)}
    parts["images"] = (parts["vectors"] @ rng.standard_normal((3, 4))).astype(np.float32)
    none = {name: np.zeros(50, bool) for name in parts}
    fusion = fit_fusion(parts, none, fused.ids.fusion, seed=0)
    (tmp_path / "ids").mkdir()
    save_file(fusion.tensors(), tmp_path / "ids" / "fusion.safetensors")
    np.save(tmp_path / "new.npy", parts["vectors"][:2])
    item_vectors = new_items.new_item_vectors(
        tmp_path, fused, ITEMS, {"vectors": tmp_path / "new.npy"}, "new.jsonl"
    )
    np.testing.assert_allclose(item_vectors, fusion.apply(parts, none)[:2], atol=1e-2)
    assert "2 of 2 items have no vector of images: 2 predicted" in capsys.readouterr().err


def test_changes_are_json_and_parquet(base, changed):
    about = json.loads((base.parent / "catalogue" / "changes.json").read_text())
    assert about["retired"] == ["i1", "gone"]
    assert pl.read_parquet(base.parent / "catalogue" / "added.parquet")["sid"].to_list() == list(
        ADDED.values()
    )


def test_codes_of_their_own_go_on_behind_all_others():
    taken = np.array([[1, 2, 0], [1, 2, 1], [3, 0, 2], [0, 0, 3]], np.int32)
    sids = assign_ids(Grid(), at(12, 30, 12), taken, [4, 4, 3], own_codes=True)
    assert sids.tolist() == [[1, 2, 4], [3, 0, 5], [1, 2, 6]] and sids.dtype == np.int32
    assert assign_ids(Grid(), at(12), taken[:2], [4, 4, 9], own_codes=True).tolist() == [[1, 2, 9]]


@pytest.mark.parametrize(
    ("quantizer", "rule", "last", "own"),
    [
        ({"kind": "rq_kmeans"}, "own_code", [0, 1, 2], True),
        ({"kind": "rq_kmeans"}, "extra_level", [0, 1, 2], False),
        ({"kind": "kept", "run": "earlier"}, "auto", [0, 1, 2], True),
        ({"kind": "kept", "run": "earlier"}, "auto", [0, 1, 0], False),
    ],
)
def test_which_runs_have_codes_of_their_own(tmp_path, quantizer, rule, last, own):
    ids = recipe(tmp_path, vectors="v.npy", quantizer=quantizer, collisions=rule)
    sids = np.array([[0, code // 2, code] for code in last], np.int32)
    assert has_own_codes(ids, Grid(), sids) is own
    assert not has_own_codes(ids, Grid(), sids[:, :2]), (
        "a quantizer whose paths are unique has no further level"
    )


def test_neighbours_are_found_by_what_a_new_item_has_of_itself(tmp_path):
    from safetensors.numpy import save_file

    fused = recipe(tmp_path, inputs=["text", "collaborative"])
    assert own_part(tmp_path, fused, {}) is None
    parts = {"text": at(1, 2, 5), "collaborative": np.eye(3, 2, dtype=np.float32)}
    fusion = fit_fusion(parts, {name: np.zeros(3, bool) for name in parts}, fused.ids.fusion, seed=0)
    (tmp_path / "ids").mkdir()
    save_file(fusion.tensors(), tmp_path / "ids" / "fusion.safetensors")
    assert own_part(tmp_path, fused, {}).tolist() == [True] * 3 + [False] * 2
