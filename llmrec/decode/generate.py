"""The oracle: Hugging Face `generate` with a prefix function. Slow, and what the tree engine must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmrec.decode.tree_engine import TopK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def search(
    model: PreTrainedModel,
    sids: npt.NDArray[np.integer],
    token_ids: list[npt.NDArray[np.integer]],
    prompts: Sequence[Sequence[int]],
    width: int,
    masked: Sequence[Sequence[int]] | None = None,
    pad_id: int = 0,
) -> TopK:
    """Top-K by beam search in `generate`, one user at a time.

    Args:
        model: a causal language model in eval mode.
        sids: int [items, L] in trie order.
        token_ids: for each level, token id of each code.
        prompts: U token-id lists.
        width: beams, and items returned.
        masked: for each user, items (trie order) that must not be returned.
        pad_id: any valid token id.
    """
    import torch
    from transformers import GenerationConfig

    length = sids.shape[1]
    paths = [tuple(int(token_ids[level][code]) for level, code in enumerate(sid)) for sid in sids.tolist()]
    item_of = {path: item for item, path in enumerate(paths)}
    items = np.full((len(prompts), width), -1, np.int64)
    scores = np.full((len(prompts), width), -np.inf, np.float32)
    for row, prompt in enumerate(prompts):
        hidden = set(masked[row]) if masked else set()
        allowed = _prefix_table(path for item, path in enumerate(paths) if item not in hidden)
        beams = min(width, len(paths) - len(hidden))
        # A configuration of our own: the model's may carry sampling settings that leak into beam search.
        settings = GenerationConfig(
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=length,
            min_new_tokens=length,
            length_penalty=0.0,
            do_sample=False,
            pad_token_id=pad_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt], device=model.device),
                attention_mask=torch.ones((1, len(prompt)), dtype=torch.long, device=model.device),
                generation_config=settings,
                prefix_allowed_tokens_fn=_prefix_function(allowed, len(prompt), pad_id),
            )
        for rank, (tokens, score) in enumerate(
            zip(out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist(), strict=True)
        ):
            item = item_of.get(tuple(tokens))
            if item is not None and item not in hidden and score > -1e8:
                items[row, rank], scores[row, rank] = item, score
    return TopK(items, scores)


def _prefix_table(paths: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    table: dict[tuple[int, ...], dict[int, None]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            table.setdefault(path[:depth], {})[token] = None
    return {prefix: list(tokens) for prefix, tokens in table.items()}


def _prefix_function(
    table: dict[tuple[int, ...], list[int]], start: int, pad_id: int
) -> Callable[[int, torch.Tensor], list[int]]:
    return lambda _, ids: table.get(tuple(ids[start:].tolist()), [pad_id])
