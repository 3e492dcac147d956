"""A trained sequential model: its fitting, its file, its lists and its probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from llmrec.collaborative.blocks import user_blocks
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sequential.early_stopping import mean_ndcg
from llmrec.collaborative.sequential.model_file import open_model, write_model
from llmrec.collaborative.sequential.network import Network
from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.collaborative.sequential.training import PARTS, Build, Histories, Loss, train
from llmrec.collaborative.sequential.windows import Ints, pad
from llmrec.collaborative.sequential.workers import RunAll, start_workers
from llmrec.collaborative.system import Ranked
from llmrec.hardware import choose_device

_MOST_USERS = 128
"""Most users of a block; those of similar length form one, and it is padded to the longest."""
_LOGIT_BYTES = 4 * 4
"""Bytes that a logit takes while the best are found: itself in float32, and as much in each of three more arrays."""
Times = Sequence[Sequence[int]]
"""Times of each history's items, seconds."""


@dataclass(frozen=True)
class _Block:
    """Histories of similar length, as a network reads them.

    Attributes:
        users: which histories they are.
        rows: the rows of the last items of each.
        times: their times; None where they are not known or not read.
    """

    users: list[int]
    rows: list[Ints]
    times: list[Ints] | None


class SequentialRanker:
    """A trained sequential model. A history without any item of the model gets the most popular items.

    Attributes:
        title: the model's name, for messages.
        metadata: key of the file's metadata.
        settings: class of the settings.
        build: makes the network.
        model: the network, in eval mode.
        config: its settings.
        items: item ids, in the order of the network's rows.
        counts: training interactions of `items`, int64 `[items]`.
        popularity: the popularity model of the same interactions.
    """

    title: ClassVar[str]
    metadata: ClassVar[str]
    settings: ClassVar[type[SequentialSettings]]
    build: ClassVar[Build]

    def __init__(
        self, model: Network, config: SequentialSettings, items: Sequence[str], counts: npt.NDArray[np.int64]
    ) -> None:
        """Keep a model, its items in the order of its rows, and their training interactions `[items]`."""
        self.model, self.config, self.items, self.counts = model.eval(), config, list(items), counts
        self.popularity = Popularity.of_counts(self.items, counts)
        self._position = {item: i for i, item in enumerate(self.items)}
        self._asked: tuple[Sequence[str], npt.NDArray[np.int64]] | None = None

    @classmethod
    def fit(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        loss: Loss,
        config: SequentialSettings,
        seed: int = 0,
        valid: pl.DataFrame | None = None,
    ) -> tuple[Self, dict[str, Any]]:
        """Train on histories; stop by the NDCG@10 of validation targets.

        Args:
            histories: `user_id, items: list[str]`, training rows only, and `times: list[int]` for a network that
                reads times.
            catalogue: every item id that may be recommended.
            loss: `bce` (one sampled negative a position) or `ce` (over the whole catalogue).
            config: the recipe's settings.
            seed: seed of all random draws.
            valid: `history: list[str], target: str, masked: list[str]` (items that are in no list), and
                `times: list[int]` like the histories; None or an empty
                frame trains as long as it would wait for a better value.

        Returns:
            The best epoch's model, and the log of its training.
        """
        position = {item: i for i, item in enumerate(catalogue)}
        rows = [np.array([position[i] for i in row], np.int64) for row in histories["items"].to_list()]
        counts = np.bincount(np.concatenate([np.empty(0, np.int64), *rows]), minlength=len(catalogue))
        times = None
        if "times" in histories.columns:
            times = [np.array(row, np.int64) for row in histories["times"].to_list()]

        def validate(model: Network) -> float:
            assert valid is not None
            return cls(model, config, catalogue, counts)._ndcg(valid, run_all)

        has_valid = valid is not None and not valid.is_empty()
        with start_workers(PARTS) as run_all:
            model, log = train(
                cls.build,
                Histories(rows, times),
                len(catalogue),
                loss,
                config,
                seed,
                validate if has_valid else None,
                run_all,
                cls.title,
            )
        return cls(model, config, catalogue, counts), log

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            UserError: the file does not exist, or `save` did not write it.
        """
        with open_model(path, cls.metadata, cls.title, "collaborative") as (about, tensors):
            config, items = cls.settings.model_validate(about["config"]), about["items"]
            counts = tensors.pop("counts").numpy()
            model = cls.build(len(items), config)
            model.load_state_dict(tensors)
        model.to(choose_device())
        return cls(model, config, items, counts)

    def save(self, path: Path) -> None:
        """Write weights, settings, item ids and counts as one safetensors file."""
        about = {"config": self.config.model_dump(mode="json"), "items": self.items}
        tensors = self.model.state_dict() | {"counts": torch.from_numpy(self.counts)}
        write_model(path, self.metadata, about, tensors)

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """Item embeddings, float32 [items, dim]; zeros for items without any training interaction."""
        table = self.model.items.weight.detach().cpu().numpy().copy()
        table[self.counts == 0] = 0
        return table

    @property
    def reads_times(self) -> bool:
        """Whether lists depend on the times of a history's items."""
        return self.model.reads_times

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        exclude: Sequence[Sequence[str]] | None = None,
        times: Times | None = None,
    ) -> Ranked:
        """The k most likely next items of each history.

        Args:
            histories: item ids of each user, oldest first. Ids that the model lacks are ignored; the last
                `config.history` of the others count.
            k: length of the lists; a list is shorter only if the catalogue has too few items.
            exclude: items that a user must not get, such as those already seen.
            times: times of each history's items; without them, a model that reads times goes by the order alone.

        Returns:
            Item ids and scores (products of history and item vector), one list per user, best first. A history
            without any item of the model gets the most popular items, with their counts as scores.
        """
        banned = exclude if exclude is not None else [()] * len(histories)
        items: list[list[str]] = [[] for _ in histories]
        scores: list[list[float]] = [[] for _ in histories]
        for users, logits in self._logits(histories, times):
            self._mask(logits, [banned[user] for user in users])
            top = logits.topk(min(k, len(self.items)), dim=1)
            for user, values, indices in zip(users, top.values.tolist(), top.indices.tolist(), strict=True):
                allowed = [(i, score) for i, score in zip(indices, values, strict=True) if score > -torch.inf]
                items[user] = [self.items[i] for i, _ in allowed]
                scores[user] = [score for _, score in allowed]
        empty = [user for user, history in enumerate(histories) if not len(self._inputs(history))]
        self.popularity.fill_in((items, scores), empty, k, banned)
        return items, scores

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as the next one: the softmax over `items`.

        Args:
            histories: item ids of each user, oldest first; ids that the model lacks are ignored. A history without
                any item of the model gets the log-probabilities of popularity.
            items: the catalogue, in the order of the columns; an item that the model lacks has probability 0.

        Returns:
            float32 [U, items].
        """
        if self._asked is None or self._asked[0] is not items:  # kept: a teacher asks thousands of times
            self._asked = items, np.array([self._position.get(item, -1) for item in items], np.int64)
        rows = self._asked[1]
        in_model = rows >= 0
        columns = torch.from_numpy(rows[in_model])
        log_probs = np.full((len(histories), len(items)), -np.inf, np.float32)
        is_empty = np.ones(len(histories), bool)
        for users, logits in self._logits(histories):
            is_empty[users] = False
            values = logits[:, columns].log_softmax(1).numpy()
            if in_model.all():  # rows are copied many times faster than cells
                log_probs[users] = values
            else:
                log_probs[np.ix_(np.array(users), in_model)] = values
        if is_empty.any():
            popular = self.popularity.log_probs([()], [self.items[row] for row in rows[in_model]])[0]
            log_probs[np.ix_(is_empty, in_model)] = popular
        return log_probs

    def _rows(self, items: Sequence[str]) -> list[int]:
        """Rows of those items that the model has."""
        return [self._position[item] for item in items if item in self._position]

    def _inputs(self, history: Sequence[str]) -> Ints:
        """Rows of a history's last items that the model has, after its start vector's if there is room for it."""
        rows = self._rows(history)
        if self.model.start is not None:
            rows = [self.model.start, *rows]
        return np.array(rows[-self.config.history :], np.int64)

    def _input_times(self, history: Sequence[str], times: Sequence[int]) -> Ints:
        """Times of the items of `_inputs`; the start vector has that of the first."""
        known = [time for item, time in zip(history, times, strict=True) if item in self._position]
        if self.model.start is not None:
            known = [*known[:1], *known]
        return np.array(known[-self.config.history :], np.int64)

    def _logits(
        self, histories: Sequence[Sequence[str]], times: Times | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield blocks of users with the scores of all items, float32 [users, items]."""
        for block in self._blocks(histories, times):
            yield block.users, self._scores(block)

    def _blocks(self, histories: Sequence[Sequence[str]], times: Times | None = None) -> Iterator[_Block]:
        """Yield histories in blocks of similar length. Those without any item of the model are skipped."""
        rows = {user: self._inputs(history) for user, history in enumerate(histories)}
        users = sorted((user for user, row in rows.items() if len(row)), key=lambda user: len(rows[user]))
        for span in user_blocks(len(users), len(self.items), _LOGIT_BYTES, _MOST_USERS):
            block = users[span]
            of_items = None
            if times is not None and self.reads_times:
                of_items = [self._input_times(histories[user], times[user]) for user in block]
            yield _Block(block, [rows[user] for user in block], of_items)

    @torch.no_grad()
    def _scores(self, block: _Block) -> torch.Tensor:
        """Score all items after the histories of a block, float32 [histories, items]."""
        inputs, lengths = pad(block.rows)
        table = self.model.table()
        times = None if block.times is None else pad(block.times)[0].to(table.device)
        hidden = self.model(inputs.to(table.device), lengths.to(table.device), times=times)
        last = hidden[torch.arange(len(block.rows)), lengths - 1]
        return (last @ table.T).cpu()

    def _ndcg(self, examples: pl.DataFrame, run_all: RunAll) -> float:
        """Mean NDCG@10 of the targets, with each user's masked items left out; a masked target is a miss."""
        histories, targets = examples["history"].to_list(), examples["target"].to_list()
        masked = examples["masked"].to_list()
        times = examples["times"].to_list() if "times" in examples.columns else None

        def rank(block: _Block) -> list[int]:
            logits = self._scores(block)
            columns = torch.tensor([[self._position[targets[user]]] for user in block.users])
            self._mask(logits, [masked[user] for user in block.users])
            target_scores = logits.gather(1, columns)
            places: list[int] = ((logits >= target_scores).sum(1) * target_scores[:, 0].isfinite()).tolist()
            return places

        blocks = list(self._blocks(histories, times))
        ranks = [0] * len(examples)
        for block, places in zip(blocks, run_all(rank, blocks), strict=True):
            for user, place in zip(block.users, places, strict=True):
                ranks[user] = place
        return mean_ndcg(ranks)

    def _mask(self, logits: torch.Tensor, lists: Sequence[Sequence[str]]) -> None:
        """Set the logits of each row's list of items to −∞, in `logits [U, items]`."""
        rows = [self._rows(items) for items in lists]
        users = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
        logits[users, torch.tensor([i for row in rows for i in row], dtype=torch.int64)] = -torch.inf
