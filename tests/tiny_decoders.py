"""Tiny decoders of both types, with LoRA or without, whose last tokens are those of semantic IDs."""

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

CODES, LEVELS, TEXT = 6, 3, 20
SHAPE = {
    "vocab_size": TEXT + LEVELS * CODES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
}
KINDS = ["qwen3", "llama", "qwen3 with LoRA", "llama with LoRA"]


def build(kind):
    """The model of a kind, its weights always the same, in evaluation mode."""
    torch.manual_seed(0)
    maker, config = (LlamaForCausalLM, LlamaConfig) if "llama" in kind else (Qwen3ForCausalLM, Qwen3Config)
    model = maker(config(**SHAPE))
    if "LoRA" in kind:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.eval()


def same_lists(left, right, ties=False):
    """Equal scores, and equal items in equal order.

    With `ties`, neighbours may change places whose scores are closer than float32 can tell.
    """
    alive = np.isfinite(left.scores)
    assert (alive == np.isfinite(right.scores)).all()
    np.testing.assert_allclose(left.scores[alive], right.scores[alive], atol=1e-4)
    differ = left.items != right.items
    assert ties or not differ.any()
    for row, position in zip(*np.nonzero(differ), strict=True):
        gap = np.abs(left.scores[row] - left.scores[row, position])
        assert np.partition(gap, 1)[1] < 1e-5
