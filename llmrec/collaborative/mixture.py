"""A mixture of systems: a weighted sum of the members' probabilities, times a power of a further system's.

    score(i) = log( Σ_m w_m p_m(i | history) + 1e-9 ) + w_t log p_t(i | history)

p_m are the members' probabilities of the next item. p_t are those of the `tilt`, text neighbours by default. They are
a softmax, so the last term is w_t cos / .05 plus a constant. The sum is a linear opinion pool (Stone, The opinion
pool, 1961), and the product a log-linear pool (Genest & Zidek, Combining probability distributions, 1986).

Systems that learn from interactions are summed, because each of them gives many items a probability near 0. In a sum
such a member has no effect; in a product it would exclude the item. Text neighbours give every item a probability
that is clearly above 0, so they work better as a factor.
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
from llmrec.collaborative.system import Baseline, System, TrainingData, log_softmax
from llmrec.collaborative.text_knn import TextKNN
from llmrec.config import Positive
from llmrec.files import read_json

FLOOR = np.float32(1e-9)
"""Added to the sum of the members' probabilities, so that its logarithm is finite."""
DEPTH = 100
"""Number of each system's best items, per user, that the search of the weights considers."""
_CANDIDATE_BYTES = 17
"""Bytes that a probability takes while the best ones are found, beside the array of each system."""
ROUNDS = 4
"""Largest number of passes of the search over all weights."""


