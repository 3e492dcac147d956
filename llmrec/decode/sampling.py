"""Independent samples from the policy under the trie's constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.kv_cache import prefill
from llmrec.decode.top_k import TopK, fetch
from llmrec.errors import UserError

if TYPE_CHECKING:
    from llmrec.catalogue.item_mask import ItemMask


@torch.inference_mode()
def sample(
    engine: TreeEngine,
    prompts: Sequence[Sequence[int]],
    count: int,
    mask: ItemMask | None = None,
    generator: torch.Generator | None = None,
) -> TopK:
    """Sample items for each prompt with replacement.

    All samples of a prompt are branches of its token tree. At each level, a child of the prefix is drawn with its
    probability among the allowed children.

    Args:
        engine: the model and its catalogue. Of `scoring`, only the temperature is used.
        prompts: U token-id lists.
        count: number of samples a prompt.
        mask: allow- and deny-lists of the U prompts.
        generator: a generator on the model's device; None uses torch's global one.

    Returns:
        TopK [U, count] in the order of the draws; `scores` are log-probabilities under the constrained policy.

    Raises:
        UserError: an empty prompt, one longer than the model's context, or a prompt without an allowed item.
    """
    engine = replace(engine, scoring=replace(engine.scoring, normalise="allowed", prior=None))
    with engine.head():
        return _sample(engine, prompts, count, mask, generator)


def _sample(
    engine: TreeEngine,
    prompts: Sequence[Sequence[int]],
    count: int,
    mask: ItemMask | None,
    generator: torch.Generator | None,
) -> TopK:
    trie = engine.trie
    state = prefill(engine.model, prompts, count * (trie.length - 1), engine.pad_id)
    logits = state.logits.expand(-1, count, -1)
    nodes = torch.zeros((len(prompts), count), dtype=torch.long, device=engine.model.device)
    scores = torch.zeros(nodes.shape, device=nodes.device)
    parents = torch.zeros_like(nodes)
    for depth in range(trie.length):
        child, token, legal = trie.expand(nodes, depth)
        if mask is not None:
            legal = legal & mask.has_allowed_item(trie, child.flatten(1)).view_as(child)
        steps = engine.scoring.log_probs(depth, logits, child, engine.columns(token), legal)
        if not bool(legal.any(-1).all()):
            raise UserError("a prompt has no allowed item: its deny-list contains the whole catalogue")
        # The argmax of log-probabilities with Gumbel noise is a sample. float64 keeps the tail of the noise.
        noise = torch.empty_like(steps, dtype=torch.float64).exponential_(generator=generator).log()
        chosen = (steps.double() - noise).argmax(-1, keepdim=True)
        nodes = child.gather(-1, chosen).squeeze(-1)
        scores = scores + steps.gather(-1, chosen).squeeze(-1)
        if depth + 1 < trie.length:
            tokens = engine.token_ids[token.gather(-1, chosen).squeeze(-1)].clamp(min=0)
            logits = state.advance(tokens, parents)
            parents = torch.arange(count, device=nodes.device).expand_as(nodes)
    return TopK(*fetch(trie.item(nodes), scores))
