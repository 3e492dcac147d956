"""The prompt encoder: converts histories and targets to token ids, for training, decoding and serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from llmrec.errors import UserError
from llmrec.text.chat import ChatFrame, chat_frame
from llmrec.text.prompts import Fields, Segment, Template, TemplateScope, render, split_trunk
from llmrec.text.slots import Filler, MissingFieldError, TemplatePart
from llmrec.text.target_tree import BRANCH, TargetTree, TargetTreeBuilder
from llmrec.text.tokens import TextEncoder
from llmrec.token_tree import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Sample:
    """A training sample.

    Attributes:
        ids: token ids of the prompt, the answer, and the end token if the template has one.
        answer: index of the answer's first token.
    """

    ids: list[int]
    answer: int


@dataclass(frozen=True, slots=True)
class PromptContext:
    """The data that fills a prompt: items, user, events and candidates of one sample or window.

    Attributes:
        items: item ids, oldest first; the target is the last.
        user: id of the user who chose the items; None for tasks about items.
        events: field → its texts for the interactions with `items`; None for a missing text.
        candidates: item ids to choose from, the target among them.
        synthetic_count: number of items at the end that a teacher generated; the user did not choose them.
    """

    items: Sequence[str]
    user: str | None = None
    events: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    candidates: Sequence[str] = ()
    synthetic_count: int = 0

    @property
    def observed_count(self) -> int:
        """Number of items that the user chose."""
        return len(self.items) - self.synthetic_count

    @property
    def observed_items(self) -> Sequence[str]:
        """Items that the user chose, oldest first."""
        return self.items[: self.observed_count]

    def slice(self, start: int, stop: int) -> PromptContext:
        """Return a context with the items and events from `start` to `stop`."""
        events = {name: values[start:stop] for name, values in self.events.items()}
        items = self.items[start:stop]
        synthetic_count = min(max(0, stop - len(self.items) + self.synthetic_count), len(items))
        return PromptContext(items, self.user, events, self.candidates, synthetic_count)

    def pick(self, places: Sequence[int]) -> PromptContext:
        """Return a context with the observed items and events at these places, in their order."""
        events = {name: [values[place] for place in places] for name, values in self.events.items()}
        return PromptContext([self.items[place] for place in places], self.user, events, self.candidates)

    def with_candidates(self, candidates: Sequence[str]) -> PromptContext:
        """Return a context with these candidates."""
        return replace(self, candidates=candidates)

    def with_synthetic_items(self, items: Sequence[str]) -> PromptContext:
        """Return a context with synthetic items appended."""
        return replace(self, items=[*self.items, *items], synthetic_count=self.synthetic_count + len(items))


class PromptEncoder:
    """Encodes prompts and answers under one tokenizer and one catalogue.

    Args:
        tokenizer: the extended tokenizer.
        items: item id → text fields (`title`, `brand`, …).
        item_tokens: item id → token ids of its SID.
        history: most history items of a prompt; older items are dropped.
        users: user id → text fields (`age`, …).
        events: fields that the interactions have.
        context: most tokens of a prompt with its answer; a longer prompt loses its oldest items. None: no limit.

    Attributes:
        items: item ids of the catalogue.
        numbers: item id → its index in `items`.
        history: as given.
        context: as given.
        fields: fields that templates may name.
        shortened: number of prompts so far that lost items because of `context`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        items: Mapping[str, Mapping[str, str]],
        item_tokens: Mapping[str, Sequence[int]],
        history: int,
        users: Mapping[str, Mapping[str, str]] | None = None,
        events: frozenset[str] = frozenset(),
        context: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._text = TextEncoder(tokenizer)
        self._filler = Filler(self._text, items, item_tokens, users or {})
        self.items = list(item_tokens)
        self._item_tokens = item_tokens
        self.numbers = {item: number for number, item in enumerate(self.items)}
        self.history, self.context, self.shortened = history, context, 0
        self._longest_sid = max(map(len, item_tokens.values()), default=0)
        user_fields = frozenset().union(*(users or {}).values())
        self.fields = Fields(item_fields(items), user_fields, events)
        self._frames: dict[str | None, ChatFrame] = {}
        self._programs: dict[tuple[str, TemplateScope], list[TemplatePart]] = {}
        self._trunks: dict[
            tuple[str, TemplateScope], tuple[list[TemplatePart], list[bool], list[TemplatePart]]
        ] = {}

    def prompt(self, template: Template, history: Sequence[str]) -> list[int]:
        """Return the prompt's token ids for a history of item ids, oldest first. The answer follows directly."""
        kept = list(history[-self.history :])
        end = 1 if template.end else 0
        while True:
            ids = self._prompt(template, PromptContext(kept), TemplateScope(len(kept), user=True))
            if not self._too_long(len(ids) + self._longest_sid + end, len(kept)):
                self.shortened += len(kept) < min(len(history), self.history)
                return ids
            kept = kept[1:]

    def message(self, template: Template, history: Sequence[str]) -> list[int]:
        """Return the token ids of the user's message alone: the whole history, and no markup around it."""
        program = self._program(template.text, TemplateScope(len(history), user=True))
        return self._filler.fill(program, PromptContext(history))

    def sample(self, template: Template, history: Sequence[str], target: str) -> Sample:
        """Encode the training sample of a history and its target: prompt, answer, and end token if any."""
        return self.encode_sample(template, PromptContext([*history, target]))

    def encode_sample(self, template: Template, context: PromptContext) -> Sample:
        """Encode a training sample. The context's last item is the target, the items before it are the history.

        Raises:
            MissingFieldError: the data lacks a field of the target or the user that the template names.
            UserError: the sample exceeds the base's context length with a single history item.
        """
        surplus = len(context.items) - 1 - self.history
        context = context.slice(surplus, len(context.items)) if surplus > 0 else context
        whole = len(context.items)
        while True:
            scope = TemplateScope(
                len(context.items) - 1, target=True, user=True, candidates=len(context.candidates)
            )
            prompt = self._prompt(template, context, scope)
            answer = self._answer(template, context)
            if not self._too_long(len(prompt) + len(answer), len(context.items) - 1):
                self.shortened += len(context.items) < whole
                return Sample(prompt + answer, len(prompt))
            context = context.slice(1, len(context.items))

    def trees(
        self,
        template: Template,
        items: Sequence[str],
        draw: Callable[[str], Sequence[str]] | None = None,
        missing: Counter[str] | None = None,
    ) -> list[TargetTree]:
        """Return the training trees of all targets of a user's items (oldest first), window by window."""
        return [
            tree
            for start, stop in self.windows(len(items))
            for tree in self.window_trees(template, PromptContext(items[start:stop]), draw, missing)
        ]

    def windows(self, count: int) -> list[tuple[int, int]]:
        """Return the bounds of the windows that split `count` items; each window has at least one target."""
        return [(start, min(start + self.history + 1, count)) for start in range(0, count - 1, self.history)]

    def window_trees(
        self,
        template: Template,
        window: PromptContext,
        draw: Callable[[str], Sequence[str]] | None = None,
        missing: Counter[str] | None = None,
        beside: Sequence[Sequence[str]] = (),
    ) -> list[TargetTree]:
        """Return the training trees of a window; every item but the first is a target.

        A `tree: true` template gives one tree for all targets. Any other template gives one chain for each target,
        and so does a tree that is longer than the context.

        Args:
            template: the template.
            window: at most `history` + 1 items.
            draw: returns the candidates of a target; None if the task has no candidates.
            missing: counter of skipped targets, by the name of the missing field.
            beside: further items after each history; for as many targets as there are rows. The model learns their
                codes but the first, on branches of their own. Only a tree has them, and answers must be SIDs. Their
                `history_length` has `BRANCH` times the item's place in its row added, counted from 1.
        """
        missing = Counter() if missing is None else missing
        if template.tree:
            tree_missing: Counter[str] = Counter()
            trees = self._tree(template, window, tree_missing, beside)
            if self.context is None or all(tree.longest < self.context for tree in trees):
                missing.update(tree_missing)
                return trees
        samples = (window.slice(0, cut + 1) for cut in range(1, len(window.items)))
        return [tree for context in samples for tree in self.chains(template, context, draw, missing)]

    def chains(
        self,
        template: Template,
        context: PromptContext,
        draw: Callable[[str], Sequence[str]] | None,
        missing: Counter[str],
    ) -> list[TargetTree]:
        """Return a sample as a tree without branches; an empty list if the data lacks a field that it names."""
        if draw is not None:
            context = context.with_candidates(draw(context.items[-1]))
        try:
            return [build_chain(self.encode_sample(template, context), history_length=len(context.items) - 1)]
        except MissingFieldError as error:
            missing[error.field] += 1
            return []

    def _tree(
        self,
        template: Template,
        window: PromptContext,
        missing: Counter[str],
        beside: Sequence[Sequence[str]],
    ) -> list[TargetTree]:
        """Return one tree for all targets of a window. Tests assert that it equals the unrolled samples."""
        count = len(window.items) - 1
        frame = self._frame(template)
        trunk, is_item, tail = self._trunk(template.text, TemplateScope(count, user=True))
        tokens = list(frame.before)
        cuts: dict[int, int] = {}
        try:
            for part, ends in zip(trunk, is_item, strict=True):
                tokens += part.read(window)
                if ends:
                    cuts[part.index] = len(tokens)
            suffix = self._filler.fill(tail, window) + frame.after
        except MissingFieldError as error:
            missing[error.field] += count
            return []
        if len(cuts) < count:
            raise UserError(
                f"template {template.id!r} says tree: true, but does not name all of {count} items"
            )
        builder = TargetTreeBuilder()
        shared, learned = 0, False
        for cut in range(1, count + 1):
            try:
                answer = self._answer(template, window.slice(0, cut + 1))
            except MissingFieldError as error:
                missing[error.field] += 1
                continue
            # Before the answer: what comes next shares the answer's path, where the answer is part of the history.
            for place, item in enumerate(beside[cut - 1] if cut <= len(beside) else (), start=1):
                prompt = tokens[shared : cuts[cut - 1]] + suffix
                codes = list(self._item_tokens[item])
                first, marked = shared + len(prompt), cut + BRANCH * place
                builder.add(prompt + codes, scored=first + 1, shared=shared, history_length=marked)
                shared = cuts[cut - 1]
            prompt = tokens[shared : cuts[cut - 1]] + suffix
            builder.add(prompt + answer, scored=shared + len(prompt), shared=shared, history_length=cut)
            shared, learned = cuts[cut - 1], True
        return [builder.build()] if learned else []

    def _too_long(self, tokens: int, history: int) -> bool:
        """Whether a prompt with its answer exceeds the context, so that it has to lose an item.

        Raises:
            UserError: the prompt is too long with a single history item.
        """
        if self.context is None or tokens <= self.context:
            return False
        if history <= 1:
            raise UserError(
                f"a prompt with its answer takes {tokens} tokens with no more than one item of history, and the base "
                f"takes {self.context}; use a shorter template, or a base of a longer context"
            )
        return True

    def _prompt(self, template: Template, context: PromptContext, scope: TemplateScope) -> list[int]:
        frame = self._frame(template)
        return frame.before + self._filler.fill(self._program(template.text, scope), context) + frame.after

    def _answer(self, template: Template, context: PromptContext) -> list[int]:
        position = context.candidates.index(context.items[-1]) if context.candidates else None
        scope = TemplateScope(len(context.items) - 1, True, True, len(context.candidates), position)
        answer = self._filler.fill(self._program(template.answer, scope), context)
        return [*answer, self._frame(template).end] if template.end else answer

    def _program(self, source: str, scope: TemplateScope) -> list[TemplatePart]:
        program = self._programs.get((source, scope))
        if program is None:
            program = self._programs[source, scope] = self._parts(render(source, scope, self.fields))
        return program

    def _trunk(
        self, source: str, scope: TemplateScope
    ) -> tuple[list[TemplatePart], list[bool], list[TemplatePart]]:
        """Return a tree's trunk, which of its parts belong to history items, and its tail."""
        parts = self._trunks.get((source, scope))
        if parts is None:
            trunk, tail = split_trunk(render(source, scope, self.fields))
            is_item = [not isinstance(s, str) and s.role == "history" for s in trunk]
            parts = self._trunks[source, scope] = self._parts(trunk), is_item, self._parts(tail)
        return parts

    def _parts(self, segments: Sequence[Segment]) -> list[TemplatePart]:
        return [self._filler.part(segment) for segment in segments]

    def _frame(self, template: Template) -> ChatFrame:
        if template.system not in self._frames:
            self._frames[template.system] = chat_frame(self._tokenizer, template.system, self._text)
        return self._frames[template.system]


def item_fields(items: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Return the fields that a template may name for these items: `sid` and the text columns."""
    return frozenset({"sid"}).union(*(fields.keys() for fields in items.values()))


def build_chain(sample: Sample, history_length: int = 0) -> TargetTree:
    """Convert a sample to a tree without branches.

    Args:
        sample: the sample.
        history_length: number of history items before the answer (`TargetTree.history_length`).
    """
    ids = np.array(sample.ids, np.int32)
    size = len(ids) - 1
    labels = np.full(size, IGNORE, np.int32)
    labels[sample.answer - 1 :] = ids[sample.answer :]
    depth, end = np.arange(size, dtype=np.int32), np.full(size, size, np.int32)
    return TargetTree(
        ids[:-1], depth, end, labels, np.where(labels == IGNORE, 0, history_length).astype(np.int32)
    )
