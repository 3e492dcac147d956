"""Questions about held-out targets: prompts of a task file on a run's data, and their reference answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from llmrec.config import EvalTask, TaskConfig
from llmrec.data.examples import evaluation_examples, training_histories
from llmrec.errors import UserError
from llmrec.text.candidates import CandidateSampler
from llmrec.text.encode import PromptContext, PromptEncoder, Sample
from llmrec.text.mix import MixedTask, print_notice, select_task
from llmrec.text.prompts import Fields, Slot, Template, render, slots
from llmrec.text.slots import MissingFieldError
from llmrec.text.tasks import Task, load_task

Kind = Literal["number", "choice", "sid", "title", "text"]
NUMBERS = ("rating", "price")
FIELD_KINDS: dict[str, Kind] = {"sid": "sid", "title": "title"}
"""Field of the target → kind of an answer that consists of this field; other fields are text."""
ITEMS = "items"
"""Split name of tasks about items: all items are trained on, none is held out."""
MOST_TOKENS = 256
"""Most tokens of an answer, unless the recipe sets another number."""
MOST_OPTIONS = 20
"""Most values of a rating for which every value is scored."""
TRAINING_ANSWERS = 1000
"""Number of training answers that are measured for the length of the longest."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        user: the user; None for a question about an item alone.
        item: the item that the question is about.
        prompt: token ids of the prompt.
        reference: token ids of the reference answer, end token included.
    """

    user: str | None
    item: str
    prompt: list[int]
    reference: list[int]


@dataclass(frozen=True)
class TemplateQuestions:
    """The questions of one template.

    Attributes:
        task: the prompt file.
        template: the wording.
        split: `valid` or `test`, or `items`.
        kind: kind of the answers.
        options: all possible answers, as text. For a choice, they are in the order of the target's position; for a
            rating, they are the values of the training interactions, ascending. Empty if there are too many.
        rows: the questions.
        left_out: number of samples without a needed field, by field.
        max_tokens: most tokens of an answer.
        ranked: number of unconstrained answers that are ranked; 0 if the answer is no item.
    """

    task: Task
    template: Template
    split: str
    kind: Kind
    options: list[str]
    rows: list[Question]
    left_out: Counter[str]
    max_tokens: int
    ranked: int = 0


def resolve_eval_task(
    entry: EvalTask, fields: Fields, tell: Callable[[str], None] = print_notice
) -> MixedTask | None:
    """Load a task of `eval.tasks` and select its templates.

    Args:
        entry: the recipe's entry.
        fields: fields that the data provides.
        tell: prints a notice.

    Returns:
        None, after a notice, if the data lacks fields that all templates need.

    Raises:
        UserError: the task or a template does not exist, or names an unknown field.
    """
    names = entry.templates
    if names is None:
        templates = load_task(entry.task, fields).templates
        templates = [template for template in templates if entry.language in (template.language, "all")]
        held_out = [template.id for template in templates if template.split == "unseen"]
        names = held_out or [template.id for template in templates]
    config = TaskConfig(task=entry.task, templates=names, language=entry.language)
    return select_task(config, fields, lambda line: tell(line.replace("prompts:", "eval.tasks:", 1)))


class EvalQuestions:
    """Makes questions from a run's data.

    Args:
        run: the run folder.
        encoder: the prompt encoder of training, with the fields of users and events.
        seed: seed of samples and candidates.
    """

    def __init__(self, run: Path, encoder: PromptEncoder, seed: int) -> None:
        self._run, self._encoder, self._seed = run, encoder, seed

    def for_task(self, entry: EvalTask, mixed: MixedTask) -> Iterator[TemplateQuestions]:
        """Yield the questions of a task, template by template.

        Raises:
            UserError: a template has no questions.
        """
        task = mixed.task
        cases = self._cases(entry, mixed)
        for template in mixed.templates:
            kind = kind_of(task, template, self._encoder.fields)
            options = self._options(task, template, kind)
            left_out: Counter[str] = Counter()
            rows = []
            for case in cases:
                sample = self._sample(template, case, left_out)
                if sample is not None:
                    prompt, reference = sample.ids[: sample.answer], sample.ids[sample.answer :]
                    rows.append(Question(case.user, case.items[-1], prompt, reference))
            if not rows:
                lacking = ", ".join(left_out) or "targets"
                raise UserError(f"eval.tasks: {task.id}, template {template.id}: all samples lack {lacking}")
            max_tokens = entry.max_tokens or self._longest_answer(mixed, template, rows, kind)
            split = ITEMS if task.source == "item" else entry.split
            ranked = entry.answers if kind in FIELD_KINDS.values() else 0
            yield TemplateQuestions(task, template, split, kind, options, rows, left_out, max_tokens, ranked)

    def _sample(self, template: Template, case: PromptContext, left_out: Counter[str]) -> Sample | None:
        try:
            return self._encoder.encode_sample(template, case)
        except MissingFieldError as error:
            left_out[error.field] += 1
            return None

    def _cases(self, entry: EvalTask, mixed: MixedTask) -> list[PromptContext]:
        """Return the contexts of the questions: items, or held-out targets with the history before them."""
        if mixed.task.source == "item":
            items = self._encoder.items
            rows = np.random.default_rng(self._seed).permutation(len(items))[: entry.users]
            return [PromptContext([items[row]]) for row in sorted(rows.tolist())]
        events = sorted(mixed.events)
        examples = evaluation_examples(self._run, entry.split, entry.users, self._seed, events)
        negatives = CandidateSampler(self._encoder.items, self._seed)
        cases = []
        for row in examples.iter_rows(named=True):
            values = {name: row[name] for name in events}
            case = PromptContext([*row["history"], row["target"]], row["user_id"], values)
            if mixed.task.candidates is not None:
                case = case.with_candidates(
                    negatives.sample(row["target"], mixed.task.candidates, row["history"])
                )
            cases.append(case)
        return cases

    def _options(self, task: Task, template: Template, kind: Kind) -> list[str]:
        """Return all possible answers if they can be scored: they must be few and end in a token."""
        if kind == "choice":
            return choices(task, template, self._encoder.fields)
        if kind != "number" or answer_fields(task, template, self._encoder.fields)[0].name != "rating":
            return []
        histories = training_histories(self._run, ["rating"])
        ratings = histories["rating"].explode().drop_nulls().unique().to_list()
        return sorted(ratings, key=float) if template.end and len(ratings) <= MOST_OPTIONS else []

    def _longest_answer(
        self, mixed: MixedTask, template: Template, rows: Sequence[Question], kind: Kind
    ) -> int:
        """Tokens of the longest answer in a sample of the training data, at most `MOST_TOKENS`.

        For IDs, choices and tasks about items, the references give the bound: their answers do not occur in
        interactions.
        """
        lengths = [len(row.reference) for row in rows]
        if kind not in ("sid", "choice") and mixed.task.source != "item":
            samples = self._training_samples(mixed, template)
            lengths = [len(sample.ids) - sample.answer for sample in samples] or lengths
        return min(max(lengths), MOST_TOKENS)

    def _training_samples(self, mixed: MixedTask, template: Template) -> Iterator[Sample]:
        """Yield training samples of a template, for up to `TRAINING_ANSWERS` users."""
        events = sorted(mixed.events)
        histories = training_histories(self._run, events).filter(pl.col("items").list.len() > 1)
        for row in histories.sample(min(TRAINING_ANSWERS, len(histories)), seed=self._seed).iter_rows(
            named=True
        ):
            case = PromptContext(row["items"], row["user_id"], {name: row[name] for name in events})
            if mixed.task.candidates is not None:
                case = case.with_candidates(row["items"][-1:])
            sample = self._sample(template, case, Counter())
            if sample is not None:
                yield sample


def kind_of(task: Task, template: Template, fields: Fields) -> Kind:
    """Return the kind of a template's answers: one field of the target, one of a few fixed texts, or any text."""
    segments = render(template.answer, task.answer_scope(1), fields)
    named = slots(segments)
    if not named:
        return "choice"
    if len(segments) > 1 or named[0].role != "target":
        return "text"
    if named[0].name in NUMBERS:
        return "number"
    return FIELD_KINDS.get(named[0].name, "text")


def answer_fields(task: Task, template: Template, fields: Fields) -> list[Slot]:
    """Return the fields that a template's answer names."""
    return slots(render(template.answer, task.answer_scope(1), fields))


def choices(task: Task, template: Template, fields: Fields) -> list[str]:
    """Return the distinct answers of a choice, in the order of the target's position among the candidates."""
    scopes = (task.answer_scope(1, position) for position in range(task.candidates or 1))
    answers = ("".join(map(str, render(template.answer, scope, fields))) for scope in scopes)
    return list(dict.fromkeys(answers))
