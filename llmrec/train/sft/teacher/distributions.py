"""The distributions of a collaborative model that teaches a language model.

This is knowledge distillation (Hinton et al., Distilling the knowledge in a neural network, 2015) over the trie of
the catalogue. At each code of an answer, the teacher's probabilities of all items that are still reachable are
summed under each next code. After a user's last training item, where the log has no label, the teacher draws
synthetic items, which are learned as in Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016.

A teacher that counts would know a training answer, because the answer is part of its counts. So its distributions for
items that a user has chosen come from counts without that user's fold (cross-fitting; stacking after Wolpert, Stacked
generalization, 1992). After the last training item there is no answer to hide, and all users count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.decode.parallel_codes import code_chances
from llmrec.hardware import GB
from llmrec.text.target_tree import BRANCH
from llmrec.token_tree import IGNORE
from llmrec.train.sft.teacher.prefix_chances import PrefixChances

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.collaborative.system import Baseline

CHANCES = 1 << 21
"""Number of item probabilities that are held at once."""
KEPT = int(GB) // 4
"""Number of code probabilities, in float32, that are kept from one epoch to the next: 1 GB."""
STREAM = (1 << 20) + 1
"""Separates the draws of synthetic items from other draws of the same seed and epoch."""


@dataclass(frozen=True)
class TeacherDistribution:
    """The teacher's distributions for some of a batch's labels, all of one level.

    Attributes:
        label_index: which labels, int64 [m].
        tokens: token ids that may come next, int64 [m, F].
        probabilities: float32 [m, F]; 0 in slots without a token.
        is_observed: whether the label is what the user has chosen, bool [m].
    """

    label_index: torch.Tensor
    tokens: torch.Tensor
    probabilities: torch.Tensor
    is_observed: torch.Tensor


class Kept:
    """Distributions that are the same in every epoch, as many as have `KEPT` numbers together."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, bytes, bytes], list[torch.Tensor]] = {}
        self._numbers = 0

    def get(self, key: tuple[int, bytes, bytes]) -> list[torch.Tensor] | None:
        """What was kept under a key, if anything."""
        return self._found.get(key)

    def put(self, key: tuple[int, bytes, bytes], distributions: list[torch.Tensor]) -> list[torch.Tensor]:
        """Keep distributions where there is room, and return them."""
        numbers = sum(level.numel() for level in distributions)
        if self._numbers + numbers <= KEPT:
            self._found[key] = distributions
            self._numbers += numbers
        return distributions


