"""Reference implementation: Hugging Face `generate` with a prefix function.

It is slow; tests require the tree engine to return the same lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from llmrec.decode.top_k import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PrefixTable = dict[tuple[int, ...], list[int]]


def search(
    model: PreTrainedModel,
    sids: npt.NDArray[np.integer],
    token_ids: Sequence[npt.NDArray[np.integer]],
    prompts: Sequence[Sequence[int]],
    width: int,
    denied: Sequence[Sequence[int]] | None = None,
    pad_id: int = 0,
) -> TopK:
    """Top-K by beam search in `generate`, one user at a time.

    Args:
        model: a causal language model in eval mode.
        sids: int [items, L] in trie order.
        token_ids: for each level, token id of each code; −1 for a pad.
        prompts: U token-id lists.
        width: number of beams and of returned items.
        denied: for each user, items (trie order) that must not be returned.
        pad_id: any valid token id.
    """
    length = sids.shape[1]
    tokens = np.stack([ids[sids[:, level]] for level, ids in enumerate(token_ids)], axis=1)
    pads = tokens < 0
    end = None
    if pads.any():  # All textual IDs end with the same marker; the marker is repeated in place of the pads.
        shorter = pads.any(axis=1).argmax()
        end = int(tokens[shorter, pads[shorter].argmax() - 1])
        tokens[pads] = end
    paths = [tuple(path) for path in tokens.tolist()]
    item_of = {path: item for item, path in enumerate(paths)}
    items = np.full((len(prompts), width), -1, np.int64)
    scores = np.full((len(prompts), width), -np.inf, np.float32)
    for row, prompt in enumerate(prompts):
        hidden = set(denied[row]) if denied else set()
        table = prefix_table(path for item, path in enumerate(paths) if item not in hidden)
        count = min(width, len(paths) - len(hidden))
        answers, answer_scores = beam_search(model, table, [prompt], count, length, pad_id, end)
        for rank, (path, score) in enumerate(zip(answers.tolist(), answer_scores.tolist(), strict=True)):
            item = item_of.get(tuple(path))
            if item is not None and item not in hidden and score > -1e8:
                items[row, rank] = item
                scores[row, rank] = score
    return TopK(items, scores)


def beam_search(
    model: PreTrainedModel,
    table: PrefixTable,
    prompts: Sequence[Sequence[int]],
    width: int,
    length: int,
    pad_id: int = 0,
    end: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hugging Face beam search for prompts of equal length.

    Args:
        model: a causal language model in eval mode.
        table: which tokens may follow each prefix (`prefix_table`).
        prompts: U token-id lists of equal length.
        width: number of beams and of returned sequences.
        length: number of tokens of a sequence.
        pad_id: any valid token id.
        end: token that ends a sequence. It is repeated up to `length`; repetitions have log-probability 0.

    Returns:
        int64 [U · width, L] tokens and float32 [U · width] scores, best first for each user.
    """
    start = len(prompts[0])
    ids = torch.tensor(list(prompts), device=model.device)
    # The model's own configuration may contain sampling settings that change beam search, so it is not used. With one
    # beam `generate` becomes greedy and returns no scores.
    settings = GenerationConfig(
        num_beams=max(2, width),
        num_return_sequences=width,
        max_new_tokens=length,
        min_new_tokens=length,
        length_penalty=0.0,
        do_sample=False,
        repetition_penalty=1.0,
        pad_token_id=pad_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.inference_mode():
        out = model.generate(  # type: ignore[operator]  # transformers loses the method's type in its base class
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([] if end is None else [_RepeatEndToken(start, end)]),
            prefix_allowed_tokens_fn=lambda _, path: table.get(tuple(path[start:].tolist()), [pad_id]),
        )
    return out.sequences[:, start:], out.sequences_scores


class _RepeatEndToken(LogitsProcessor):
    """After the end token, gives the end token log-probability 0 and forbids all other tokens."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == self._start:
            return scores
        is_finished = (input_ids[:, -1] == self._end).unsqueeze(1)
        scores = scores.masked_fill(is_finished, -torch.inf)
        scores[:, self._end] = scores[:, self._end].masked_fill(is_finished.squeeze(1), 0.0)
        return scores


def prefix_table(paths: Iterable[tuple[int, ...]]) -> PrefixTable:
    """Which tokens may follow each prefix of token paths."""
    table: dict[tuple[int, ...], dict[int, None]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            table.setdefault(path[:depth], {})[token] = None
    return {prefix: list(tokens) for prefix, tokens in table.items()}
