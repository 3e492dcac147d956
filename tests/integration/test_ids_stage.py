"""The ids stage on items made here: what it writes, twice the same."""

import numpy as np
import polars as pl
import pytest

from llmrec.artifacts import StageContext
from llmrec.collaborative import systems
from llmrec.config import Recipe
from llmrec.config.registry import TOKENIZERS
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.ids import load
from llmrec.ids.codecs.store import load_codec
from llmrec.ids.exchange import write_index
from llmrec.stages import ids as ids_stage


@pytest.fixture
def catalogue(tmp_path):
    """A run folder with 120 items that 30 users walk through, and a file of vectors that come in threes."""
    rng = np.random.default_rng(0)
    items = [f"item-{i}" for i in range(120)]
    (tmp_path / "run/data").mkdir(parents=True)
    shelves = [["Shop", f"Shelf {i // 12}"] for i in range(120)]
    table = pl.DataFrame({"item_id": items, "title": items, "categories": shelves})
    table.write_parquet(tmp_path / "run/data/items.parquet")
    walks = [(f"u{user}", items[(5 * user + step) % 120], step) for user in range(30) for step in range(8)]
    log = pl.DataFrame(walks, schema=["user_id", "item_id", "time"], orient="row")
    log.with_columns(split=pl.lit("train")).write_parquet(tmp_path / "run/data/interactions.parquet")
    np.save(tmp_path / "vectors.npy", np.repeat(rng.standard_normal((40, 12)), 3, axis=0))
    return tmp_path, items


def run_stage(root, name="run", **ids):
    settings = {"vectors": str(root / "vectors.npy")} | ids
    recipe = Recipe.model_validate({"name": "t", "data": {"card": "t"}, "ids": settings})
    work = root / name
    (work / "ids").mkdir(parents=True, exist_ok=True)
    ids_stage.run(StageContext(recipe, root / "run", work, root))
    return work


def test_ids_are_unique_and_in_catalogue_order(catalogue):
    root, items = catalogue
    item_ids, sids = load.load_sids(run_stage(root))
    assert item_ids == items
    assert sids.shape == (120, 4) and len(np.unique(sids, axis=0)) == 120
    assert sids[:, 3].max() >= 2  # items come in threes


def test_codebooks_cover_the_ids_and_the_report_tells(catalogue):
    root, _ = catalogue
    run = run_stage(root, quantizer={"levels": 2, "codes": 16})
    _, sids = load.load_sids(run)
    books = load.load_codebooks(run)
    report = read_json(run / "ids/report.json")
    assert [level["codes"] for level in report["levels"]] == [len(book) for book in books]
    assert report["levels"][0]["codes"] == 16 and books[0].shape == (16, 12)
    assert (sids.max(axis=0) < [len(book) for book in books]).all()
    assert report["collisions"]["before"]["items"] == 120 and report["collisions"]["after"] == 0
    assert report["items"] == 120 and report["encoder"]["dim"] == 12


def test_the_same_input_gives_the_same_bytes(catalogue):
    root, _ = catalogue
    first, second = run_stage(root, "one"), run_stage(root, "two")
    for name in ("sids.parquet", "codebooks.safetensors", "report.json"):
        assert (first / "ids" / name).read_bytes() == (second / "ids" / name).read_bytes()


def test_more_codes_than_items_falls_back_and_says_so(catalogue, capsys):
    root, _ = catalogue
    run = run_stage(root, quantizer={"codes": 256})
    assert "256 codes for 120 items; using 120" in capsys.readouterr().err
    report = read_json(run / "ids/report.json")
    assert report["quantizer"]["codes"] == 256 and report["levels"][0]["codes"] == 120


def test_a_single_item_has_an_id(tmp_path):
    (tmp_path / "run/data").mkdir(parents=True)
    pl.DataFrame({"item_id": ["only"], "title": ["Only"]}).write_parquet(tmp_path / "run/data/items.parquet")
    log = pl.DataFrame({"user_id": ["u"], "item_id": ["only"], "time": [0], "split": ["train"]})
    log.write_parquet(tmp_path / "run/data/interactions.parquet")
    np.save(tmp_path / "vectors.npy", np.ones((1, 3)))
    items, sids = load.load_sids(run_stage(tmp_path))
    assert items == ["only"] and sids.tolist() == [[0, 0, 0, 0]]


