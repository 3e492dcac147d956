"""Training through the command line: LoRA, kills and resumes, planted leaks."""

import importlib.util
import json
import math
from functools import partial
from glob import glob

import numpy as np
import polars as pl
import pytest
import shop as small_shop
from safetensors import safe_open
from shop import LORA
from small_models import give_trained_geometry, make_model


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
    from llmrec.train.sft.prepare import prepare

    with small_shop.inside(shop[0]):
        start = prepare(load_recipe("recipe.yaml", LORA), lora)
        on_it = prepare(load_recipe("recipe.yaml", [*LORA, f"base.model={lora / 'base'}"]), lora)
    assert start.new_tokens.tolist() == start.catalogue.vocabulary.added_ids.tolist()
    assert not len(on_it.new_tokens)  # that base has them, trained
    before = start.model.get_input_embeddings().weight.detach().numpy()
    with safe_open(lora / "base" / "model.safetensors", framework="np") as file:
        after = file.get_tensor("model.embed_tokens.weight")
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.size and set(changed) <= set(start.catalogue.vocabulary.added_ids.tolist())


@pytest.mark.cpu_alone
def test_a_killed_training_goes_on_and_ends_in_the_same_metrics(shop, lora):
    folder, _ = shop
    name = "killed"
    command = ("run", "recipe.yaml", f"run={name}", "parent=shop", *LORA)
    run = folder / "runs" / name
    process = small_shop.start(folder, *command)
    assert small_shop.kill_when(
        process, lambda: list(run.glob(".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"))
    )
    assert not (run / "sft").exists() and not (run / "base").exists()
    done = small_shop.run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert (run / "eval/metrics.json").read_bytes() == (lora / "eval/metrics.json").read_bytes()
    resumed = (run / "sft/metrics.jsonl").read_text().splitlines()
    whole = (lora / "sft/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in resumed] == [json.loads(line)["step"] for line in whole]


@pytest.mark.parametrize("tied", [True, False])
def test_training_on_a_pretrained_base_starts_at_chance(shop, tmp_path, tied):
    model, tokenizer = make_model("llama", tied, hidden=64)
    give_trained_geometry(model).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder, _ = shop
    name = f"pretrained-{tied}"
    options = [f"base.model={tmp_path}", "sft.mode=lora", "sft.max_steps=1", "sft.keep=last"]
    done = small_shop.run(folder, "sft", "recipe.yaml", f"run={name}", "parent=shop", *options)
    assert done.returncode == 0, done.stderr
    assert "rows were moved to start at chance" in done.stderr
    log = [json.loads(line) for line in (folder / f"runs/{name}/sft/metrics.jsonl").read_text().splitlines()]
    with safe_open(folder / f"runs/{name}/base/model.safetensors", framework="np") as file:
        rows = len(file.get_tensor("model.embed_tokens.weight"))
    assert log[0]["step"] == 1 and log[0]["loss"] <= math.log(rows) + 0.3


def test_training_stops_early_where_validation_gets_worse(shop):
    folder, _ = shop
    far_too_fast = ["sft.lr=0.5", "sft.max_steps=30", "sft.eval_steps=1", "sft.patience=1", "sft.keep=loss"]
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=early", "parent=shop", *far_too_fast)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (folder / "runs/early/sft/metrics.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in log if "valid_loss" in line]
    assert len(losses) < 30 and losses[-1] > min(losses)


@pytest.mark.cpu_alone
def test_a_killed_training_stops_early_where_it_would_have(shop):
    folder, _ = shop
    settings = ["sft.lr=0.5", "sft.max_steps=30", "sft.eval_steps=1", "sft.patience=2", "sft.keep=loss"]
    steps = {}
    for name in ("patient", "patient-killed"):
        command = ("sft", "recipe.yaml", f"run={name}", "parent=shop", *settings)
        run = folder / "runs" / name
        if name.endswith("killed"):
            process = small_shop.start(folder, *command)
            saved = str(run / ".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json")
            assert small_shop.kill_when(process, partial(glob, saved))
            assert not (run / "sft").exists()
        done = small_shop.run(folder, *command)
        assert done.returncode == 0, done.stderr
        log = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
        steps[name] = [line["step"] for line in log if "valid_loss" in line]
    assert steps["patient"] == steps["patient-killed"] and len(steps["patient"]) < 30


