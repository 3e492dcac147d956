"""`llmrec ids --compare`, and IDs that come and go as index files, on the shop's data."""

import json
import shlex

import polars as pl
import pytest
import shop as small_shop

from llmrec.cli import main
from llmrec.config import Recipe, load_recipe
from llmrec.files import read_json
from llmrec.ids.compare import recipe_for


@pytest.fixture
def open_shop(tmp_path, monkeypatch):
    """The shop's folder as the current one, its runs below it."""
    small_shop.open_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    return tmp_path


def test_kinds_are_compared_on_the_same_data_and_no_ids_are_kept(open_shop, capsys):
    kinds = "rq_kmeans,random,category"
    assert main(["ids", "recipe.yaml", "--compare", kinds, "--out", "figures.json", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in kinds.split(","))
    figures = read_json(open_shop / "figures.json")
    assert figures["command"] == f"llmrec ids recipe.yaml --compare {kinds} seed=3"
    assert figures["machine"]["versions"]["llmrec"] and figures["seed"] == figures["figures"]["seed"] == 3
    quantized, random, category = figures["figures"]["kinds"]
    for row in (quantized, random):
        assert row["collisions"]["after"] == 0 and row["items"] == 40
        assert [level["codes"] for level in row["levels"][:2]] == [8, 8]
        assert row["neighbours"]["sample"] == 40
    assert quantized["neighbours"]["recall"] > random["neighbours"]["recall"]
    assert len(quantized["reconstruction_error"]) == 2 and random["reconstruction_error"] is None
    assert category["kind"] == "category" and "categories" in category["error"]
    assert category["error"] in " ".join(printed.split())
    assert (open_shop / "runs/shop/data/manifest.json").is_file()
    assert not (open_shop / "runs/shop/ids").exists()


def test_the_same_seed_gives_the_same_figures(open_shop):
    def figures(out):
        assert main(["ids", "recipe.yaml", "--compare", "rq_kmeans,lsh,single", "--out", out]) == 0
        return [row | {"seconds": None} for row in read_json(open_shop / out)["figures"]["kinds"]]

    assert figures("one.json") == figures("two.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "rq_kmean"], "no kind 'rq_kmean' (did you mean 'rq_kmeans'?)"),
        (["--compare", "title"], "title gives texts"),
        (["--compare", "random,random"], "each once"),
        (["--compare", ","], "name kinds"),
        (["--out", "x.json"], "--out: writes the figures of --compare"),
        (["--compare", "random", "--dry-run"], "--dry-run"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_work(open_shop, capsys, arguments, message):
    assert main(["ids", "recipe.yaml", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (open_shop / "runs").exists()


def test_a_kind_that_lacks_a_setting_is_a_row_that_says_so(open_shop, capsys):
    assert main(["ids", "recipe.yaml", "--compare", "index,random"]) == 0
    assert "ids.quantizer.path: required, but missing" in " ".join(capsys.readouterr().out.split())


def test_levels_and_codes_carry_over_where_they_mean_the_same(open_shop):
    recipe = load_recipe("recipe.yaml", ["ids.quantizer.levels=4", "ids.quantizer.codes=16"])

    def settings(kind, base=recipe):
        return recipe_for(base, kind).ids.quantizer

    assert recipe_for(recipe, "rq_kmeans") == recipe
    assert (settings("rqvae").levels, settings("rqvae").codes) == (4, 16)
    assert settings("vq").codes == 16
    fresh = Recipe.model_validate(
        {"name": "x", "data": {"card": "x"}, "ids": {"quantizer": {"kind": "category"}}}
    )
    assert settings("category") == fresh.ids.quantizer
    assert settings("rqvae", fresh).levels == 3


def test_ids_leave_as_an_index_file_and_the_data_comes_back(open_shop, capsys):
    assert main(["ids", "recipe.yaml"]) == 0
    assert main(["export-index", "shop", "out", "--name", "things"]) == 0
    sids = pl.read_parquet(open_shop / "runs/shop/ids/sids.parquet")
    index = json.loads((open_shop / "out/things.index.json").read_text())
    for item, sid in sids.iter_rows():
        assert index[item] == [f"<{letter}_{code}>" for letter, code in zip("abc", sid, strict=True)]
    capsys.readouterr()
    assert main(["import-index", "out", "back"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main(["ids", "recipe.yaml", *words[words.index("RECIPE") + 1 :], "run=back"]) == 0
    assert pl.read_parquet(open_shop / "runs/back/ids/sids.parquet").equals(sids)
    first, second = (
        pl.read_parquet(open_shop / f"runs/{run}/data/items.parquet") for run in ("shop", "back")
    )
    assert second.select("item_id", "title").equals(first.select("item_id", "title"))
    logs = [
        pl.read_parquet(open_shop / f"runs/{run}/data/interactions.parquet")
        .select(pl.col("user_id", "item_id", "split").cast(pl.String))
        .rows()
        for run in ("shop", "back")
    ]
    assert logs[0] == logs[1]


def test_a_run_without_ids_has_nothing_to_export(open_shop, capsys):
    assert main(["data", "recipe.yaml"]) == 0
    assert main(["export-index", "shop", "out"]) == 2
    assert "no finished ids stage there" in capsys.readouterr().err
    assert not (open_shop / "out").exists()


def test_own_vectors_are_read_once_for_all_kinds(open_shop, monkeypatch):
    from llmrec.ids.inputs import signals

    reads = []
    real = signals.read_vectors
    monkeypatch.setattr(signals, "read_vectors", lambda *a, **k: reads.append(a) or real(*a, **k))
    assert main(["ids", "recipe.yaml", "--compare", "rq_kmeans,hierarchical,vq"]) == 0
    assert len(reads) == 1


def test_kinds_without_vectors_read_none(open_shop):
    (open_shop / "vectors.npy").unlink()
    assert main(["ids", "recipe.yaml", "--compare", "random,sequential", "--out", "figures.json"]) == 0
    rows = read_json(open_shop / "figures.json")["figures"]["kinds"]
    assert [row["neighbours"] for row in rows] == [None, None]
