"""A tiny base with semantic-ID tokens, and a few optimizer steps on it."""

import numpy as np
import torch

from llmrec.config import BaseConfig
from llmrec.models.base import load_base
from llmrec.models.vocabulary import add_sid_tokens

ITEMS = [f"item-{i}" for i in range(12)]
SIDS = np.array([[i // 3, i % 3, 0] for i in range(12)], dtype=np.int32)
PROMPTS = {"tasks": ["sequential"]}


def make_base(tied=True, seed=0, hidden=32, intermediate=48, dtype="float32", sizes=(4, 3, 1)):
    shape = {"layers": 3, "hidden": hidden, "intermediate": intermediate, "vocabulary": 300, "tied": tied}
    config = BaseConfig.model_validate({"tiny": shape | {"heads": 4, "kv_heads": 2}, "dtype": dtype})
    model, tokenizer = load_base(config, ["red nail polish"] * 9, seed)
    rng = np.random.default_rng(0)
    books = [rng.standard_normal((size, 8)).astype(np.float32) for size in sizes]
    return (
        model,
        tokenizer,
        add_sid_tokens(model, tokenizer, [len(book) for book in books], books, "geometry", 0),
    )


def train(model, vocabulary, sids=SIDS, steps=4):
    """A few real optimizer steps on SID sequences and text."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    sids = torch.from_numpy(vocabulary.encode_many(sids)).reshape(3, -1)
    batch = torch.cat([torch.randint(2, 200, (3, 5)), sids], dim=1)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), batch