@dataclass(frozen=True)
class Teacher:
    """A collaborative model that scores the items of a catalogue.

    Attributes:
        model: gives the probability of each item to be next.
        catalogue: the items, with the trie on the CPU.
        weight: share of the teacher in the loss of items that the user has chosen.
        folds: the same model, each fitted without one fold of users, for the items that these users have chosen; a
            user's fold is `owner` modulo the number of folds. If empty, `model` is used for all users.
        temperature: divisor of the log-probabilities.
        mask_seen: whether items of the history get probability 0.
    """

    model: Baseline
    catalogue: Catalogue
    weight: float
    folds: Sequence[Baseline] = ()
    temperature: float = 1.0
    mask_seen: bool = False

    def scores(self, model: Baseline, histories: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
        """Logits of the next item that a model has for each history, float32 [U, items], in trie order."""
        log_probs = model.log_probs(histories, self.catalogue.items)
        if self.temperature != 1:
            log_probs = log_probs / np.float32(self.temperature)
        if self.mask_seen:
            numbers = self.catalogue.index
            for row, history in zip(log_probs, histories, strict=True):
                row[[numbers[item] for item in history]] = -np.inf
        return log_probs

    @property
    def at_once(self) -> int:
        """How many histories are scored together."""
        return max(1, CHANCES // self.catalogue.trie.items)

    def mix(
        self, losses: torch.Tensor, teacher_losses: torch.Tensor, is_observed: torch.Tensor
    ) -> torch.Tensor:
        """Losses of labels, float [m], with the teacher's share; where it made up the item, the teacher's alone."""
        return torch.lerp(losses, teacher_losses, self.share(is_observed))

    def share(self, is_observed: torch.Tensor) -> torch.Tensor:
        """The teacher's share in the losses of labels, float32 [m]: the whole where it made up the item."""
        return torch.where(is_observed, self.weight, 1.0)

    def distributions(self, batch: Mapping[str, Any]) -> list[TeacherDistribution]:
        """The teacher's distributions for a batch's labels, level by level of the semantic IDs.

        Args:
            batch: as `llmrec.train.sft.batches.TreeCollator` gives it.
        """
        labels, after, window, observed = (
            torch.as_tensor(batch[name])
            for name in ("host_labels", "history_length", "window_items", "observed")
        )
        learned = labels != IGNORE
        labels, after, row = labels[learned], after[learned], learned.nonzero()[:, 0]
        place, after = after // BRANCH, after % BRANCH
        asks = (after > 0) & (after < (window >= 0).sum(1)[row])
        if not asks.any():
            return []
        answers = self._answers(batch)
        answer = answers[row, after.where(asks, 0), place.where(asks, 0)]
        level = torch.full_like(labels, -1)
        for depth, codes in enumerate(self._spelling.T):
            level[asks & (labels == codes[answer])] = depth
        at = (level >= 0).nonzero()[:, 0]
        if not len(at):
            return []
        of_each = torch.stack([row[at], after[at], place[at]])
        asked, question = torch.unique(of_each, dim=1, return_inverse=True)
        real = (after[at] < observed[row[at]]) & (place[at] == 0)
        levels = []
        for depth, (tokens, chances) in enumerate(self._level_distributions(batch, answers, *asked)):
            at_level = level[at] == depth
            which = question[at_level]
            levels.append(TeacherDistribution(at[at_level], tokens[which], chances[which], real[at_level]))
        return levels

    def code_probabilities(
        self, batch: Mapping[str, Any], row: torch.Tensor, after: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities of the next item's codes, each level by itself: float32 [q, C], C codes of all levels.

        Args:
            batch: as for `distributions`.
            row: int64 [q], which window.
            after: int64 [q], how many of its items are the history.
        """
        window, observed, owner = (
            torch.as_tensor(batch[name]) for name in ("window_items", "observed", "owner")
        )
        found = torch.empty(len(row), len(self.catalogue.token_ids))
        real = after < observed[row]
        for one in row[real].unique().tolist():
            of_row = real & (row == one)
            size = min(int(observed[one]), int((window[one] >= 0).sum()))
            found[of_row] = self._all_codes(int(owner[one]), window[one, :size])[after[of_row] - 1]
        left = (~real).nonzero()[:, 0]
        for some in left.split(self.at_once) if len(left) else ():
            found[some] = self._codes_of(self._scores_after(self.model, window[row[some]], after[some]))
        return found

    def _all_codes(self, owner: int, window: torch.Tensor) -> torch.Tensor:
        """`code_probabilities` after each part of a window [n] of chosen items, [n − 1, C]; kept between epochs.

        They are asked for together for the reason that `_choice_distributions` gives.
        """
        key = (owner, window.numpy().tobytes(), b"")
        kept = self._memory.get(key)
        if kept is not None:
            return kept[0]
        parts = [self._codes_of(scores) for _, scores in self.scores_of_choices(owner, window)]
        return self._memory.put(key, [torch.cat(parts)])[0]

    def _codes_of(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities of codes [q, C] from scores [q, items]."""
        return code_chances(scores.softmax(1), self.catalogue.paths, len(self.catalogue.token_ids))

    def _answers(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Items of a batch's answers, int64 [B, W, 1 + branches]: those of the window, then their branches."""
        window, branches = torch.as_tensor(batch["window_items"]), torch.as_tensor(batch["branches"])
        width = max(1, window.shape[1] - 1)
        # Rows of different lengths are padded behind their end, so a row's count is the batch's.
        observed = (torch.as_tensor(batch["observed"]).clamp(max=window.shape[1]) - 1).clamp(min=0)
        filled = (branches >= 0).sum(1)
        count = int((filled // observed.clamp(min=1)).max()) if branches.shape[1] else 0
        beside = branches.new_zeros(len(window), 1 + width, count)
        for one in filled.nonzero()[:, 0].tolist() if count else ():
            rows = branches[one, : filled[one]].view(-1, count)
            beside[one, 1 : 1 + len(rows)] = rows
        own = window[:, :, None] if window.shape[1] > 1 else window.new_zeros(len(window), 2, 1)
        return torch.cat([own, beside[:, : own.shape[1]]], dim=2)

    def _level_distributions(
        self,
        batch: Mapping[str, Any],
        answers: torch.Tensor,
        row: torch.Tensor,
        after: torch.Tensor,
        place: torch.Tensor,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each level, the tokens [q, F] that may follow an answer's codes so far, and their probabilities [q, F].

        Args:
            batch: as for `distributions`.
            answers: of `_answers`.
            row: int64 [q], which window.
            after: int64 [q], how many of its items are the history.
            place: int64 [q], which answer there: 0 the window's own, else that of a branch.
        """
        is_observed = after < torch.as_tensor(batch["observed"])[row]
        tokens = self.prefix_chances.next_tokens(answers[row, after, place])
        chances = [torch.zeros(level.shape) for level in tokens]
        for one in row[is_observed].unique().tolist():
            asked = is_observed & (row == one)
            for level, of_window in zip(chances, self._observed_levels(batch, answers, one), strict=True):
                level[asked] = of_window[after[asked] - 1, place[asked]]
        if not is_observed.all():
            asked = ~is_observed
            for level, of_answers in zip(
                chances, self._synthetic_levels(batch, row[asked], after[asked]), strict=True
            ):
                level[asked] = of_answers
        return list(zip(tokens, chances, strict=True))

    def _synthetic_levels(
        self, batch: Mapping[str, Any], row: torch.Tensor, after: torch.Tensor
    ) -> list[torch.Tensor]:
        """Probabilities [q, F] at each level of synthetic items, which were written with the trees (`Continuation`).

        Args:
            batch: as for `distributions`.
            row: int64 [q], which window.
            after: int64 [q], which of its items.
        """
        window, observed, written = (
            torch.as_tensor(batch[name]) for name in ("window_items", "observed", "chances")
        )
        place = torch.arange(window.shape[1])
        is_written = (window >= 0) & (place >= observed[:, None].clamp(min=1))
        is_written &= (written >= 0).any(1)[:, None]  # not of a chain that asks for what the user has chosen
        levels = self.prefix_chances.unpack(written, window, is_written)
        number = is_written.flatten().cumsum(0).view(is_written.shape) - 1
        return [level[number[row, after]] for level in levels]

    def _observed_levels(
        self, batch: Mapping[str, Any], answers: torch.Tensor, row: int
    ) -> list[torch.Tensor]:
        """Probabilities [n − 1, 1 + branches, F] a level of all answers in the observed part [n] of a window."""
        window, observed, owner = (batch[name][row] for name in ("window_items", "observed", "owner"))
        chosen = torch.as_tensor(window)
        size = min(int(observed), int((chosen >= 0).sum()))
        return self._choice_distributions(int(owner), chosen[:size], answers[row, 1:size])

    def _choice_distributions(
        self, owner: int, window: torch.Tensor, answers: torch.Tensor
    ) -> list[torch.Tensor]:
        """Probabilities [n − 1, A, F] at each level for all `answers` [n − 1, A] in a window [n] of chosen items.

        They are the same in every epoch, so they are kept. They are asked for together, whatever else is in a batch:
        sums of floats depend on what is computed together, and a resumed training should end as any other.
        """
        key = _key(owner, window, answers)
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        distributions = [
            self.prefix_chances.along(scores, answers[after - 1])
            for after, scores in self.scores_of_choices(owner, window)
        ]
        return self.keep(owner, window, answers, distributions)

    def keep(
        self,
        owner: int,
        window: torch.Tensor,
        answers: torch.Tensor,
        distributions: Sequence[Sequence[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """Keep probabilities for `answers` [n − 1, A] in a window [n] of chosen items, if there is room; return them.

        Args:
            owner: whose items they are.
            window: indices of the items.
            answers: the window's own answers, and those beside them.
            distributions: for some of the n − 1 positions after the other, [q, A, F] at each level.
        """
        levels = [torch.cat(level) for level in zip(*distributions, strict=True)]
        return self._memory.put(_key(owner, window, answers), levels)

    def scores_of_choices(
        self, owner: int, window: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Scores of what comes next after each part of a window [n] of chosen items, a few parts at a time.

        Yields:
            How many items each part has, int64 [q]; and float32 [q, items], of the model that was fitted without the
            owner's fold.
        """
        model = self.folds[owner % len(self.folds)] if self.folds else self.model
        for after in torch.arange(1, len(window)).split(self.at_once):
            yield after, self._scores_after(model, window.expand(len(after), -1), after)

    def _scores_after(self, model: Baseline, windows: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Scores [q, items] of the next item after the first `after [q]` items of `windows [q, W]`."""
        items = self.catalogue.items
        histories = [
            [items[item] for item in window[:count]]
            for window, count in zip(windows.tolist(), after.tolist(), strict=True)
        ]
        return torch.from_numpy(self.scores(model, histories))

    @cached_property
    def _memory(self) -> Kept:
        """Distributions for windows of chosen items, kept between epochs."""
        return Kept()

    @cached_property
    def _spelling(self) -> torch.Tensor:
        """Token ids of each item, int64 [items, L]."""
        return self.catalogue.tokens

    @cached_property
    def prefix_chances(self) -> PrefixChances:
        """The probabilities of codes that follow from those of items."""
        return PrefixChances(self.catalogue)


def _key(owner: int, window: torch.Tensor, answers: torch.Tensor) -> tuple[int, bytes, bytes]:
    """What distributions depend on: a user's fold, a window [n] and the answers [n − 1, A] asked for in it."""
    return owner, window.long().numpy().tobytes(), answers.long().numpy().tobytes()
