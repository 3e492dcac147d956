"""`llmrec simulate` against servers: of a real small model, and of answers that no server should give."""

import json
import shutil
import threading

import numpy as np
import polars as pl
import pytest
import torch
from evaluated_run import HOSTILE, make_evaluated_run
from openai_server import IGNORED, REFUSED, ServedModel, answering

from llmrec import layout
from llmrec.cli import main
from llmrec.config import BaseConfig
from llmrec.models.base import load_base
from llmrec.simulate.asking import ask_all
from llmrec.simulate.endpoint import Endpoint, checked_url
from llmrec.simulate.question import SYSTEM, question
from llmrec.simulate.simulation import Settings, Simulation


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run of 40 users with lists of `sft` and two baselines, evaluated."""
    run = make_evaluated_run(tmp_path_factory.mktemp("runs") / "tiny")
    items = pl.read_parquet(run / layout.ITEMS)
    titles = [f"{HOSTILE if item == 'i3' else ''} Thing {item[1:]}" for item in items["item_id"]]
    items.with_columns(title=pl.Series(titles)).write_parquet(run / layout.ITEMS)
    return run


@pytest.fixture
def run(evaluated, tmp_path, monkeypatch):
    """A copy of the run, which a test may write into, found by its name."""
    copy = tmp_path / "runs/tiny"
    copy.parent.mkdir()
    monkeypatch.setenv("LLMREC_RUNS", str(copy.parent))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("LLMREC_API_KEY", raising=False)
    shutil.copytree(evaluated, copy)
    return copy


@pytest.fixture(scope="module")
def letters(evaluated):
    """A tiny model that has learned to answer such questions with a letter, but not with which."""
    shape = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64, "vocabulary": 400}
    simulation = Simulation.prepare(evaluated, Settings(slate=4, history=3))
    texts = [
        f"{SYSTEM}\n\n{question(pair.with_target, simulation.titles, 3)}\nAnswer:"
        for pair in simulation.pairs
    ]
    model, tokenizer = load_base(BaseConfig.model_validate({"tiny": shape}), [*texts, "A B C D E"], 0)
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1e-2), np.random.default_rng(0)
    for step in range(100):
        answer = tokenizer("ABCDE"[draw.integers(5)])["input_ids"] + [tokenizer.eos_token_id]
        prompt = tokenizer(texts[step % len(texts)])["input_ids"]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


def simulate(address, *options):
    sizes = ["--slate", "4", "--history", "3"]
    return main(["simulate", "tiny", "--endpoint", address, "--model", "small", *sizes, *options])


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_model_plays_the_users_of_a_run(letters, run, capsys, api):
    """It knows nothing of the users, so its agreement is chance, and the figures say that they say nothing."""
    with answering(ServedModel(*letters)) as address:
        assert simulate(address, "--systems", "sft,item_knn", "--api", api) == 0
    shown = capsys.readouterr().out
    written = json.loads((run / layout.simulated("small", ".json")).read_text())
    figures = written["figures"]
    found = figures["agreement"]["finds"]
    assert found["chance"] == 0.25 and set(found["differences"]) == {"item_knn", "popularity"}
    low, _ = found["simulator"]["interval"]
    assert low <= 0.25 and not figures["agreement"]["agrees"]
    assert shown.count("says nothing about them.") == 2 and "agreement with 40 users" in shown
    assert shown.index("agreement with 40 users") < shown.index("real HR@4")
    assert figures["answers"]["asked"] == 160 and figures["answers"]["unparsable"] == 0
    assert figures["answers"]["log_probs"] == 1 and figures["answers"]["mass"] > 0.5
    assert sum(figures["answers"]["letters"]) == pytest.approx(1, abs=1e-4)
    ranks = pl.read_parquet(run / layout.PER_USER).filter(split="test")
    for system, entry in figures["use"]["systems"].items():
        hits = (ranks.filter(system=system)["rank"] <= 4).fill_null(False)
        assert entry["hit"]["value"] == pytest.approx(hits.mean())
    answers = pl.read_parquet(run / layout.simulated("small", ".parquet"))
    assert answers["slate"].value_counts()["count"].to_list() == [40] * 4
    assert written["command"].startswith("llmrec simulate tiny --endpoint http://127.0.0.1:")
    assert not list((run / ".scratch").iterdir()) and HOSTILE not in shown


@pytest.mark.parametrize("log_probs", [IGNORED, REFUSED])
def test_without_log_probabilities_the_text_of_an_answer_counts(letters, run, capsys, log_probs):
    with answering(ServedModel(*letters, log_probs)) as address:
        assert simulate(address, "--api", "completions", "--users", "10") == 0
    answers = json.loads((run / layout.simulated("small", ".json")).read_text())["figures"]["answers"]
    assert (answers["asked"], answers["unparsable"], answers["log_probs"]) == (20, 0, 0)
    assert answers["mass"] is None
    assert "0% of 20 answers read by log-probabilities;" in capsys.readouterr().out


def test_an_untrained_model_names_no_option_and_that_is_told(run, capsys):
    shape = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64, "vocabulary": 400}
    base = load_base(BaseConfig.model_validate({"tiny": shape}), ["red nail polish"] * 9, 0)
    with answering(ServedModel(*base, IGNORED)) as address:
        assert simulate(address, "--users", "10") == 0
    figures = json.loads((run / layout.simulated("small", ".json")).read_text())["figures"]
    assert figures["answers"]["unparsable"] == 20 and figures["answers"]["letters"] is None
    assert figures["agreement"]["finds"]["simulator"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "20 name no option" in capsys.readouterr().out


def test_a_stopped_simulation_goes_on_and_comes_to_the_same_figures(letters, run, capsys):
    def figures():
        content = json.loads((run / layout.simulated("small", ".json")).read_text())
        return {key: value for key, value in content["figures"].items() if key != "endpoint"}

    served = ServedModel(*letters)
    with answering(served) as address:
        assert simulate(address, "--users", "20") == 0
        whole = figures()
        served.asked, served.fails_after = [], 15
        assert simulate(address, "--users", "20", "--clients", "1") == 2
        told = capsys.readouterr().err
        assert "HTTP 503: overloaded; the same command goes on from here" in told and told.count("\n") == 1
        served.asked, served.fails_after = [], None
        assert simulate(address, "--users", "20") == 0
        assert len(served.asked) == 25 and figures() == whole


def test_an_answer_after_a_half_written_line_is_kept(tmp_path):
    """A command that is killed within a line leaves it broken, and the next answer is not part of it."""
    kept, asked = tmp_path / "kept.jsonl", []

    def respond(path, headers, body):
        asked.append(body)
        return 200, {}, {"choices": [{"text": "A", "logprobs": {"top_logprobs": [{"A": -0.1}]}}]}

    with answering(respond) as address:
        endpoint = Endpoint(checked_url(address), "small", "completions")
        ask_all(endpoint, ["first", "second"], 2, kept, 1, "asking")
        kept.write_text(kept.read_text()[:-20])
        for _ in range(2):
            ask_all(endpoint, ["first", "second"], 2, kept, 1, "asking")
    assert len(asked) == 3


def test_an_answer_without_log_probabilities_changes_no_later_question():
    """An empty first token has none. Only a server that refuses them is asked for them no more."""
    asked = []

    def respond(path, headers, body):
        asked.append("logprobs" in body)
        if "refuse" in body["prompt"] and asked[-1]:
            return 400, {}, {"error": {"message": "logprobs: not supported"}}
        top = [] if "empty" in body["prompt"] else [{"A": -0.1}]
        logprobs = {"top_logprobs": top} if asked[-1] else None
        return 200, {}, {"choices": [{"text": "A", "logprobs": logprobs}]}

    with answering(respond) as address:
        endpoint = Endpoint(checked_url(address), "small", "completions")
        answers = [endpoint.complete("", text)[1] for text in ("empty", "full", "refuse", "full")]
    assert answers == [None, {"A": -0.1}, None, None]
    assert asked == [True, False, True, True, False, False]


def test_the_key_is_sent_and_written_nowhere(letters, run, capsys, monkeypatch):
    monkeypatch.setenv("LLMREC_API_KEY", "sk-secret")
    served = ServedModel(*letters)
    with answering(served) as address:
        assert simulate(address, "--users", "5") == 0
    assert {headers["Authorization"] for headers in served.headers} == {"Bearer sk-secret"}
    with answering(lambda *_: (401, {}, {"error": {"message": "wrong key\nsk-secret \x1b[31m"}})) as address:
        assert simulate(address) == 2
    shown = capsys.readouterr()
    assert "HTTP 401: wrong key … [31m" in shown.err
    assert "sk-secret" not in shown.out + shown.err
    assert not [file for file in run.rglob("*") if file.is_file() and b"sk-secret" in file.read_bytes()]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((500, {}, b"<html>"), "HTTP 500"),
        ((307, {"Location": "http://127.0.0.1:1/v1"}, b""), "HTTP 307"),
        ((200, {}, b"not json"), "the answer cannot be read: not JSON at line 1, column 1"),
        ((200, {}, b"\xff\xfe\xfd"), "the answer cannot be read"),
        ((200, {}, b"[" * 100_000), "the answer cannot be read: nested too deeply"),
        ((200, {}, b" " * (1 << 21)), "the answer is larger than 1 MiB"),
        ((200, {}, {"choices": []}), "not that of the chat API; is `--api completions` meant?"),
        ((200, {}, {"choices": [{"text": "B"}]}), "not that of the chat API; is `--api completions` meant?"),
        ((400, {}, {"message": "no chat template"}), "HTTP 400: no chat template"),
        ((404, {}, {"error": {"message": "x" * 5000}}), "HTTP 404: " + "x" * 100),
    ],
)
def test_what_a_server_may_do_wrong_is_one_line(run, capsys, answer, told):
    with answering(lambda *_: answer) as address:
        assert simulate(address) == 2
    shown = capsys.readouterr().err
    assert told in shown and shown.startswith("llmrec: ") and shown.count("\n") == 1
    assert not (run / "simulate").exists()


def test_a_server_that_is_silent_or_absent_is_told(run, capsys):
    done = threading.Event()
    with answering(lambda *_: (200, {}, b"") if done.wait() else None) as address:
        assert simulate(address, "--timeout", "0.2") == 2
        assert "no answer within 0.2 s (--timeout)" in capsys.readouterr().err
        done.set()
    assert simulate(address) == 2
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--systems", "sft,dpo"], "tiny has no test lists of 'dpo' (there are: item_knn, popularity, sft)"),
        (["--systems", " , "], "--systems: no system is named"),
        (["--slate", "6", "--systems", "sft"], "the list of sft for user 'u0' has 5 items; a slate has 6"),
        (["--slate", "25"], "'--slate': expected at most 19 (found '25')"),
        (["--split", "train"], "'--split'"),
    ],
)
def test_a_request_that_cannot_be_simulated_asks_nothing(run, capsys, options, told):
    asked = []
    with answering(lambda *request: asked.append(request) or (500, {}, b"")) as address:
        assert simulate(address, *options) == 2
    assert told in capsys.readouterr().err and not asked
