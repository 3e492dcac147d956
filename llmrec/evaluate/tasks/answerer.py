"""The answers of the run's model to the questions of `eval.tasks`, generated without constraint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.metrics.rating import expected
from llmrec.metrics.text import DEPTH

if TYPE_CHECKING:
    from pathlib import Path

    from llmrec.decode.free_text import AnswerForm
    from llmrec.evaluate.tasks.questions import TemplateQuestions
    from llmrec.recommend.recommender import Recommender
    from llmrec.text.encode import PromptEncoder

SCHEMA = pl.Schema(
    {
        "split": pl.String,
        "task": pl.String,
        "template": pl.String,
        "user_id": pl.String,
        "item_id": pl.String,
        "answer": pl.String,
        "reference": pl.String,
        "log_prob": pl.Float64,
        "tokens": pl.Int32,
        "score": pl.Float64,
        "legal": pl.Boolean,
        "rank": pl.Int32,
        "cut": pl.Boolean,
        "generated_rank": pl.Int32,
        "legal_rank": pl.Int32,
        "generated_legal": pl.Float64,
    }
)


def training_encoder(folder: Path, recommender: Recommender) -> PromptEncoder:
    """Return the prompt encoder of training. Unlike decoding's encoder, it has the fields of users and events.

    Args:
        folder: the run folder.
        recommender: the run's model and catalogue.
    """
    from llmrec.data.examples import event_fields, load_users
    from llmrec.text.encode import PromptEncoder
    from llmrec.text.prompts import row_texts

    people, run = load_users(folder), recommender.run
    users = {} if people is None else row_texts(people.to_dicts(), "user_id")
    return PromptEncoder(
        recommender.checkpoint.tokenizer,
        run.texts,
        run.catalogue.item_tokens(),
        run.encoder.history,
        users,
        event_fields(folder),
        run.encoder.context,
    )


def describe_questions(questions: TemplateQuestions) -> dict[str, Any]:
    """Describe a template's questions, as `tasks/report.json` keeps them for scoring."""
    return {
        "split": questions.split,
        "task": questions.task.id,
        "template": questions.template.id,
        "seen": questions.template.split == "seen",
        "language": questions.template.language,
        "kind": questions.kind,
        "options": questions.options,
        "max_tokens": questions.max_tokens,
        "ranked": questions.ranked,
        "left_out": dict(questions.left_out),
    }


