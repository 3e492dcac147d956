"""The LM head over the children of prefixes: the codes that may come next, and no other token.

After a prefix of a semantic ID only a few of the tokens can lead to an item. Where the softmax is over these
(`sft.softmax: children`), the head need not score the others. With a code of its own for each of 12,000 items and a
hidden size of 128, they are nine tenths of a step's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from llmrec.models.device import to_device
from llmrec.models.layers.trained_rows import TrainedRows

ROOM = 2
"""Slots that a prefix gets, in multiples of the mean number of its positions; more positions take further slots."""


@dataclass(frozen=True)
class ChildPositions:
    """The m positions whose label is a code of one level.

    Attributes:
        at: which of the scored positions, int64 [m].
        tokens: token ids of the codes that may follow each, int64 [m, F]; anything where `legal` is false.
        legal: whether a slot is a code that may follow, bool [m, F].
        rows: the same tokens, int64 [g, F]: those of each prefix once, or as often as it has rows of slots.
        slot: which of the g · S slots of prefixes a position takes, int64 [m].
        slots: S, the positions that a row of slots has room for.
    """

    at: torch.Tensor
    tokens: torch.Tensor
    legal: torch.Tensor
    rows: torch.Tensor
    slot: torch.Tensor
    slots: int

    @classmethod
    def of(
        cls, at: torch.Tensor, prefixes: torch.Tensor, tokens: torch.Tensor, legal: torch.Tensor
    ) -> ChildPositions:
        """Group positions by their prefixes.

        Args:
            at: int64 [m].
            prefixes: int64 [m], a number for each position, the same for the same prefix.
            tokens: int64 [m, F].
            legal: bool [m, F].
        """
        _, group, sizes = torch.unique(prefixes, return_inverse=True, return_counts=True)
        slots = min(int(sizes.max()), ROOM * -(-len(prefixes) // len(sizes)))
        taken = -(-sizes // slots)  # rows of slots of each prefix
        order = torch.argsort(group, stable=True)
        first = sizes.cumsum(0) - sizes
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - first[group[order]]
        row = (taken.cumsum(0) - taken)[group] + rank // slots
        example = torch.empty(int(taken.sum()), dtype=torch.long)
        example[row] = torch.arange(len(row))  # any position of the prefix will do
        return cls(at, tokens, legal, tokens[example], row * slots + rank % slots, slots)

    def to(self, device: torch.device) -> ChildPositions:
        """The same positions on a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        moved: dict[str, Any] = {name: to_device(value, device) for name, value in tensors.items()}
        return replace(self, **moved)

    def logits(self, hidden: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
        """Logits of the codes that may follow, [m, F], from the hidden states [n, H] of all scored positions.

        Positions with one prefix share a product of matrices, and all prefixes are one batch of them.
        """
        groups, fanout = self.rows.shape
        weight, bias = token_rows(head, self.rows.flatten())
        packed = hidden.new_zeros(groups * self.slots, hidden.shape[1])
        packed = packed.index_copy(0, self.slot, hidden[self.at]).view(groups, self.slots, -1)
        scores = packed @ weight.view(groups, fanout, -1).transpose(1, 2)
        if bias is not None:
            scores = scores + bias.view(groups, 1, fanout)
        return scores.view(-1, fanout)[self.slot]


def token_rows(head: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of an LM head for some tokens, [n, H], and their biases [n], or None where it has none.

    Args:
        head: the LM head, without an adapter, or with trained rows that are those of all these tokens.
        tokens: int64 [n].
    """
    bias: torch.Tensor | None = getattr(head, "bias", None)
    of_tokens = None if bias is None else bias[tokens]
    rows = getattr(head, "token_adapter", head)  # where PEFT wraps the head, its layer is inside
    if isinstance(rows, TrainedRows) and (trained := rows.rows_of(tokens)) is not None:
        return trained, of_tokens
    weight: Any = head.weight
    return weight[tokens], of_tokens


@contextmanager
def head_over_children(
    model: torch.nn.Module, others: torch.Tensor, levels: Sequence[ChildPositions]
) -> Iterator[None]:
    """Let the head score only the codes that may come next, and at other positions the whole vocabulary.

    Inside the block a forward's logits are flat, for `split_logits`.

    Args:
        model: the (wrapped) causal language model, its head on [n, H] (`head_at_positions`).
        others: positions whose label is no code, int64 [w] below n.
        levels: positions whose label is a code, for each level.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()
    whole = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        parts = [whole(hidden[others]), *(level.logits(hidden, head) for level in levels)]
        return torch.cat([part.flatten() for part in parts])

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def split_logits(
    flat: torch.Tensor, others: int, levels: Sequence[ChildPositions]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Take the logits of `head_over_children` apart.

    Returns:
        Logits [w, V] over the vocabulary, and for each level log-probabilities float32 [m, F] among the codes that
        may come next; −inf for a slot without one.
    """
    sizes = [level.tokens.numel() for level in levels]
    first, *rest = flat.split([len(flat) - sum(sizes), *sizes])
    found = []
    for level, part in zip(levels, rest, strict=True):
        scores = part.view(level.tokens.shape).float().masked_fill(~level.legal, -torch.inf)
        found.append(scores.log_softmax(-1))
    return first.view(others, -1) if others else first.view(0, 1), found
