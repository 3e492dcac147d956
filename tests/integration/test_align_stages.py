"""DPO and GRPO through the command line: what they write, how they go on, what they refuse."""

import json

import numpy as np
import pytest
import shop as small_shop
from safetensors.numpy import load_file

WEIGHTS = "adapter_model.safetensors"


def log_of(run, stage):
    return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]


def test_both_models_are_trained_decoded_judged_and_reported(aligned):
    run, done = aligned
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert {"sft", "dpo", "grpo"} <= set(metrics["test"])
    gate = json.loads((run / "eval/gate.json").read_text())
    assert set(gate["models"]) == {"dpo", "grpo"}
    assert "gate: dpo against sft on validation" in done.stdout
    assert "Alignment" in (run / "eval/report.html").read_text()


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
def test_an_aligned_model_is_a_plain_adapter_trained_from_sfts_adapter(aligned, stage):
    run, _ = aligned
    before, after = load_file(run / "sft" / WEIGHTS), load_file(run / stage / WEIGHTS)
    assert before.keys() == after.keys() and all(".lora_" in name for name in after)
    assert any(not np.array_equal(before[name], after[name]) for name in after)
    assert all(np.abs(before[name] - after[name]).max() < 0.1 for name in after)
    config = json.loads((run / stage / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] is None and config["modules_to_save"] is None


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
def test_the_training_log_has_the_metrics_of_its_method(aligned, stage):
    log = log_of(aligned[0], stage)
    watched = [line["step"] for line in log if "valid_ndcg@10" in line]
    assert watched[0] == 0 and watched[-1] == 4
    values = {"dpo": {"margin", "accuracy", "entropy"}, "grpo": {"reward", "hits", "zero_variance", "kl"}}
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4] and values[stage] <= steps[0].keys()
    if stage == "grpo":
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
def test_a_killed_alignment_goes_on_and_ends_the_same(shop, aligned, stage):
    folder, _ = shop
    settings = [setting for setting in small_shop.ALIGNED if not setting.startswith("align=")]
    command = ["run", "recipe.yaml", f"run=killed-{stage}", "parent=lora", *settings, "--until", stage]
    run = folder / "runs" / f"killed-{stage}"
    process = small_shop.start(folder, *command)
    written = f".scratch/{stage}-*/**/checkpoints/checkpoint-2/trainer_state.json"
    assert small_shop.kill_when(process, lambda: list(run.glob(written)))
    assert not (run / stage).exists()
    done = small_shop.run(folder, *command)
    assert done.returncode == 0, done.stderr
    ends, whole = (load_file(path / stage / WEIGHTS) for path in (run, aligned[0]))
    for name in whole:
        np.testing.assert_allclose(ends[name], whole[name], atol=1e-6, err_msg=name)
    assert [line["step"] for line in log_of(run, stage)] == [
        line["step"] for line in log_of(aligned[0], stage)
    ]


@pytest.mark.parametrize(
    ("stage", "settings", "words"),
    [
        ("grpo", ["grpo.rewards=[{name: hitt}]"], "grpo.rewards"),
        ("grpo", ["grpo.rewards=[{name: 'bad_rewards:nan'}]"], "finite"),
        ("grpo", ["grpo.rewards=[{name: 'bad_rewards:short'}]"], "shape"),
        ("grpo", ["grpo.generations=50", "grpo.rollouts=beams"], "grpo.generations=50"),
        ("dpo", ["pairs.negatives=40", "pairs.sources=random"], "pairs.negatives=40"),
        ("dpo", ["pairs.negatives=20", "pairs.sources=beams"], "width"),
        ("dpo", ["dpo.lora.dropout=0.1"], "dropout must be 0"),
    ],
)
def test_invalid_alignment_settings_are_a_one_line_error(shop, aligned, stage, settings, words):
    folder, _ = shop
    (folder / "bad_rewards.py").write_text(
        "import numpy as np\n"
        "def nan(groups, known):\n    return np.full(groups.items.shape, np.nan)\n"
        "def short(groups, known):\n    return np.zeros(len(groups.items))\n"
    )
    common = [
        *small_shop.ALIGNED,
        "run=wrong",
        "parent=preferred",
        "grpo.valid_lists=null",
        "dpo.valid_lists=null",
    ]
    done = small_shop.run(folder, "run", "recipe.yaml", *common, *settings, "--until", stage)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


def test_each_round_of_self_play_makes_new_pairs(shop, aligned):
    folder, _ = shop
    settings = [*small_shop.ALIGNED, "run=rounds", "parent=preferred", "dpo.rounds=2", "dpo.max_steps=2"]
    done = small_shop.run(folder, "run", "recipe.yaml", *settings, "--until", "dpo")
    assert done.returncode == 0, done.stderr
    log = log_of(folder / "runs/rounds", "dpo")
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4]
    # Each round starts where its reference is.
    margins = {line["step"]: line["margin"] for line in log if "margin" in line}
    assert margins[1] == margins[3] == 0


@pytest.mark.parametrize("mode", ["full", "qlora"])
def test_every_mode_of_sft_can_be_aligned(shop, mode):
    folder, _ = shop
    settings = [setting for setting in small_shop.ALIGNED if not setting.startswith(("sft.mode", "align"))]
    command = ["run", "recipe.yaml", f"run=dpo-{mode}", "parent=shop", f"sft.mode={mode}", *settings]
    done = small_shop.run(folder, *command, "dpo.valid_lists=null", "--until", "dpo")
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / f"dpo-{mode}"
    after = load_file(run / "dpo" / WEIGHTS)
    assert all(".lora_" in name for name in after)
    assert all(np.abs(after[name]).max() > 0 for name in after if ".lora_B" in name)
    assert (run / "sft" / WEIGHTS).is_file() == (mode == "qlora")
    # The first step has no margin: policy and reference are the SFT model, on 4-bit weights too.
    assert log_of(run, "dpo")[0]["margin"] == 0