class Answerer:
    """Generates a run's answers to questions.

    Args:
        recommender: the run's model and catalogue.
    """

    def __init__(self, recommender: Recommender) -> None:
        from llmrec.text.tokens import TextEncoder

        self._checkpoint, self._run = recommender.checkpoint, recommender.run
        self._text = TextEncoder(self._checkpoint.tokenizer)
        self._pad = self._checkpoint.pad_id
        self._end = int(self._checkpoint.tokenizer.eos_token_id)

    def answer(self, questions: TemplateQuestions) -> pl.DataFrame:
        """Answer the questions of one template.

        Returns:
            `SCHEMA`, one row per question: the answer, the reference, and the log-probabilities and scores that need
            the model.
        """
        from llmrec.decode import free_text

        model, rows, kind = self._checkpoint.model, questions.rows, questions.kind
        marker = self._checkpoint.vocabulary.end if kind == "sid" else None
        ends = [self._end] if marker is None else [self._end, marker]
        form = free_text.AnswerForm(questions.max_tokens, ends)
        prompts = [row.prompt for row in rows]
        answers = free_text.generate_greedy(model, prompts, form, self._pad)
        log_probs = free_text.answer_log_probs(model, prompts, [[row.reference] for row in rows], self._pad)
        contents = [self._without_end(tokens) for tokens in answers]
        texts = [str(self._checkpoint.tokenizer.decode(tokens)) for tokens in contents]
        has_end = [bool(set(tokens[-1:]) & set(ends)) for tokens in answers]
        columns = {
            "user_id": [row.user for row in rows],
            "item_id": [row.item for row in rows],
            "answer": texts,
            "reference": [
                self._checkpoint.tokenizer.decode(self._without_end(row.reference)) for row in rows
            ],
            "log_prob": [float(values[0]) for values in log_probs],
            "tokens": [len(row.reference) for row in rows],
            "score": self._scores(questions, prompts),
            "legal": self._are_legal(contents) if kind == "sid" else [None] * len(rows),
            "rank": self._grounded_ranks(texts, questions) if kind == "title" else [None] * len(rows),
            "cut": [questions.template.end and not ended for ended in has_end],
        }
        columns |= self._ranked(questions, prompts, form)
        key = {"split": questions.split, "task": questions.task.id, "template": questions.template.id}
        return pl.DataFrame({name: [value] * len(rows) for name, value in key.items()} | columns, SCHEMA)

    def _ranked(
        self, questions: TemplateQuestions, prompts: list[list[int]], form: AnswerForm
    ) -> dict[str, list[Any]]:
        """Rank several unconstrained answers to each question whose answer is an item; others have nulls.

        Returns:
            `generated_rank`, position of the right answer among them, or None; `legal_rank`, the same among the
            distinct ones that are items; `generated_legal`, share of items.
        """
        from llmrec.decode import free_text

        names = ("generated_rank", "legal_rank", "generated_legal")
        if not questions.ranked:
            return {name: [None] * len(prompts) for name in names}
        ranked = free_text.generate_ranked(self._checkpoint.model, prompts, form, self._pad, questions.ranked)
        named = self._item_name if questions.kind == "sid" else self._title_name
        legal: frozenset[Any] = self._sids if questions.kind == "sid" else self._stripped_titles
        rows = []
        for row, answers in zip(questions.rows, ranked, strict=True):
            given, right = [named(tokens) for tokens in answers], named(row.reference)
            items = list(dict.fromkeys(name for name in given if name in legal))
            places = (of.index(right) + 1 if right in of else None for of in (given, items))
            rows.append((*places, sum(name in legal for name in given) / len(given)))
        return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def _item_name(self, tokens: list[int]) -> Any:
        return tuple(self._without_end(tokens))

    def _title_name(self, tokens: list[int]) -> Any:
        return str(self._checkpoint.tokenizer.decode(self._without_end(tokens))).strip()

    def _without_end(self, tokens: list[int]) -> list[int]:
        """Return an answer without its end token."""
        return tokens[:-1] if tokens[-1:] == [self._end] else tokens

    def _scores(self, questions: TemplateQuestions, prompts: list[list[int]]) -> Sequence[float | None]:
        """Return the expected ratings, or log p(first) − log p(second) of two choices; None for other answers."""
        from llmrec.decode import free_text

        options = questions.options
        if not options or not questions.template.end or (questions.kind == "choice" and len(options) != 2):
            return [None] * len(prompts)
        ids = [[*self._text(option), self._end] for option in options]
        log_probs = free_text.answer_log_probs(
            self._checkpoint.model, prompts, [ids] * len(prompts), self._pad
        )
        if questions.kind == "choice":
            return [float(scores[0] - scores[1]) for scores in log_probs]
        values = [float(option) for option in options]
        return [expected(scores, values) for scores in log_probs]

    def _are_legal(self, answers: list[list[int]]) -> list[bool]:
        """Whether each answer is the semantic ID of an item."""
        return [tuple(tokens) in self._sids for tokens in answers]

    def _grounded_ranks(self, answers: list[str], questions: TemplateQuestions) -> list[int | None]:
        """Rank of the reference title among the `DEPTH` titles nearest to each answer; None if it is not there.

        An empty answer has no rank.
        """
        from llmrec.decode import free_text
        from llmrec.decode.grounding import ground

        titles, vectors = self._titles
        index = {title: number for number, title in enumerate(titles)}
        rows = [row for row, answer in enumerate(answers) if answer.strip()]
        ranks: list[int | None] = [None] * len(answers)
        if not rows:
            return ranks
        ids = [self._text(answers[row].strip()) for row in rows]
        embeddings = free_text.text_embeddings(self._checkpoint.model, ids, self._pad)
        nearest = ground(embeddings, vectors, DEPTH).items.tolist()
        for row, neighbours in zip(rows, nearest, strict=True):
            reference = index[self._run.texts[questions.rows[row].item]["title"]]
            ranks[row] = neighbours.index(reference) + 1 if reference in neighbours else None
        return ranks

    @cached_property
    def _sids(self) -> frozenset[tuple[int, ...]]:
        """The semantic IDs of all items, as the model's token ids."""
        return frozenset(tuple(tokens) for tokens in self._run.catalogue.item_tokens().values())

    @cached_property
    def _stripped_titles(self) -> frozenset[str]:
        """The catalogue's titles, without spaces around them."""
        return frozenset(title.strip() for title in self._titles[0])

    @cached_property
    def _titles(self) -> tuple[list[str], NDArray[np.float32]]:
        """The catalogue's distinct titles and their embeddings, float32 `[titles, hidden]`."""
        from llmrec.decode import free_text

        texts = (self._run.texts[item].get("title") for item in self._run.catalogue.items)
        titles = list(dict.fromkeys(title for title in texts if title))
        ids = [self._text(title) for title in titles]
        return titles, free_text.text_embeddings(self._checkpoint.model, ids, self._pad)
