"""A finished run's catalogue and tokenizer are read once, whoever asks for them."""

import contextlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from llmrec import Recommender
from llmrec.artifacts import StageContext
from llmrec.catalogue import registry
from llmrec.config import DecodeConfig, load_run_recipe
from llmrec.models.checkpoint import load_tokenizer
from llmrec.train.alignment.pairs import beam_searcher, make_pairs
from llmrec.train.alignment.setup import load_initial_policy

CATALOGUE, TRIE, TOKENIZER = "llmrec.json", "trie.safetensors", "tokenizer_config.json"
_counts: Counter | None = None


def _note(event, arguments):
    if _counts is not None and event == "open":
        _counts[str(arguments[0])] += 1


@pytest.fixture(scope="module", autouse=True)
def listening():
    sys.addaudithook(_note)  # stays for the process, and does nothing outside `opens_in`


@contextlib.contextmanager
def opens_in(base):
    """How often Python opens each file of a folder inside the block, by the files' names."""
    global _counts
    opens, _counts = Counter(), Counter()
    try:
        yield opens
    finally:
        opens.update({Path(path).name: n for path, n in _counts.items() if Path(path).parent == base})
        _counts = None


@pytest.fixture
def once(lora):
    """What one load of the tokenizer opens: transformers itself looks at a file more than once."""
    with opens_in(lora / "base") as opens:
        load_tokenizer(lora / "base")
    assert opens[TOKENIZER] >= 1 and opens[CATALOGUE] == 0
    return opens[TOKENIZER]


@pytest.mark.parametrize("engine", ["tree", "generate"])
def test_recommending_reads_catalogue_and_tokenizer_once(lora, once, engine):
    registry._load.cache_clear()
    with opens_in(lora / "base") as opens:
        recommender = Recommender.load(lora)
        assert len(recommender.recommend(["i1", "i2"], k=3)) == 3
        recommender.rank([["i3"]], DecodeConfig(width=5, k=2, engine=engine))
        recommender.score([["i3"]], [["i1"]])
    assert (opens[CATALOGUE], opens[TOKENIZER], opens["sids.npy"]) == (1, once, 0)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_an_alignment_starts_from_one_catalogue_and_one_tokenizer(lora, once, tmp_path, method):
    recipe = load_run_recipe(lora)
    context = StageContext(recipe, lora, tmp_path, tmp_path)
    with opens_in(lora / "base") as opens:
        initial = load_initial_policy(context, getattr(recipe, method))
        beams = beam_searcher(initial.run, initial.model, initial.pad_id)
        catalogue = initial.run.catalogue
        pairs, _ = make_pairs(recipe.pairs, lora, catalogue, recipe.seed, recipe.data.history, beams)
    assert len(pairs) and (opens[CATALOGUE], opens[TOKENIZER]) == (1, once)
