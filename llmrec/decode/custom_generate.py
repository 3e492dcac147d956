"""The tree engine as `model.generate(custom_generate=…)`, for code that already speaks Hugging Face."""

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
    """A decoding method for `generate`.

        model.generate(input_ids, attention_mask=mask, num_beams=20, num_return_sequences=10,
                       max_new_tokens=trie.length, custom_generate=tree_generate(trie, token_ids))

    It reads `num_beams`, `num_return_sequences`, `pad_token_id` and `return_dict_in_generate`; a semantic ID has
    its own length, and length penalty and sampling have no part in it.

    Args:
        trie: the catalogue, on the model's device.
        token_ids: int64 [codes of all levels], the model's id of each compact token, −1 for a pad, on the
            model's device.
        scoring: how a step down the trie is scored.

    Returns:
        A callable that returns what beam search would: int64 [users × returned, prompt + L], or
        `GenerateBeamDecoderOnlyOutput` with `sequences_scores`. A shorter (textual) ID is padded; where a user
        has fewer items, the whole row is, and its score −inf.
    """
    # One more row, reached by index −1: that of no item.
    paths = torch.cat([item_paths(trie), torch.full((1, trie.length), -1)])

    def decode(
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Any:
        # `generate` has repeated each prompt once a beam by now.
        copies = max(generation_config.num_beams, generation_config.num_return_sequences)
        rows, seen = input_ids[::copies], inputs["attention_mask"][::copies].bool()
        prompts = [row[mask].tolist() for row, mask in zip(rows, seen, strict=True)]
        pad = generation_config.pad_token_id or 0
        returned = generation_config.num_return_sequences
        engine = TreeEngine(model, trie, token_ids, pad, scoring)
        top = engine.search(prompts, generation_config.num_beams, returned)
        items = torch.full((len(prompts), returned), -1)
        scores = torch.full((len(prompts), returned), -torch.inf)
        found = top.items.shape[1]
        items[:, :found], scores[:, :found] = torch.from_numpy(top.items), torch.from_numpy(top.scores)
        tokens = paths[items.flatten()]
        answers = torch.where(tokens >= 0, token_ids.cpu()[tokens.clamp(min=0)], pad)
        answers = answers.where(answers >= 0, pad).to(input_ids.device)
        sequences = torch.cat([rows.repeat_interleave(returned, 0), answers], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        from transformers.generation import GenerateBeamDecoderOnlyOutput

        return GenerateBeamDecoderOnlyOutput(
            sequences=cast("torch.LongTensor", sequences),
            sequences_scores=cast("torch.FloatTensor", scores.flatten().to(input_ids.device)),
        )

    return decode
