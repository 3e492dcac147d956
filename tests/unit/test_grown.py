"""Checkpoints with tokens for items that came after training: their rows, their files, and the lists they give."""

from dataclasses import replace
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch
from checkpoints import save_base
from tiny_base import make_base, train

from llmrec.catalogue import grown
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.changes import Changes, no_changes, read_changes, write_changes
from llmrec.catalogue.grown import Growth, new_rows, read_residuals, write_grown_base
from llmrec.config import SftConfig
from llmrec.decode import reference
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.custom_generate import tree_generate
from llmrec.errors import ChangedCatalogueError, ChangedRunError, UserError
from llmrec.files import write_json
from llmrec.ids.neighbours import NEAREST, Kin, find_kin
from llmrec.models import modes
from llmrec.models.checkpoint import load_checkpoint, load_tokenizer
from llmrec.models.vocabulary import embedding_matrices, embedding_weight
from llmrec.recommend.recommender import Recommender

ITEMS = [f"item-{i}" for i in range(12)]
SIDS = np.array([[i // 3, i] for i in range(12)], np.int32)
WIDE = {"hidden": 64, "intermediate": 128, "sizes": (4, 12)}  # 4-bit layers need multiples of 64
NEAR = [Kin(np.array([0, 1, 2]), np.array([0, 1])), Kin(np.array([3, 4, 5]), np.array([5, 4]))]
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


PROMPTS = {
    "history": 5,
    "template": {"id": "sids", "text": "{% for item in history %}{{ item.sid }}{% endfor %}", "end": False},
}


def tune(run, mode="full", tied=True, dtype="float32"):
    """Train a tiny base in which each item has a code of its own, and save it as a run has it."""
    model, tokenizer, vocabulary = make_base(tied, **WIDE, dtype=dtype)
    sft = SftConfig.model_validate({"mode": mode, "lora": {"rank": 4}})
    wrapped, _ = train(modes.wrap(model, sft, vocabulary, run), vocabulary, SIDS)
    base = modes.split(wrapped, sft, vocabulary, run / "sft", run)
    save_base(run / "base", base, tokenizer, vocabulary, ITEMS, SIDS, PROMPTS)
    return run


def grow(run, names, first=0, kin=NEAR):
    """Add items under the clusters 0, 1, 0, 1, … as `llmrec items --add` does."""
    trained = Catalogue.load(run / "base", as_trained=True)
    changes = read_changes(run, trained.items) or no_changes()
    code = len(ITEMS) + len(changes.added)
    sids = np.array([[place % 2, code + place] for place in range(len(names))], np.int32)
    source = trained.with_changes(changes).checkpoint(run / "base")
    growth = Growth(source, sids, kin, np.full((len(names), 3), first, np.float32))
    rows = pl.DataFrame(
        {"item_id": names, "sid": sids.tolist(), "title": names, "token": growth.token_ids},
        schema_overrides={"sid": pl.List(pl.Int32)},
    )
    changes = Changes(pl.concat([changes.added, rows], how="diagonal_relaxed"), changes.retired)
    write_grown_base(run, trained, changes, growth)
    write_changes(run, trained.items, changes)
    return Catalogue.load(run / "base")


def opened(run, catalogue, adapter=False):
    folder = catalogue.checkpoint(run / "base")
    return load_checkpoint(
        folder, load_tokenizer(folder), catalogue.vocabulary, run / "sft" if adapter else None
    )


def prompts_of(catalogue, histories):
    tokens = catalogue.item_tokens()
    return [[token for item in history for token in tokens[item]] for history in histories]


HISTORIES = [["item-1", "item-5"], ["item-7", "item-2", "item-11"], ["item-3"]]


@TIED
@pytest.mark.parametrize("mode", ["full", "sid_rows", "lora", "qlora"])
def test_new_tokens_have_rows_of_their_neighbours_and_nothing_else_changes(tmp_path, tied, mode):
    if mode == "qlora":
        pytest.importorskip("bitsandbytes")
    tune(tmp_path, mode, tied)
    before = {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()}
    trained = Catalogue.load(tmp_path / "base")
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    assert {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()} == before
    adapter = mode in ("lora", "qlora")
    old, new = opened(tmp_path, trained, adapter), opened(tmp_path, catalogue, adapter)
    own = trained.tokens[:, 1]
    ids = catalogue.tokens_of(["new-0", "new-1"], "items")[:, 1]
    assert len(embedding_matrices(new.model)) == (1 if tied else 2)
    for was, now in zip(embedding_matrices(old.model), embedding_matrices(new.model), strict=True):
        assert torch.equal(now[: min(ids)], was[: min(ids)])
        assert torch.equal(now[ids], new_rows(was[own], NEAR).to(now.dtype))
    prompt = torch.tensor(prompts_of(trained, HISTORIES[1:2]))
    with torch.no_grad():
        logits, grown = old.model(input_ids=prompt).logits, new.model(input_ids=prompt).logits
    torch.testing.assert_close(grown[..., : min(ids)], logits[..., : min(ids)])


def test_a_row_is_its_siblings_mean_and_what_sets_the_nearest_apart_at_their_length():
    rows = torch.tensor([[0.0, 5], [0, 9], [3, 7], [-3, 7]])
    everybody, mean = np.arange(4), torch.tensor([0.0, 7])
    found = new_rows(rows, [Kin(everybody, np.array(near)) for near in ([0], [0, 2], [0, 1])])
    both = torch.tensor([1.5, -1.0])
    expected = [
        rows[0],
        mean + both * 2.5 / both.norm(),
        mean,
    ]  # one, two of lengths 2 and 3, two that cancel out
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(new_rows(rows, [Kin(np.array([2]), np.array([2]))])[0], rows[2])


def test_kin_are_the_nearest_on_the_longest_prefix_that_any_item_has():
    paths = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 0]])
    vectors = np.array([[1, 0], [0, 1], [5, 5], [1, 0], [9, 1], [0, 1]], np.float32)
    new = np.array([[0, 0], [0, 7], [1, 0], [7, 0]])
    found = find_kin(np.array([[0, 3], [2, 2], [1, 0.1], [1, 1]], np.float32), new, vectors, paths)
    assert [kin.siblings.tolist() for kin in found] == [[0, 1], [0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert [kin.nearest.tolist() for kin in found] == [[1], [2, 0], [4, 3], [2, 4, 0]]
    crowd = find_kin(vectors[:1], new[:1], np.tile(vectors, (9, 1)), np.zeros((54, 2), int))
    assert len(crowd[0].nearest) == NEAREST


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_matrices_grow_once_their_spare_rows_are_used_up(tmp_path, dtype):
    tune(tmp_path, dtype=dtype)
    start = embedding_weight(opened(tmp_path, Catalogue.load(tmp_path / "base")).model).detach()
    many = [Kin(np.arange(12), np.array([item % 12])) for item in range(50)]
    first = grow(tmp_path, [f"new-{i}" for i in range(2)])
    second = grow(tmp_path, [f"more-{i}" for i in range(50)], 1, many)
    spare = len(start) - int(first.token_ids.max()) - 1
    assert 0 < spare < 50, "some of the new tokens have spare rows, others have none"
    checkpoint = opened(tmp_path, second)
    weight = embedding_weight(checkpoint.model)
    assert weight.dtype == getattr(torch, dtype) and len(weight) == len(start) + 64
    assert torch.equal(
        weight[: int(first.token_ids.max()) + 1][: len(start) - spare - 2], start[: -spare - 2]
    )
    copied = weight[second.tokens_of([f"more-{i}" for i in range(50)], "items")[:, 1]]
    torch.testing.assert_close(copied, start[first.tokens[:12, 1]].repeat(5, 1)[:50])
    unused = weight[int(second.token_ids.max()) + 1 :]
    assert len(unused) and (unused == weight[checkpoint.pad_id]).all()


def test_a_second_addition_keeps_the_first_and_takes_its_folder_away(tmp_path):
    tune(tmp_path)
    first = grow(tmp_path, ["new-0", "new-1"])
    rows = embedding_weight(opened(tmp_path, first).model)[first.tokens_of(["new-0", "new-1"], "x")[:, 1]]
    assert (tmp_path / "catalogue/base-2/model.safetensors").is_file()
    second = grow(tmp_path, ["new-2", "new-3"], 7)
    assert [path.name for path in (tmp_path / "catalogue").glob("*base*")] == ["base-4"]
    again = embedding_weight(opened(tmp_path, second).model)[second.tokens_of(["new-0", "new-1"], "x")[:, 1]]
    assert torch.equal(again, rows)
    assert read_residuals(tmp_path / "catalogue/base-4")[:, 0].tolist() == [0, 0, 7, 7]
    assert second.items == [*ITEMS, "new-0", "new-2", "new-1", "new-3"]
    assert second.sids[12:].tolist() == [[0, 12], [0, 14], [1, 13], [1, 15]]


def test_an_addition_reads_the_tokenizer_once(tmp_path):
    tune(tmp_path)
    with mock.patch.object(grown, "load_tokenizer", wraps=load_tokenizer) as reads:
        grow(tmp_path, ["new-0", "new-1"])
    assert reads.call_count == 1


def finish_run(folder):
    """A tuned model with what else a finished run has."""
    tune(folder)
    (folder / "recipe.yaml").write_text("data: {mask_seen: true}")
    (folder / "sft").mkdir(exist_ok=True)
    write_json(folder / "sft/manifest.json", {"outputs": {}})
    (folder / "data").mkdir()
    pl.DataFrame({"item_id": ITEMS, "title": ITEMS}).write_parquet(folder / "data/items.parquet")


def test_an_opened_run_answers_with_its_own_catalogue_or_says_to_open_it_again(tmp_path):
    finish_run(tmp_path)
    grow(tmp_path, ["new-0", "new-1"])
    reads, waits = Recommender.load(tmp_path), Recommender.load(tmp_path)
    before = reads.recommend(["item-1", "new-0"], k=12)
    grow(tmp_path, ["new-2", "new-3"])
    assert reads.recommend(["item-1", "new-0"], k=12) == before
    with pytest.raises(ChangedCatalogueError, match=r"items were added .* open it again"):
        waits.recommend(["item-1", "new-0"])
    found = Recommender.load(tmp_path).recommend(["item-1", "new-0"], k=14)
    assert {"new-1", "new-2", "new-3"} <= {row.item_id for row in found}


def test_a_run_that_is_trained_again_must_be_opened_again(tmp_path):
    finish_run(tmp_path)
    reads, waits = Recommender.load(tmp_path), Recommender.load(tmp_path)
    before = reads.recommend(["item-1"], k=12)
    tune(tmp_path)
    assert reads.recommend(["item-1"], k=12) == before  # its weights are read
    with pytest.raises(ChangedRunError, match=r"base/model.safetensors is not what it was .* open it again"):
        waits.recommend(["item-1"])
    with pytest.raises(ChangedRunError):
        reads.rank([["item-1"]], dtype="bfloat16")  # these weights are not
    Recommender.load(tmp_path).recommend(["item-1"])


def test_an_addition_that_ends_early_leaves_the_old_state(tmp_path):
    tune(tmp_path)
    first = grow(tmp_path, ["new-0", "new-1"])
    trained = Catalogue.load(tmp_path / "base", as_trained=True)
    changes = read_changes(tmp_path, trained.items)
    sids = np.array([[0, 14], [0, 15]], np.int32)
    growth = Growth(tmp_path / "catalogue/base-2", sids, NEAR, np.zeros((2, 3), np.float32))
    late = changes.added.with_columns(
        item_id=pl.Series(["late-0", "late-1"]),
        sid=pl.Series(sids.tolist(), dtype=pl.List(pl.Int32)),
        token=pl.Series(growth.token_ids, dtype=pl.Int64),
    )
    write_grown_base(tmp_path, trained, Changes(pl.concat([changes.added, late]), []), growth)
    here = Catalogue.load(tmp_path / "base")
    assert here.items == first.items and here.checkpoint(tmp_path / "base").name == "base-2"
    assert opened(tmp_path, here)
    assert grow(tmp_path, ["new-2", "new-3"]).items[12:] == ["new-0", "new-2", "new-1", "new-3"]


@TIED
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_lists_of_trained_items_are_the_same_but_for_the_softmax(tmp_path, tied, mode):
    """And the added items are in them; the last level's denominators alone are others, one for each cluster."""
    tune(tmp_path, mode, tied)
    trained = Catalogue.load(tmp_path / "base")
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    old, new = (opened(tmp_path, each, mode == "lora") for each in (trained, catalogue))
    prompts = prompts_of(trained, HISTORIES)
    before = TreeEngine(old.model, trained.trie, trained.token_ids).search(prompts, 12)
    after = TreeEngine(new.model, catalogue.trie, catalogue.token_ids).search(prompts, 14)
    clusters = catalogue.sids[:, 0]
    for user in range(len(HISTORIES)):
        assert {12, 13} <= set(after.items[user].tolist()), "both added items come out"
        was = dict(zip(before.items[user].tolist(), before.scores[user].tolist(), strict=True))
        now = dict(zip(after.items[user].tolist(), after.scores[user].tolist(), strict=True))
        for cluster in range(4):
            lost = np.array([was[item] - now[item] for item in range(12) if clusters[item] == cluster])
            assert 0 < abs(lost[0]) < 1, (
                "the spare rows before and the new ones weigh differently, but little"
            )
            np.testing.assert_allclose(lost, lost[0], atol=1e-4)


def test_all_engines_give_the_same_lists_on_a_grown_checkpoint(tmp_path):
    tune(tmp_path)
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    model, pad = opened(tmp_path, catalogue).model, 0
    prompts = prompts_of(catalogue, [*HISTORIES, ["new-0", "item-1"], ["new-1"]])
    tree = TreeEngine(model, catalogue.trie, catalogue.token_ids, pad).search(prompts, 14)
    oracle = reference.search(
        model, catalogue.sids, catalogue.vocabulary.token_ids, prompts, 14, [[]] * len(prompts), pad
    )
    np.testing.assert_allclose(tree.scores, oracle.scores, atol=1e-4)
    assert (tree.items == oracle.items).all()
    decode = tree_generate(catalogue.trie, catalogue.token_ids)
    for user, prompt in enumerate(prompts):
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=14,
            num_return_sequences=14,
            max_new_tokens=2,
            pad_token_id=pad,
            custom_generate=decode,
        )
        assert torch.equal(tokens[:, len(prompt) :], catalogue.tokens[torch.from_numpy(tree.items[user])])


def test_a_grown_catalogue_stands_alone_once_it_is_built_anew(tmp_path):
    tune(tmp_path)
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    alone = Catalogue.load(catalogue.checkpoint(tmp_path / "base"), as_trained=True)
    assert sorted(alone.items) == sorted(catalogue.items) and not alone.has_changed
    assert alone.item_tokens() == catalogue.item_tokens()
    with pytest.raises(ValueError, match="as it was trained"):
        catalogue.save(tmp_path / "other")


def test_retired_items_with_tokens_of_their_own_stay_in_histories(tmp_path):
    tune(tmp_path)
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    changes = read_changes(tmp_path, ITEMS)
    write_changes(tmp_path, ITEMS, replace(changes, retired=["new-0", "item-4"]))
    after = Catalogue.load(tmp_path / "base")
    assert after.item_tokens() == catalogue.item_tokens() and after.count == 12
    assert opened(tmp_path, after)


def test_a_grown_checkpoint_that_is_gone_is_missed(tmp_path):
    tune(tmp_path)
    catalogue = grow(tmp_path, ["new-0", "new-1"])
    (tmp_path / "catalogue/base-2/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"base-2: the checkpoint cannot be loaded: no \*\.safetensors"):
        opened(tmp_path, catalogue)
