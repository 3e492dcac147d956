"""Where rejected items come from: the sources of preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.systems import load_baseline
from llmrec.data.examples import training_histories
from llmrec.errors import UserError
from llmrec.ids.load import code_vectors
from llmrec.ids.paths import number_prefixes
from llmrec.text.candidates import CandidateSampler
from llmrec.train.alignment.targets import Targets

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.config.alignment import NegativeSource, PairsConfig

SearchBeams = Callable[[list[list[str]], list[list[str]], int], list[list[str]]]
"""(histories, denied, width) → for each history the model's best items that are not denied, at most `width`."""
MODEL_SOURCES = frozenset({"beams", "judge"})
"""Sources that ask the model."""
_CELLS = 1 << 24
"""Numbers of a block of scores [rows, items]: 64 MB of float32."""
_TRIES = 4
"""Popular items drawn at once for each that is wanted; few are positives or repeats."""


@dataclass(frozen=True)
class RejectedItems:
    """What a source made of R targets; lists hold item ids.

    Attributes:
        chosen: R items; the targets, but for `judge`.
        rejected: R lists of as many distinct items, none of them the chosen one or one of the user's training items.
        filled: how many of them were drawn at random, because the model's beams gave too few.
    """

    chosen: list[str]
    rejected: list[list[str]]
    filled: int = 0


class RejectedItemSampler:
    """Draws rejected items for targets.

    Args:
        config: the recipe's section `pairs`.
        run: run folder with finished stages data, ids and sft.
        catalogue: its items as trained.
        beams: asks the model; None where no source does.
    """

    def __init__(
        self, config: PairsConfig, run: Path, catalogue: Catalogue, beams: SearchBeams | None
    ) -> None:
        self.config, self.run, self.catalogue = config, run, catalogue
        self._beams = beams

    def draw(self, source: NegativeSource, targets: Targets, rng: np.random.Generator) -> RejectedItems:
        """Rejected items from one source.

        Args:
            source: where from.
            targets: R of them, whose users leave enough of the catalogue.
            rng: of the draws.

        Raises:
            UserError: `semantic` without codebooks, or `judge` without its trained model.
        """
        if source == "judge":
            return self._judge(targets, rng)
        chosen, count = targets.known_targets(), self.config.negatives
        if source == "beams":
            # SPRec, Gao et al. 2025; RosePO, Liao et al. 2024
            best = self._ask(targets.histories, targets.items)
            return RejectedItems(
                chosen, *self._fill(chosen, targets.items, [row[:count] for row in best], rng)
            )
        if source == "random":
            return RejectedItems(chosen, self._fill(chosen, targets.items, [[]] * len(targets), rng)[0])
        places, taken = self._places(chosen), self._taken(targets)
        if source == "popularity":
            places_by_row = by_weight(self._counts, taken, count, rng)
        elif source == "semantic":
            places_by_row = nearest_items(self._vectors, places, taken, count)
        else:
            places_by_row = sample_in_shared_prefix(self.catalogue.sids, places, taken, count, rng)
        return RejectedItems(
            chosen, [[self.catalogue.items[place] for place in row] for row in places_by_row]
        )

    def _judge(self, targets: Targets, rng: np.random.Generator) -> RejectedItems:
        """Best and worst of the model's best in a collaborative model's eyes (OneRec, Deng et al. 2025)."""
        items, index, histories = self.catalogue.items, self.catalogue.index, targets.histories
        judge = load_baseline(self.run, self.config.judge, items)
        beams_by_row = self._ask(histories, targets.seen)
        chosen, rejected = [], []
        for start, stop in _blocks(len(targets), len(items), "judging"):
            scores = judge.log_probs(histories[start:stop], items)
            for row, beams in enumerate(beams_by_row[start:stop]):
                order = np.argsort(-scores[row, [index[item] for item in beams]], kind="stable").tolist()
                positives = set(targets.items[start + row])
                worst = (beams[place] for place in reversed(order[1:]))
                chosen.append(beams[order[0]])
                rejected.append([item for item in worst if item not in positives][: self.config.negatives])
        return RejectedItems(chosen, *self._fill(chosen, targets.items, rejected, rng))

    def _ask(self, histories: list[list[str]], denied: list[list[str]]) -> list[list[str]]:
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
        """Rejected items up to the number wanted, the missing ones uniformly from the catalogue; and their number."""
        negatives = CandidateSampler(self.catalogue.items, int(rng.integers(1 << 62)))
        full, filled = [], 0
        for target, positive, row in zip(chosen, positives, rejected, strict=True):
            missing = self.config.negatives - len(row)
            if missing:
                # CandidateSampler keeps the set of the last list it was given: one user's targets share theirs.
                barred = [*positive, *row] if row else positive
                row = row + [item for item in negatives.sample(target, missing + 1, barred) if item != target]
            full.append(row)
            filled += missing
        return full, filled

    def _places(self, items: Sequence[str]) -> list[int]:
        return [self.catalogue.index[item] for item in items]

    def _taken(self, targets: Targets) -> list[set[int]]:
        """Places of each user's training items, one set a user."""
        lists = {id(items): items for items in targets.items}
        sets = {key: set(self._places(items)) for key, items in lists.items()}
        return [sets[id(items)] for items in targets.items]

    @cached_property
    def _counts(self) -> npt.NDArray[np.float64]:
        """Training interactions of each item, float64 [items]."""
        popular = Popularity.fit(training_histories(self.run), self.catalogue.items)
        counts = dict(zip(popular.items, popular.counts, strict=True))
        return np.array([counts[item] for item in self.catalogue.items], np.float64)

    @cached_property
    def _vectors(self) -> npt.NDArray[np.float32]:
        vectors = code_vectors(self.run, self.catalogue.sids)
        if vectors is None:
            raise UserError(
                "pairs.sources: semantic: this run's semantic IDs have no codebooks to compare items by; "
                "take trie instead, or make the IDs from vectors (ids.quantizer.kind)"
            )
        return vectors


