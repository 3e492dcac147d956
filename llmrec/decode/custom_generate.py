"""The tree engine as `model.generate(custom_generate=…)`, for code that already uses Hugging Face `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from llmrec.catalogue.overlay import item_paths
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.scoring import PLAIN, Scoring

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from llmrec.catalogue.item_trie import ItemTrie


def tree_generate(trie: ItemTrie, token_ids: torch.Tensor, scoring: Scoring = PLAIN) -> Callable[..., Any]:
    """Return a decoding method for `generate`.

        model.generate(input_ids, attention_mask=mask, num_beams=20, num_return_sequences=10,
                       max_new_tokens=trie.length, custom_generate=tree_generate(trie, token_ids))

    The method reads `num_beams`, `num_return_sequences`, `pad_token_id` and `return_dict_in_generate`. It ignores
    length limits, length penalty and sampling settings, because the catalogue sets the length of a semantic ID.

    Args:
        trie: the catalogue, on the model's device.
        token_ids: int64 [codes of all levels], the model's id of each compact token, −1 for a pad, on the
            model's device.
        scoring: how the children of a prefix are scored.

    Returns:
        A callable with the result type of beam search: int64 [users × returned, prompt + L], or
        `GenerateBeamDecoderOnlyOutput` with `sequences_scores`. A shorter (textual) ID is padded. If a user has
        too few items, the remaining rows consist of pads and have the score −inf.
    """
    # The last row stands for "no item" and is reached by index −1.
    paths = torch.cat([item_paths(trie), torch.full((1, trie.length), -1)])

    def decode(
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Any:
        # `generate` has already repeated each prompt for every beam.
        copies = max(generation_config.num_beams, generation_config.num_return_sequences)
        rows = input_ids[::copies]
        pad = generation_config.pad_token_id or 0
        mask = inputs.get("attention_mask")  # newer releases pass none where no row has a pad
        seen = torch.ones_like(rows) if mask is None else mask[::copies]
        prompts = [row[is_token].tolist() for row, is_token in zip(rows, seen.bool(), strict=True)]
        returned = generation_config.num_return_sequences
        engine = TreeEngine(model, trie, token_ids, pad, scoring)
        top = engine.search(prompts, generation_config.num_beams, returned)
        items = torch.full((len(prompts), returned), -1)
        scores = torch.full((len(prompts), returned), -torch.inf)
        columns = top.items.shape[1]
        items[:, :columns] = torch.from_numpy(top.items)
        scores[:, :columns] = torch.from_numpy(top.scores)
        tokens = paths[items.flatten()]
        answers = torch.where(tokens >= 0, token_ids.cpu()[tokens.clamp(min=0)], pad)
        answers = answers.where(answers >= 0, pad).to(input_ids.device)
        sequences = torch.cat([rows.repeat_interleave(returned, 0), answers], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        from transformers.generation import GenerateBeamDecoderOnlyOutput

        # transformers declares the legacy classes LongTensor and FloatTensor; its own code passes plain tensors.
        return GenerateBeamDecoderOnlyOutput(
            sequences=cast("torch.LongTensor", sequences),
            sequences_scores=cast("torch.FloatTensor", scores.flatten().to(input_ids.device)),
        )

    return decode
