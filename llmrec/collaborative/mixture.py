"""A mixture of systems: linear over those that know interactions, log-linear with one that knows texts.

    score(i) = log( Σ_m w_m p_m(i | history) + 1e-9 ) + w_t log p_t(i | history)

p_m are the members' chances of the next item, p_t those of text neighbours: a softmax, so the last term is
w_t cos / .05 but for a constant. Linear opinion pool: Stone, The opinion pool, 1961; log-linear pool: Genest & Zidek,
Combining probability distributions, 1986. A member that knows nothing adds nothing to a sum, but would veto in a
product; the text, which knows a little about every item, is better as a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import Decay, Histories, Scored, Validation, record
from llmrec.collaborative.system import Baseline, System, TrainingData
from llmrec.collaborative.text_knn import TextKNN
from llmrec.config import Positive
from llmrec.files import read_json

FLOOR = np.float32(1e-9)
"""Chance of an item that no member knows."""
DEPTH = 100
"""Best items of each system that the search looks at, for each user."""
ROUNDS = 4
"""Most passes of the search over all weights."""


class MixtureSystem(System):
    """A mixture of systems, and the weights that the search on validation tries.

    Attributes:
        members: systems whose chances are summed, by name or import path.
        tilt: the system whose chances multiply the sum; null for none.
        shares: of one member, tried while the others keep their proportions.
        tilt_weight: exponents of `tilt`'s chances; the search starts with the first.
        tilt_decay: decays of `tilt` where it is `text_knn`: in a mixture, other ones are best than alone.
        valid_users: how many validation users the search looks at.
    """

    title: ClassVar[str] = "mixture"
    formula: ClassVar[str] = "score(i) = log(Σ w_m p_m(i) + 1e-9) + w_t log p_t(i), m the members, t the tilt"
    files: ClassVar[tuple[str, ...]] = (".json",)
    members: Annotated[list[str], Field(min_length=1)] = ["sasrec_ce", "recent_knn", "succession"]
    tilt: str | None = "text_knn"
    shares: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] = [
        *(0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    ]
    tilt_weight: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [
        *(0.1, 0.0, 0.05, 0.15, 0.2, 0.25, 0.3, 0.4)
    ]
    tilt_decay: Annotated[list[Decay], Field(min_length=1)] = [0.7, 0.3, 0.5, 0.9]
    valid_users: Positive = 20000

    @property
    def parts(self) -> tuple[str, ...]:
        """Every system that it asks."""
        return tuple(dict.fromkeys([*self.members, *([self.tilt] if self.tilt is not None else [])]))

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Search the weights on validation users; write them and every attempt."""
        members = {name: data.load(name) for name in self.members}
        tilts = forms(data.load(self.tilt), self.tilt_decay) if self.tilt is not None else {}
        valid = data.valid(self.valid_users)
        popularity = Popularity.fit(data.histories, data.items)
        choice = choose_weights(popularity, members, tilts, self, valid)
        choice["chosen"]["tilt"] = self.tilt
        return record(data, len(valid), choice)

    def fit(self, data: TrainingData) -> Mixture:
        """Fit the members that have a weight, and mix them."""
        chosen = read_json(data.file(".json"))["chosen"]
        members = {name: data.load(name) for name, weight in chosen["weights"].items() if weight}
        tilt, decay = None, chosen["tilt_decay"]
        if chosen["tilt_weight"]:
            tilt = forms(data.load(chosen["tilt"]), [decay])[decay if decay else 0.0]
        popularity = Popularity.fit(data.histories, data.items)
        return Mixture(popularity, members, chosen["weights"], tilt, chosen["tilt_weight"])


def forms(tilt: Baseline, decays: Sequence[float]) -> dict[float, Baseline]:
    """Forms of a mixture's factor, by decay: a history's text is forgotten faster where it stands alone."""
    return {decay: tilt.forgetting(decay) for decay in decays} if isinstance(tilt, TextKNN) else {0.0: tilt}


