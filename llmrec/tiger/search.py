"""Beam search of an encoder-decoder over a catalogue's trie.

llmrec's tree engine is for causal language models, whose beams share one row with the prompt. Here the prompt is the
encoder's; the beams of a level are rows of one decoder batch, which continue the caches of their parents. The scores
are sums of log-probabilities over the whole vocabulary, as in all decoding, and the certificate is that of
`llmrec.decode.beam_search`: no prefix that was dropped scores above a list's last item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmrec.decode.beam_search import MARGIN
from llmrec.decode.top_k import TopK
from llmrec.tiger.network import START

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

    from llmrec.catalogue.item_mask import ItemMask
    from llmrec.catalogue.trie import Trie


@torch.no_grad()
def search(
    model: T5ForConditionalGeneration,
    trie: Trie,
    inputs: tuple[torch.Tensor, torch.Tensor],
    width: int,
    k: int,
    mask: ItemMask | None = None,
) -> TopK:
    """Return the best items after histories.

    Args:
        model: a network of `build_network` in eval mode.
        trie: the catalogue, on the model's device.
        inputs: `encoder_inputs` of U histories, on the same device.
        width: number of beams; with as many as the catalogue has prefixes, the search is exhaustive.
        k: items returned, at most `width`.
        mask: items that users must not get.
    """
    ids, attention = inputs
    users = len(ids)
    every = torch.arange(users, device=ids.device)[:, None]
    states = model.encoder(input_ids=ids, attention_mask=attention).last_hidden_state
    nodes = torch.zeros((users, 1), dtype=torch.long, device=ids.device)
    scores = torch.zeros((users, 1), device=ids.device)
    bound = torch.full((users,), -torch.inf, device=ids.device)
    tokens, rows, past = torch.full_like(nodes, START), every, None
    for depth in range(trie.length):
        owner = every.expand_as(nodes).reshape(-1)
        if past is not None:
            past.reorder_cache(rows.reshape(-1))
        out = model(
            encoder_outputs=(states[owner],),
            attention_mask=attention[owner],
            decoder_input_ids=tokens.reshape(-1, 1),
            past_key_values=past,
            use_cache=True,
        )
        past = out.past_key_values
        logs = out.logits[:, -1].float().log_softmax(-1).view(*nodes.shape, -1)
        child, token, legal = trie.expand(nodes, depth)
        token = token.long() + 1
        score = scores[..., None] + logs.gather(2, token).masked_fill(~legal, -torch.inf)
        score, child, token = score.flatten(1), child.flatten(1), token.flatten(1)
        if mask is not None:
            score = score.masked_fill(~mask.has_allowed_item(trie, child), -torch.inf)
        best, index = score.topk(min(width + 1, score.shape[1]), dim=1)
        if best.shape[1] > width and depth + 1 < trie.length:
            bound = torch.maximum(bound, best[:, width])
        scores, index = best[:, :width], index[:, :width]
        rows = every * nodes.shape[1] + index // (child.shape[1] // nodes.shape[1])
        nodes, tokens = child.gather(1, index), token.gather(1, index)
    return _lists(trie, nodes, scores, bound, k)


def _lists(trie: Trie, nodes: torch.Tensor, scores: torch.Tensor, bound: torch.Tensor, k: int) -> TopK:
    """Return the first k leaves as items, and whether each list is provably the true top-k."""
    scores = scores[:, :k]
    items = torch.where(scores > -torch.inf, trie.item(nodes[:, :k]), -1)
    last = scores[:, k - 1] if scores.shape[1] == k else torch.full_like(bound, -torch.inf)
    is_exact = (bound == -torch.inf) | (last >= bound + MARGIN)
    return TopK(items.cpu().numpy(), scores.cpu().numpy(), is_exact.cpu().numpy())