def by_weight(
    weights: npt.NDArray[np.float64], taken: Sequence[set[int]], count: int, rng: np.random.Generator
) -> list[list[int]]:
    """Draws items one after another, each by its share of the weight that is left.

    Args:
        weights: float64 [items], not negative, some positive; items of weight 0 come when no others are left.
        taken: for each row, places that must not be drawn.
        count: places a row; as many must be free.
        rng: of the draws.

    Returns:
        Places, R lists of `count`, in the order drawn.
    """
    ends = weights.cumsum()
    draws = np.searchsorted(ends, rng.random((len(taken), _TRIES * count)) * ends[-1], side="right")
    places_by_row = []
    for excluded, row in zip(taken, draws.tolist(), strict=True):
        # Passing over what is taken or drawn already is drawing from the weight that is left.
        drawn = list(dict.fromkeys(place for place in row if place not in excluded))[:count]
        if len(drawn) < count:
            drawn += _race(weights, excluded.union(drawn), count - len(drawn), rng)
        places_by_row.append(drawn)
    return places_by_row


def _race(
    weights: npt.NDArray[np.float64], taken: set[int], count: int, rng: np.random.Generator
) -> list[int]:
    """The same draw in one go: the first of exponential waiting times, whose rates are the weights."""
    free = np.setdiff1d(np.arange(len(weights)), list(taken))
    with np.errstate(divide="ignore"):
        times = rng.exponential(size=len(free)) / weights[free]
    first: list[int] = free[np.lexsort((rng.random(len(free)), times))[:count]].tolist()
    return first


def nearest_items(
    vectors: npt.NDArray[np.float32], chosen: Sequence[int], taken: Sequence[set[int]], count: int
) -> list[list[int]]:
    """The items most like the chosen ones by cosine.

    Args:
        vectors: float32 [items, d]; one without direction is like none.
        chosen: R places.
        taken: for each row, places that must not be found.
        count: places a row; as many must be free.

    Returns:
        Places, R lists of `count`, nearest first; of equally near ones, the first in the catalogue first.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    places_by_row: list[list[int]] = []
    for start, stop in _blocks(len(chosen), len(unit), "nearest items"):
        likeness = unit[chosen[start:stop]] @ unit.T
        for row, excluded in enumerate(taken[start:stop]):
            likeness[row, list(excluded)] = -np.inf
        best = np.sort(np.argpartition(-likeness, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable")
        places_by_row += np.take_along_axis(best, order, axis=1).tolist()
    return places_by_row


def sample_in_shared_prefix(
    sids: npt.NDArray[np.integer],
    chosen: Sequence[int],
    taken: Sequence[set[int]],
    count: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Items that share as long a prefix as possible with the chosen ones, at random among equals.

    Args:
        sids: int [items, L], in trie order: the items of a prefix are a range.
        chosen: R places.
        taken: for each row, places that must not be drawn.
        count: places a row; as many must be free.
        rng: of the draws.

    Returns:
        Places, R lists of `count`, the longest shared prefix first.
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
            drawn += _draw(low, high, excluded.union(drawn), count - len(drawn), rng)
            if len(drawn) == count:
                break
        places_by_row.append(drawn)
    return places_by_row


def _draw(low: int, high: int, taken: set[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many places of a range at random, or all that are free in it."""
    if high - low < 4 * (len(taken) + count):
        free = [place for place in range(low, high) if place not in taken]
        return [free[n] for n in rng.permutation(len(free))[:count].tolist()]
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        place = int(rng.integers(low, high))
        if place not in taken:
            drawn[place] = None
    return list(drawn)


def _blocks(rows: int, items: int, what: str) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of rows, each small enough for a score of every item."""
    size = max(1, _CELLS // items)
    starts = range(0, rows, size)
    for start in tqdm(starts, desc=what, unit=" blocks", leave=False, disable=len(starts) < 2):
        yield start, min(start + size, rows)
