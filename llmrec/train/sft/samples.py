"""Training data as token trees: the rows that an epoch visits, and the trees that each task makes of them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.config import AugmentConfig
from llmrec.data.examples import draw_pieces, evaluation_examples, training_histories
from llmrec.errors import UserError
from llmrec.progress.bar import follow
from llmrec.text.candidates import CandidateSampler
from llmrec.text.encode import PromptContext, PromptEncoder, build_chain
from llmrec.text.mix import MixedTask, print_notice
from llmrec.text.prompts import Template, uses_history
from llmrec.text.target_tree import BRANCH, TargetTree
from llmrec.text.tasks import Source
from llmrec.token_tree import IGNORE

Ints = npt.NDArray[np.int32]
Halves = npt.NDArray[np.float16]
AUGMENTATION = (1 << 20) + 2
"""Separates the draws of augmented histories from other draws of the same seed and epoch."""
Branch = Callable[[int, Ints], Ints]
"""Items beside those that a user (`owner_of`) has chosen after each part of a window [n]: indices [n − 1, count]."""


@dataclass(frozen=True)
class Continuation:
    """What a user might choose next.

    Attributes:
        items: synthetic items, in their order.
        chances: what the teacher that drew them thinks of their codes (`PrefixChances.pack`).
    """

    items: list[str] = field(default_factory=list)
    chances: Halves = field(default_factory=lambda: np.empty(0, np.float16))


ContinueHistories = Callable[[Sequence[Sequence[str]], int], list[Continuation]]
"""Continuations of histories, drawn for an epoch."""


@dataclass(frozen=True)
class TrainingTree:
    """A tree to learn, and the items that its `history_length` counts.

    Attributes:
        tree: the tree.
        window_items: indices (trie order) of the history items and of the answers; empty where the tree asks anything
            but which of all items is next.
        observed: how many of these the user has chosen; the others are what a teacher has made up.
        owner: number of the user whose items these are (`owner_of`).
        branches: indices of the items that hang beside each of the observed answers, as many a row; flat.
        chances: those of the `Continuation` whose items are among `window_items`.
    """

    tree: TargetTree
    window_items: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    observed: int = 0
    owner: int = 0
    branches: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    chances: Halves = field(default_factory=lambda: np.empty(0, np.float16))

    @property
    def asks_for_made_up(self) -> bool:
        """Whether some label is a code of an item that a teacher has made up."""
        after = self.tree.history_length[self.tree.labels != IGNORE] % BRANCH
        return len(self.window_items) > 0 and bool((after >= max(1, self.observed)).any())


@dataclass(frozen=True)
class TrainingTrees:
    """The trees of each epoch: every task visits each row of its source as often as its weight says.

    A row is a user's window of `data.history` targets, an item of the catalogue, or a training interaction.
    Which rows are visited, which template asks and which candidates are shown is drawn by (seed, epoch).

    Attributes:
        encoder: the prompt encoder.
        mix: the tasks.
        run: run folder with a finished data stage.
        users: size of a seeded sample of users, or None for all; items are not sampled.
        seed: seed of the sample and of the draws.
        continue_histories: draws synthetic items after each user's own; next-item templates learn them with the last
            window.
        branch: draws items beside those of a window, which next-item templates learn too.
        augment: how the histories of next-item tasks without candidates are varied.
    """

    encoder: PromptEncoder
    mix: Sequence[MixedTask]
    run: Path
    users: int | None
    seed: int
    continue_histories: ContinueHistories | None = None
    branch: Branch | None = None
    augment: AugmentConfig | None = None

    @property
    def differ(self) -> bool:
        """Whether epochs differ; if not, all are the first."""
        is_drawn = self.continue_histories is not None or self.augment is not None
        return is_drawn or any(mixed.varies_by_epoch for mixed in self.mix)

    def of_epoch(self, epoch: int = 0) -> Iterator[TrainingTree]:
        """Yield the trees of one epoch, from 0.

        Raises:
            UserError: nothing is left to learn from.
        """
        people = self._people()
        varied, made_up = self._varied(people, epoch)
        empty = True
        for position, mixed in enumerate(self.mix):
            plain = mixed.task.source == "next_item" and mixed.task.candidates is None
            rows = rows_of(
                mixed.task.source, self.encoder, varied if plain else people, made_up if plain else ()
            )
            for tree in _task_trees(self.encoder, mixed, rows, (self.seed, epoch, position), self.branch):
                empty = False
                yield tree
        if empty:
            why = "no user has two training interactions, or all samples lack a field that their task needs"
            if not any(mixed.config.weight_in(epoch) for mixed in self.mix):
                why = f"all weights of epoch {epoch + 1} are 0"
            raise UserError(f"prompts: there is nothing to learn from: {why}")

    def _people(self) -> list[PromptContext]:
        """What the sampled users have chosen in training."""
        events = sorted(frozenset().union(*(mixed.events for mixed in self.mix)))
        histories = training_histories(self.run, events)
        if all(mixed.task.source == "next_item" for mixed in self.mix):
            histories = histories.filter(pl.col("items").list.len() >= 2)
        if self.users is not None and self.users < len(histories):
            histories = histories.sample(self.users, seed=self.seed)
        return [
            PromptContext(row["items"], row["user_id"], {name: row[name] for name in events})
            for row in histories.iter_rows(named=True)
        ]

    def _varied(
        self, people: list[PromptContext], epoch: int
    ) -> tuple[list[PromptContext], list[Continuation]]:
        """The people of next-item tasks in an epoch: augmented, and continued by what is made up; and the latter."""
        if self.augment is not None:
            people = _augmented(people, self.augment, (self.seed, epoch))
        if self.continue_histories is None or not any(any(mixed.is_next_item) for mixed in self.mix):
            return people, []
        made_up = self.continue_histories([person.items for person in people], epoch)
        continued = zip(people, made_up, strict=True)
        return [person.with_synthetic_items(more.items) for person, more in continued], made_up


def _augmented(
    people: Sequence[PromptContext], augment: AugmentConfig, seeds: tuple[int, int]
) -> list[PromptContext]:
    """The pieces of histories that an epoch trains, each as a person of its own."""
    draw = np.random.default_rng((*seeds, AUGMENTATION))
    pieces = draw_pieces([len(person.items) for person in people], draw, **augment.model_dump())
    return [people[person].pick(places.tolist()) for person, places in pieces]


@dataclass(frozen=True)
class Rows:
    """Rows of a source.

    Attributes:
        bounds: whose each is, and where in that person's items it starts and stops.
        people: whose they are, what is made up behind their items included.
        made_up: what that is, for each of them; empty for nothing.
    """

    bounds: list[tuple[int, int, int]]
    people: Sequence[PromptContext]
    made_up: Sequence[Continuation] = ()

    def __len__(self) -> int:
        return len(self.bounds)

    def person(self, row: int) -> PromptContext:
        """All that the user of a row has chosen in training, and what is made up behind it."""
        return self.people[self.bounds[row][0]]

    def chances(self, row: int) -> Halves:
        """What the teacher thinks of the items that are made up behind that person's."""
        return self.made_up[self.bounds[row][0]].chances

    def is_last(self, row: int) -> bool:
        """Whether a row ends where what the user has chosen ends."""
        return self.bounds[row][2] == self.person(row).observed_count

    def case(self, row: int) -> PromptContext:
        """What a row is about."""
        _, start, stop = self.bounds[row]
        return self.person(row).slice(start, stop)


