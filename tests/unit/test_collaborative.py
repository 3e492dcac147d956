"""Popularity and item-kNN against values worked out the long way; the stage that trains the others."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec import pipeline
from llmrec.artifacts import StageContext, stage_key
from llmrec.collaborative import systems
from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.system import best_columns
from llmrec.config import Recipe
from llmrec.config.registry import SYSTEMS
from llmrec.data.examples import evaluation_examples
from llmrec.errors import UserError
from llmrec.evaluate.lists import baseline_lists, load_system, reads_times
from llmrec.files import read_json, write_json
from llmrec.stages import collaborative

CATALOGUE = ["a", "b", "c", "d", "e"]


def training(histories: list[list[str]]) -> pl.DataFrame:
    users = [str(user) for user in range(len(histories))]
    schema = {"user_id": pl.String, "items": pl.List(pl.String)}
    return pl.DataFrame({"user_id": users, "items": histories}, schema=schema)


def test_popularity_ranks_by_count_then_catalogue_order():
    model = Popularity.fit(training([["c", "b"], ["c", "c"], ["e"]]), CATALOGUE)
    items, scores = model.recommend([["c"], []], k=4)
    assert items == [["c", "b", "e", "a"]] * 2
    assert scores[0] == [3.0, 1.0, 1.0, 0.0]


def test_popularity_leaves_out_what_is_excluded_and_ends_with_the_catalogue():
    model = Popularity.fit(training([["c", "b"], ["c"]]), CATALOGUE)
    items, _ = model.recommend([["c"]], k=10, exclude=[["c", "a", "unknown"]])
    assert items == [["b", "d", "e"]]


histories = st.lists(st.lists(st.sampled_from(CATALOGUE[:4]), max_size=5), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(histories, st.lists(st.sampled_from([*CATALOGUE, "unknown"]), max_size=4), st.booleans())
def test_item_knn_equals_dense_cosine(train, history, mask):
    matrix = np.array([[float(item in items) for item in CATALOGUE] for items in train])
    norms = np.linalg.norm(matrix, axis=0)
    cosine = matrix.T @ matrix / np.outer(np.maximum(norms, 1), np.maximum(norms, 1))
    np.fill_diagonal(cosine, 0)
    votes = sum((cosine[CATALOGUE.index(i)] for i in {*history} & {*CATALOGUE}), np.zeros(len(CATALOGUE)))
    counts = [sum(items.count(item) for items in train) for item in CATALOGUE]
    allowed = [i for i, item in enumerate(CATALOGUE) if not (mask and item in history)]
    expected = sorted(allowed, key=lambda i: (-round(votes[i], 9), -counts[i], i))

    model = ItemKNN.fit(training(train), CATALOGUE)
    items, scores = model.recommend([history], k=len(CATALOGUE), exclude=[history] if mask else None)

    assert items == [[CATALOGUE[i] for i in expected]]
    np.testing.assert_allclose(scores[0], votes[expected], atol=1e-9)


def test_item_knn_keeps_only_the_nearest_neighbours():
    train = training([["a", "b"], ["a", "b"], ["a", "c"]])
    model = ItemKNN.fit(train, CATALOGUE, neighbours=1)
    assert model.similarity.nnz == 3
    items, scores = model.recommend([["a"]], k=2, exclude=[["a"]])
    assert items == [["b", "c"]]
    assert scores[0][0] > 0 == scores[0][1]


def test_item_knn_is_the_same_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    catalogue = [f"i{n}" for n in range(50)]
    train = training([list(generator.choice(catalogue, 6, replace=False)) for _ in range(80)])
    asked = [list(generator.choice(catalogue, 4)) for _ in range(30)]
    whole = ItemKNN.fit(train, catalogue).recommend(asked, 10, asked)
    monkeypatch.setattr("llmrec.collaborative.item_knn._BLOCK", 7)
    assert ItemKNN.fit(train, catalogue).recommend(asked, 10, asked) == whole


TINY = {"dim": 8, "history": 4, "batch": 32, "epochs": 2}


def recipe(baselines=("popularity", "sasrec_ce"), **sections):
    tree = {
        "name": "t",
        "data": {"card": "t"},
        "collaborative": {"sasrec_bce": TINY, "sasrec_ce": TINY},
        "eval": {"baselines": list(baselines)},
    }
    return Recipe.model_validate(tree | sections)


@pytest.fixture
def run(tmp_path):
    """A run whose data stage is done: 12 users and 10 items, of which the last is in no training row."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(12):
        items = [*generator.choice(9, 5, replace=False), 9 if user == 0 else generator.integers(9)]
        splits = ["train"] * 4 + ["valid", "test"]
        rows += [
            (f"u{user}", f"i{item}", t, split)
            for t, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    (tmp_path / "data").mkdir()
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "time", "split"], orient="row")
    log.write_parquet(tmp_path / "data/interactions.parquet")
    names = [f"i{n}" for n in range(10)]
    pl.DataFrame({"item_id": names, "title": names}).write_parquet(tmp_path / "data/items.parquet")
    write_json(tmp_path / "data/report.json", {"split": {"kind": "leave_one_out"}})
    return tmp_path


def stage_for(asked):
    """The stage collaborative with what the other stages of a recipe read of it."""
    return next(stage for stage in pipeline.for_recipe(asked) if stage.name == "collaborative")