FAST = {"hidden": [16], "latent": 4, "epochs": 3}
QUANTIZERS = {
    **{kind: {"levels": 2, "codes": 16} for kind, path in TOKENIZERS.shipped.items() if "quantizers" in path},
    **{kind: {"levels": 2, "codes": 16} | FAST for kind in ("rqvae", "lc_rec", "letter", "cost")},
    "vq": {"codes": 16},
}
INDEXERS = {
    "random": {"levels": 2, "codes": 16},
    "sequential": {"levels": 2, "codes": 16},
    **{kind: {} for kind in ("collaborative", "category", "hybrid", "single")},
}


@pytest.fixture
def collaborative(monkeypatch):
    """Stands in for the SASRec of the stage before, whose own tests train it."""
    drawn = np.random.default_rng(1).standard_normal((120, 6)).astype(np.float32)
    monkeypatch.setattr(systems, "item_vectors", lambda run, items: drawn)


@pytest.mark.parametrize("rule", ["auto", "extra_level", "own_code", "sinkhorn", "next_best"])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_quantizer_gives_unique_ids_under_every_rule(catalogue, collaborative, kind, rule):
    root, _ = catalogue
    quantizer = {"kind": kind} | QUANTIZERS[kind]
    run = run_stage(root, quantizer=quantizer, collisions=rule)
    _, sids = load.load_sids(run)
    sizes = load.load_sizes(run)
    assert len(np.unique(sids, axis=0)) == 120 and (sids < sizes).all()
    assert [len(book) for book in load.load_codebooks(run)] == sizes
    vectors = np.load(root / "vectors.npy").astype(np.float32)
    codec = load_codec(run)
    assert np.isfinite(codec.reconstruct(sids[:, : codec.levels])).all()
    assert codec.encode(vectors).shape == (120, codec.levels)


@pytest.mark.parametrize("kind", INDEXERS)
def test_every_indexer_gives_unique_ids_and_needs_no_vectors(catalogue, kind):
    root, _ = catalogue
    run = run_stage(root, quantizer={"kind": kind} | INDEXERS[kind], vectors=str(root / "absent.npy"))
    _, sids = load.load_sids(run)
    assert len(np.unique(sids, axis=0)) == 120 and (sids < load.load_sizes(run)).all()
    assert load.load_codebooks(run) is None
    with pytest.raises(UserError, match="made without vectors"):
        load_codec(run)


def test_lc_rec_takes_one_more_level_where_its_own_have_no_room(catalogue, capsys):
    root, _ = catalogue
    run = run_stage(root, quantizer={"kind": "lc_rec", "levels": 1, "codes": 16} | FAST)
    _, sids = load.load_sids(run)
    assert sids.shape[1] == 2 and len(np.unique(sids, axis=0)) == 120
    assert "sinkhorn finds no free path for 120 items with [16] codes" in capsys.readouterr().err


def test_an_index_made_elsewhere_comes_back_the_same(catalogue):
    root, items = catalogue
    made = run_stage(root)
    _, sids = load.load_sids(made)
    write_index(items, sids, root / "shop.index.json")
    run = run_stage(root, "again", quantizer={"kind": "index", "path": str(root / "shop.index.json")})
    np.testing.assert_array_equal(load.load_sids(run)[1], sids)


def test_textual_ids_are_distinct_texts(catalogue):
    root, items = catalogue
    run = run_stage(root, quantizer={"kind": "title", "words": 1})
    item_ids, texts = load.load_texts(run)
    assert item_ids == items and len(set(texts)) == 120
    assert read_json(run / "ids/report.json")["words"]["most"] >= 1


def test_trie_order_sorts_by_semantic_id(catalogue):
    root, _ = catalogue
    items, sids = load.load_sids(run_stage(root))
    ordered, rows = load.sort_in_trie_order(items, sids)
    assert rows.tolist() == sorted(sids.tolist())
    assert dict(zip(ordered, rows.tolist(), strict=True)) == dict(zip(items, sids.tolist(), strict=True))


def test_external_names_the_files_outside_the_run(catalogue):
    root, _ = catalogue
    (root / "encoder").mkdir()
    (root / "encoder/config.json").write_text("{}")
    recipe = {"name": "t", "data": {"card": "t"}}
    own = Recipe.model_validate(recipe | {"ids": {"vectors": str(root / "vectors.npy")}})
    local = Recipe.model_validate(recipe | {"ids": {"encoder": {"model": str(root / "encoder")}}})
    assert ids_stage.external(own) == [root / "vectors.npy"]
    assert ids_stage.external(local) == [root / "encoder/config.json"]
    assert ids_stage.external(Recipe.model_validate(recipe)) == []


def test_reading_ids_before_the_stage_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no finished ids stage there"):
        load.load_sids(tmp_path)
