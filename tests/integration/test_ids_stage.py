"""The ids stage on items made here: what it writes, twice the same."""

import numpy as np
import polars as pl
import pytest

from llmrec.artifacts import StageContext, read_json
from llmrec.config import Recipe
from llmrec.errors import UserError
from llmrec.ids import load, stage


@pytest.fixture
def catalogue(tmp_path):
    """A run folder with 120 items, and a file of their vectors, in which items come in threes."""
    rng = np.random.default_rng(0)
    items = [f"item-{i}" for i in range(120)]
    (tmp_path / "run/data").mkdir(parents=True)
    pl.DataFrame({"item_id": items, "title": items}).write_parquet(tmp_path / "run/data/items.parquet")
    np.save(tmp_path / "vectors.npy", np.repeat(rng.standard_normal((40, 12)), 3, axis=0))
    return tmp_path, items


def run_stage(root, name="run", **ids):
    settings = {"vectors": str(root / "vectors.npy")} | ids
    recipe = Recipe.model_validate({"name": "t", "data": {"card": "t"}, "ids": settings})
    work = root / name
    (work / "ids").mkdir(parents=True, exist_ok=True)
    stage.run(StageContext(recipe, root / "run", work, root))
    return work


def test_ids_are_unique_and_in_catalogue_order(catalogue):
    root, items = catalogue
    found, sids = load.load_sids(run_stage(root))
    assert found == items
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
    quantizer = read_json(run / "ids/report.json")["quantizer"]
    assert (quantizer["requested"], quantizer["codes"]) == (256, 120)


def test_a_single_item_has_an_id(tmp_path):
    (tmp_path / "run/data").mkdir(parents=True)
    pl.DataFrame({"item_id": ["only"], "title": ["Only"]}).write_parquet(tmp_path / "run/data/items.parquet")
    np.save(tmp_path / "vectors.npy", np.ones((1, 3)))
    items, sids = load.load_sids(run_stage(tmp_path))
    assert items == ["only"] and sids.tolist() == [[0, 0, 0, 0]]


def test_trie_order_sorts_by_semantic_id(catalogue):
    root, _ = catalogue
    items, sids = load.load_sids(run_stage(root))
    ordered, rows = load.trie_order(items, sids)
    assert rows.tolist() == sorted(sids.tolist())
    assert dict(zip(ordered, rows.tolist(), strict=True)) == dict(zip(items, sids.tolist(), strict=True))


def test_external_names_the_files_outside_the_run(catalogue):
    root, _ = catalogue
    (root / "encoder").mkdir()
    (root / "encoder/config.json").write_text("{}")
    recipe = {"name": "t", "data": {"card": "t"}}
    own = Recipe.model_validate(recipe | {"ids": {"vectors": str(root / "vectors.npy")}})
    local = Recipe.model_validate(recipe | {"ids": {"encoder": {"model": str(root / "encoder")}}})
    assert stage.external(own) == [root / "vectors.npy"]
    assert stage.external(local) == [root / "encoder/config.json"]
    assert stage.external(Recipe.model_validate(recipe)) == []


def test_reading_before_the_stage_ran(tmp_path):
    with pytest.raises(UserError, match="run the stage ids first"):
        load.load_sids(tmp_path)