def train(run, asked, name="work", scratch="scratch"):
    """Run the stage's function; return the folder it wrote."""
    for folder in (run / name / "collaborative", run / scratch):
        folder.mkdir(parents=True, exist_ok=True)
    context = StageContext(asked, run, run / name, run / scratch, requested=stage_for(asked).requested)
    collaborative.run(context)
    return run / name / "collaborative"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_what_the_recipe_needs_is_trained(run):
    nothing = train(run, recipe(["popularity", "item_knn"]), "nothing")
    assert read_json(nothing / "report.json") == {"systems": {}}
    assert set(files(nothing)) == {"report.json"}
    assert set(files(train(run, recipe()))) == {"report.json", "sasrec_ce.safetensors"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, []),
        ({"ids": {"quantizer": {"kind": "letter"}}}, ["sasrec_ce"]),
        ({"ids": {"inputs": ["text", "collaborative"]}}, ["sasrec_ce"]),
        ({"decode": {"prior": {"system": "sasrec_bce"}}}, ["sasrec_bce"]),
        ({"decode": {"prior": {"system": "item_knn"}}}, []),
        ({"eval": {"baselines": ["sasrec_bce", "sasrec_ce"]}}, ["sasrec_bce", "sasrec_ce"]),
        ({"eval": {}}, ["recent_knn", "succession", "text_knn", "sasrec_bce", "sasrec_ce", "mixture"]),
    ],
)
def test_ids_decoding_and_evaluation_request_the_systems_that_they_read(sections, expected):
    assert systems.systems_in(stage_for(recipe([], **sections)).requested) == expected


def test_the_stage_is_reproducible_and_resumes_after_a_kill(run):
    asked = recipe(["sasrec_bce", "sasrec_ce"])
    whole = files(train(run, asked))
    scratch = run / "half"
    train(run, recipe(["sasrec_bce"]), "killed", "half")
    stamp = (scratch / "sasrec_bce.safetensors").stat().st_mtime_ns
    assert files(train(run, asked, "resumed", "half")) == whole
    assert (scratch / "sasrec_bce.safetensors").stat().st_mtime_ns == stamp
    assert set(read_json(run / "work/collaborative/report.json")["systems"]["sasrec_ce"]) == {
        *("valid_users", "epochs", "best_epoch", "loss", "ndcg@10")
    }


def test_the_stages_key_depends_only_on_the_trained_systems(run):
    def key(asked):
        return stage_key(stage_for(asked), asked, run)

    same = key(recipe(["sasrec_ce"]))
    assert key(recipe(["popularity", "item_knn", "sasrec_ce"])) == same
    assert key(recipe(["sasrec_ce"], collaborative={"sasrec_ce": TINY, "sasrec_bce": {}})) == same
    assert key(recipe(["sasrec_bce"])) != same
    assert key(recipe(["sasrec_ce"], collaborative={"sasrec_ce": TINY | {"dim": 16}})) != same


def test_every_baseline_is_loaded_by_name_and_keeps_the_interface(run):
    one = {
        "sasrec_bce": TINY,
        "sasrec_ce": TINY,
        "hstu": TINY,
        "als": {"factors": [4]},
        "bpr": {"factors": [4], "epochs": [2]},
        "mult_vae": {"epochs": [2]},
        "gru4rec": {"epochs": [2]},
        "bert4rec": {"epochs": [2], "dim": 16, "length": 5},
    }
    train(run, recipe(SYSTEMS.shipped, collaborative=one), ".")
    names = [f"i{n}" for n in range(10)]
    for name in SYSTEMS.shipped:
        model = systems.load_baseline(run, name, names)
        items, scores = model.recommend([["i1", "i2"]], 3, [["i1", "i2"]])
        assert len(items[0]) == len(scores[0]) == 3
        assert not {"i1", "i2"} & set(items[0])
        np.testing.assert_allclose(np.exp(model.log_probs([["i1", "i2"]], names)).sum(), 1, atol=1e-5)


def test_item_vectors_stand_in_the_order_asked_for(run):
    with pytest.raises(UserError, match="run the stage collaborative first"):
        systems.item_vectors(run, ["i0"])
    train(run, recipe(), ".")
    vectors = systems.item_vectors(run, ["i3", "i9", "new", "i0"])
    assert (vectors.dtype, vectors.shape) == (np.float32, (4, 8))
    assert vectors.any(axis=1).tolist() == [True, False, False, True]
    assert (vectors[::-1] == systems.item_vectors(run, ["i0", "new", "i9", "i3"])).all()


def test_times_come_from_the_data_in_training_and_in_evaluation(run):
    about = {"split": {"kind": "leave_one_out"}}
    asked = recipe(["hstu"], collaborative={"hstu": TINY | {"times": True}})
    write_json(run / "data/report.json", about | {"time": {"read_as": "positions"}})
    with pytest.raises(UserError, match=r"^collaborative\.hstu\.times: the data has no times"):
        train(run, asked)
    write_json(run / "data/report.json", about | {"time": {"read_as": "seconds since 1970"}})
    train(run, asked, ".")
    model = load_system(run, "hstu", [f"i{n}" for n in range(10)])
    assert reads_times(model)
    examples = evaluation_examples(run, "test", times=True)
    assert examples["times"].to_list() == [[0, 1, 2, 3, 4]] * 12
    lists = baseline_lists(model, examples, 3, 5, mask_seen=True)
    histories = examples["history"].to_list()
    items, _ = model.recommend([row[-3:] for row in histories], 5, histories, [[2, 3, 4]] * 12)
    assert lists["item_id"].to_list() == [item for row in items for item in row]


@given(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=40), st.integers(1, 12))
def test_the_best_columns_are_those_of_a_stable_sort_without_the_forbidden_ones(values, k):
    scores = np.array(values)
    order = np.argsort(-scores, kind="stable")[:k]
    assert best_columns(scores, k).tolist() == order[scores[order] > -np.inf].tolist()