def test_a_mix_of_tasks_is_trained_on_and_decoding_asks_with_the_first(shop):
    folder, _ = shop
    tasks = "{task: sequential, templates: [sids]}, {task: item_to_sid, weight: [0.5, 1]}, {task: direct}"
    mixed = [
        f"prompts=[{tasks}, {{task: fusion, language: all}}, {{task: rating}}]",
        "run=mixed",
        "parent=shop",
    ]
    done = small_shop.run(folder, "run", "recipe.yaml", *mixed, "--until", "decode")
    assert done.returncode == 0, done.stderr
    assert "task 'rating' is switched off: this data has no rating" in done.stderr
    info = json.loads((folder / "runs/mixed/base/llmrec.json").read_text())
    assert info["prompts"]["template"]["id"] == "sids"
    manifest = json.loads((folder / "runs/mixed/sft/manifest.json").read_text())
    alone = json.loads((folder / "runs/shop/sft/manifest.json").read_text())
    assert manifest["notes"]["trees"] > 3 * alone["notes"]["trees"]
    lists = pl.read_parquet(folder / "runs/mixed/decode/sft-test.parquet")
    assert lists["user_id"].n_unique() == small_shop.USERS


def test_a_tracker_that_is_not_installed_is_named(shop):
    missing = [name for name in ("tensorboard", "wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed")
    tracker = f"track.report_to=[{missing[0]}]"
    done = small_shop.run(shop[0], "sft", "recipe.yaml", "run=tracked", "parent=shop", tracker)
    assert done.returncode == 2 and f"{missing[0]} is not installed" in done.stderr


def test_a_leak_planted_in_a_run_is_reported(shop, tmp_path):
    from llmrec.train.sft.preview import find_run_leaks

    folder, _ = shop
    assert find_run_leaks(folder / "runs/shop") == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data/report.json").write_bytes((folder / "runs/shop/data/report.json").read_bytes())
    rows = pl.read_parquet(folder / "runs/shop/data/interactions.parquet")
    rows = rows.with_columns(pl.col("user_id", "item_id", "split").cast(pl.String))
    victim = rows["user_id"][0]
    target = rows.filter((pl.col("user_id") == victim) & (pl.col("split") == "test"))
    planted = pl.concat([target.with_columns(split=pl.lit("train")), rows])
    planted.write_parquet(tmp_path / "data/interactions.parquet")
    leaks = find_run_leaks(tmp_path)
    assert leaks and all(repr(victim) in leak for leak in leaks)
    assert (
        f"test: the held-out interaction of user {victim!r} with item {target['item_id'][0]!r}" in leaks[-1]
    )


def log_of(run):
    return [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def together(shop, lora):
    """What the tests of several processes train, and the run that one process made of it.

    Neither its trees nor its validation users fill the batches.
    """
    options = [*LORA, "sft.valid_lists=9", "sft.keep=ndcg", "sft.eval_steps=2", "sft.save_steps=2"]
    options += ["sft.distillation={teacher: item_knn, weight: 0.5, synthetic_items: 1}", "sft.lora.rank=1"]
    options += ["sft.valid_users=11"]
    return options, train_together(shop[0], "together-1", options)


def train_together(folder, run, options, *workers):
    done = small_shop.run(folder, "sft", "recipe.yaml", *workers, f"run={run}", "parent=shop", *options)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / run


def assert_learnt_alike(one, two, rel=1e-4, atol=1e-5):
    """The same losses, gradients, validation losses and lists, and the same weights in the end."""
    logs = log_of(one), log_of(two)
    assert len(logs[0]) == len(logs[1])
    assert all(any(name in line for line in logs[0]) for name in ("valid_loss", "valid_ndcg@10"))
    for mine, yours in zip(*logs, strict=True):
        assert mine.keys() == yours.keys()
        assert list(yours.values()) == pytest.approx(list(mine.values()), rel=rel, abs=1e-7)
    for name in ("base/config.json", "base/generation_config.json"):
        assert json.loads((one / name).read_text()) == json.loads((two / name).read_text())
    for name in ("base/model.safetensors", "sft/adapter_model.safetensors"):
        if not (one / name).is_file():
            continue
        with safe_open(one / name, "np") as mine, safe_open(two / name, "np") as yours:
            assert set(mine.keys()) == set(yours.keys())
            for tensor in mine.keys():  # noqa: SIM118
                np.testing.assert_allclose(mine.get_tensor(tensor), yours.get_tensor(tensor), atol=atol)


@pytest.mark.cpu_alone
def test_two_processes_learn_what_one_does(shop, together):
    options, one = together
    assert_learnt_alike(one, train_together(shop[0], "together-2", options, "--processes", "2"))


SHARED = ("--processes", "2", "--shard")


@pytest.mark.cpu_alone
def test_two_processes_with_a_part_of_the_weights_each_learn_what_one_does(shop, together):
    """Adapters and the rows of a tied head; killed on the way, and gone on with."""
    folder, _ = shop
    options, one = together
    command = ("sft", "recipe.yaml", "run=sharded", "parent=shop", *options)
    run = folder / "runs/sharded"
    process = small_shop.start(folder, *command, *SHARED)
    assert small_shop.kill_when(
        process, lambda: list(run.glob(".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"))
    )
    done = small_shop.run(folder, *command)
    assert done.returncode == 2 and "with --shard, or delete" in done.stderr
    assert_learnt_alike(one, train_together(folder, "sharded", options, *SHARED))


@pytest.mark.cpu_alone
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_softmax_over_children_is_learnt_in_parts_too(shop, mode):
    """The head's rows are gathered where its weights are whole, inside its forward."""
    options = [*LORA, f"sft.mode={mode}", "sft.softmax=children", "ids.collisions=own_code", "sft.lr=1e-4"]
    options += ["sft.valid_lists=9", "sft.eval_steps=3", "sft.valid_users=11", "sft.lora.rank=1"]
    options += ["sft.distillation={teacher: item_knn, weight: 0.5, synthetic_items: 1}"]
    one, two = (train_together(shop[0], f"children-{mode}-{len(how)}", options, *how) for how in ((), SHARED))
    assert_learnt_alike(one, two, atol=5e-5)


@pytest.mark.cpu_alone
def test_all_weights_are_learnt_in_parts_too(shop):
    options = ["sft.mode=full", "sft.lr=1e-4", "sft.valid_lists=9", "sft.gradient_checkpointing=true"]
    options += ["sft.bf16=true", "sft.batch=8", "sft.accumulate=2", "sft.valid_users=11"]
    one, two = (train_together(shop[0], f"full-{len(how)}", options, *how) for how in ((), SHARED))
    assert_learnt_alike(one, two, rel=2e-3, atol=1e-4)  # a step of Adam is as large as its learning rate
    assert json.loads((two / "base/config.json").read_text())["use_cache"] is True


@pytest.mark.cpu_alone
def test_sharding_needs_several_processes_and_whole_weights(shop):
    for options, told in ((["--shard"], "--processes N"), ([*SHARED, "sft.mode=qlora"], "sft.mode=lora")):
        done = small_shop.run(shop[0], "sft", "recipe.yaml", "run=unshared", "parent=shop", *options)
        assert done.returncode == 2 and told in done.stderr


def test_a_teacher_shows_in_the_loss_and_is_trained_where_it_has_to_be(shop, lora):
    folder, _ = shop
    sasrec = "collaborative.sasrec_ce={dim: 8, heads: 1, epochs: 2, batch: 64, valid_users: 20}"
    command = ("sft", "recipe.yaml", "run=taught", "parent=shop", *LORA, sasrec)
    done = small_shop.run(folder, *command, "sft.distillation={synthetic_items: 0}")
    assert done.returncode == 0, done.stderr
    run = folder / "runs/taught"
    assert (run / "collaborative/sasrec_ce.safetensors").is_file()
    done = small_shop.run(folder, *command, "sft.distillation={synthetic_items: 0, weight: 1}", "run=told")
    assert done.returncode == 0, done.stderr
    # Before the first step all three are one model: its losses are mixed by the weight, which is ½ unless named.
    runs = (lora, run, folder / "runs/told")
    losses = [[line["loss"] for line in log_of(one) if "loss" in line] for one in runs]
    assert len(losses[0]) == len(losses[1]) == len(losses[2])
    choice, mixed, word = (of_run[0] for of_run in losses)
    assert abs(choice - word) > 1e-3 and mixed == pytest.approx((choice + word) / 2, abs=1e-4)
    done = small_shop.run(folder, *command, "sft.distillation={synthetic_items: 2}", "run=ahead")
    assert done.returncode == 0, done.stderr
    notes = [
        json.loads((folder / f"runs/{n}/sft/manifest.json").read_text())["notes"] for n in ("ahead", "taught")
    ]
    assert notes[0]["tokens_per_epoch"] > notes[1]["tokens_per_epoch"], "made-up items are tokens too"


@pytest.mark.cpu_alone
def test_a_batch_that_processes_cannot_share_is_refused(shop):
    command = ("sft", "recipe.yaml", "--processes", "3", "run=thirds", "parent=shop", "sft.lr=1e-4")
    done = small_shop.run(shop[0], *command)
    assert done.returncode == 2 and "sft.batch=16" in done.stderr and "--processes" in done.stderr


def test_the_lists_of_a_training_are_those_of_the_evaluation(shop):
    folder, _ = shop
    options = [
        "sft.valid_lists=60",
        "sft.eval_steps=3",
        "decode.splits=[valid]",
        "decode.width=20",
        "eval.k=[10]",
    ]
    done = small_shop.run(
        folder, "run", "recipe.yaml", "run=listed", "parent=shop", "--until", "eval", *options
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "runs/listed/eval/metrics.json").read_text())["valid"]["sft"]["ndcg@10"]
    logged = [line["valid_ndcg@10"] for line in log_of(folder / "runs/listed") if "valid_ndcg@10" in line]
    assert found > 0 and logged[-1] == pytest.approx(found, abs=1e-6)