def rows_of(
    source: Source,
    encoder: PromptEncoder,
    people: Sequence[PromptContext],
    made_up: Sequence[Continuation] = (),
) -> Rows:
    """Rows of a source: the users' windows, the items of the catalogue, or the users' interactions."""
    if source == "item":
        return Rows(
            [(n, 0, 1) for n in range(len(encoder.items))], [PromptContext([item]) for item in encoder.items]
        )
    bounds = []
    for person, case in enumerate(people):
        if source == "next_item":
            bounds += [(person, start, stop) for start, stop in encoder.windows(case.observed_count)]
        else:
            bounds += [(person, max(0, n - encoder.history), n + 1) for n in range(case.observed_count)]
    return Rows(bounds, people, made_up)


def draw_visits(count: int, weight: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of `count` rows an epoch visits, in order: each `weight` times on average.

    All rows stand there ⌊weight⌋ times; the rest of the weight is a share of them, drawn without replacement.
    """
    whole = int(weight)
    times = np.full(count, whole)
    extra = round((weight - whole) * count)
    if extra:
        times[rng.choice(count, extra, replace=False)] += 1
    return np.repeat(np.arange(count), times)


def _task_trees(
    encoder: PromptEncoder,
    mixed: MixedTask,
    rows: Rows,
    seeds: tuple[int, int, int],
    branch: Branch | None,
) -> Iterator[TrainingTree]:
    """Trees of one task in one epoch."""
    rng = np.random.default_rng(seeds)
    task, epoch = mixed.task, seeds[1]
    drawn = draw_visits(len(rows), mixed.config.weight_in(epoch), rng)
    choice = rng.integers(len(mixed.templates), size=len(drawn))
    negatives = CandidateSampler(encoder.items, int(rng.integers(1 << 62)))
    names_past = [uses_history(template) for template in mixed.templates]
    missing: Counter[str] = Counter()
    pairs = zip(drawn.tolist(), choice.tolist(), strict=True)
    for row, index in follow(pairs, f"encoding {task.id}", "row", len(drawn)):
        case, template, draw = rows.case(row), mixed.templates[index], None
        if task.candidates is not None:
            draw = partial(negatives.sample, count=task.candidates, chosen=rows.person(row).observed_items)
        if mixed.is_next_item[index]:
            person = rows.person(row) if rows.is_last(row) else case
            for tree in _next_item_trees(encoder, template, case, person, branch):
                yield replace(tree, chances=rows.chances(row)) if tree.asks_for_made_up else tree
        elif task.source == "next_item":
            yield from map(TrainingTree, encoder.window_trees(template, case, draw, missing))
        elif len(case.items) > 1 or task.source == "item" or not names_past[index]:
            yield from map(TrainingTree, encoder.chains(template, case, draw, missing))
    if missing and epoch == 0:
        parts = ", ".join(f"{count:,} lack {name}" for name, count in sorted(missing.items()))
        print_notice(f"prompts: task {task.id!r}: samples left out: {parts}")


def _next_item_trees(
    encoder: PromptEncoder,
    template: Template,
    window: PromptContext,
    person: PromptContext,
    branch: Branch | None,
) -> Iterator[TrainingTree]:
    """A window under a template that asks plainly, and what is made up behind it, if it is `person`'s last.

    Made-up items join a history that has room for them; behind a longer one they get a window of their own, so that
    they too are asked for after as much history as decoding will show.
    """
    whole, most = len(person.items), encoder.history + 1
    if not person.synthetic_count or whole <= most:
        yield from _trees_with_items(encoder, template, person if person.synthetic_count else window, branch)
        return
    yield from _trees_with_items(encoder, template, window, branch)
    for made in _trees_with_items(encoder, template, person.slice(whole - most, whole)):
        labels = np.where(made.tree.history_length % BRANCH < made.observed, IGNORE, made.tree.labels)
        if (labels != IGNORE).any():
            yield replace(made, tree=replace(made.tree, labels=labels))


def _trees_with_items(
    encoder: PromptEncoder, template: Template, window: PromptContext, branch: Branch | None = None
) -> Iterator[TrainingTree]:
    items = np.array([encoder.numbers[item] for item in window.items], np.int32)
    owner, beside = owner_of(window.user), np.empty((0, 0), np.int32)
    if branch is not None and template.tree and window.observed_count > 1:
        beside = branch(owner, items[: window.observed_count])
    names = [[encoder.items[item] for item in row] for row in beside.tolist()]
    for tree in encoder.window_trees(template, window, beside=names):
        yield TrainingTree(tree, items, window.observed_count, owner, beside.reshape(-1))


def owner_of(user: str | None) -> int:
    """A number that stands for a user, from 0 and below 2³¹, the same in every run."""
    return zlib.crc32((user or "").encode()) & 0x7FFFFFFF


def validation_trees(
    encoder: PromptEncoder, template: Template, run: Path, users: int, seed: int
) -> list[TrainingTree]:
    """One chain a validation user: the history and its validation target."""
    examples = evaluation_examples(run, "valid", users, seed)
    trees = []
    for history, target in examples.select("history", "target").iter_rows():
        window = np.array(
            [encoder.numbers[item] for item in (*history[-encoder.history :], target)], np.int32
        )
        chain = build_chain(encoder.sample(template, history, target), history_length=len(window) - 1)
        trees.append(TrainingTree(chain, window, len(window)))
    return trees
