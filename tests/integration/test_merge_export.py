"""`llmrec merge` and `llmrec export` on real runs: what is written computes what the run computes."""

import json
import os
import shutil

import numpy as np
import pytest
import shop as small_shop
import torch
import yaml
from checkpoints import load_checkpoint, save_base
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from tiny_base import ITEMS, PROMPTS, SIDS, make_base, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec import UserError
from llmrec.commands.finished_run import export, merge
from llmrec.config import SftConfig, load_recipe, load_run_recipe
from llmrec.models import modes
from llmrec.recommend.recommender import Recommender
from llmrec.recommend.trained_run import TrainedRun
from llmrec.report.model_card import described_card
from llmrec.report.verdict import summary as verdict_lines

BATCH = torch.tensor([[5, 9, 14, 7, 30, 2]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=BATCH).logits


@pytest.fixture(scope="module")
def merged(shop, lora):
    """The LoRA run's merged checkpoint, made by the command line."""
    dest = shop[0] / "merged"
    done = small_shop.run(shop[0], "merge", str(lora), str(dest))
    assert done.returncode == 0, done.stderr
    assert "model sft, 40 items" in done.stdout and "retired" not in done.stdout
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in dest.rglob("*") if path.is_file()} == {0o666 & ~umask}
    return dest


@pytest.fixture(scope="module")
def exported(shop, lora):
    """The LoRA run's export, likewise."""
    dest = shop[0] / "exported"
    done = small_shop.run(shop[0], "export", str(lora), str(dest))
    assert done.returncode == 0, done.stderr
    return dest


def test_a_merged_checkpoint_computes_what_base_and_adapter_do(lora, merged):
    plain = AutoModelForCausalLM.from_pretrained(merged).eval()
    both = load_checkpoint(lora / "base", lora / "sft").model
    torch.testing.assert_close(logits(plain), logits(both), atol=1e-4, rtol=0)
    assert (logits(load_checkpoint(lora / "base").model) - logits(both)).abs().max() > 1e-3
    assert (
        AutoTokenizer.from_pretrained(merged)("<a_1>")["input_ids"]
        == AutoTokenizer.from_pretrained(lora / "base")("<a_1>")["input_ids"]
    )


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_merging_is_exact_for_tied_and_untied_bases(tmp_path, tied, options):
    model, tokenizer, vocabulary = make_base(tied)
    sft = SftConfig.model_validate({"mode": "lora", "lora": options})
    wrapped, _ = train(modes.wrap(model, sft, vocabulary, tmp_path), vocabulary)
    before = logits(wrapped)
    base = modes.split(wrapped, sft, vocabulary, tmp_path / "sft", tmp_path)
    save_base(tmp_path / "base", base, tokenizer, vocabulary, ITEMS, SIDS, PROMPTS)
    plain = load_checkpoint(tmp_path / "base", tmp_path / "sft").model.merge_and_unload()
    plain.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(logits(again), before, atol=1e-4, rtol=0)
    assert ("lm_head.weight" in load_file(tmp_path / "plain/model.safetensors")) is not tied


@pytest.mark.parametrize("where", ["merged", "exported"])
def test_merged_and_exported_folders_recommend_as_the_run(lora, merged, exported, where, monkeypatch):
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")
    run, alone = Recommender.load(lora), Recommender.load({"merged": merged, "exported": exported}[where])
    history = run.items[2:6]
    expected, found = run.recommend(history, k=10), alone.recommend(history, k=10)
    assert [row.item_id for row in found] == [row.item_id for row in expected]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], atol=1e-4)
    assert [row.title for row in found] == [row.item_id for row in found]
    assert alone.run.name == where
    assert list(alone.run.adapters) == ([] if where == "merged" else ["sft"])


def test_an_items_table_beside_an_export_gives_it_titles(lora, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "export")
    (tmp_path / "export/data").mkdir()
    shutil.copy(lora / "data/items.parquet", tmp_path / "export/data")
    assert Recommender.load(tmp_path / "export").recommend(["i1"], k=1)[0].title.startswith("Thing ")


