"""Texts that a model writes before the semantic ID: a trunk of the token tree grows by each, and lists are summed.

A model that was trained to reason first (`prompts: reasoning`, as OneRec-Think, Liu et al. 2025) has the probability
p(item | prompt) = Σ_text p(text | prompt) · p(item | prompt, text). The sum goes over the most probable texts, which
beam search finds; the code that follows a text ends it, whatever code it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmrec.config import ReasoningConfig
from llmrec.decode import free_text
from llmrec.decode.top_k import TopK
from llmrec.models.checkpoint import Checkpoint
from llmrec.recommend.requests import Requests

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Texts:
    """Texts of U prompts, T in all, each prompt's together and different from each other.

    Attributes:
        prompts: T token-id lists: the prompt and a text.
        owner: int64 [T], the prompt that each was written for, ascending.
        log_probs: float32 [T], log p(text | prompt).
    """

    prompts: list[list[int]]
    owner: npt.NDArray[np.int64]
    log_probs: Floats

    def extend(self, requests: Requests) -> Requests:
        """The same requests, one for each text of a prompt."""
        owner = self.owner.tolist()
        allowed = requests.allowed
        return replace(
            requests,
            histories=[requests.histories[user] for user in owner],
            prompts=self.prompts,
            allowed=None if allowed is None else [allowed[user] for user in owner],
            denied=[requests.denied[user] for user in owner],
        )

    def sum_lists(self, top: TopK) -> TopK:
        """Lists of the U prompts, of lists behind their texts.

        An item's score is the logarithm of its probability summed over the texts whose lists hold it. What an item
        has behind the others is left out, so a score is a lower bound, and no list is certified.

        Args:
            top: TopK [T, K].

        Returns:
            TopK [U, K].
        """
        users, length = int(self.owner[-1]) + 1, top.items.shape[1]
        row, place = (top.items >= 0).nonzero()
        of_items = np.stack([self.owner[row], top.items[row, place]])
        pairs, which = np.unique(of_items, axis=1, return_inverse=True)
        sums = np.full(pairs.shape[1], -np.inf, np.float32)
        np.logaddexp.at(sums, which.reshape(-1), top.scores[row, place] + self.log_probs[row])
        items = np.full((users, length), -1, np.int64)
        scores = np.full((users, length), -np.inf, np.float32)
        order = np.lexsort((pairs[1], -sums, pairs[0]))
        user = pairs[0, order]
        rank = np.arange(len(user)) - np.searchsorted(user, user)
        kept = rank < length
        items[user[kept], rank[kept]] = pairs[1, order][kept]
        scores[user[kept], rank[kept]] = sums[order][kept]
        return TopK(items, scores)

    def sum_scores(self, scores: Sequence[Floats]) -> list[Floats]:
        """Scores of the U prompts' candidates, of the same candidates' scores behind each of the texts.

        Args:
            scores: for each text, float32 [n], the candidates of its prompt.
        """
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1)).tolist()
        summed = []
        for start, end in zip(starts, [*starts[1:], len(self.owner)], strict=True):
            behind = np.stack(scores[start:end]) + self.log_probs[start:end, None]
            summed.append(np.logaddexp.reduce(behind, axis=0))
        return summed


def write_texts(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], starts: Sequence[int], settings: ReasoningConfig
) -> Texts:
    """Let a model write its most probable texts before the semantic ID.

    Args:
        checkpoint: the model and its tokenizer.
        prompts: U token-id lists, none empty.
        starts: tokens with which a semantic ID begins; they end a text.
        settings: `decode.reasoning`.

    Raises:
        UserError: a prompt and a text are longer than the model's context.
    """
    model, pad_id, end = checkpoint.model, checkpoint.pad_id, int(checkpoint.tokenizer.eos_token_id)
    form = free_text.AnswerForm(settings.tokens, [end], starts)
    written = free_text.generate_ranked(model, prompts, form, pad_id, settings.texts)
    owner, texts = [], []
    for user, answers in enumerate(written):
        for text in dict.fromkeys(tuple(form.without_end(answer)) for answer in answers):
            owner.append(user)
            texts.append(list(text))
    log_probs = np.zeros(len(texts), np.float32)
    rows = [row for row, text in enumerate(texts) if text]
    if rows:
        wording = [[texts[row]] for row in rows]
        scores = free_text.answer_log_probs(model, [prompts[owner[row]] for row in rows], wording, pad_id)
        log_probs[rows] = np.concatenate(scores)
    behind = [[*prompts[user], *text] for user, text in zip(owner, texts, strict=True)]
    return Texts(behind, np.array(owner, np.int64), log_probs)
