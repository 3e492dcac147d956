"""Seconds, memory and disk of a recipe's stages before it runs, and the shape of its base."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrec import estimate, pipeline
from llmrec.config import BaseConfig, load_recipe
from llmrec.models.shape import model_shape


def planned(*overrides):
    recipe = load_recipe("beauty-tiny", list(overrides))
    return estimate.plan(recipe, Path("absent"), pipeline.for_recipe(recipe))


def test_an_estimate_grows_with_epochs_users_and_model_size():
    alone = "sft.distillation=null"  # what a teacher says of the data is asked once, however many epochs
    half, whole = planned(alone, "sft.epochs=4"), planned(alone, "sft.epochs=8")
    start = next(stage.start_seconds for stage in pipeline.STAGES if stage.name == "sft")
    validation = planned(alone, "sft.epochs=0.0001").seconds["sft"] - start
    trained = [plan.seconds["sft"] - start - validation for plan in (half, whole)]
    assert trained[1] == pytest.approx(2 * trained[0], rel=0.01)
    assert planned("sft.max_steps=1").seconds["sft"] < half.seconds["sft"]
    assert planned("decode.users=10").seconds["decode"] < half.seconds["decode"]
    assert planned("base.tiny.hidden=512").memory_gb > half.memory_gb
    assert planned("base.tiny.hidden=512").disk_gb > half.disk_gb


def test_without_a_known_size_the_estimate_says_so(tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("interactions: {path: a.csv, columns: {user: u, item: i}}\n")
    plan = planned(f"data.card={card}")
    assert set(plan.seconds.values()) == {None}
    assert "cost unknown" in plan.summary()


def test_shortages_of_memory_and_disk_are_reported(tmp_path):
    short = estimate.Plan({"sft": 1.0}, memory_gb=1e6, disk_gb=1e9).shortages(tmp_path / "a/b")
    assert len(short) == 2
    assert str(tmp_path) in short[0]


def test_the_shape_of_a_base_comes_from_its_recipe_folder_or_name(tmp_path):
    tiny = load_recipe("beauty-tiny").base
    config = Qwen3Config(
        vocab_size=tiny.tiny.vocabulary,
        hidden_size=tiny.tiny.hidden,
        intermediate_size=tiny.tiny.intermediate,
        num_hidden_layers=tiny.tiny.layers,
        num_attention_heads=tiny.tiny.heads,
        num_key_value_heads=tiny.tiny.kv_heads,
        head_dim=tiny.tiny.hidden // tiny.tiny.heads,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        true = sum(p.numel() for p in Qwen3ForCausalLM(config).parameters())
    assert model_shape(tiny).parameters == pytest.approx(true, rel=0.01)
    config.save_pretrained(tmp_path)
    assert model_shape(BaseConfig(model=str(tmp_path))).parameters == pytest.approx(true, rel=0.01)
    for name, millions in (
        ("Qwen/Qwen3-0.6B", 600),
        ("a/SmolLM2-135M-Instruct.Q4_1.gguf", 135),
        ("x/Llama-3.2-1B", 1000),
    ):
        assert model_shape(BaseConfig(model=name)).parameters == millions * 1e6
