"""What GRPO samples: groups of items under the catalogue's trie, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.item_mask import ItemMask, build_item_mask
from llmrec.catalogue.registry import find_catalogue, register_catalogue
from llmrec.config import GrpoConfig
from llmrec.decode import free_text
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.sampling import sample
from llmrec.decode.scoring import Scoring
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.models.layers.dropout import eval_mode
from llmrec.models.lora import save_adapter
from llmrec.train.alignment.rewards import Groups, RewardContext, has_zero_variance, sum_rewards
from llmrec.vllm.engine import VllmEngine
from llmrec.vllm.settings import gpu_share

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue


GPU_SHARE = 0.4
"""What vLLM may take at most of a GPU that it shares with the training."""
NO_TARGET = -1
"""A target that nobody knows: no rollout hits it."""


@dataclass(frozen=True)
class RolloutTasks:
    """What GRPO learns on: prompts, each with the item that its user chose next.

    Attributes:
        prompts: P token-id lists.
        histories: P lists of item ids, oldest first.
        targets: int64 [P], in trie order; `NO_TARGET` where nobody knows.
        items: P lists of the user's items (trie order), oldest first; a user's tasks may share one.
        hidden: int64 [P], how many of these items, from the oldest on, rollouts leave out, as decoding does.
    """

    prompts: list[list[int]]
    histories: list[list[str]]
    targets: npt.NDArray[np.int64]
    items: list[list[int]]
    hidden: npt.NDArray[np.int64]

    def take(self, rows: Sequence[int]) -> RolloutTasks:
        """Some of them."""
        return RolloutTasks(
            [self.prompts[row] for row in rows],
            [self.histories[row] for row in rows],
            self.targets[list(rows)],
            [self.items[row] for row in rows],
            self.hidden[list(rows)],
        )

    @property
    def denied(self) -> list[list[int]]:
        """Items that rollouts leave out: P lists, a copy each, so it is asked of a few tasks at a time."""
        return [items[:count] for items, count in zip(self.items, self.hidden.tolist(), strict=True)]

    def mask(self, catalogue: Catalogue) -> ItemMask | None:
        """What each prompt's user may be given."""
        return build_item_mask(catalogue.trie, None, self.denied, catalogue.token_ids.device)


@dataclass(frozen=True)
class Draws:
    """What a policy was drawn to answer.

    Attributes:
        top: TopK [P, G], items in trie order and their log-probabilities.
        texts: `Groups.texts`.
    """

    top: TopK
    texts: list[list[int]] | None = None


class RolloutSampler(Protocol):
    """Draws `count` items a prompt from a policy."""

    def __call__(self, model: Any, tasks: RolloutTasks, count: int) -> Draws:
        """Draw [P, count] items."""

    def close(self) -> None:
        """Give back what drawing holds."""


@dataclass(frozen=True)
class TreeSampler:
    """Rollouts from the tree engine.

    Attributes:
        catalogue: the items, on the model's device.
        pad_id: any valid token id.
        rollouts: how they are drawn (`grpo.rollouts`).
    """

    catalogue: Catalogue
    pad_id: int
    rollouts: str

    def __call__(self, model: Any, tasks: RolloutTasks, count: int) -> Draws:
        """Draw from a model, which is put into eval mode for the time."""
        engine = tree_engine(model, self.catalogue, self.pad_id)
        mask = tasks.mask(self.catalogue)
        with eval_mode(model):
            if self.rollouts == "sampled":
                return Draws(sample(engine, tasks.prompts, count, mask))
            noise = _generator(model.device) if self.rollouts == "stochastic" else None
            return Draws(_check_complete(engine.search(tasks.prompts, count, mask=mask, noise=noise), count))

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True)
class ReasoningSampler:
    """Rollouts of a policy that writes words first: for each rollout a text, and an item behind it.

    Attributes:
        catalogue: the items, on the model's device.
        pad_id: any valid token id.
        end_id: token that ends an answer.
        tokens: most tokens of a text.
    """

    catalogue: Catalogue
    pad_id: int
    end_id: int
    tokens: int

    def __call__(self, model: Any, tasks: RolloutTasks, count: int) -> Draws:
        """Draw from a model, which is put into eval mode for the time."""
        form = free_text.AnswerForm(self.tokens, [self.end_id], self.catalogue.id_starts)
        with eval_mode(model):
            written = free_text.sample_answers(model, tasks.prompts, form, self.pad_id, count)
            texts = [form.without_end(answer) for group in written for answer in group]
            rows = np.repeat(np.arange(len(tasks.prompts)), count)
            behind = [[*tasks.prompts[row], *text] for row, text in zip(rows, texts, strict=True)]
            mask = tasks.take(rows.tolist()).mask(self.catalogue)
            top = sample(tree_engine(model, self.catalogue, self.pad_id), behind, 1, mask)
        shape = len(tasks.prompts), count
        return Draws(TopK(top.items.reshape(shape), top.scores.reshape(shape)), texts)

    def close(self) -> None:
        """Nothing to give back."""


def tree_engine(model: Any, catalogue: Catalogue, pad_id: int) -> TreeEngine:
    """The tree engine on the constrained policy."""
    return TreeEngine(model, catalogue.trie, catalogue.token_ids, pad_id, Scoring(normalise="allowed"))


