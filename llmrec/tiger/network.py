"""TIGER's network: a T5 with random weights over the codes of a catalogue's semantic IDs.

Rajput et al., Recommender systems with generative retrieval, NeurIPS 2023, section 3.2. Token 0 pads the encoder's
input and starts the decoder's; token 1 + t is the compact token t of the trie. The paper's user token is left out: a
user is a history here, as for all other systems, so users who were not trained get lists too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import T5Config, T5ForConditionalGeneration

from llmrec.config import TigerConfig

START = 0
"""Token that pads the encoder's input, and starts the decoder's."""
Tokens = npt.NDArray[np.int64]


def build_network(codes: Sequence[int], config: TigerConfig) -> T5ForConditionalGeneration:
    """Return a T5 with weights drawn from torch's generator.

    Args:
        codes: number of codes of each level.
        config: the recipe's settings.
    """
    settings: dict[str, Any] = {
        "vocab_size": 1 + sum(codes),
        "d_model": config.dim,
        "d_kv": config.head_dim,
        "d_ff": config.feed_forward,
        "num_layers": config.layers,
        "num_decoder_layers": config.layers,
        "num_heads": config.heads,
        "dropout_rate": config.dropout,
        "pad_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": None,
    }
    return T5ForConditionalGeneration(T5Config(**settings))


def item_tokens(sids: npt.NDArray[np.integer], codes: Sequence[int]) -> Tokens:
    """Return the tokens of semantic IDs, int64 [items, L].

    Args:
        sids: int [items, L].
        codes: number of codes of each level.
    """
    offsets = np.concatenate([[0], np.cumsum(codes)[:-1]])
    return (1 + offsets + sids).astype(np.int64)


def encoder_inputs(
    rows: Sequence[npt.NDArray[np.int64]], tokens: Tokens
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the encoder's input for histories: token ids int64 [B, T · L], and which of them are no padding.

    Args:
        rows: item numbers of each history, oldest first, at least one.
        tokens: int64 [items, L], the tokens of each item.
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest, tokens.shape[1]), START, np.int64)
    for out, row in zip(ids, rows, strict=True):
        out[: len(row)] = tokens[row]
    flat = torch.from_numpy(ids.reshape(len(rows), -1))
    return flat, (flat != START).long()
