"""Independent samples from the policy that the trie constrains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.kv_cache import prefill
from llmrec.decode.top_k import TopK
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
    """Draw items of each prompt with replacement, level by level, all samples as branches of the prompt's tree.

    At every level a child of the prefix is drawn by its probability among the allowed ones.

    Args:
        engine: the model and its catalogue; of its scoring, the temperature counts.
        prompts: U token-id lists.
        count: samples a prompt.
        mask: allow- and deny-lists of the U prompts.
        generator: on the model's device; None for torch's own.

    Returns:
        Items int64 [U, count] in the order drawn, scores their log-probabilities under that policy.

    Raises:
        UserError: an empty prompt, one longer than the model's context, or no item that a prompt may be given.
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
            raise UserError(
                "a prompt has no item that it may be given: its deny-list holds the whole catalogue"
            )
        # The largest of log-probabilities with Gumbel noise is a draw by probability; float64 keeps the tail.
        noise = torch.empty_like(steps, dtype=torch.float64).exponential_(generator=generator).log()
        drawn = (steps.double() - noise).argmax(-1, keepdim=True)
        nodes = child.gather(-1, drawn).squeeze(-1)
        scores = scores + steps.gather(-1, drawn).squeeze(-1)
        if depth + 1 < trie.length:
            tokens = engine.token_ids[token.gather(-1, drawn).squeeze(-1)].clamp(min=0)
            logits = state.advance(tokens, parents)
            parents = torch.arange(count, device=nodes.device).expand_as(nodes)
    return TopK(trie.item(nodes).cpu().numpy(), scores.cpu().numpy())
