"""Sources of the rejected items of preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmrec.collaborative.blocks import user_blocks
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.systems import load_baseline
from llmrec.data.examples import training_histories
from llmrec.errors import UserError
from llmrec.ids.load import code_vectors
from llmrec.ids.paths import number_prefixes
from llmrec.progress.bar import follow
from llmrec.text.candidates import CandidateSampler
from llmrec.train.alignment.targets import Targets

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.config.alignment import NegativeSource, PairsConfig

SearchBeams = Callable[[list[list[str]], list[list[str]], int], list[list[str]]]
"""(histories, denied, width) → for each history the model's best items that are not denied, at most `width`."""
MODEL_SOURCES = frozenset({"beams", "judge"})
"""Sources that decode lists with the model."""
_DRAWS_PER_ITEM = 4
"""Number of items drawn at once for each wanted item, because a few of the draws are positives or repeats."""


@dataclass(frozen=True)
class RejectedItems:
    """Chosen and rejected items of R targets, as item ids.

    Attributes:
        chosen: R chosen items. They are the targets, except with the source `judge`.
        rejected: R lists of equal length. The items of a list are distinct, and none is the chosen item or a training
            item of the user.
        filled: number of rejected items that were drawn at random, because the model's beams had too few.
    """

    chosen: list[str]
    rejected: list[list[str]]
    filled: int = 0


class RejectedItemSampler:
    """Draws rejected items for targets.

    Args:
        config: the recipe's section `pairs`.
        run: run folder with finished stages data, ids and sft.
        catalogue: the run's catalogue as trained.
        beams: function that decodes the model's best items; None if no source needs it.
    """

    def __init__(
        self, config: PairsConfig, run: Path, catalogue: Catalogue, beams: SearchBeams | None
    ) -> None:
        self.config, self.run, self.catalogue = config, run, catalogue
        self._beams = beams

    def draw(self, source: NegativeSource, targets: Targets, rng: np.random.Generator) -> RejectedItems:
        """Draw rejected items from one source.

        Args:
            source: name of the source.
            targets: R targets. Each user has left enough items of the catalogue unchosen.
            rng: random generator of the draws.

        Raises:
            UserError: `semantic` without codebooks, or `judge` without its trained model.
        """
        if source == "judge":
            return self._draw_by_judge(targets, rng)
        chosen, count = targets.known_targets(), self.config.negatives
        if source == "beams":
            # SPRec, Gao et al. 2025; RosePO, Liao et al. 2024
            best = self._search(targets.histories, targets.items)
            return RejectedItems(
                chosen, *self._fill(chosen, targets.items, [row[:count] for row in best], rng)
            )
        if source == "random":
            return RejectedItems(chosen, self._fill(chosen, targets.items, [[]] * len(targets), rng)[0])
        places, taken = self._places(chosen), self._taken(targets)
        if source == "popularity":
            places_by_row = sample_by_weight(self._counts, taken, count, rng)
        elif source == "semantic":
            places_by_row = nearest_items(self._vectors, places, taken, count)
        else:
            places_by_row = sample_in_shared_prefix(self.catalogue.sids, places, taken, count, rng)
        return RejectedItems(
            chosen, [[self.catalogue.items[place] for place in row] for row in places_by_row]
        )

    def _draw_by_judge(self, targets: Targets, rng: np.random.Generator) -> RejectedItems:
        """Choose the beam with the judge's highest score, and reject the lowest ones (OneRec, Deng et al. 2025)."""
        items, index, histories = self.catalogue.items, self.catalogue.index, targets.histories
        judge = load_baseline(self.run, self.config.judge, items)
        beams_by_row = self._search(histories, targets.seen)
        chosen, rejected = [], []
        for block in follow(user_blocks(len(targets), len(items)), "judging", "block"):
            scores = judge.log_probs(histories[block], items)
            for row, beams, user_items in zip(scores, beams_by_row[block], targets.items[block], strict=True):
                order = np.argsort(-row[[index[item] for item in beams]], kind="stable").tolist()
                positives = set(user_items)
                worst = (beams[place] for place in reversed(order[1:]))
                chosen.append(beams[order[0]])
                rejected.append([item for item in worst if item not in positives][: self.config.negatives])
        return RejectedItems(chosen, *self._fill(chosen, targets.items, rejected, rng))

    def _search(self, histories: list[list[str]], denied: list[list[str]]) -> list[list[str]]:
        """Return the model's best items for each history, without the denied ones, at most `pairs.width`."""
        if self._beams is None:
            raise ValueError("sources beams and judge need a model to ask")
        return self._beams(histories, denied, self.config.width)

    def _fill(
        self,
        chosen: Sequence[str],
        positives: Sequence[Sequence[str]],
        rejected: Sequence[list[str]],
        rng: np.random.Generator,
    ) -> tuple[list[list[str]], int]:
        """Fill lists of rejected items with items drawn uniformly from the catalogue.

        Returns:
            Lists of `pairs.negatives` items, and the number of items that were added.
        """
        negatives = CandidateSampler(self.catalogue.items, int(rng.integers(1 << 62)))
        full, filled = [], 0
        for target, positive, row in zip(chosen, positives, rejected, strict=True):
            missing = self.config.negatives - len(row)
            if missing:
                # A user's targets share one list, and CandidateSampler caches the set of the list that it got last.
                excluded = [*positive, *row] if row else positive
                row = row + [
                    item for item in negatives.sample(target, missing + 1, excluded) if item != target
                ]
            full.append(row)
            filled += missing
        return full, filled

    def _places(self, items: Sequence[str]) -> list[int]:
        return [self.catalogue.index[item] for item in items]

    def _taken(self, targets: Targets) -> list[set[int]]:
        """Return the places of each target's user's training items. Targets of one user share one set."""
        lists = {id(items): items for items in targets.items}
        sets = {key: set(self._places(items)) for key, items in lists.items()}
        return [sets[id(items)] for items in targets.items]

    @cached_property
    def _counts(self) -> npt.NDArray[np.float64]:
        """Number of training interactions of each item, float64 [items]."""
        popular = Popularity.fit(training_histories(self.run), self.catalogue.items)
        counts = dict(zip(popular.items, popular.counts, strict=True))
        return np.array([counts[item] for item in self.catalogue.items], np.float64)

    @cached_property
    def _vectors(self) -> npt.NDArray[np.float32]:
        """Item vectors from the codebooks, float32 [items, d].

        Raises:
            UserError: the IDs have no codebooks.
        """
        vectors = code_vectors(self.run, self.catalogue.sids)
        if vectors is None:
            raise UserError(
                "pairs.sources: semantic: this run's semantic IDs have no codebooks to compare items by; "
                "take trie instead, or make the IDs from vectors (ids.quantizer.kind)"
            )
        return vectors


