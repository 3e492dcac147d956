"""Many users at once: batches of like length that fit a memory budget, and lists widened until they are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from tqdm import tqdm

from llmrec.catalogue.item_mask import ItemMask
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.top_k import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PriorFactory = Callable[[list[int]], CollaborativePrior]
CPU_BUDGET_GB = 1.0
"""Larger batches do not make a CPU faster."""
LOGIT_COPIES = 3


@dataclass(frozen=True)
class BatchCost:
    """What a user takes in a batch, in bytes: `per_token` of the row (cache), `per_beam`, `per_query`."""

    per_token: int
    per_beam: int
    per_query: int

    def max_users(self, longest: int, width: int, beam_tokens: int, budget: int) -> int:
        """How many users with prompts of at most `longest` tokens, and `beam_tokens` for beams, fit the budget."""
        row = longest + beam_tokens
        bytes_ = (
            row * self.per_token + max(longest, width) * self.per_query + width * (self.per_beam + 8 * row)
        )
        return max(1, budget // bytes_)


def batch_cost(model: PreTrainedModel) -> BatchCost:
    """Cost of a model's users, from its configuration."""
    config, size = model.config, model.dtype.itemsize
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return BatchCost(
        per_token=2 * config.num_hidden_layers * config.num_key_value_heads * head * size,
        per_beam=LOGIT_COPIES * config.vocab_size * 4,
        per_query=(6 * config.hidden_size + 3 * config.intermediate_size) * size,
    )


def resolve_device(name: str) -> str:
    """The device of `decode.device`: `auto` takes a GPU where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def memory_budget(device: torch.device, limit_gb: float | None = None) -> int:
    """Bytes that a batch may take: `limit_gb`, or what the device can spare."""
    if limit_gb is not None:
        return int(limit_gb * 2**30)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.6)
    return int(min(CPU_BUDGET_GB * 2**30, psutil.virtual_memory().available / 4))


def group_by_length(lengths: Sequence[int], users: Callable[[int], int]) -> list[list[int]]:
    """Group prompts of like length.

    Args:
        lengths: prompt lengths.
        users: how many prompts of at most a length a batch may hold.

    Returns:
        Indices, longest prompts first.
    """
    groups: list[list[int]] = []
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if groups and len(groups[-1]) < users(lengths[groups[-1][0]]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def rank(
    engine: TreeEngine,
    prompts: Sequence[Sequence[int]],
    k: int,
    width: int,
    mask: ItemMask | None = None,
    widest: int | None = None,
    memory_gb: float | None = None,
    prior: PriorFactory | None = None,
) -> TopK:
    """Top-k lists of many users.

    Args:
        engine: the model and its catalogue.
        prompts: U token-id lists.
        k: items a list.
        width: beams.
        mask: allow- and deny-lists of the U users.
        widest: search again, with up to so many beams, for users whose list is not proven exact. Only prefixes
            that score at least as well as the list's last item are followed, so few users need that many.
        memory_gb: bound on a batch; None for what the device can spare.
        prior: makes the collaborative prior of some of the users, given their indices.

    Returns:
        TopK of k columns, rows as given.
    """
    run = _Runner(engine, prompts, k, mask, memory_budget(engine.model.device, memory_gb), prior)
    run.search(list(range(len(prompts))), width)
    if widest is not None and widest > width:
        run.search(np.flatnonzero(~run.is_exact).tolist(), widest, widen=True)
    return TopK(run.items, run.scores, run.is_exact)


class _Runner:
    """Fills the lists of U users batch by batch."""

    def __init__(
        self,
        engine: TreeEngine,
        prompts: Sequence[Sequence[int]],
        k: int,
        mask: ItemMask | None,
        budget: int,
        prior: PriorFactory | None,
    ) -> None:
        self.engine, self.prompts, self.k = engine, prompts, k
        self.mask, self.budget, self.prior = mask, budget, prior
        self.cost = batch_cost(engine.model)
        self.items = np.full((len(prompts), k), -1, np.int64)
        self.scores = np.full((len(prompts), k), -np.inf, np.float32)
        self.is_exact = np.zeros(len(prompts), bool)

    def search(self, users: list[int], width: int, widen: bool = False) -> None:
        device = self.engine.model.device
        for group in self._groups(users, width):
            rows = torch.tensor(group, device=device)
            floor = torch.from_numpy(self.scores[group, -1]).to(device) if widen else None
            mask = None if self.mask is None else self.mask.select(rows)
            engine = self.engine
            if self.prior is not None:
                engine = replace(engine, scoring=replace(engine.scoring, prior=self.prior(group)))
            top = engine.search([self.prompts[i] for i in group], width, self.k, mask, floor)
            found = top.items.shape[1]
            self.items[group, :found], self.scores[group, :found] = top.items, top.scores
            self.is_exact[group] = top.is_exact

    def _groups(self, users: list[int], width: int) -> Iterator[list[int]]:
        beam_tokens = self.engine.beam_tokens(width)
        groups = group_by_length(
            [len(self.prompts[user]) for user in users],
            lambda longest: self.cost.max_users(longest, width, beam_tokens, self.budget),
        )
        word = "decoding" if width == self.k else f"decoding, {width} beams"
        with tqdm(total=len(users), desc=word, unit=" users", leave=False, disable=len(groups) < 2) as bar:
            for group in groups:
                yield [users[i] for i in group]
                bar.update(len(group))