def test_a_template_that_needs_texts_says_what_is_missing(merged, tmp_path):
    shutil.copytree(merged, tmp_path / "merged")
    about = json.loads((tmp_path / "merged/llmrec.json").read_text())
    about["prompts"]["template"]["text"] = "{% for item in history %}{{ item.title }}{% endfor %}"
    (tmp_path / "merged/llmrec.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"copy data/items\.parquet of the run to data/ there"):
        TrainedRun.load(tmp_path / "merged")


def test_users_are_not_known_without_the_data(shop, merged):
    done = small_shop.run(shop[0], "recommend", str(merged), "--user", "u1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_the_base_can_be_merged_alone_and_unknown_models_are_refused(shop, lora, tmp_path):
    done = small_shop.run(shop[0], "merge", str(lora), str(tmp_path / "b"), "--model", "base")
    assert done.returncode == 0 and "model base, 40 items" in done.stdout
    base = load_file(lora / "base/model.safetensors")
    found = load_file(tmp_path / "b/model.safetensors")
    assert all(torch.equal(base[name], found[name]) for name in base)
    done = small_shop.run(shop[0], "merge", str(lora), str(tmp_path / "c"), "--model", "dpo")
    assert done.returncode == 2 and "no model 'dpo' in this run; there are: base, sft" in done.stderr
    assert not list(tmp_path.glob("*c*"))


@pytest.mark.parametrize("command", [merge, export])
def test_an_existing_folder_is_replaced_only_with_force_and_if_llmrec_wrote_it(lora, tmp_path, command):
    more = (None,) if command is merge else ()

    def write(dest, force):
        args = (str(lora), dest, *more, force) if command is merge else (str(lora), dest, force, None)
        command.run(*args)

    write(tmp_path / "new/out", False)
    with pytest.raises(UserError, match="exists already; --force replaces it"):
        write(tmp_path / "new/out", False)
    (tmp_path / "new/out/stale").touch()
    write(tmp_path / "new/out", True)
    assert not (tmp_path / "new/out/stale").exists() and [p.name for p in (tmp_path / "new").iterdir()] == [
        "out"
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(UserError, match="--force replaces earlier outputs only"):
        write(tmp_path / "mine", True)
    with pytest.raises(UserError, match="is inside a run folder, whose stages may delete it"):
        write(lora / "base", True)
    assert (tmp_path / "mine/thesis.txt").exists() and (lora / "base/llmrec.json").exists()


def test_an_export_holds_models_and_card_and_no_rows_of_the_data(exported):
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert {
        "README.md",
        "recipe.yaml",
        "metrics.json",
        "base/llmrec.json",
        "sft/adapter_config.json",
    } <= files
    assert not [file for file in files if file.endswith((".parquet", ".jsonl", "manifest.json"))]
    text = "".join(
        (exported / file).read_text("utf-8") for file in files if file.endswith((".json", ".md", ".yaml"))
    )
    assert '"u1"' not in text and "Thing 1" not in text


def test_the_card_states_data_recipe_metrics_with_intervals_and_licences(lora, exported):
    card = (exported / "README.md").read_text("utf-8")
    front = yaml.safe_load(card[4:].partition("\n---")[0])
    assert front["license"] == "other" and front["library_name"] == "peft"
    metrics = json.loads((lora / "eval/metrics.json").read_text())["test"]["sft"]
    low, high = metrics["intervals"]["hr@3"]
    assert f"{metrics['hr@3']:.4f} [{low:.4f}, {high:.4f}]" in card
    assert "60 users, 40 items, 480 interactions" in card and "Data: not known to llmrec" in card
    assert 'PeftModel.from_pretrained(model, "FOLDER", subfolder="sft")' in card
    assert 'Recommender.load("FOLDER").recommend(["ITEM", "ITEM"])' in card
    assert card.index("Recommender.load") < card.index("AutoModelForCausalLM.from_pretrained")
    verdict = verdict_lines(lora)[0].removeprefix("verdict: ")
    assert f"\n\n{verdict}.\n\n## Data" in card and "on test NDCG@3" in verdict
    folded = card.partition("<details><summary>All settings</summary>\n\n")[2]
    assert folded.startswith("```yaml\n") and "```\n\n</details>" in folded
    shown = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert shown["sft"]["mode"] == "lora" and shown == yaml.safe_load((exported / "recipe.yaml").read_text())


def test_an_export_names_run_and_dataset_even_where_the_card_is_gone(lora, exported, tmp_path):
    card = (exported / "README.md").read_text("utf-8")
    assert (
        "\n# lora\n" in card and "A recommender for the dataset shop: tiny" in card and "recipe shop." in card
    )
    named = json.loads((exported / "export.json").read_text())
    assert named == {"version": 1, "run": "lora", "dataset": "shop", "model": "sft"}
    recipe = load_run_recipe(lora)
    gone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"card": "/gone/other.yaml"})})
    assert described_card(lora, gone)["name"] == "shop"
    unknown = {"description": "", "homepage": "", "licence": "not known to llmrec"}
    assert described_card(tmp_path, gone) == {"name": "other"} | unknown


def test_recipes_are_shown_without_paths_of_the_machine():
    recipe = load_recipe("beauty-tiny", ["data.card=/home/me/card.yaml", "base.model=/home/me/model"])
    assert "/home/me" not in yaml.safe_dump(export.without_paths(recipe))


def test_a_push_uploads_only_the_files_that_export_wrote(exported, tmp_path):
    """By huggingface_hub's own selection, which its upload applies to the folder."""
    shutil.copytree(exported, tmp_path / "e")
    (tmp_path / "e/data").mkdir()
    for name in ("data/items.parquet", "base/rows.parquet", "notes.txt", "sft/metrics.jsonl"):
        (tmp_path / "e" / name).touch()
    files = [str(path.relative_to(tmp_path / "e")) for path in (tmp_path / "e").rglob("*") if path.is_file()]
    pushed = set(
        filter_repo_objects(
            files, allow_patterns=list(export.PUSHED_PATTERNS), ignore_patterns=list(export.IGNORED_PATTERNS)
        )
    )
    assert pushed == {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}


def test_a_hub_out_of_reach_is_one_line_and_the_export_stays(shop, lora, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "not-a-token")
    # huggingface_hub reads the variable when it is imported.
    done = small_shop.run_alone(shop[0], "export", str(lora), str(tmp_path / "e"), "--push", "me/shop")
    assert done.returncode == 2 and "--push: me/shop cannot be written" in done.stderr
    assert (tmp_path / "e/README.md").is_file()
    done = small_shop.run(shop[0], "export", str(lora), str(tmp_path / "f"), "--push", "not a/ name")
    assert done.returncode == 2 and "--push:" in done.stderr and not (tmp_path / "f").exists()
