"""Rewards of GRPO: the shipped ones, and loading of a user's own.

A reward gets whole groups, because some rewards rank a rollout among the others of its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config.alignment import RewardConfig
from llmrec.errors import UserError, did_you_mean
from llmrec.plugins import check_parameters, is_import_path, load_object

Floats = npt.NDArray[np.float64]
Judge = Callable[[list[list[str]]], npt.NDArray[np.floating]]
EQUAL = 1e-8
"""Rewards that differ by no more than this count as equal. Equal rewards give no advantage."""


@dataclass(frozen=True)
class Groups:
    """Rollouts of P prompts, G each.

    Attributes:
        items: int64 [P, G], the drawn items as places in trie order; an item may be drawn more than once.
        targets: int64 [P], the items that the users chose next, as places in trie order; −1 if the target is unknown
            (`grpo.prompts: history_end`).
        histories: P lists of item ids, oldest first.
        log_probs: float [P, G], the policy's log-probability of each rollout's item.
        texts: P · G lists of token ids, which the policy wrote before each item, group by group; None if its prompt
            asks for no words.
    """

    items: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    histories: list[list[str]]
    log_probs: npt.NDArray[np.floating]
    texts: list[list[int]] | None = None

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """Whether each rollout is the target, bool [P, G]."""
        hits: npt.NDArray[np.bool_] = self.items == self.targets[:, None]
        return hits

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether two rollouts of a group are the same item, bool [P, G, G]."""
        same: npt.NDArray[np.bool_] = self.items[:, :, None] == self.items[:, None, :]
        return same

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """Rank of each rollout's item in its group by the policy's log-probability, from 1, int64 [P, G].

        A rank is 1 plus the number of other items with a larger log-probability. An item that was drawn twice counts
        once and has one rank. Items with equal log-probability share the better rank. So ranks do not depend on the
        order of the rollouts.
        """
        same = self.same
        best = np.where(same, self.log_probs[:, None, :], -np.inf).max(-1)
        is_repeat = np.asarray(np.tril(same, -1).any(-1))
        likelier = (best[:, None, :] > best[:, :, None]) & ~is_repeat[:, None, :]
        return 1 + likelier.sum(-1)


@dataclass(frozen=True)
class RewardContext:
    """Data that a reward may use besides the rollouts.

    Attributes:
        catalogue: the run's catalogue.
        vectors: float32 [items, d], item vectors from the codebooks; None if the IDs have no codebooks.
        judge: a collaborative model: P histories → log-probability of each item, float [P, items]; None if no reward
            needs it.
    """

    catalogue: Catalogue
    vectors: npt.NDArray[np.float32] | None = None
    judge: Judge | None = None

    @property
    def items(self) -> list[str]:
        """Item ids in trie order."""
        return self.catalogue.items

    @cached_property
    def sids(self) -> npt.NDArray[np.int64]:
        """Semantic IDs of the items, int64 [items, L]."""
        return self.catalogue.sids


Reward = Callable[[Groups, RewardContext], npt.NDArray]
"""(groups, context) → the reward of each rollout, float [P, G]."""


def needs_judge(reward: Reward) -> Reward:
    """Mark a user's own reward that calls `context.judge`, so that `grpo.judge` is trained for it."""
    reward.needs_judge = True  # type: ignore[attr-defined]  # functions take attributes; their types do not say so
    return reward


def hit(groups: Groups, context: RewardContext) -> Floats:
    """Return 1 for the target, and 0 for other items."""
    return groups.hits.astype(np.float64)


def rank(groups: Groups, context: RewardContext) -> Floats:
    """Give the likelier misses the lower rewards (MiniOneRec, Kong et al. 2025; ReRe, Tan et al. 2025).

    In a group with a hit, a miss of rank ρ gets −(1 / log2(ρ + 1)) / Σ, where Σ sums 1 / log2(ρ + 1) over the
    group's misses, so that the rewards of the misses add up to −1. Hits get 0. In a group without a hit, all rollouts
    get 0.
    """
    missed = ~groups.hits
    discounts = missed / np.log2(groups.ranks + 1)
    total = discounts.sum(1, keepdims=True)
    share = np.divide(discounts, total, out=np.zeros_like(discounts), where=total > 0)
    return np.where(groups.hits.any(1, keepdims=True), -share, 0.0)


def levels(groups: Groups, context: RewardContext) -> Floats:
    """Return the share of the SID's levels before the first one that differs from the target's.

    A textual ID has as many levels as the longest ID of the catalogue has tokens.
    """
    match = context.sids[groups.items] == context.sids[groups.targets][:, None]
    return np.logical_and.accumulate(match, axis=-1).mean(-1)


def ndcg(groups: Groups, context: RewardContext) -> Floats:
    """Return 1 / log2(ρ + 1) for the target at rank ρ of its group, and 0 for other items."""
    return groups.hits / np.log2(groups.ranks + 1)


def semantic(groups: Groups, context: RewardContext) -> Floats:
    """Return the cosine of the item's vector and the target's, from −1 to 1; 0 if either is a zero vector.

    Raises:
        UserError: the run's semantic IDs have no codebooks.
    """
    if context.vectors is None:
        raise UserError(
            "grpo.rewards: semantic: this run's semantic IDs have no codebooks to compare items by; "
            "leave it out, or make the IDs from vectors (ids.quantizer.kind)"
        )
    target = _unit(context.vectors[groups.targets])
    cosines: Floats = np.einsum("pgd,pd->pg", _unit(context.vectors[groups.items]), target)
    return cosines


