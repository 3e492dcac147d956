"""Training through the command line: LoRA, kills and resumes, planted leaks."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import shop as small_shop
from safetensors import safe_open
from shop import LORA


def test_a_lora_run_ends_in_a_base_and_a_pure_adapter(lora):
    with safe_open(lora / "sft" / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    config = json.loads((lora / "sft" / "adapter_config.json").read_text())
    assert config.get("trainable_token_indices") is None and config.get("modules_to_save") is None
    info = json.loads((lora / "base" / "llmrec.json").read_text())
    assert len(info["items"]) == len(np.load(lora / "base" / "sids.npy"))
    steps = [json.loads(line)["step"] for line in (lora / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6


def test_only_the_sid_rows_of_the_base_were_trained(shop, lora):
    """LoRA mode leaves every other row of the embedding as the base had it."""
    from llmrec.config import load_recipe
    from llmrec.train.sft import prepare

    os.environ["LLMREC_RUNS"] = str(shop[0] / "runs")
    here = Path.cwd()
    os.chdir(shop[0])
    try:
        start = prepare(load_recipe("recipe.yaml", LORA), lora)
    finally:
        os.chdir(here)
    before = start.model.get_input_embeddings().weight.detach().numpy()
    with safe_open(lora / "base" / "model.safetensors", framework="np") as file:
        after = file.get_tensor("model.embed_tokens.weight")
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.size and set(changed) <= set(start.vocabulary.all_ids.tolist())


def kill_when(process, happened):
    """Kill a process group once something has happened; false if the process ended first."""
    while process.poll() is None:
        if happened():
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.01)
    return False


def test_a_killed_training_goes_on_and_ends_in_the_same_metrics(shop, lora):
    folder, _ = shop
    name = "killed"
    command = ("run", "recipe.yaml", f"run={name}", "parent=shop", *LORA)
    run = folder / "runs" / name
    process = small_shop.start(folder, *command)
    assert kill_when(
        process, lambda: list(run.glob(".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"))
    )
    assert not (run / "sft").exists() and not (run / "base").exists()
    done = small_shop.run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert (run / "eval/metrics.json").read_bytes() == (lora / "eval/metrics.json").read_bytes()
    resumed = (run / "sft/metrics.jsonl").read_text().splitlines()
    whole = (lora / "sft/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in resumed] == [json.loads(line)["step"] for line in whole]


def test_training_stops_early_where_validation_gets_worse(shop):
    folder, _ = shop
    far_too_fast = ["sft.lr=0.5", "sft.max_steps=30", "sft.eval_steps=1", "sft.patience=1"]
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=early", "parent=shop", *far_too_fast)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (folder / "runs/early/sft/metrics.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in log if "valid_loss" in line]
    assert len(losses) < 30 and losses[-1] > min(losses)


def test_a_tracker_that_is_not_installed_is_named(shop):
    missing = [name for name in ("tensorboard", "wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed")
    tracker = f"track.report_to=[{missing[0]}]"
    done = small_shop.run(shop[0], "sft", "recipe.yaml", "run=tracked", "parent=shop", tracker)
    assert done.returncode == 2 and f"{missing[0]} is not installed" in done.stderr


def test_a_leak_planted_in_a_run_is_reported(shop, tmp_path):
    from llmrec.train.preview import leaks_of

    folder, _ = shop
    assert leaks_of(folder / "runs/shop") == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data/report.json").write_bytes((folder / "runs/shop/data/report.json").read_bytes())
    rows = pl.read_parquet(folder / "runs/shop/data/interactions.parquet")
    rows = rows.with_columns(pl.col("user_id", "item_id", "split").cast(pl.String))
    victim = rows["user_id"][0]
    target = rows.filter((pl.col("user_id") == victim) & (pl.col("split") == "test"))
    planted = pl.concat([target.with_columns(split=pl.lit("train")), rows])
    planted.write_parquet(tmp_path / "data/interactions.parquet")
    leaks = leaks_of(tmp_path)
    assert leaks and all(repr(victim) in leak for leak in leaks)
    assert (
        f"test: the held-out interaction of user {victim!r} with item {target['item_id'][0]!r}" in leaks[-1]
    )
