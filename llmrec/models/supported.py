"""What a base model must be: every assumption that training and decoding make of it, in one place.

A base that does not fit is refused when it is loaded, before anything is trained.

| assumption | where it is made |
|---|---|
| one decoder of text, its sizes under the names of Llama and Qwen | `models/shape.py`, for estimates |
| every layer attends to all tokens before it | token trees: `token_tree.py`, `decode/kv_cache.py` |
| it takes `position_ids`: branches of a tree share positions | `decode/kv_cache.py`, `train/sft/trainer.py` |
| `get_decoder()` gives what stands before the LM head | `decode/score_candidates.py`, `decode/free_text.py` |
| an embedding and an LM head with a row a token | `models/vocabulary.py`, `models/layers/head.py` |
| `o_proj` and `down_proj` end a layer's branches (only for `sft.dropout`) | `models/layers/dropout.py` |
| `_no_split_modules` names its layers (only for `--shard`) | `train/sharding.py` |

The last two are checked where they are used.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmrec.assets import expand_home
from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = "full_attention"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Raise a UserError unless a model of such a configuration can be a base.

    Args:
        config: content of `config.json`.
        name: of the base, for the message.
    """
    kind = config.get("model_type", "?")
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"base.model: {name} ({kind}) is an encoder-decoder; take a decoder, such as Qwen or Llama"
        )
    if "text_config" in config:
        raise UserError(f"base.model: {name} ({kind}) reads more than text; take a model of text alone")
    kinds = sorted(set(config.get("layer_types") or [FULL]) - {FULL})
    if kinds:
        raise UserError(
            f"base.model: {name} ({kind}) has layers of {', '.join(kinds)}; token trees need {FULL} in every layer"
        )
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    context = config.get("max_position_embeddings")
    if window and not (context and window >= context):
        raise UserError(
            f"base.model: {name} ({kind}) attends within a sliding window of {window} tokens; "
            f"token trees need {FULL}"
        )
    missing = [size for size in SIZES if not isinstance(config.get(size), int) or config[size] < 1]
    if missing:
        raise UserError(
            f"base.model: {name} ({kind}) states no {missing[0]}; take a model of the Llama or Qwen kind"
        )


def check_local(base: BaseConfig) -> None:
    """Raise a UserError for a local folder whose model cannot be a base; any other base is checked when loaded."""
    path = expand_home(base.model) / "config.json"
    if path.is_file():
        config = read_json(path)
        check_config(config if isinstance(config, dict) else {}, base.model)


def check_model(model: PreTrainedModel, name: str) -> None:
    """Raise a UserError unless a loaded model takes what token trees give it.

    Args:
        model: a causal language model.
        name: of the base, for the message.
    """
    kind = type(model).__name__
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise UserError(
            f"base.model: {name} ({kind}) takes no position_ids, which token trees need; "
            "take a model with rotary positions"
        )
    if model.get_input_embeddings() is None or model.get_output_embeddings() is None:
        raise UserError(
            f"base.model: {name} ({kind}) has no embedding or no LM head to give new tokens rows in"
        )
