"""The benchmarks run, at sizes that show nothing but that they run."""

import json
from datetime import date

import numpy as np

from llmrec.bench import ids, softmax, trie
from llmrec.report.figures import FIXED_SEED


def test_the_trie_benchmark_writes_its_figures(tmp_path):
    figures = trie.run(beams=4, repeats=1, items=500, built=1000, opened=1000, out=tmp_path / "trie.json")
    written = json.loads((tmp_path / "trie.json").read_text())
    assert written["figures"] == figures and written["command"] == "llmrec bench trie"
    assert written["machine"]["versions"]["torch"] and written["seed"] == FIXED_SEED
    assert date.fromisoformat(written["date"])
    assert figures["build"]["items"] == figures["open"]["items"] == 1000


def test_the_softmax_benchmark_writes_its_figures(tmp_path):
    figures = softmax.run(hidden=32, layers=1, batch=2, items=[600], repeats=1, out=tmp_path / "softmax.json")
    written = json.loads((tmp_path / "softmax.json").read_text())
    assert written["figures"] == figures and "hidden=32" in written["command"]
    of = figures["600"]
    labels = 2 * (softmax.CHOICES - 1) * 2
    assert of["logits"]["vocabulary"] == labels * (softmax.WORDS + softmax.CLUSTERS + 600)
    # Half of the labels are first codes; their 226 or so children alone are scored, and a few for the others.
    assert labels / 2 * 200 < of["logits"]["children"] < labels / 2 * 270
    assert of["children"]["median"] > 0 and of["times_faster"]["median"] > 0


def test_random_catalogues_are_unique_and_in_trie_order():
    sids = trie.catalogue(5000, 3)
    assert sids.shape == (5000, 3) and sids.max() < trie.CODES
    numbers = sids.astype(np.int64) @ trie.CODES ** np.arange(2, -1, -1)
    assert (np.diff(numbers) > 0).all()


def test_the_ids_benchmark_writes_its_figures(tmp_path):
    figures = ids.run(items=600, repeats=1, large=700, trained=[], out=tmp_path / "ids.json")
    written = json.loads((tmp_path / "ids.json").read_text())
    assert written["figures"] == figures and written["machine"]["versions"]["faiss-cpu"]
    ours, peer = figures["residual"]["llmrec"], figures["residual"]["faiss"]
    assert 0 < ours["variance_left"] < 1 and peer["ours_times_faster"]["median"] > 0
    assert figures["large"]["items"] == 700 and figures["new_items"]["per_second"]["median"] > 0
