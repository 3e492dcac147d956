"""The literature's baselines: against formulas by hand, the libraries' own answers, and through their files."""

import importlib.util
import json

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter

from llmrec.collaborative import systems
from llmrec.collaborative.baselines.als import AlsSystem
from llmrec.collaborative.baselines.bert4rec import Bert4RecSystem
from llmrec.collaborative.baselines.bpr import BprSystem, history_means
from llmrec.collaborative.baselines.ease import EaseSystem, item_weights
from llmrec.collaborative.baselines.gru4rec import Gru4RecSystem
from llmrec.collaborative.baselines.interactions import Interactions, binary_rows
from llmrec.collaborative.baselines.library import cornac_sequences, own_random_numbers, windows
from llmrec.collaborative.baselines.mult_vae import MultVaeSystem
from llmrec.collaborative.baselines.tuned import TunedRanker, calibrated_scale
from llmrec.collaborative.baselines.user_knn import UserKnnSystem
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import Validation
from llmrec.collaborative.system import TrainingData, log_softmax
from llmrec.config import Recipe
from llmrec.config.collaborative import Collaborative, SystemSettings
from llmrec.data.examples import with_masked
from llmrec.errors import UserError
from llmrec.files import read_json

CATALOGUE = [f"i{n}" for n in range(12)] + ["never"]
RING = [[f"i{(start + step) % 12}" for step in range(6)] for start in range(12)] * 3
"""Everybody goes round the same ring: what follows an item is certain."""
SMALL = {
    "ease": EaseSystem(regularization=[5.0, 1.0], history=[3, 1]),
    "user_knn": UserKnnSystem(neighbours=[4, 2], history=[3, 1]),
    "als": AlsSystem(factors=[4], regularization=[0.1], alpha=[10.0], history=[3, 1]),
    "bpr": BprSystem(factors=[4], regularization=[0.01], epochs=[3], history=[3, 1]),
    "mult_vae": MultVaeSystem(epochs=[3], beta=[0.2], hidden=8, dim=4, batch=8, history=[3, 1]),
    "gru4rec": Gru4RecSystem(epochs=[1], dropout=[0.0], dim=16, batch=4, negatives=8, history=[3, 1]),
    "bert4rec": Bert4RecSystem(
        epochs=[1], masked=[0.3], dim=16, heads=2, layers=1, length=6, negatives=8, batch=8, history=[3, 1]
    ),
}
NAMES = sorted(SMALL)


def training(histories):
    users = [str(user) for user in range(len(histories))]
    schema = {"user_id": pl.String, "items": pl.List(pl.String)}
    return pl.DataFrame({"user_id": users, "items": histories}, schema=schema)


def interactions(histories=RING, catalogue=CATALOGUE):
    frame = training(histories)
    return Interactions.of(frame, Popularity.fit(frame, catalogue))


def numbered(found, *histories):
    return [np.array([found.items.index(item) for item in history]) for history in histories]


