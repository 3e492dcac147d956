"""Small models of the kinds that are supported, random or with the logits of trained ones, and trees for them.

A trained model is sure of what follows, and its hidden states are alike.
"""

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmrec.models.base import train_tokenizer
from llmrec.models.vocabulary import embedding_matrices
from llmrec.text.encode import Sample, build_chain

SIZES = [16, 8, 3]
KINDS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}

MEAN_NORM, ROW_NORM, LOGIT_SPREAD = 2.2, 3.2, 3.5
"""Norms of the mean row and of a row, and the deviation of the logits at a position, as in SmolLM2-135M."""


def make_codebooks(sizes=SIZES, dim=12):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((size, dim)).astype(np.float32) for size in sizes]


def make_model(kind="qwen3", tied=True, rows=None, hidden=32, head=16):
    tokenizer = train_tokenizer([f"red nail polish {i}" for i in range(100)], 300)
    config, model = KINDS[kind]
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": head}
    torch.manual_seed(0)
    made = model(
        config(
            vocab_size=rows or len(tokenizer),
            hidden_size=hidden,
            intermediate_size=16,
            tie_word_embeddings=tied,
            pad_token_id=0,
            **shape,
        )
    )
    return made, tokenizer


def give_trained_geometry(model, seed=0):
    """Replace a random model's rows by rows around a common mean, and scale its logits."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weight in embedding_matrices(model):
            size, hidden = weight.shape
            mean = torch.randn(hidden)
            apart = torch.randn(size, hidden) * ((ROW_NORM**2 - MEAN_NORM**2) / hidden) ** 0.5
            weight.copy_(mean * MEAN_NORM / mean.norm() + apart)
        ids = torch.randint(len(weight), (4, 32))
        spread = model.eval()(input_ids=ids).logits.std(dim=-1).mean()
        model.get_decoder().norm.weight.mul_(LOGIT_SPREAD / spread)
    return model


def draw_trees(vocabulary, prompt, count, seed=0, history=4):
    """Chains that begin with a prompt's token ids, show a history of random semantic IDs, and ask for the next."""
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(count):
        items = [[rng.integers(size) for size in vocabulary.codes] for _ in range(history + 1)]
        tokens = [token for item in items for token in vocabulary.encode(item)]
        trees.append(build_chain(Sample([*prompt, *tokens], len(prompt) + vocabulary.levels)))
    return trees
