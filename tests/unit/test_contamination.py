"""The probe for memorised datasets: a model that was trained on a list of titles is found out, another one is not."""

import numpy as np
import polars as pl
import pytest
import torch

from llmrec.bench import contamination as bench
from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.evaluate.contamination import Continuations, continue_lists, listed_titles, summarise
from llmrec.models.base import load_base

TITLES = [
    f"{one}{other}"
    for one in ("Ka", "Lo", "Mi", "Nu", "Pe", "Ro")
    for other in ("ban", "dor", "fen", "gul", "jas")
]


@pytest.fixture(scope="module")
def base():
    shape = {"layers": 1, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 128, "vocabulary": 400}
    order = np.random.default_rng(0).permutation(len(TITLES))
    titles = [TITLES[place] for place in order]
    model, tokenizer = load_base(BaseConfig.model_validate({"tiny": shape}), TITLES * 5, 0)
    return model.eval(), tokenizer, titles


def memorise(model, tokenizer, titles, steps):
    """Train a model on windows of the list, as a corpus that holds the dataset's file would."""
    from llmrec.text.tokens import TextEncoder

    encode = TextEncoder(tokenizer)
    lines = [encode(title + "\n") for title in titles]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = np.random.default_rng(1)
    model.train()
    for _ in range(steps):
        starts = generator.integers(0, len(lines) - 6, 8)
        rows = [[token for line in lines[start : start + 6] for token in line] for start in starts]
        length = min(map(len, rows))
        batch = torch.tensor([row[:length] for row in rows])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_a_model_that_was_trained_on_the_list_is_found_out_and_another_is_not(base):
    model, tokenizer, titles = base
    before = summarise(continue_lists(model, tokenizer, titles, 20, 4, seed=0), seed=0)
    assert before["exact_in_order"] == 0 and "no sign" in before["verdict"]
    assert abs(before["log_prob_gain"]) < 0.1
    after = summarise(continue_lists(memorise(model, tokenizer, titles, 250), tokenizer, titles, 20, 4, 0), 0)
    assert after["questions"] == 20
    assert after["exact_in_order"] > 0.8 > 0.4 > after["exact_shuffled"]
    assert after["intervals"]["exact"][0] > 0 and after["intervals"]["log_prob_gain"][0] > 1
    assert "a sign that it has seen the list" in after["verdict"]


def test_figures_by_hand():
    """Two of four in order, one shuffled; gains of 1, 2, 3 and −2 nats: 1 on average."""
    exact = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], float)
    log_probs = np.array([[-1, -2], [-3, -5], [-4, -7], [-9, -7]], float)
    figures = summarise(Continuations(np.arange(4), exact, log_probs), seed=0)
    assert (figures["exact_in_order"], figures["exact_shuffled"], figures["log_prob_gain"]) == (
        0.5,
        0.25,
        1.0,
    )
    assert figures["intervals"]["log_prob_gain"][0] < 1 < figures["intervals"]["log_prob_gain"][1]
    surer = summarise(Continuations(np.arange(4), np.zeros((4, 2)), log_probs[:3].repeat(2, 0)[:4]), seed=0)
    assert surer["intervals"]["log_prob_gain"][0] > 0 and "a weak sign" in surer["verdict"]


def test_the_list_is_in_the_order_of_the_ids():
    items = pl.DataFrame({"item_id": ["10", "9", "2", "11"], "title": ["ten", " nine ", "two", "two"]})
    assert listed_titles(items) == ["two", "nine", "ten"]
    named = items.with_columns(item_id=pl.Series(["b", "a", "10", "9"]), title=pl.Series(["x", "y", "", "z"]))
    assert listed_titles(named) == ["z", "y", "x"]


def test_a_list_that_is_too_short_and_a_base_without_training_are_refused(base, tmp_path, monkeypatch):
    model, tokenizer, titles = base
    for before, some in ((1, titles), (5, titles[:5])):
        with pytest.raises(UserError, match="at least 2 are needed before it"):
            continue_lists(model, tokenizer, some, 3, before, 0)
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/recipe.yaml").write_text("name: own\ndata: {card: own.yaml}\nbase: {model: tiny}\n")
    with pytest.raises(UserError, match="has random weights"):
        bench.run("own")