class Data(TrainingData):
    """Training data without a run: the ring, with its next step as the validation target."""

    def valid(self, users=None):
        rows = {"user_id": ["0", "1"], "history": RING[:2], "target": ["i6", "i7"]}
        schema = {"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String}
        return with_masked(pl.DataFrame(rows, schema=schema), self.mask_seen)


def data_of(folder, name, histories=None, seed=3):
    frame = training(RING if histories is None else histories)
    return Data(folder, name, CATALOGUE, folder, load=None, seed=seed, chosen_histories=frame)


def test_items_are_numbered_by_popularity_and_those_without_interactions_left_out():
    found = interactions([["b", "a"], ["a", "a", "gone"]], ["x", "a", "b"])
    assert found.items == ["a", "b"]
    assert [list(row) for row in found.sequences] == [[1, 0], [0, 0]]
    assert found.matrix.toarray().tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("block", [3, 1024])
def test_ease_meets_the_conditions_of_its_minimum(block, monkeypatch):
    monkeypatch.setattr("llmrec.collaborative.baselines.ease._BLOCK", block)
    rng = np.random.default_rng(0)
    rows = [rng.choice(8, size=rng.integers(1, 6), replace=False) for _ in range(30)]
    matrix, penalty = binary_rows(rows, 8), 3.0
    weights = item_weights(matrix, penalty)
    assert not np.diag(weights).any()
    dense = matrix.toarray()
    # The gradient of the squared error and the penalty is 0 wherever a weight is free.
    gradient = dense.T @ (dense @ weights - dense) + penalty * weights
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_ease_refuses_a_catalogue_that_no_memory_holds():
    class Large:
        items = range(30_001)

    with pytest.raises(UserError, match=r"30,001 items .* takes 14 GB"):
        EaseSystem().learn(Large(), {"regularization": 1.0}, 0)


def test_user_knn_sums_the_similarities_of_the_nearest_users():
    found = interactions([["a", "b"], ["a", "c", "d"], ["b", "d"], ["e"]], [*"abcde"])
    settings = {"neighbours": 2}
    system = UserKnnSystem()
    scores = system.scorer(system.learn(found, settings, 0), settings)(numbered(found, ["a"], ["b", "d"]))
    by_item = [dict(zip(found.items, row, strict=True)) for row in scores]
    # cos({a}, {a,b}) = 1/√2 and cos({a}, {a,c,d}) = 1/√3; nobody else shares an item.
    near, far = 1 / np.sqrt(2), 1 / np.sqrt(3)
    assert by_item[0] == pytest.approx({"a": near + far, "b": near, "c": far, "d": far, "e": 0})
    # cos({b,d}, {b,d}) = 1 and cos({b,d}, {a,b}) = 1/2; {a,c,d} is third with 1/√6.
    assert by_item[1] == pytest.approx({"a": 0.5, "b": 1.5, "c": 0, "d": 1, "e": 0})


def test_als_solves_a_history_as_the_library_does():
    from implicit.cpu.als import AlternatingLeastSquares

    found = interactions()
    settings = {"factors": 4, "regularization": 0.3, "alpha": 5.0}
    system = AlsSystem(iterations=5)
    arrays = system.learn(found, settings, 1)
    model = AlternatingLeastSquares(4, regularization=0.3, alpha=5.0, iterations=5, random_state=1)
    model.fit(found.matrix, show_progress=False)
    histories = numbered(found, ["i0", "i1", "i2"], ["i5"])
    users = model.recalculate_user([0, 1], binary_rows(histories, len(found.items)))
    expected = users @ model.item_factors.T
    np.testing.assert_allclose(system.scorer(arrays, settings)(histories), expected, rtol=1e-3, atol=1e-4)


def test_bpr_maps_histories_to_users_by_least_squares():
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    found = interactions()
    settings = {"factors": 4, "regularization": 0.01, "epochs": 5}
    arrays = BprSystem().learn(found, settings, 1)
    model = BayesianPersonalizedRanking(
        4, learning_rate=0.05, regularization=0.01, iterations=5, num_threads=1, random_state=1
    )
    model.fit(found.matrix, show_progress=False)
    means = history_means(found.sequences, model.item_factors)
    np.testing.assert_allclose(means[0, :-1], model.item_factors[found.sequences[0]].mean(0), rtol=1e-4)
    residual = means.T @ (means @ arrays["users"] - model.user_factors) + arrays["users"]
    np.testing.assert_allclose(residual, 0, atol=1e-4)


def test_long_histories_are_cut_from_their_end():
    assert [list(piece) for piece in windows(np.arange(7), 3)] == [[1, 2, 3], [4, 5, 6]]
    assert [list(piece) for piece in windows(np.arange(5), 3)] == [[0, 1], [2, 3, 4]]
    assert windows(np.arange(1), 3) == []


@pytest.mark.parametrize("name", ["gru4rec", "bert4rec"])
def test_a_sequential_baseline_scores_as_cornac_does_and_learns_what_follows(name):
    """Histories are scored side by side here, and one at a time there."""
    from cornac.models import GRU4Rec, TransformerRec

    found = interactions()
    if name == "gru4rec":
        system, settings = Gru4RecSystem(dim=32, batch=6, negatives=16), {"epochs": 8, "dropout": 0.0}
        model = GRU4Rec(layers=[32], batch_size=6, n_sample=16, n_epochs=8, seed=0)
        length = 100
    else:
        system = Bert4RecSystem(dim=16, layers=1, length=6, negatives=16, batch=36, dropout=0.0, lr=1e-2)
        settings, length = {"epochs": 150, "masked": 0.3}, 6
        shape = {"embedding_dim": 16, "num_blocks": 1, "num_heads": 2, "max_len": 6}
        training = {"batch_size": 36, "n_sample": 16, "learning_rate": 1e-2, "n_epochs": 150, "seed": 0}
        model = TransformerRec(
            backbone="bert", objective="mlm", dropout=0.0, mask_prob=0.3, **shape, **training
        )
    with own_random_numbers(0):
        model.fit(cornac_sequences(found, length))
    score = system.scorer(system.learn(found, settings, 0), settings)
    around = [["i3", "i4", "i5", "i6", "i7"], ["i8", "i9", "i10", "i11", "i0"], ["i8"]]
    histories = numbered(found, *around)
    scores = score(histories)
    expected = [model.score(0, list(history)) for history in histories]
    np.testing.assert_allclose(scores, np.stack(expected), atol=1e-4)
    following = [found.items.index(item) for item in ("i8", "i1")]
    assert (np.exp(log_softmax(scores))[range(2), following] > 3 / 12).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_chosen_kept_and_read_again(name, tmp_path):
    data = data_of(tmp_path, name)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    report = systems.train_system(data, SMALL[name])
    assert (np.random.get_state()[1] == state).all(), "the global generator is the caller's"
    tried = read_json(data.file(".json"))["tried"]
    assert report["ndcg@10"] == max(attempt["ndcg@10"] for attempt in tried)
    assert report["chosen"]["history"] in (1, 3)
    model = type(SMALL[name])().fit(data)  # a finished run is read without its recipe's settings
    items, scores = model.recommend([["i0", "i1"], [], ["never"]], 13, [["i0", "i1"], [], []])
    assert len(items[0]) == 11
    assert items[0][-1] == "never", "nothing has been learned of it"
    assert items[1] == items[2] == model.popularity.items, "nothing is known of the user"
    assert scores[0] == sorted(scores[0], reverse=True)
    logs = model.log_probs([["i0", "i1"], []], CATALOGUE)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(logs[1], model.popularity.log_probs([()], CATALOGUE)[0])
    if name in ("user_knn", "ease"):
        assert set(items[0][:2]) <= {"i2", "i3", "i11", "i10"}, "neighbours on the ring"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_files(name, tmp_path):
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        data = data_of(tmp_path / folder, name)
        SMALL[name].train(data)
        contents.append([data.file(ending).read_bytes() for ending in SMALL[name].files])
    assert contents[0] == contents[1]


def test_no_setting_is_learned_twice(tmp_path, monkeypatch):
    """A later grid starts with the values of the earlier ones, and the number of last items needs no learning."""
    learned = []

    def learn(self, interactions, settings, seed):
        learned.append((settings["factors"], settings["regularization"], settings["alpha"]))
        return real(self, interactions, settings, seed)

    real = AlsSystem.learn
    monkeypatch.setattr(AlsSystem, "learn", learn)
    system = AlsSystem(factors=[2, 4], regularization=[0.1], alpha=[10.0, 2.0], history=[3, 2, 1])
    chosen = system.train(data_of(tmp_path, "als"))["chosen"]
    assert learned[:2] == [(2, 0.1, 10.0), (4, 0.1, 10.0)]
    assert len(learned) == len(set(learned)) == 3
    assert (chosen["factors"], chosen["regularization"], chosen["alpha"]) in learned


def test_user_knn_can_leave_users_out_and_what_is_learned_in_training_cannot():
    config = TypeAdapter(Collaborative).validate_python({})
    assert systems.counts(config, "user_knn")
    assert not systems.counts(config, "ease")
    assert not systems.counts(config, "sasrec_ce")
    assert systems.counts(config, "mixture")


def test_the_scale_makes_validation_targets_most_probable():
    def score(sequences):
        return np.array([[3.0, 2.0, 1.0, 0.0]] * len(sequences))

    frame = training([["a", "b"], ["c", "d"]])
    popularity = Popularity.fit(frame, [*"abcd"])
    ranker = TunedRanker(popularity, popularity.items, score, history=5)
    rows = {"history": [["b"]] * 4, "target": ["a", "a", "a", "b"], "masked": [["b"]] * 4}
    validation = Validation(pl.DataFrame(rows), popularity.items)
    chosen = calibrated_scale(ranker, validation)
    values = {}
    for scale in (chosen / 2, chosen, chosen * 2):
        ranker.scale = scale
        logs = ranker.log_probs([["b"]], [*"abcd"])[0]
        values[scale] = 3 * logs[0] + logs[1]
    assert max(values, key=values.get) == chosen


def test_a_missing_library_is_one_line_before_anything_is_trained(monkeypatch):
    config = TypeAdapter(Collaborative).validate_python({})
    find = importlib.util.find_spec
    monkeypatch.setattr(systems, "find_spec", lambda name: None if name == "cornac" else find(name))
    systems.check_libraries(config, ["ease", "user_knn", "als", "bpr"])
    with pytest.raises(UserError, match=r"^gru4rec needs cornac: pip install 'llmrec\[baselines\]'$"):
        systems.check_libraries(config, ["ease", "gru4rec"])


@pytest.mark.parametrize("broken", ["missing", "cut", "other"])
def test_a_broken_file_is_one_line(broken, tmp_path):
    data = data_of(tmp_path, "ease")
    SMALL["ease"].train(data)
    path = data.file(".safetensors")
    if broken == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if broken == "cut" else json.dumps({}).encode())
    with pytest.raises(UserError, match=r"ease\.safetensors"):
        SMALL["ease"].fit(data)


def test_settings_stand_in_the_recipe():
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": {"card": "movielens-100k"},
            "collaborative": {"ease": {"regularization": [7.0]}},
        }
    )
    settings = recipe.collaborative.of("ease")
    assert isinstance(settings, SystemSettings)
    assert settings.regularization == [7.0]