def sample_by_weight(
    weights: npt.NDArray[np.float64], taken: Sequence[set[int]], count: int, rng: np.random.Generator
) -> list[list[int]]:
    """Draw items one after another, each with a probability proportional to its weight among the remaining items.

    Args:
        weights: float64 [items], not negative, some positive. Items of weight 0 are drawn when no others remain.
        taken: for each of R rows, places that must not be drawn.
        count: number of places to draw for a row; at least as many must be free.
        rng: random generator of the draws.

    Returns:
        R lists of `count` places, in the order in which they were drawn.
    """
    ends = weights.cumsum()
    draws = np.searchsorted(ends, rng.random((len(taken), _DRAWS_PER_ITEM * count)) * ends[-1], side="right")
    places_by_row = []
    for excluded, row in zip(taken, draws.tolist(), strict=True):
        # To skip taken and repeated places is the same as to draw from the remaining weight.
        drawn = list(dict.fromkeys(place for place in row if place not in excluded))[:count]
        if len(drawn) < count:
            drawn += _sample_at_once(weights, excluded.union(drawn), count - len(drawn), rng)
        places_by_row.append(drawn)
    return places_by_row


def _sample_at_once(
    weights: npt.NDArray[np.float64], taken: set[int], count: int, rng: np.random.Generator
) -> list[int]:
    """Draw the same distribution at once: the smallest of exponential times whose rates are the weights."""
    free = np.setdiff1d(np.arange(len(weights)), list(taken))
    with np.errstate(divide="ignore"):
        times = rng.exponential(size=len(free)) / weights[free]
    drawn: list[int] = free[np.lexsort((rng.random(len(free)), times))[:count]].tolist()
    return drawn


def nearest_items(
    vectors: npt.NDArray[np.float32], chosen: Sequence[int], taken: Sequence[set[int]], count: int
) -> list[list[int]]:
    """Find the items with the largest cosine to the chosen ones.

    Args:
        vectors: float32 [items, d]; a zero vector has cosine 0 to all others.
        chosen: places of R chosen items.
        taken: for each row, places that must not be found.
        count: number of places to find for a row; at least as many must be free.

    Returns:
        R lists of `count` places, nearest first; equally near items are in catalogue order.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    places_by_row: list[list[int]] = []
    for block in follow(user_blocks(len(chosen), len(unit)), "nearest items", "block"):
        cosines = unit[chosen[block]] @ unit.T
        for row, excluded in enumerate(taken[block]):
            cosines[row, list(excluded)] = -np.inf
        best = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        places_by_row += np.take_along_axis(best, order, axis=1).tolist()
    return places_by_row


def sample_in_shared_prefix(
    sids: npt.NDArray[np.integer],
    chosen: Sequence[int],
    taken: Sequence[set[int]],
    count: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Draw items that share the longest possible prefix with the chosen ones.

    Items that share a prefix of the same length are drawn uniformly.

    Args:
        sids: int [items, L], in trie order, so that the items of a prefix are a range.
        chosen: places of R chosen items.
        taken: for each row, places that must not be drawn.
        count: number of places to draw for a row; at least as many must be free.
        rng: random generator of the draws.

    Returns:
        R lists of `count` places, the longest shared prefix first.
    """
    numbers = number_prefixes(sids.astype(np.int32))[-2::-1]
    spans = [(np.searchsorted(n, n), np.searchsorted(n, n, side="right")) for n in numbers]
    ranges = [np.stack([low[chosen], high[chosen]], axis=1).tolist() for low, high in spans]
    ranges.append([[0, len(sids)]] * len(chosen))
    places_by_row = []
    for row, excluded in enumerate(taken):
        drawn: list[int] = []
        for level in ranges:
            low, high = level[row]
            drawn += _sample_range(low, high, excluded.union(drawn), count - len(drawn), rng)
            if len(drawn) == count:
                break
        places_by_row.append(drawn)
    return places_by_row


def _sample_range(low: int, high: int, taken: set[int], count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` free places of a range, or all of its free places if there are fewer."""
    if high - low < 4 * (len(taken) + count):
        free = [place for place in range(low, high) if place not in taken]
        return [free[n] for n in rng.permutation(len(free))[:count].tolist()]
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        place = int(rng.integers(low, high))
        if place not in taken:
            drawn[place] = None
    return list(drawn)
