"""The gate and what hangs on it: verdicts, the winner, who recommends, and the road to an aligned model."""

import json
import shutil

import polars as pl
import pytest

from llmrec import pipeline
from llmrec.config import load_recipe
from llmrec.evaluate.gate import compare_with_sft, gate_metrics, sentences
from llmrec.metrics.statistics import Bootstrap
from llmrec.recommend.reuse import list_key
from llmrec.recommend.trained_run import TrainedRun
from llmrec.report.page.training_curves import alignment
from llmrec.report.systems import shown_model

METRICS = ["ndcg@10", "hr@50"]
SFT = [0.0, 0.5, 0.25, 0.25]


def judged(**gains):
    """The gate of four users; `gains` are what models add to SFT's NDCG, user by user."""
    users = {"sft": SFT} | {
        name: [a + b for a, b in zip(SFT, gain, strict=True)] for name, gain in gains.items()
    }
    frames = {name: pl.DataFrame({"ndcg@10": values, "hr@50": [1.0] * 4}) for name, values in users.items()}
    return compare_with_sft(frames, METRICS, Bootstrap(resamples=200, seed=0, confidence=0.95))


@pytest.mark.parametrize(
    ("gain", "difference", "verdict"),
    [
        ([0.1, 0.1, 0.1, 0.1], 0.1, "better"),
        ([-0.1, -0.1, -0.1, -0.1], -0.1, "worse"),
        ([0.3, 0.3, -0.3, 0.1], 0.1, "no difference"),
        ([0.0, 0.0, 0.0, 0.0], 0.0, "no difference"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(gain, difference, verdict):
    verdicts = judged(dpo=gain)
    gap = verdicts["models"]["dpo"]["ndcg@10"]
    low, high = gap["interval"]
    assert gap["difference"] == pytest.approx(difference) and low <= gap["difference"] <= high
    assert gap["verdict"] == verdict
    assert verdicts["winner"] == ("dpo" if verdict == "better" else "sft")
    assert verdicts["models"]["dpo"]["hr@50"]["verdict"] == "no difference"
    assert (verdicts["users"], verdicts["split"], verdicts["metric"]) == (4, "valid", "ndcg@10")


def test_of_two_better_models_the_larger_difference_wins():
    assert judged(dpo=[0.1] * 4, grpo=[0.2] * 4)["winner"] == "grpo"
    assert judged(dpo=[0.1] * 4, grpo=[0.9, 0.9, -0.9, 0.3])["winner"] == "dpo"  # larger, but may be chance


def test_the_gates_metrics_are_cut_at_the_length_of_the_lists():
    assert gate_metrics(50) == ["ndcg@10", "hr@50"]
    assert gate_metrics(20) == ["ndcg@10", "hr@10"]
    assert gate_metrics(5) == ["ndcg@5", "hr@5"]


def test_a_gate_in_words_names_the_winner_last():
    dpo, grpo = sentences(judged(dpo=[0.1] * 4, grpo=[-0.1] * 4))
    assert dpo == "dpo against sft on validation, 4 users: NDCG@10 +0.1000 [+0.1000, +0.1000], better"
    assert grpo.endswith("[−0.1000, −0.1000], worse; the run now recommends with dpo")
    assert sentences(judged(dpo=[0.0] * 4))[0].endswith("no difference; the run still recommends with sft")


def make_run(folder, models, sha256="new"):
    for model in models:
        (folder / model).mkdir(parents=True)
        (folder / model / "adapter_model.safetensors").touch()
        outputs = {f"{model}/adapter_model.safetensors": sha256}
        (folder / model / "manifest.json").write_text(json.dumps({"outputs": outputs}))


def default_model(folder):
    return TrainedRun(folder, "run", None, None, {}, None, None).default_model


def test_the_winner_is_the_default_model_while_its_adapter_is_the_one_that_was_evaluated(tmp_path):
    make_run(tmp_path, ["sft", "dpo"])
    assert default_model(tmp_path) == "sft"
    (tmp_path / "eval").mkdir()
    for adapter, winner, expected in (("new", "dpo", "dpo"), ("old", "dpo", "sft"), ("new", "sft", "sft")):
        verdicts = {"winner": winner, "models": {"dpo": {"adapter": adapter}}}
        (tmp_path / "eval/gate.json").write_text(json.dumps(verdicts))
        assert default_model(tmp_path) == expected
    (tmp_path / "eval/gate.json").write_text(json.dumps(verdicts | {"winner": "dpo"}))
    (tmp_path / "dpo/manifest.json").unlink()  # half-written
    assert default_model(tmp_path) == "sft"
    shutil.rmtree(tmp_path / "sft")
    assert default_model(tmp_path) == "base"


def test_the_default_model_of_an_export_is_the_one_that_it_names(tmp_path):
    make_run(tmp_path, ["sft", "dpo"])
    for named, expected in (("dpo", "dpo"), ("grpo", "sft"), ("base", "sft")):
        (tmp_path / "export.json").write_text(json.dumps({"model": named}))
        assert default_model(tmp_path) == expected


ORIGIN = {
    "version": 2,
    "seed": 0,
    "recipe_keys": {"data.history": 6, "decode": {"width": 5, "splits": ["test"]}},
    "inputs": {"base/model.safetensors": "b", "sft/adapter_model.safetensors": "s", "sft/metrics.jsonl": "m"},
}


def test_the_key_of_lists_depends_only_on_their_model_and_settings():
    key = list_key(ORIGIN, "sft", "test")
    aligned = ORIGIN | {
        "inputs": ORIGIN["inputs"] | {"dpo/adapter_model.safetensors": "d", "sft/metrics.jsonl": "n"}
    }
    more = ORIGIN | {"recipe_keys": {"data.history": 6, "decode": {"width": 5, "splits": ["test", "valid"]}}}
    assert list_key(aligned, "sft", "test") == list_key(more, "sft", "test") == key
    others = [
        ORIGIN | {"version": 3},
        ORIGIN | {"seed": 1},
        ORIGIN | {"recipe_keys": {"data.history": 7, "decode": {"width": 5}}},
        ORIGIN | {"recipe_keys": {"data.history": 6, "decode": {"width": 6}}},
        ORIGIN | {"inputs": ORIGIN["inputs"] | {"base/model.safetensors": "c"}},
        ORIGIN | {"inputs": ORIGIN["inputs"] | {"sft/adapter_model.safetensors": "t"}},
    ]
    keys = {list_key(other, "sft", "test") for other in others}
    keys |= {list_key(ORIGIN, "sft", "valid"), list_key(aligned, "dpo", "test")}
    assert len(keys) == 8 and key not in keys
    former = {("config" if name == "recipe_keys" else name): value for name, value in ORIGIN.items()}
    assert list_key(former, "sft", "test") == key  # a run of an earlier version


@pytest.mark.parametrize(
    ("align", "until", "there"),
    [
        ("[]", "report", []),
        ("[dpo]", "report", ["pairs", "dpo"]),
        ("[grpo]", "report", ["grpo"]),
        ("[grpo,dpo]", "report", ["pairs", "dpo", "grpo"]),
        ("[]", "dpo", ["pairs", "dpo"]),
        ("[dpo]", "pairs", ["pairs"]),
        ("[dpo]", "grpo", ["grpo"]),
    ],
)
def test_a_run_includes_the_alignment_methods_that_are_requested(align, until, there):
    road = [stage.name for stage in pipeline.stages_of(load_recipe("quickstart", [f"align={align}"]), until)]
    assert [name for name in road if name in ("pairs", "dpo", "grpo")] == there
    assert road[-1] == until and (until != "report" or road[-3:] == ["decode", "eval", "report"])


def test_the_report_draws_the_values_of_a_training_log(tmp_path):
    assert alignment(tmp_path) is None and shown_model(tmp_path, ["sft", "dpo"]) == "sft"
    (tmp_path / "grpo").mkdir()
    lines = [
        {"step": 1, "epoch": 0.1, "reward": 0.5, "kl": None},
        {"step": 2, "valid_hr@50": 0.2, "reward": 0.6},
    ]
    (tmp_path / "grpo/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (training,) = alignment(tmp_path)["trainings"]
    assert (training["method"], training["steps"]) == ("grpo", 2)
    assert [chart["title"] for chart in training["charts"]] == [
        "Reward of a rollout",
        "HR@50 of validation lists",
    ]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/gate.json").write_text(json.dumps(judged(dpo=[0.1] * 4)))
    assert len(alignment(tmp_path)["sentences"]) == 1
    assert shown_model(tmp_path, ["sft", "dpo"]) == "dpo" and shown_model(tmp_path, ["sft"]) == "sft"
