"""What a rollout is worth: the terms of GRPO's reward, those shipped and the user's own.

A reward sees whole groups, because some rank a rollout among the others of its prompt.
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
"""Rewards nearer to each other than this teach nothing."""


@dataclass(frozen=True)
class Groups:
    """Rollouts of P prompts, G each.

    Attributes:
        items: int64 [P, G], what was drawn, in trie order; an item may be drawn more than once.
        targets: int64 [P], what the user chose, in trie order; −1 where no target is known
            (`grpo.prompts: history_end`).
        histories: P lists of item ids, oldest first.
        log_probs: float [P, G], the policy's log-probability of each rollout.
    """

    items: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    histories: list[list[str]]
    log_probs: npt.NDArray[np.floating]

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """Which rollouts are the target, bool [P, G]."""
        hits: npt.NDArray[np.bool_] = self.items == self.targets[:, None]
        return hits

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Which two rollouts of a group are one item, bool [P, G, G]."""
        same: npt.NDArray[np.bool_] = self.items[:, :, None] == self.items[:, None, :]
        return same

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """Rank of each rollout's item in its group by the policy's log-probability, from 1, int64 [P, G].

        One more than the number of other items that are likelier: an item drawn twice takes one place, the same for
        both, and equally likely items share the better place. So ranks do not hang on the order of the rollouts.
        """
        same = self.same
        best = np.where(same, self.log_probs[:, None, :], -np.inf).max(-1)
        again = np.asarray(np.tril(same, -1).any(-1))
        likelier = (best[:, None, :] > best[:, :, None]) & ~again[:, None, :]
        return 1 + likelier.sum(-1)


@dataclass(frozen=True)
class RewardContext:
    """What a reward may read beside the rollouts.

    Attributes:
        catalogue: the items.
        vectors: float32 [items, d], items as their codebooks see them; None where IDs have no codebooks.
        judge: a collaborative model: P histories → log-probability of each item, float [P, items]; None for none.
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
        """Their semantic IDs, int64 [items, L]."""
        return self.catalogue.sids


Reward = Callable[[Groups, RewardContext], npt.NDArray]
"""What each rollout is worth, float [P, G]."""


def needs_judge(reward: Reward) -> Reward:
    """Mark a reward of the user's own that asks `context.judge`, so that `grpo.judge` is trained for it."""
    reward.needs_judge = True  # type: ignore[attr-defined]  # functions take attributes; their types do not say so
    return reward


def hit(groups: Groups, context: RewardContext) -> Floats:
    """1 for the target, else 0."""
    return groups.hits.astype(np.float64)


def rank(groups: Groups, context: RewardContext) -> Floats:
    """Punishes misses the harder the likelier they were (MiniOneRec, Kong et al. 2025; ReRe, Tan et al. 2025).

    In a group with a hit, a miss of rank ρ gets −(1 / log2(ρ + 1)) / Σ, where Σ sums 1 / log2(ρ + 1) over the
    group's misses, so that they add up to −1; hits get 0. In a group without a hit, all get 0.
    """
    missed = ~groups.hits
    discounts = missed / np.log2(groups.ranks + 1)
    total = discounts.sum(1, keepdims=True)
    share = np.divide(discounts, total, out=np.zeros_like(discounts), where=total > 0)
    return np.where(groups.hits.any(1, keepdims=True), -share, 0.0)


def levels(groups: Groups, context: RewardContext) -> Floats:
    """Share of the SID's levels that match the target's, counted from the first to the first that differs.

    Of a textual ID, tokens of the longest one in the catalogue.
    """
    match = context.sids[groups.items] == context.sids[groups.targets][:, None]
    return np.logical_and.accumulate(match, axis=-1).mean(-1)


def ndcg(groups: Groups, context: RewardContext) -> Floats:
    """1 / log2(ρ + 1) for the target at rank ρ of its group, 0 for the others."""
    return groups.hits / np.log2(groups.ranks + 1)


def semantic(groups: Groups, context: RewardContext) -> Floats:
    """Cosine of the item's vector and the target's, −1 to 1; 0 where either has no direction.

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
    """The judge's opinion: 1 − ln(ρ) / ln(items) for the item that it ranks ρ-th in the catalogue, from 1 to 0.

    Equal scores share the better rank. Ranks, because judges differ in how sure they are, and the scale should not;
    in the catalogue, because within a group the best would get 1 however bad they all are; and their logarithm,
    because rollouts sit near the top, where plain shares of the catalogue are all about 1.

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
    """1 − the mean cosine of the item's vector and those of the group's other rollouts.

    Where IDs have no codebooks, two rollouts are alike only if they are one item: then, the share of the others
    that are not.
    """
    alike = groups.same.astype(np.float64)
    if context.vectors is not None:
        unit = _unit(context.vectors[groups.items])
        alike = np.maximum(alike, np.einsum("pgd,phd->pgh", unit, unit))
    others = max(groups.items.shape[1] - 1, 1)
    return 1 - (alike.sum(-1) - np.diagonal(alike, axis1=1, axis2=2)) / others


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
    """The reward of a name, or of an import path `module:function`, whose module is run.

    The working directory is importable, behind all else that is.

    Raises:
        UserError: no such reward, module or function, a module that fails to load, or a wrong signature.
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
    """The weighted sum of rewards.

    Args:
        rewards: names and weights.
        groups: rollouts of P prompts, G each.
        context: the catalogue.

    Returns:
        The sum, float64 [P, G], and each term by its name, float64 [P, G], before its weight.

    Raises:
        UserError: a reward that is not there, lacks what it needs, or returns anything but P × G finite numbers.
    """
    terms = {reward.name: _values(reward.name, groups, context) for reward in rewards}
    summed = np.zeros(groups.items.shape)
    for reward in rewards:
        summed += reward.weight * terms[reward.name]
    return summed, terms


def has_zero_variance(total: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which groups have rewards that are all equal, so that every advantage is 0: bool [P]."""
    equal: npt.NDArray[np.bool_] = np.ptp(total, axis=1) <= EQUAL
    return equal


def _values(name: str, groups: Groups, context: RewardContext) -> Floats:
    """One reward, checked."""
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
    bad = ~np.isfinite(values)
    if bad.any():
        prompt, rollout = np.argwhere(bad)[0]
        item, place = context.items[groups.items[prompt, rollout]], groups.targets[prompt]
        target = context.items[place] if place >= 0 else None
        raise UserError(
            f"grpo.rewards: {name} returns {values[prompt, rollout]} for item {item!r} of prompt {prompt} "
            f"(target {target!r}); return finite numbers"
        )
    return values


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Vectors [..., d] at length 1; those of length 0 stay."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
