"""Decoding of many users in batches that fit a memory budget, and a wider search for lists without a certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch

from llmrec.catalogue.item_mask import ItemMask, MaskFactory
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.collaborative.blocks import users_at_once
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.top_k import TopK
from llmrec.hardware import CPU_BATCH_GB, GB, GPU_BATCH_GB, choose_device
from llmrec.models.device import to_device
from llmrec.progress.bar import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SearchEngine(Protocol):
    """What a batch needs of an engine: `TreeEngine`, or `ParallelEngine` of `llmrec.decode.parallel_codes`."""

    @property
    def model(self) -> PreTrainedModel:
        """The model, in eval mode."""

    @property
    def is_precise(self) -> bool:
        """Whether a search can prove a list."""

    def beam_tokens(self, width: int) -> int:
        """Number of cache positions that the beams of one user take."""

    def search(
        self,
        prompts: Sequence[Sequence[int]],
        width: int,
        k: int | None = None,
        mask: ItemMask | None = None,
        floor: torch.Tensor | None = None,
    ) -> TopK:
        """The best k items of one batch of prompts."""


PriorFactory = Callable[[list[int]], CollaborativePrior]
LOGIT_COPIES = 3
"""Float32 copies of a beam's logits that exist at once."""


@dataclass(frozen=True)
class BatchCost:
    """Memory of one user in a batch, in bytes.

    Attributes:
        per_token: keys and values of one position of the user's row in the cache.
        per_beam: logits of one beam.
        per_query: activations of one position that passes through the model.
    """

    per_token: int
    per_beam: int
    per_query: int

    def max_users(self, longest: int, width: int, beam_tokens: int, budget: int) -> int:
        """Number of users that fit `budget` bytes.

        Args:
            longest: tokens of the longest prompt.
            width: number of beams.
            beam_tokens: cache positions of a user's beams, over all levels.
            budget: bytes that the batch may take.
        """
        row = longest + beam_tokens
        bytes_ = (
            row * self.per_token + max(longest, width) * self.per_query + width * (self.per_beam + 8 * row)
        )
        return max(1, budget // bytes_)


def batch_cost(model: PreTrainedModel) -> BatchCost:
    """Memory of one user, computed from the model's configuration."""
    config, size = model.config, model.dtype.itemsize
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return BatchCost(
        per_token=2 * config.num_hidden_layers * config.num_key_value_heads * head * size,
        per_beam=LOGIT_COPIES * config.vocab_size * 4,
        per_query=(6 * config.hidden_size + 3 * config.intermediate_size) * size,
    )


def resolve_device(name: str) -> str:
    """Device for a value of `decode.device`; `auto` is a GPU if the machine has one, else the CPU."""
    return choose_device() if name == "auto" else name


def memory_budget(device: torch.device, limit_gb: float | None = None) -> int:
    """Bytes that a batch may take: `limit_gb` GB; None takes a share of the device's free memory."""
    if limit_gb is not None:
        return int(limit_gb * GB)
    if device.type == "cuda":
        # What torch keeps for later is free to it, though not to the driver.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(min(GPU_BATCH_GB * GB, (torch.cuda.mem_get_info(device)[0] + kept) * 0.6))
    return int(min(CPU_BATCH_GB * GB, psutil.virtual_memory().available / 4))


def group_by_length(lengths: Sequence[int], users: Callable[[int], int]) -> list[list[int]]:
    """Group prompts of similar length.

    Args:
        lengths: prompt lengths.
        users: function of a length; returns how many prompts of at most that length a batch may hold.

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
    engine: SearchEngine,
    prompts: Sequence[Sequence[int]],
    k: int,
    width: int,
    masks: MaskFactory | None = None,
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
        masks: function of user indices; returns the allow- and deny-lists of these users.
        widest: number of beams of a second search for users whose list is not certified. The search follows only
            prefixes that score at least as well as the last item of the list, so few users need all beams.
        memory_gb: memory limit of a batch, in GB; None takes a share of the device's free memory.
        prior: function of user indices; returns the collaborative prior of these users.

    Returns:
        TopK of k columns, with one row a prompt in the order of the prompts. A model in 16 bits proves no list: there
        `is_exact` is None.
    """
    run = _Runner(engine, prompts, k, masks, memory_budget(engine.model.device, memory_gb), prior)
    run.search(list(range(len(prompts))), width)
    if widest is not None and widest > width:
        run.search(np.flatnonzero(~run.is_exact).tolist(), widest, widen=True)
    return TopK(run.items, run.scores, run.is_exact if engine.is_precise else None)


class _Runner:
    """Fills the lists of U users, batch by batch."""

    def __init__(
        self,
        engine: SearchEngine,
        prompts: Sequence[Sequence[int]],
        k: int,
        masks: MaskFactory | None,
        budget: int,
        prior: PriorFactory | None,
    ) -> None:
        self.engine, self.prompts, self.k = engine, prompts, k
        self.masks, self.budget, self.prior = masks, budget, prior
        self.cost = batch_cost(engine.model)
        self.items = np.full((len(prompts), k), -1, np.int64)
        self.scores = np.full((len(prompts), k), -np.inf, np.float32)
        self.is_exact = np.zeros(len(prompts), bool)

    def search(self, users: list[int], width: int, widen: bool = False) -> None:
        for group in self._groups(users, width):
            self._search_group(group, width, widen)

    def _search_group(self, group: list[int], width: int, widen: bool) -> None:
        """Search for some users at once; where a GPU's memory ends, for half of them at a time."""
        try:
            self._search_together(group, width, widen)
            return
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
        torch.cuda.empty_cache()
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            self._search_group(half, width, widen)

    def _search_together(self, group: list[int], width: int, widen: bool) -> None:
        device = self.engine.model.device
        floor = to_device(torch.from_numpy(self.scores[group, -1]), device) if widen else None
        mask = None if self.masks is None else self.masks(group)
        engine = self.engine
        if self.prior is not None:
            assert isinstance(engine, TreeEngine)
            engine = replace(engine, scoring=replace(engine.scoring, prior=self.prior(group)))
        top = engine.search([self.prompts[i] for i in group], width, self.k, mask, floor)
        self._write(np.array(group), top)

    def _write(self, users: npt.NDArray[np.int64], top: TopK) -> None:
        """Keep a search's lists; where a search found fewer items than the one before, that one's list stays.

        In 16 bits scores depend on the batch, so a second search may drop what the first one found.
        """
        missing = self.k - top.items.shape[1]
        items = np.pad(top.items, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(top.scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        better = (items >= 0).sum(1) >= (self.items[users] >= 0).sum(1)
        users = users[better]
        self.items[users], self.scores[users] = items[better], scores[better]
        if top.is_exact is not None:
            self.is_exact[users] = top.is_exact[better]

    def _most_users(self) -> int:
        """Most users of a batch: with a prior, which holds a score of every item, as many as are scored at once."""
        if self.prior is None:
            return len(self.prompts)
        assert isinstance(self.engine, TreeEngine)  # which alone mixes a prior in, code by code
        return users_at_once(self.engine.trie.items, most=len(self.prompts))

    def _groups(self, users: list[int], width: int) -> Iterator[list[int]]:
        beam_tokens = self.engine.beam_tokens(width)
        most = self._most_users()
        groups = group_by_length(
            [len(self.prompts[user]) for user in users],
            lambda longest: min(most, self.cost.max_users(longest, width, beam_tokens, self.budget)),
        )
        label = "decoding" if width == self.k else f"decoding, {width} beams"
        with Progress(label, len(users), "user") as progress:
            for group in groups:
                yield [users[i] for i in group]
                progress.update(len(group))