class MixtureSystem(System):
    """A mixture of systems, and the weights that the search on validation tries.

    Attributes:
        members: systems whose probabilities are summed, by name or import path.
        tilt: the system whose probabilities multiply the sum; null for none.
        shares: weights that are tried for one member while the other members keep their proportions.
        tilt_weight: exponents of the tilt's probabilities; the search starts with the first. Where users are few,
            texts tell more than interactions, and an exponent above 1 is chosen.
        tilt_decay: decays that are tried if `tilt` is `text_knn`, because the best decay in a mixture differs from
            the best decay of `text_knn` alone.
        valid_users: number of validation users for the search.
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
        *(0.1, 0.0, 0.05, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0)
    ]
    tilt_decay: Annotated[list[Decay], Field(min_length=1)] = [0.7, 0.3, 0.5, 0.9]
    valid_users: Positive = 20000

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the members and the tilt, each once."""
        return tuple(dict.fromkeys([*self.members, *([self.tilt] if self.tilt is not None else [])]))

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Search the weights on validation users; write them and every attempt."""
        members = {name: data.load(name) for name in self.members}
        tilts = tilts_by_decay(data.load(self.tilt), self.tilt_decay) if self.tilt is not None else {}
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
            tilt = tilts_by_decay(data.load(chosen["tilt"]), [decay])[decay if decay else 0.0]
        popularity = Popularity.fit(data.histories, data.items)
        return Mixture(popularity, members, chosen["weights"], tilt, chosen["tilt_weight"])


def tilts_by_decay(tilt: Baseline, decays: Sequence[float]) -> dict[float, Baseline]:
    """Return decay → the tilt with that decay. A tilt without a decay has the key 0."""
    return {decay: tilt.with_decay(decay) for decay in decays} if isinstance(tilt, TextKNN) else {0.0: tilt}


class Mixture(Scored):
    """Ranks items by the weighted sum of its members' probabilities, times a power of the tilt's."""

    def __init__(
        self,
        popularity: Popularity,
        members: Mapping[str, Baseline],
        weights: Mapping[str, float],
        tilt: Baseline | None = None,
        tilt_weight: float = 0.0,
    ) -> None:
        """Keep the members that have a weight, their weights, and the tilt with its exponent."""
        self.popularity = popularity
        self.members = {name: member for name, member in members.items() if weights[name]}
        self.member_weights = dict(weights)
        self.tilt, self.tilt_weight = tilt, tilt_weight

    def scores(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Compute the scores by the formula of this module, float32 [U, items]."""
        total = np.zeros((len(histories), len(items)), np.float32)
        for name, member in self.members.items():
            probabilities = np.exp(member.log_probs(histories, items))
            probabilities *= np.float32(self.member_weights[name])
            total += probabilities
        total += FLOOR
        np.log(total, out=total)
        if self.tilt is not None and self.tilt_weight:
            total += np.float32(self.tilt_weight) * self.tilt.log_probs(histories, items)
        return total

    def log_probs(self, histories: Histories, items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-softmax of the scores over `items`, float32 [U, items]."""
        return log_softmax(self.scores(histories, items))


def choose_weights(
    popularity: Popularity,
    members: Mapping[str, Baseline],
    tilts: Mapping[float, Baseline],
    config: MixtureSystem,
    valid: pl.DataFrame,
) -> dict[str, Any]:
    """Choose weights by a coordinate search on validation users.

    The search starts from equal weights. The members' weights always add up to 1.

    Args:
        popularity: popularity of the items; its order breaks ties.
        members: the systems of the sum by name.
        tilts: decay → the tilt with that decay, of which one is chosen; empty if there is no tilt.
        config: the recipe's grids.
        valid: `history: list[str], target: str, masked: list[str]`.

    Returns:
        `chosen`: the members' `weights` by name, `tilt_weight` and `tilt_decay`; `ndcg@10`; `members`, the NDCG@10 of
        each member alone; and `tried`.
    """
    search = _Search(Validation(valid, popularity.items), members, tilts)
    alone = {name: search.value(_with(dict.fromkeys(members, 0.0), name, 1.0), 0.0, 0.0) for name in members}
    best = _Weights(dict.fromkeys(members, 1 / len(members)), 0.0, 0.0)
    if tilts:
        best = replace(best, tilt=config.tilt_weight[0], decay=next(iter(tilts)))
    value = search.value(best.shares, best.tilt, best.decay)
    for _ in range(ROUNDS):
        before = value
        for neighbours in _coordinates(members, tilts, config):
            for candidate in neighbours(best):
                candidate_value = search.value(candidate.shares, candidate.tilt, candidate.decay)
                if candidate_value > value:
                    value, best = candidate_value, candidate
        if value <= before:
            break
    chosen = {"weights": _rounded(best.shares), "tilt_weight": best.tilt, "tilt_decay": best.decay}
    return {"chosen": chosen, "ndcg@10": value, "members": alone, "tried": search.tried}


@dataclass(frozen=True)
class _Weights:
    """A point of the search: the members' shares, the tilt's exponent, and its decay."""

    shares: dict[str, float]
    tilt: float
    decay: float


def _coordinates(
    members: Mapping[str, Baseline], tilts: Mapping[float, Baseline], config: MixtureSystem
) -> Iterator[Callable[[_Weights], list[_Weights]]]:
    """Yield a function for each coordinate: it returns the points that differ from a given one in this coordinate."""

    def with_other_shares(name: str, point: _Weights) -> list[_Weights]:
        return [replace(point, shares=_with(point.shares, name, share)) for share in config.shares]

    for name in members if len(members) > 1 else ():
        yield partial(with_other_shares, name)
    if tilts:
        yield lambda point: [replace(point, tilt=weight) for weight in config.tilt_weight]
        yield lambda point: [replace(point, decay=decay) for decay in tilts]


class _Search:
    """Computes the validation NDCG@10 of weights, and caches it.

    For each user it keeps only the target and the items that a system has among its `DEPTH` best allowed items. An
    item that every system ranks lower is hardly ever in the top 10 of a mixture. So the probabilities of many
    validation users fit into memory.
    """

    def __init__(
        self, validation: Validation, members: Mapping[str, Baseline], tilts: Mapping[float, Baseline]
    ) -> None:
        self.validation, self.tried = validation, list[dict[str, Any]]()
        systems = [*members.values(), *tilts.values()]
        columns = np.empty((len(validation), DEPTH * len(systems) + 1), np.int64)
        log_probs = np.empty((len(systems), *columns.shape), np.float32)
        self._is_masked = np.empty(columns.shape, bool)
        for block in validation.blocks(len(systems) * 4 + _CANDIDATE_BYTES):
            logs = [system.log_probs(validation.histories[block], validation.items) for system in systems]
            candidates = _candidates(logs, validation.masked[block], validation.targets[block])
            columns[block] = candidates
            for kept, log in zip(log_probs, logs, strict=True):
                kept[block] = np.take_along_axis(log, candidates, axis=1)
            is_masked = np.zeros(logs[0].shape, bool)
            for row, masked in zip(is_masked, validation.masked[block], strict=True):
                row[masked] = True
            self._is_masked[block] = np.take_along_axis(is_masked, candidates, axis=1)
        # A column that several systems rank high occurs several times; only the first one counts.
        self._is_masked[:, 1:] |= columns[:, 1:] == columns[:, :-1]
        self._place = (columns < np.maximum(validation.targets, 0)[:, None]).sum(1)
        self._members = dict(zip(members, np.exp(log_probs[: len(members)]), strict=True))
        self._tilts = dict(zip(tilts, log_probs[len(members) :], strict=True))
        self._values: dict[tuple[float, ...], float] = {}

    def value(self, shares: Mapping[str, float], tilt: float, decay: float) -> float:
        """Return the validation NDCG@10 of weights."""
        key = (*_rounded(shares).values(), tilt, decay)
        if key not in self._values:
            ndcg = round(self._ndcg(shares, tilt, decay), 6)
            attempt = {"weights": _rounded(shares), "tilt_weight": tilt, "tilt_decay": decay}
            self._values[key] = ndcg
            self.tried.append(attempt | {"ndcg@10": ndcg})
        return self._values[key]

    def _ndcg(self, shares: Mapping[str, float], tilt: float, decay: float) -> float:
        total = np.full(self._is_masked.shape, FLOOR)
        for name, share in shares.items():
            if share:
                total += np.float32(share) * self._members[name]
        np.log(total, out=total)
        if tilt:
            total += np.float32(tilt) * self._tilts[decay]
        total[self._is_masked] = -np.inf
        gains = self.validation.gains(total, self._place, self.validation.targets >= 0)
        return float(gains.sum()) / max(len(gains), 1)


def _candidates(
    logs: Sequence[npt.NDArray[np.float32]],
    masked: Sequence[npt.NDArray[np.int64]],
    targets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return each user's candidates: the target, and the `DEPTH` best allowed items of each system.

    Returns:
        Columns, int64 [users, systems · DEPTH + 1], in ascending order and with repeats.
    """
    parts = [np.maximum(targets, 0)[:, None]]
    for log in logs:
        allowed = log.copy()
        for row, columns in zip(allowed, masked, strict=True):
            row[columns] = -np.inf
        depth = min(DEPTH, allowed.shape[1])
        best = np.argpartition(-allowed, depth - 1, axis=1)[:, :depth]
        parts.append(np.pad(best, ((0, 0), (0, DEPTH - depth)), mode="edge"))
    return np.sort(np.concatenate(parts, axis=1), axis=1)


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 6) for name, share in shares.items()}


def _with(weights: Mapping[str, float], name: str, share: float) -> dict[str, float]:
    """Set one weight to `share`. The other weights keep their proportions, or become equal if all of them are 0."""
    total = sum(weight for other, weight in weights.items() if other != name)
    others = len(weights) - 1
    return {
        other: share if other == name else (1 - share) * (weight / total if total else 1 / others)
        for other, weight in weights.items()
    }
