"""Tree-beam search: beams are branches of one token tree whose trunk, the prompt, is computed once.

Hugging Face `generate` copies the prompt's cache once a beam and reorders it every step. Here the beams
of a level are query positions of the user's own row; a mask lets each see the prompt and its ancestors, so
nothing is copied, and a level costs one forward of `width` tokens a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from llmrec.decode.trie import Trie


@dataclass(frozen=True)
class TopK:
    """Ranked items of U users, best first.

    Attributes:
        items: int64 [U, width], items in trie order; −1 where a user has fewer allowed items.
        scores: float32 [U, width], sum of the SID tokens' full-vocabulary log-probabilities; −inf there.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def batches(lengths: Sequence[int], width: int, levels: int, batch_tokens: int) -> list[list[int]]:
    """Group prompts of like length so that a batch holds at most `batch_tokens` padded tokens.

    Args:
        lengths: prompt lengths.
        width: beams.
        levels: SID length.
        batch_tokens: bound on users × (longest prompt + beams of all levels); a batch has at least one user.

    Returns:
        Indices, longest prompts first.
    """
    groups: list[list[int]] = []
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (len(groups[-1]) + 1) * (longest + width * (levels - 1)) <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def search(
    model: PreTrainedModel,
    trie: Trie,
    prompts: Sequence[Sequence[int]],
    width: int,
    masked: Sequence[Sequence[int]] | None = None,
    pad_id: int = 0,
) -> TopK:
    """Beam search over the trie for one batch of prompts, length penalty 0.

    Args:
        model: a causal language model in eval mode (Llama or Qwen type, with or without adapter).
        trie: the catalogue, on the model's device.
        prompts: U token-id lists.
        width: beams, and items returned.
        masked: for each user, items (trie order) that must not be returned.
        pad_id: any valid token id.

    Raises:
        UserError: an empty prompt.
    """
    import torch

    if not all(prompts):
        raise UserError("a prompt is empty: nothing to decode from")
    with torch.inference_mode():
        state = _prefill(model, prompts, pad_id)
        hidden = None if masked is None else _pad_masked(masked, trie.items, state.device)
        users = len(prompts)
        nodes = torch.zeros((users, 1), dtype=torch.long, device=state.device)
        scores = torch.zeros((users, 1), device=state.device)
        logits = state.logits
        for level in range(trie.length):
            log_probs = logits.float().log_softmax(-1)
            nodes, tokens, parents, scores = _expand(trie, level, nodes, scores, log_probs, hidden, width)
            if level + 1 < trie.length:
                logits = state.advance(model, tokens, parents)
        alive = scores > -torch.inf
        items = torch.where(alive, nodes, -1)
    return TopK(items.cpu().numpy(), scores.cpu().numpy())


def _expand(
    trie: Trie,
    level: int,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    log_probs: torch.Tensor,
    masked: torch.Tensor | None,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best `width` children of all beams: (nodes, tokens, parent beams, scores), each [U, ≤ width]."""
    import torch

    child, token, legal = trie.step(level, nodes)
    score = scores.unsqueeze(-1) + log_probs.gather(-1, token)
    score = score.masked_fill(~legal, -torch.inf).flatten(1)
    child, token = child.flatten(1), token.flatten(1)
    if masked is not None:
        score = score.masked_fill(~trie.open(level + 1, child, masked), -torch.inf)
    best, index = score.topk(min(width, score.shape[1]), dim=1)
    parents = index // (score.shape[1] // nodes.shape[1])
    return child.gather(1, index), token.gather(1, index), parents, best


@dataclass
class _State:
    """Cache of the trunk and of all beams so far, and which of its columns each beam sees."""

    cache: Any
    logits: torch.Tensor
    lengths: torch.Tensor
    trunk: torch.Tensor
    seen: torch.Tensor
    depth: int = 0

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def advance(self, model: PreTrainedModel, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Forward one token a beam; returns next-token logits [U, beams, V]."""
        import torch

        users, beams = tokens.shape
        own = torch.eye(beams, dtype=torch.bool, device=self.device).expand(users, -1, -1)
        ancestors = self.seen.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.seen.shape[-1]))
        self.seen = torch.cat([ancestors, own], dim=-1)
        trunk = self.trunk.unsqueeze(1).expand(-1, beams, -1)
        out = model(
            input_ids=tokens,
            attention_mask=torch.cat([trunk, self.seen], dim=-1).unsqueeze(1),
            position_ids=(self.lengths + self.depth).unsqueeze(1).expand(-1, beams),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.depth += 1
        logits: torch.Tensor = out.logits
        return logits


def _prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> _State:
    """Forward the prompts, left-padded; logits of the last position only."""
    import torch
    from transformers import DynamicCache

    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    trunk = torch.arange(width, device=device) >= (width - lengths).unsqueeze(1)
    cache = DynamicCache(config=model.config)
    out = model(
        input_ids=ids.to(device),
        attention_mask=trunk.long(),
        position_ids=(trunk.long().cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    seen = torch.zeros((len(prompts), 1, 0), dtype=torch.bool, device=device)
    return _State(out.past_key_values, out.logits, lengths, trunk, seen)


def _pad_masked(masked: Sequence[Sequence[int]], items: int, device: torch.device) -> torch.Tensor:
    import torch

    rows = [np.unique(np.asarray(row, np.int64)) for row in masked]
    padded = np.full((len(rows), max(1, *(len(row) for row in rows))), items, np.int64)
    for out, row in zip(padded, rows, strict=True):
        out[: len(row)] = row
    return torch.from_numpy(padded).to(device)
