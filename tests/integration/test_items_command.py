"""Items added to a trained run and retired from it, through the command line, without training."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
import shop as small_shop

from llmrec import Recommender
from llmrec.config import DecodeConfig
from llmrec.errors import UserError
from llmrec.ids.load import load_sids, load_sizes

NEW = [f"n{item}" for item in range(100)]
RETIRED = ["i3", "n7"]
HISTORIES = [["i1", "i2"], ["n5", "i3"], ["n7", "n8", "i4"]]


@pytest.fixture(scope="module")
def grown(shop, lora):
    """A copy of a trained run with 100 items added in two calls, and two retired; and what was printed."""
    folder, _ = shop
    shutil.copytree(lora, folder / "runs" / "grown")
    printed = []
    for names in (NEW[:60], NEW[60:], None):
        options = (
            ["--retire", ",".join(RETIRED)] if names is None else small_shop.write_new_items(folder, names)
        )
        done = small_shop.run(folder, "items", "grown", *options)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return folder / "runs" / "grown", printed


@pytest.fixture(scope="module")
def recommender(grown):
    return Recommender.load(grown[0])


def files(run):
    """Every file of a run but for the changes and the lock, with its content."""
    found = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    changes = run / "catalogue"
    return {path.relative_to(run): path.read_bytes() for path in found if changes not in path.parents}


def test_a_hundred_new_items_are_decoded_without_training(grown, recommender, lora):
    run, printed = grown
    assert files(run) == files(lora)
    assert "new items: 60; retired items that return: 0" in printed[0] and "2 items retired" in printed[2]
    assert "138 items can be recommended" in printed[2]
    expected = [item for item in NEW if item != "n7"]
    for history in HISTORIES:
        found = recommender.recommend(history, k=100, allow=NEW, mask_seen=False)
        assert sorted(row.item_id for row in found) == sorted(expected)
        assert {row.title for row in found} == {f"Novelty & {item}" for item in expected}
        assert np.isfinite([row.score for row in found]).all()


def test_new_items_compete_with_the_old_ones(recommender):
    top = recommender.rank(HISTORIES, DecodeConfig(width=138), mask_seen=False)
    assert (top.items >= 0).all()
    names = [{recommender.items[item] for item in row} for row in top.items.tolist()]
    everything = {f"i{item}" for item in range(small_shop.ITEMS)} | set(NEW)
    assert names == [everything - set(RETIRED)] * len(HISTORIES)
    order = [[recommender.items[item] for item in row] for row in top.items.tolist()]
    np.testing.assert_allclose(recommender.score(HISTORIES, order), top.scores, atol=1e-4)


def test_both_engines_give_the_same_lists_with_changes(recommender):
    tree = recommender.rank(HISTORIES, DecodeConfig(width=10))
    oracle = recommender.rank(HISTORIES, DecodeConfig(width=10, engine="generate"))
    np.testing.assert_allclose(tree.scores, oracle.scores, atol=1e-4)
    assert (tree.items == oracle.items).all()


def test_retired_items_never_come_out_but_stand_in_histories_as_before(recommender, lora):
    assert recommender.recommend(["i1"], k=5, allow=RETIRED) == []
    before = Recommender.load(lora)
    assert recommender.run.encode_prompts([["i1", "i3"]]) == before.run.encode_prompts([["i1", "i3"]])
    both = [["i1", "i2", "i3"]], [["i3", "i9"]]
    np.testing.assert_allclose(recommender.score(*both), before.score(*both), atol=1e-4)


def test_the_catalogue_as_trained_is_still_there(grown, lora):
    trained = Recommender.load(grown[0], as_trained=True)
    assert trained.items == Recommender.load(lora).items
    assert trained.recommend(["i1"], k=1, allow=["i3"])[0].item_id == "i3"
    with pytest.raises(UserError, match="'n5' is not in the catalogue"):
        trained.recommend(["n5"])


def test_semantic_ids_are_unique_and_known_to_the_model(grown, recommender):
    added = pl.read_parquet(grown[0] / "catalogue" / "added.parquet")
    assert added["item_id"].to_list() == NEW
    sids = np.concatenate([np.load(grown[0] / "base" / "sids.npy"), np.array(added["sid"].to_list())])
    assert len(np.unique(sids, axis=0)) == small_shop.ITEMS + len(NEW)
    assert (sids < recommender.checkpoint.vocabulary.codes).all()
    assert added["distance"].arg_max() in (0, 60)


def test_recommend_prints_titles_of_new_items(grown):
    run, _ = grown
    out = small_shop.run(run.parents[1], "recommend", "grown", "--history", "n5,n6", "-k", "138").stdout
    assert "Novelty & n99" in out and "n7\n" not in out and "Thing 3 " not in out


def test_a_retired_item_comes_back_under_its_own_semantic_id(grown):
    run, _ = grown
    folder = run.parents[1]
    shutil.copytree(run, folder / "runs" / "again")
    tokens = Recommender.load(folder / "runs" / "again").run.catalogue.item_tokens()
    (folder / "back.csv").write_text("item_id,title\nn7,\ni3,Thing\n")
    np.save(folder / "back.npy", np.zeros((2, 16), np.float32))
    done = small_shop.run(folder, "items", "again", "--add", "back.csv", "--vectors", "back.npy")
    assert done.returncode == 0, done.stderr
    assert "new items: 0; retired items that return: 2" in done.stdout and "140 items" in done.stdout
    after = Recommender.load(folder / "runs" / "again")
    assert after.run.catalogue.item_tokens() == tokens
    assert {row.item_id for row in after.recommend(["i1"], k=2, allow=RETIRED)} == set(RETIRED)


def test_items_are_listed_and_found_by_title(grown):
    run, _ = grown
    done = small_shop.run(run.parents[1], "items", "grown", "-k", "3")
    head, *rows, rest = done.stdout.splitlines()
    assert head.split() == ["item", "title", "chosen"] and len(rows) == 3
    counts = pl.read_parquet(run / "data/interactions.parquet").filter(pl.col("split") == "train")
    most = counts.group_by(pl.col("item_id").cast(pl.String)).len().sort("len", descending=True).head(3)
    assert [int(row.split()[-1]) for row in rows] == most["len"].to_list()
    assert rest == "3 of 140: -k 140 shows all; --find WORDS searches by title"
    done = small_shop.run(run.parents[1], "items", "grown", "--find", "NOVELTY n7")
    shown = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in shown] == ["n7", *(f"n{number}" for number in range(70, 80))]
    assert shown[0] == ["n7", "Novelty", "&", "n7", "0", "retired"] and shown[1][-1] == "added"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors", "new.npy"], "which is not given"),
        (["--retire", "i1", "--find", "thing"], "--find lists items; give it without --add and --retire"),
        (["--find", "nowhere"], "no item of grown has 'nowhere' in its title or id"),
        (["--retire", "nobody"], "--retire: item 'nobody' is not in the catalogue"),
        (["--retire", "i333"], "did you mean 'i33'..; search by title: llmrec items grown --find WORDS"),
        (["--retire", " , "], "--retire: no item ids"),
        (["--retire", ",".join(f"B{n:09}" for n in range(30))], "--retire: item 'B000000000' is not in the"),
        (["--retire", "~nobody,~noone"], "--retire: item '~nobody' is not in the catalogue"),
        (["--retire", "latin.txt"], "--retire: latin.txt: cannot be read: not UTF-8 at byte 7"),
        (["--add", "no.jsonl"], "no such file: no.jsonl"),
        (["--add", "new.jsonl", "--vectors", "new.npy"], "item 'n60' is in the catalogue already"),
        (["--add", "twice.csv", "--vectors", "new.npy"], "item 'x' occurs twice"),
        (["--add", "empty.csv", "--vectors", "new.npy"], "row 2: .*every item needs an id"),
        (["--add", "none.csv"], "no column 'item_id', or 'sku' as in the run's card .it has code"),
        (["--add", "fine.csv"], "give the new items' .--vectors"),
        (
            ["--add", "fine.csv", "--vectors", "short.npy"],
            "new items' vectors have 3 numbers, the run's have 16",
        ),
    ],
)
def test_invalid_additions_and_retirements_are_refused_and_change_nothing(grown, options, message):
    run, _ = grown
    folder = run.parents[1]
    (folder / "twice.csv").write_text("item_id,title\nx,a\nx,b\n")
    (folder / "empty.csv").write_text("item_id,title\nx,a\n,b\n")
    (folder / "none.csv").write_text("code,title\nx,a\n")
    (folder / "fine.csv").write_text("item_id,title\nx,a\n")
    (folder / "latin.txt").write_bytes("i1\ncaf\u00e9\n".encode("latin-1"))
    np.save(folder / "short.npy", np.ones((1, 3), np.float32))
    before = {path.name: path.read_bytes() for path in (run / "catalogue").iterdir()}
    done = small_shop.run(folder, "items", "grown", *options)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(message, done.stderr), done.stderr
    assert {path.name: path.read_bytes() for path in (run / "catalogue").iterdir()} == before


def test_items_with_tokens_of_their_own_are_recommended_without_training(own):
    before = Recommender.load(own.with_name("own-before"))
    after, trained = Recommender.load(own), Recommender.load(own, as_trained=True)
    assert files(own) == files(before.run.folder) and trained.items == before.items
    assert after.run.base == own.resolve() / "catalogue/base-5" and trained.run.base == own.resolve() / "base"
    assert [path.name for path in (own / "catalogue").iterdir() if path.is_dir()] == ["base-5"]
    assert after.run.catalogue.sids[small_shop.ITEMS :, -1].max() == small_shop.ITEMS + 3
    everything = {f"i{item}" for item in range(small_shop.ITEMS)} | set(small_shop.OWN)
    for history in (["i1", "i2"], ["n0", "i3"], ["n4", "n1"]):
        found = after.recommend(history, k=60, mask_seen=False)
        assert {row.item_id for row in found} == everything - {"n4", "i3"}
    scores = before.recommend(["i1", "i2"], k=60), trained.recommend(["i1", "i2"], k=60)
    assert scores[0] == scores[1]


def test_all_that_reads_a_run_reads_its_grown_checkpoint(own):
    folder = own.parents[1]
    recommender = Recommender.load(own)
    tree = recommender.rank(HISTORIES[:1], DecodeConfig(width=10))
    oracle = recommender.rank(HISTORIES[:1], DecodeConfig(width=10, engine="generate"))
    assert (tree.items == oracle.items).all()
    np.testing.assert_allclose(tree.scores, oracle.scores, atol=1e-4)
    diverse = recommender.rank(HISTORIES[:1], k=40, width=43, mmr={"trade_off": 0.5})
    assert {"n0", "n1", "n2", "n3"} & {recommender.items[item] for item in diverse.items[0].tolist()}
    shown = small_shop.run(folder, "items", "own", "--find", "novelty").stdout
    assert sorted(line.split()[0] for line in shown.splitlines()[1:]) == small_shop.OWN
    expected = recommender.recommend(["i1", "n0"], k=10, deny=["i3"])
    for command in ("merge", "export"):
        done = small_shop.run(folder, command, "own", f"{command}-own")
        assert done.returncode == 0, done.stderr
        assert "retired in own, but recommended by the copy unless a request denies them: " in done.stdout
        written = Recommender.load(folder / f"{command}-own")
        assert set(written.items) == {f"i{item}" for item in range(small_shop.ITEMS)} | set(
            small_shop.OWN[:4]
        )
        found = written.recommend(["i1", "n0"], k=10, deny=["i3"])
        assert [row.item_id for row in found] == [row.item_id for row in expected]
        np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], atol=1e-4)
        assert not list((folder / f"{command}-own").rglob("residuals.npy"))


def test_a_retired_item_returns_with_its_own_token(own):
    folder = own.parents[1]
    shutil.copytree(own, folder / "runs/own-again")
    tokens = Recommender.load(own).run.catalogue.item_tokens()
    (folder / "back.csv").write_text("item_id,title\nn4,\ni3,Thing\n")
    np.save(folder / "back.npy", np.zeros((2, 16), np.float32))
    done = small_shop.run(folder, "items", "own-again", "--add", "back.csv", "--vectors", "back.npy")
    assert done.returncode == 0 and "new items: 0; retired items that return: 2" in done.stdout, done.stderr
    after = Recommender.load(folder / "runs/own-again")
    assert after.run.catalogue.item_tokens() == tokens
    assert {row.item_id for row in after.recommend(["i1"], k=2, allow=["n4", "i3"])} == {"n4", "i3"}


def test_tokens_for_new_items_end_with_the_training_that_they_grew_from(own):
    """Their semantic IDs are still right, and rows of the old weights would pass unnoticed."""
    again = own.with_name("own-retrained")
    shutil.copytree(own, again)
    manifest = json.loads((again / "sft/manifest.json").read_text())
    manifest["outputs"]["base/model.safetensors"] = "another"
    (again / "sft/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"trained again since its tokens for new items; move .*added\.parquet"
    ):
        Recommender.load(again)
    Recommender.load(again, as_trained=True)


def test_a_later_training_keeps_codes_of_their_own_and_goes_on_behind_them(own):
    folder = own.parents[1]
    log = (folder / "log.csv").read_text().splitlines()
    (folder / "later.csv").write_text("\n".join([*log, *(f"u{user},n0,99" for user in range(20))]) + "\n")
    things = (folder / "items.jsonl").read_text() + '\n{"sku": "n0", "name": "Novelty"}'
    (folder / "later.jsonl").write_text(things)
    card = small_shop.CARD.replace("log.csv", "later.csv").replace("items.jsonl", "later.jsonl")
    (folder / "later.yaml").write_text(card)
    names = load_sids(own)[0]
    rows = [*np.load(folder / "vectors.npy").tolist(), [0.5] * 16]
    pl.DataFrame({"item_id": [*names, "n0"], "vector": rows}).write_parquet(folder / "later.parquet")
    kept = ["data.card=later.yaml", "ids={quantizer: {kind: kept, run: own}, vectors: later.parquet}"]
    done = small_shop.run(folder, "ids", "recipe.yaml", "run=later", *kept)
    assert done.returncode == 0, done.stderr
    before, after = (
        dict(zip(*map(list, load_sids(run)), strict=True)) for run in (own, own.with_name("later"))
    )
    assert {item: after[item].tolist() for item in before} == {i: sid.tolist() for i, sid in before.items()}
    assert (
        after["n0"][-1] == small_shop.ITEMS and load_sizes(own.with_name("later"))[-1] == small_shop.ITEMS + 1
    )
