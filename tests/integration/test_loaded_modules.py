"""What a command imports before it answers: an interpreter of its own, and the modules that it has loaded."""

import json
import subprocess
import sys

import pytest
import shop as small_shop

MAIN = """import json, sys
from llmrec.cli import main
print(json.dumps([main({words!r}), *sys.modules]))"""


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["recommend", "shop", "--user", "u7", "--model", "item_knn"], {"torch", "transformers"}),
        (["recommend", "shop", "--user", "u7", "--model", "sasrec_ce"], {"transformers"}),
        (["items", "shop"], {"torch", "transformers", "scipy"}),
        (["compare", "shop", "--against", "popularity"], {"torch", "transformers", "scipy.stats"}),
        (["ls"], {"torch", "polars", "numpy"}),
    ],
    ids=lambda words: "-".join(words) if isinstance(words, list) else "",
)
def test_a_command_loads_no_library_that_its_answer_does_not_need(shop, monkeypatch, words, left_out):
    monkeypatch.chdir(shop[0])
    for name, value in small_shop.environment(shop[0]).items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", MAIN.format(words=words)], capture_output=True, text=True)
    code, *modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert not left_out & set(modules)