class VllmSampler:
    """Rollouts from vLLM, which is handed the policy's adapter anew before every draw.

    Args:
        base: the run's `base/` folder.
        scratch: where adapters are handed over.
    """

    def __init__(self, base: Path, scratch: Path) -> None:
        self._base, self._scratch, self._handed = base, scratch, 0
        self._engine: VllmEngine | None = None

    def __call__(self, model: Any, tasks: RolloutTasks, count: int) -> Draws:
        """Draw from a model's adapter `default` on the base; the engine starts with the first call."""
        adapter = self._scratch / f"policy-{self._handed % 2}"
        save_adapter(model, adapter)
        if self._engine is None:
            self._engine = self._start(adapter)
        else:
            self._engine.replace_adapter(self._scratch / f"policy-{(self._handed - 1) % 2}", adapter)
        self._handed += 1
        items = find_catalogue(self._engine.name).items
        deny = [[items[place] for place in row] for row in tasks.denied]
        return Draws(self._engine.sample(tasks.prompts, count, deny, adapter))

    def _start(self, adapter: Path) -> VllmEngine:
        if find_catalogue(register_catalogue(self._base)).has_changed:
            raise UserError(
                "grpo.engine=vllm: this run's catalogue has changed since training (llmrec items); use "
                f"grpo.engine=tree, or move {self._base.parent / 'catalogue'} away"
            )
        if not torch.cuda.is_available():
            return VllmEngine(self._base, [adapter])
        return VllmEngine(self._base, [adapter], gpu_memory_utilization=gpu_share(most=GPU_SHARE))

    def close(self) -> None:
        """End vLLM."""
        if self._engine is not None:
            self._engine.close()


def _generator(device: torch.device) -> torch.Generator:
    """A generator that goes on from torch's own, which a checkpoint restores."""
    return torch.Generator(device).manual_seed(int(torch.randint(1 << 62, ())))


def _check_complete(top: TopK, count: int) -> TopK:
    """Lists of `count` items.

    Raises:
        UserError: a prompt may not be given so many.
    """
    if top.items.shape[1] < count or (top.items < 0).any():
        raise UserError(
            f"grpo.generations={count}: a user may be given fewer items than that without repeats; lower it, or "
            "use grpo.rollouts=sampled"
        )
    return top


@dataclass(frozen=True)
class ScoredGroups:
    """Groups with their rewards.

    Attributes:
        groups: the rollouts.
        terms: float [P, G] of each reward, before its weight.
        injected: bool [P, G], targets that were put in place of a sample.
        zero_variance: bool [P], groups that were without signal as drawn.
    """

    groups: Groups
    terms: dict[str, npt.NDArray[np.float64]]
    injected: npt.NDArray[np.bool_]
    zero_variance: npt.NDArray[np.bool_]


def sample_rollouts(
    sampler: RolloutSampler, model: Any, tasks: RolloutTasks, context: RewardContext, settings: GrpoConfig
) -> ScoredGroups:
    """Draw and judge a group for each prompt, and do what `zero_variance` asks about those without signal.

    Raises:
        UserError: a reward that is broken, or more generations than items.
    """
    groups = _groups(sampler, model, tasks, settings.generations)
    worth, terms = sum_rewards(settings.rewards, groups, context)
    silent = has_zero_variance(worth)
    injected = np.zeros(groups.items.shape, bool)
    if settings.zero_variance == "resample":
        for _ in range(settings.tries):
            rows = np.flatnonzero(has_zero_variance(worth))
            if not len(rows):
                break
            again = _groups(sampler, model, tasks.take(rows.tolist()), settings.generations)
            groups = _replaced(groups, rows, again)
            worth, terms = sum_rewards(settings.rewards, groups, context)
    elif settings.zero_variance == "inject":
        rows = np.flatnonzero(silent & ~groups.hits.any(1))
        if len(rows):
            injected[rows, -1] = True
            items = np.where(injected, groups.targets[:, None], groups.items)
            # Nobody has asked the policy about it: it ranks as the least likely.
            log_probs = np.where(injected, groups.log_probs.min() - 1.0, groups.log_probs)
            groups = replace(groups, items=items, log_probs=log_probs)
            worth, terms = sum_rewards(settings.rewards, groups, context)
    return ScoredGroups(groups, terms, injected, silent)


def _groups(sampler: RolloutSampler, model: Any, tasks: RolloutTasks, count: int) -> Groups:
    draws = sampler(model, tasks, count)
    return Groups(draws.top.items, tasks.targets, tasks.histories, draws.top.scores, draws.texts)


def _replaced(groups: Groups, rows: npt.NDArray[np.int64], others: Groups) -> Groups:
    items, log_probs = groups.items.copy(), groups.log_probs.copy()
    items[rows], log_probs[rows] = others.items, others.log_probs
    texts, size = groups.texts, items.shape[1]
    if texts is not None and others.texts is not None:
        texts = list(texts)
        for place, row in enumerate(rows.tolist()):
            texts[row * size : (row + 1) * size] = others.texts[place * size : (place + 1) * size]
    return replace(groups, items=items, log_probs=log_probs, texts=texts)