class Mixture(Scored):
    """Named systems, each with its weight, and one that multiplies."""

    def __init__(
        self,
        popularity: Popularity,
        members: Mapping[str, Baseline],
        weights: Mapping[str, float],
        tilt: Baseline | None = None,
        tilt_weight: float = 0.0,
    ) -> None:
        """Keep the members of the sum with their weights, and the factor with its own."""
        self.popularity = popularity
        self.members = {name: member for name, member in members.items() if weights[name]}
        self.member_weights = dict(weights)
        self.tilt, self.tilt_weight = tilt, tilt_weight

    def scores(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """The formula above, float32 [U, items]."""
        total = np.zeros((len(histories), len(items)), np.float32)
        for name, member in self.members.items():
            chance = np.exp(member.log_probs(histories, items))
            chance *= np.float32(self.member_weights[name])
            total += chance
        total += FLOOR
        np.log(total, out=total)
        if self.tilt is not None and self.tilt_weight:
            total += np.float32(self.tilt_weight) * self.tilt.log_probs(histories, items)
        return total

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-softmax of the scores over `items`, float32 [U, items]."""
        scores = self.scores(histories, items)
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return scores


def choose_weights(
    popularity: Popularity,
    members: Mapping[str, Baseline],
    tilts: Mapping[float, Baseline],
    config: MixtureSystem,
    valid: pl.DataFrame,
) -> dict[str, Any]:
    """Weights by a coordinate search on validation, from equal ones; of the sum they add up to 1.

    Args:
        popularity: of the items, its order that of ties.
        members: of the sum.
        tilts: forms of the factor, of which one is chosen, by decay; empty for none.
        config: the recipe's grids.
        valid: `history: list[str], target: str`.

    Returns:
        `chosen`: `weights` by name, `tilt_weight` and `tilt_decay`; `ndcg@10`; `members`, the value of each
        member alone; and `tried`.
    """
    search = _Search(Validation(valid, popularity.items), members, tilts)
    alone = {name: search.value(_with(dict.fromkeys(members, 0.0), name, 1.0), 0.0, 0.0) for name in members}
    best = _Weights(dict.fromkeys(members, 1 / len(members)), 0.0, 0.0)
    if tilts:
        best = replace(best, tilt=config.tilt_weight[0], decay=next(iter(tilts)))
    value = search.value(best.shares, best.tilt, best.decay)
    for _ in range(ROUNDS):
        before = value
        for make in _moves(members, tilts, config):
            for other in make(best):
                other_value = search.value(other.shares, other.tilt, other.decay)
                if other_value > value:
                    value, best = other_value, other
        if value <= before:
            break
    chosen = {"weights": _rounded(best.shares), "tilt_weight": best.tilt, "tilt_decay": best.decay}
    return {"chosen": chosen, "ndcg@10": value, "members": alone, "tried": search.tried}


@dataclass(frozen=True)
class _Weights:
    """A point of the search: shares of the sum, the factor's exponent, and which form of it."""

    shares: dict[str, float]
    tilt: float
    decay: float


def _moves(
    members: Mapping[str, Baseline], tilts: Mapping[float, Baseline], config: MixtureSystem
) -> Iterator[Callable[[_Weights], list[_Weights]]]:
    """The coordinates: each makes the points to look at around one."""

    def of_member(name: str, at: _Weights) -> list[_Weights]:
        return [replace(at, shares=_with(at.shares, name, share)) for share in config.shares]

    for name in members if len(members) > 1 else ():
        yield partial(of_member, name)
    if tilts:
        yield lambda at: [replace(at, tilt=weight) for weight in config.tilt_weight]
        yield lambda at: [replace(at, decay=decay) for decay in tilts]


class _Search:
    """Values of weights, each looked up once.

    Of a user's items only those are held that some system has among its `DEPTH` best unseen ones, and the target:
    what no system thinks much of is in no mixture's top 10. So all validation users can be looked at.
    """

    def __init__(
        self, judge: Validation, members: Mapping[str, Baseline], tilts: Mapping[float, Baseline]
    ) -> None:
        self.judge, self.tried = judge, list[dict[str, Any]]()
        systems = [*members.values(), *tilts.values()]
        columns = np.empty((len(judge), DEPTH * len(systems) + 1), np.int64)
        held = np.empty((len(systems), *columns.shape), np.float32)
        self._left_out = np.empty(columns.shape, bool)
        for block in judge.blocks():
            logs = [system.log_probs(judge.histories[block], judge.items) for system in systems]
            columns[block] = own = _candidates(logs, judge.seen[block], judge.targets[block])
            for values, log in zip(held, logs, strict=True):
                values[block] = np.take_along_axis(log, own, axis=1)
            is_seen = np.zeros(logs[0].shape, bool)
            for row, seen in zip(is_seen, judge.seen[block], strict=True):
                row[seen] = True
            self._left_out[block] = np.take_along_axis(is_seen, own, axis=1)
        self._left_out[:, 1:] |= columns[:, 1:] == columns[:, :-1]
        self._place = (columns < np.maximum(judge.targets, 0)[:, None]).sum(1)
        self._members = dict(zip(members, np.exp(held[: len(members)]), strict=True))
        self._tilts = dict(zip(tilts, held[len(members) :], strict=True))
        self._known: dict[tuple[float, ...], float] = {}

    def value(self, shares: Mapping[str, float], tilt: float, decay: float) -> float:
        """Validation NDCG@10 of weights."""
        key = (*_rounded(shares).values(), tilt, decay)
        if key not in self._known:
            ndcg = round(self._ndcg(shares, tilt, decay), 6)
            about = {"weights": _rounded(shares), "tilt_weight": tilt, "tilt_decay": decay}
            self._known[key] = ndcg
            self.tried.append(about | {"ndcg@10": ndcg})
        return self._known[key]

    def _ndcg(self, shares: Mapping[str, float], tilt: float, decay: float) -> float:
        total = np.full(self._left_out.shape, FLOOR)
        for name, share in shares.items():
            if share:
                total += np.float32(share) * self._members[name]
        np.log(total, out=total)
        if tilt:
            total += np.float32(tilt) * self._tilts[decay]
        total[self._left_out] = -np.inf
        gains = self.judge.gains(total, self._place, self.judge.targets >= 0)
        return float(gains.sum()) / max(len(gains), 1)


def _candidates(
    logs: Sequence[npt.NDArray[np.float32]],
    seen: Sequence[npt.NDArray[np.int64]],
    targets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Columns [users, systems · DEPTH + 1] that some system ranks high, and the target's, ascending, with repeats."""
    parts = [np.maximum(targets, 0)[:, None]]
    for log in logs:
        left = log.copy()
        for row, columns in zip(left, seen, strict=True):
            row[columns] = -np.inf
        depth = min(DEPTH, left.shape[1])
        best = np.argpartition(-left, depth - 1, axis=1)[:, :depth]
        parts.append(np.pad(best, ((0, 0), (0, DEPTH - depth)), mode="edge"))
    return np.sort(np.concatenate(parts, axis=1), axis=1)


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 6) for name, share in shares.items()}


def _with(weights: Mapping[str, float], name: str, share: float) -> dict[str, float]:
    """Weights with `share` for one name, the others' in their proportions; equal where they have none."""
    others = sum(weight for other, weight in weights.items() if other != name)
    rest = len(weights) - 1
    return {
        other: share if other == name else (1 - share) * (weight / others if others else 1 / rest)
        for other, weight in weights.items()
    }
