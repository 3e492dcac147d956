"""Questions about held-out targets: what a prompt file asks on a run's data, and what would be the right answer."""

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
ITEMS = "items"
"""Stands for a split where a task is about items: all of them are trained on, none is held out."""
MOST_TOKENS = 256
MOST_OPTIONS = 20
TRAINING_ANSWERS = 1000


@dataclass(frozen=True)
class Question:
    """One question: whose, about which item, and as tokens the prompt and the right answer (end token included)."""

    user: str | None
    item: str
    prompt: list[int]
    reference: list[int]


@dataclass(frozen=True)
class TemplateQuestions:
    """What one template asks.

    Attributes:
        task: the prompt file.
        template: the wording.
        split: `valid` or `test`, or `items`.
        kind: of the answer.
        options: all answers there can be, as text: of a choice, in the order of the target's position; of a
            rating, the values of the training interactions, ascending. Empty where they are not a few.
        rows: the questions.
        left_out: how many lack a field, by the field.
        max_tokens: tokens of the longest answer that is waited for.
    """

    task: Task
    template: Template
    split: str
    kind: Kind
    options: list[str]
    rows: list[Question]
    left_out: Counter[str]
    max_tokens: int


def resolve_eval_task(
    entry: EvalTask, fields: Fields, tell: Callable[[str], None] = print_notice
) -> MixedTask | None:
    """A task of `eval.tasks` with its templates; None, told in a line, where the data lacks what they all need.

    Raises:
        UserError: a task or template that does not exist or names an unknown field.
    """
    names = entry.templates
    if names is None:
        mine = [t for t in load_task(entry.task, fields).templates if entry.language in (t.language, "all")]
        held_out = [template.id for template in mine if template.split == "unseen"]
        names = held_out or [template.id for template in mine]
    config = TaskConfig(task=entry.task, templates=names, language=entry.language)
    return select_task(config, fields, lambda line: tell(line.replace("prompts:", "eval.tasks:", 1)))


class EvalQuestions:
    """Makes questions of a run's data.

    Args:
        run: the run folder.
        encoder: of the run's model; knows its users and events.
        seed: of samples and candidates.
    """

    def __init__(self, run: Path, encoder: PromptEncoder, seed: int) -> None:
        self._run, self._encoder, self._seed = run, encoder, seed

    def for_task(self, entry: EvalTask, mixed: MixedTask) -> Iterator[TemplateQuestions]:
        """The questions of a task, template by template.

        Raises:
            UserError: nobody can be asked.
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
            most = entry.max_tokens or self._longest(mixed, template, rows, kind)
            split = ITEMS if task.source == "item" else entry.split
            yield TemplateQuestions(task, template, split, kind, options, rows, left_out, most)

    def _sample(self, template: Template, case: PromptContext, left_out: Counter[str]) -> Sample | None:
        try:
            return self._encoder.encode_sample(template, case)
        except MissingFieldError as error:
            left_out[error.field] += 1
            return None

    def _cases(self, entry: EvalTask, mixed: MixedTask) -> list[PromptContext]:
        """What the samples are about: items, or held-out targets with the history before them."""
        if mixed.task.source == "item":
            items = self._encoder.items
            drawn = np.random.default_rng(self._seed).permutation(len(items))[: entry.users]
            return [PromptContext([items[row]]) for row in sorted(drawn.tolist())]
        events = sorted(mixed.events)
        examples = evaluation_examples(self._run, entry.split, entry.users, self._seed, events)
        negatives = CandidateSampler(self._encoder.items, self._seed)
        cases = []
        for row in examples.iter_rows(named=True):
            said = {name: row[name] for name in events}
            case = PromptContext([*row["history"], row["target"]], row["user_id"], said)
            if mixed.task.candidates is not None:
                case = case.with_candidates(
                    negatives.sample(row["target"], mixed.task.candidates, row["history"])
                )
            cases.append(case)
        return cases

    def _options(self, task: Task, template: Template, kind: Kind) -> list[str]:
        """All answers there can be, where they are few and end in a token, so that they can be scored."""
        if kind == "choice":
            return choices(task, template, self._encoder.fields)
        if kind != "number" or answer_fields(task, template, self._encoder.fields)[0].name != "rating":
            return []
        told = training_histories(self._run, ["rating"])["rating"].explode().drop_nulls().unique().to_list()
        return sorted(told, key=float) if template.end and len(told) <= MOST_OPTIONS else []

    def _longest(self, mixed: MixedTask, template: Template, rows: Sequence[Question], kind: Kind) -> int:
        """Tokens of the longest answer in (a sample of) the training data, at most `MOST_TOKENS`.

        An ID or a choice can be no longer than the references, and no interaction teaches what an item is called.
        """
        lengths = [len(row.reference) for row in rows]
        if kind not in ("sid", "choice") and mixed.task.source != "item":
            lengths = [
                len(sample.ids) - sample.answer for sample in self._trained(mixed, template)
            ] or lengths
        return min(max(lengths), MOST_TOKENS)

    def _trained(self, mixed: MixedTask, template: Template) -> Iterator[Sample]:
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
    """What kind of answer a template asks for: one field of the target, one of a few fixed texts, or any text."""
    segments = render(template.answer, task.answer_scope(1), fields)
    said = slots(segments)
    if not said:
        return "choice"
    if len(segments) > 1 or said[0].role != "target":
        return "text"
    if said[0].name in NUMBERS:
        return "number"
    return {"sid": "sid", "title": "title"}.get(said[0].name, "text")  # type: ignore[return-value]


def answer_fields(task: Task, template: Template, fields: Fields) -> list[Slot]:
    """The fields that a template's answer names."""
    return slots(render(template.answer, task.answer_scope(1), fields))


def choices(task: Task, template: Template, fields: Fields) -> list[str]:
    """The different answers of a choice, in the order of the target's position among the candidates."""
    positions = range(task.candidates or 1)
    rendered = (render(template.answer, task.answer_scope(1, None, at), fields) for at in positions)
    return list(dict.fromkeys("".join(map(str, segments)) for segments in rendered))