def collaborative(groups: Groups, context: RewardContext) -> Floats:
    """Return 1 − ln(ρ) / ln(items), from 1 to 0, where the judge ranks the item ρ-th in the catalogue.

    Equal scores share the better rank. The reward uses ranks, because judges differ in how confident their scores
    are, and the scale of the reward should not. It uses ranks in the catalogue, because the best rollout of a group
    would otherwise get 1 even if all rollouts are bad. It uses the logarithm, because most rollouts have ranks near
    the top, where ρ / items is about 0 for all of them.

    Raises:
        UserError: there is no judge.
    """
    if context.judge is None:
        raise UserError("grpo.rewards: collaborative: no collaborative model to ask; name one in grpo.judge")
    scores = np.asarray(context.judge(groups.histories))
    own = np.take_along_axis(scores, groups.items, axis=1)
    above = np.empty(own.shape)
    for prompt, row in enumerate(np.sort(scores, axis=1)):
        above[prompt] = len(row) - np.searchsorted(row, own[prompt], side="right")
    return 1 - np.log1p(above) / np.log(max(len(context.items), 2))


def diversity(groups: Groups, context: RewardContext) -> Floats:
    """Return 1 − the mean cosine of the item's vector and the vectors of the group's other rollouts.

    Two rollouts of the same item have cosine 1. If the IDs have no codebooks, all other pairs have cosine 0.
    """
    cosines = groups.same.astype(np.float64)
    if context.vectors is not None:
        unit = _unit(context.vectors[groups.items])
        cosines = np.maximum(cosines, np.einsum("pgd,phd->pgh", unit, unit))
    others = max(groups.items.shape[1] - 1, 1)
    return 1 - (cosines.sum(-1) - np.diagonal(cosines, axis1=1, axis2=2)) / others


SHIPPED: Mapping[str, Reward] = {
    "hit": hit,
    "rank": rank,
    "levels": levels,
    "ndcg": ndcg,
    "semantic": semantic,
    "collaborative": collaborative,
    "diversity": diversity,
}


def load_reward(name: str) -> Reward:
    """Return a shipped reward by its name, or a user's own by its import path `module:function`.

    The module is imported. The working directory is the last place where it is looked for.

    Raises:
        UserError: the reward, module or function does not exist, the module cannot be imported, or the function has
            other parameters.
    """
    if not is_import_path(name):
        if name not in SHIPPED:
            raise UserError(
                f"grpo.rewards: no reward {name!r} ({did_you_mean(name, list(SHIPPED))}); "
                "your own code is named module:function"
            )
        return SHIPPED[name]
    try:
        reward = load_object(name, "function")
        if not callable(reward):
            raise UserError(f"{name}: no function {name.partition(':')[2]!r} there")
        check_parameters(reward, ("groups", "context"), name)
    except UserError as error:
        raise UserError(f"grpo.rewards: {error}") from None
    return cast("Reward", reward)


def sum_rewards(
    rewards: Sequence[RewardConfig], groups: Groups, context: RewardContext
) -> tuple[Floats, dict[str, npt.NDArray]]:
    """Compute the weighted sum of rewards.

    Args:
        rewards: names and weights.
        groups: rollouts of P prompts, G each.
        context: data that the rewards may use.

    Returns:
        The sum, float64 [P, G], and each term by its name, float64 [P, G], without its weight.

    Raises:
        UserError: a reward does not exist, needs vectors or a judge that the run lacks, or does not return P × G
            finite numbers.
    """
    terms = {reward.name: _values(reward.name, groups, context) for reward in rewards}
    summed = np.zeros(groups.items.shape)
    for reward in rewards:
        summed += reward.weight * terms[reward.name]
    return summed, terms


def has_zero_variance(total: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Whether all rewards of a group are equal, so that every advantage is 0: bool [P]."""
    equal: npt.NDArray[np.bool_] = np.ptp(total, axis=1) <= EQUAL
    return equal


def _values(name: str, groups: Groups, context: RewardContext) -> Floats:
    """Compute one reward, and check it."""
    returned = load_reward(name)(groups, context)
    try:
        values = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"grpo.rewards: {name} returns no numbers but {type(returned).__name__}") from None
    prompts, rollouts = shape = groups.items.shape
    if values.shape != shape:
        raise UserError(
            f"grpo.rewards: {name} returns an array of shape {list(values.shape)} for {prompts} prompts of "
            f"{rollouts} rollouts; return one number a rollout, {list(shape)}"
        )
    is_invalid = ~np.isfinite(values)
    if is_invalid.any():
        prompt, rollout = np.argwhere(is_invalid)[0]
        item, place = context.items[groups.items[prompt, rollout]], groups.targets[prompt]
        target = context.items[place] if place >= 0 else None
        raise UserError(
            f"grpo.rewards: {name} returns {values[prompt, rollout]} for item {item!r} of prompt {prompt} "
            f"(target {target!r}); return finite numbers"
        )
    return values


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Scale vectors [..., d] to length 1; zero vectors stay."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=-1, keepdims=True)
    return np.divide(exact, norms, out=np.zeros_like(exact), where=norms > 0)
