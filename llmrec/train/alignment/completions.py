"""Completions of one prompt as branches of one token tree, and their log-probabilities under a model.

DPO's chosen and rejected items and GRPO's rollouts follow the same prompt. It is computed once; what several
completions begin with in common, once too. No position needs a label of its own: a completion's tokens are read
from the next-token distributions along its path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmrec.catalogue.catalogue import Prefixes, walk
from llmrec.decode.scoring import Normalise, log_normaliser, split_for_cache
from llmrec.models.device import to_device
from llmrec.models.layers.head import head_at_positions, head_over_tokens
from llmrec.token_tree import TokenTree, ancestor_mask, collate, unlabelled_tree

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.catalogue.item_mask import ItemMask

PADDING = -1
"""Token id, and place, beyond the end of a completion shorter than the longest."""


@dataclass(frozen=True)
class ScoredPositions:
    """The A positions of B trees whose next-token distribution is read, row by row.

    Attributes:
        mask: bool [B, T], where they stand; its A true entries are in the order of the other arrays.
        prompt_index: int64 [A], the prompt that a position belongs to.
        prefix_tokens: int64 [A, L], tokens of a completion up to the position; `PADDING` behind them.
        prefix_length: int64 [A], how many tokens those are.
    """

    mask: torch.Tensor
    prompt_index: torch.Tensor
    prefix_tokens: torch.Tensor
    prefix_length: torch.Tensor


@dataclass(frozen=True)
class CompletionTrees:
    """B prompts and their N completions, of at most L tokens each.

    Attributes:
        input_ids: int64 [B, T], a tree a row: a prompt, and its completions but their last tokens.
        position_ids: int64 [B, T].
        attention_mask: bool [B, 1, T, T].
        positions: the A positions that predict the completions' tokens.
        tokens: int64 [N, L], the completions; `PADDING` behind the end of a shorter one.
        position_index: int64 [N, L], which of the A positions predicts a completion's token; `PADDING` where there
            is no token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    positions: ScoredPositions
    tokens: torch.Tensor
    position_index: torch.Tensor

    @classmethod
    def build(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]], pad_id: int
    ) -> CompletionTrees:
        """Lay out completions as trees.

        Args:
            prompts: B lists of token ids, none empty.
            completions: for each prompt, token ids of each of its completions, none empty.
            pad_id: any valid token id.
        """
        longest = max(len(completion) for group in completions for completion in group)

        def padded(values: Sequence[int]) -> list[int]:
            return [*values, *[PADDING] * (longest - len(values))]

        trees, prefixes = [], []
        paths: list[list[tuple[int, int]]] = []
        for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
            tree, nodes = _tree(prompt, group)
            trees.append(tree)
            prefixes += [(row, node, prefix) for prefix, node in nodes.items()]
            for completion in group:
                paths.append([(row, nodes[tuple(completion[:cut])]) for cut in range(len(completion))])
        prefixes.sort()
        order = {(row, node): index for index, (row, node, _) in enumerate(prefixes)}
        batch = {name: torch.from_numpy(array) for name, array in collate(trees, pad_id).items()}
        mask = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        mask[[row for row, _, _ in prefixes], [node for _, node, _ in prefixes]] = True
        positions = ScoredPositions(
            mask=mask,
            prompt_index=torch.tensor([row for row, _, _ in prefixes]),
            prefix_tokens=torch.tensor([padded(prefix) for _, _, prefix in prefixes]),
            prefix_length=torch.tensor([len(prefix) for _, _, prefix in prefixes]),
        )
        return cls(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=ancestor_mask(batch["end"])[:, None],
            positions=positions,
            tokens=torch.tensor([padded(completion) for group in completions for completion in group]),
            position_index=torch.tensor([padded([order[place] for place in path]) for path in paths]),
        )

    def as_batch(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name: a Trainer moves and passes on only such batches (`from_batch`)."""
        positions = vars(self.positions)
        return {name: value for name, value in vars(self).items() if name != "positions"} | positions

    @classmethod
    def from_batch(cls, batch: Mapping[str, torch.Tensor]) -> CompletionTrees:
        """Return the trees whose `as_batch` a Trainer has passed on."""
        positions = ScoredPositions(**{field.name: batch[field.name] for field in fields(ScoredPositions)})
        names = [field.name for field in fields(cls) if field.name != "positions"]
        return cls(positions=positions, **{name: batch[name] for name in names})

    def to(self, device: torch.device | str) -> CompletionTrees:
        """Return the same trees on a device."""
        return self.from_batch({name: to_device(value, device) for name, value in self.as_batch().items()})


def _tree(
    prompt: Sequence[int], group: Sequence[Sequence[int]]
) -> tuple[TokenTree, dict[tuple[int, ...], int]]:
    """A prompt with its completions' tokens but the last below it, and the node of every prefix."""
    ids, depth = list(prompt), list(range(len(prompt)))
    nodes: dict[tuple[int, ...], int] = {(): len(prompt) - 1}
    # In lexicographic order every prefix is followed by what begins with it: depth-first.
    for completion in sorted({tuple(completion) for completion in group}):
        for cut in range(1, len(completion)):
            if completion[:cut] not in nodes:
                nodes[completion[:cut]] = len(ids)
                ids.append(completion[cut - 1])
                depth.append(len(prompt) + cut - 1)
    return unlabelled_tree(np.array(ids, np.int32), np.array(depth, np.int32)), nodes


@dataclass(frozen=True)
class LogProbs:
    """What a model says of completions.

    Attributes:
        tokens: float32 [N, L], log-probability of each token; 0 beyond a completion's end.
        entropy: float32 [N, L], of the distribution each token comes from, in nats; 0 there.
        is_greedy: bool [N, L], whether a token is the likeliest.
        is_token: bool [N, L], whether the completion has a token there.
    """

    tokens: torch.Tensor
    entropy: torch.Tensor
    is_greedy: torch.Tensor
    is_token: torch.Tensor

    def map(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> LogProbs:
        """Return the same log-probabilities in another shape: all four tensors converted alike."""
        return LogProbs(
            tokens=convert(self.tokens),
            entropy=convert(self.entropy),
            is_greedy=convert(self.is_greedy),
            is_token=convert(self.is_token),
        )

    @property
    def total(self) -> torch.Tensor:
        """Log-probability of each completion, float32 [N]."""
        return self.tokens.sum(-1)


@dataclass(frozen=True)
class CompletionScorer:
    """How a model's logits become log-probabilities of completions.

    Attributes:
        normalise: `vocabulary`: among all tokens of the model; `children`: among those that lead to an item;
            `allowed`: among those that lead to an item that the prompt's user may be given, the policy that
            constrained decoding samples from.
        catalogue: the items; on the model's device.
    """

    normalise: Normalise
    catalogue: Catalogue

    def log_probs(
        self, model: torch.nn.Module, trees: CompletionTrees, mask: ItemMask | None = None
    ) -> LogProbs:
        """Log-probabilities of all completions, from one pass over the trees.

        Args:
            model: the (wrapped) causal language model.
            trees: the prompts and completions, on its device.
            mask: allow- and deny-lists of the B prompts, by which `allowed` goes.
        """
        narrow = self.normalise != "vocabulary"
        tokens, there = trees.tokens.clamp(min=0), trees.tokens != PADDING
        head = head_over_tokens(model, self.catalogue.token_ids) if narrow else contextlib.nullcontext()
        with head_at_positions(model, trees.positions.mask), head:
            outputs: Any = model(
                input_ids=trees.input_ids,
                attention_mask=trees.attention_mask,
                position_ids=trees.position_ids,
                use_cache=False,
            )
        logits = outputs.logits.float()
        scored, best, columns = logits, logits.detach().argmax(-1), tokens
        if narrow:
            scored, ids = self._allowed(logits, trees, mask if self.normalise == "allowed" else None)
            best, columns = ids.gather(1, scored.argmax(-1, keepdim=True)).squeeze(1), self._columns(tokens)
        normaliser = log_normaliser(scored)
        entropy = normaliser.detach() - _mean_logit(scored.detach(), normaliser.detach())
        at = trees.position_index.clamp(min=0)
        return LogProbs(
            (logits[at, columns] - normaliser[at]).masked_fill(~there, 0.0),
            entropy[at].masked_fill(~there, 0.0),
            (best[at] == tokens) & there,
            there,
        )

    def _columns(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where the narrow head's logits have a token, int64 [N, L]; any column for one that no item has."""
        ids, order = self.catalogue.token_ids.sort()
        return order[torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)]

    def _allowed(
        self, logits: torch.Tensor, trees: CompletionTrees, mask: ItemMask | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the asked positions' legal tokens, float32 [A, F], −inf in slots that are none; their ids.

        Args:
            logits: float32 [A, C], a column a compact token.
            trees: whose positions they are.
            mask: the prompts' lists.
        """
        catalogue = self.catalogue
        positions = trees.positions
        missing = catalogue.length - positions.prefix_tokens.shape[1]
        prefix = torch.nn.functional.pad(positions.prefix_tokens, (0, max(0, missing)), value=PADDING)
        no_end = torch.full_like(positions.prefix_length, PADDING)
        prefixes = Prefixes(prefix, positions.prefix_length, no_end)
        nodes, _ = walk(catalogue, prefixes)
        child, token, legal = catalogue.trie.expand(nodes)
        if mask is not None:
            legal = legal & mask.select(positions.prompt_index).has_allowed_item(catalogue.trie, child)
        ids = catalogue.token_ids[token]
        legal = legal & (ids >= 0)
        return logits.gather(1, token.long()).masked_fill(~legal, -torch.inf), ids


def _mean_logit(logits: torch.Tensor, normaliser: torch.Tensor) -> torch.Tensor:
    """Expected logit under the softmax, float32 [A]; slots of −inf have no part in it."""
    means = []
    for part, total in zip(
        split_for_cache(logits), split_for_cache(normaliser, logits.shape[1]), strict=True
    ):
        chance = (part - total.unsqueeze(-1)).exp_()
        means.append(chance.mul_(part.nan_to_num(neginf=0.0)).sum(-1))
    return torch.cat(means)
