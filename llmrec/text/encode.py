"""The one encoder: histories and targets to token ids, for training, decoding and serving alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from llmrec.errors import UserError
from llmrec.text.prompts import Fields, Segment, Template, TemplateScope, render, split_trunk
from llmrec.text.slots import Filler, MissingFieldError, TemplatePart
from llmrec.text.tokens import TextEncoder
from llmrec.token_tree import IGNORE, TokenTree, TreeBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Chat templates that print today's date would make training and serving differ.
FIXED_DATE = "01 Jan 2025"


@dataclass(frozen=True)
class Sample:
    """A training sample: token ids (prompt, answer, end token if any) and where the answer starts."""

    ids: list[int]
    answer: int


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer's chat format puts around a prompt: ids before it, ids after it, the end token."""

    before: list[int]
    after: list[int]
    end: int


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What one sample, or one window of samples, is about.

    Attributes:
        items: item ids, oldest first; the target is the last.
        user: whose they are.
        events: fields of the interactions with `items`: one text each, None where there is none.
        candidates: item ids to choose from, the target among them.
        synthetic_count: how many of the last items are none that the user has chosen.
    """

    items: Sequence[str]
    user: str | None = None
    events: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    candidates: Sequence[str] = ()
    synthetic_count: int = 0

    @property
    def observed_count(self) -> int:
        """How many of the items the user has chosen."""
        return len(self.items) - self.synthetic_count

    @property
    def observed_items(self) -> Sequence[str]:
        """The items that the user has chosen."""
        return self.items[: self.observed_count]

    def slice(self, start: int, stop: int) -> PromptContext:
        """The same with the items and events of a slice."""
        events = {name: values[start:stop] for name, values in self.events.items()}
        items = self.items[start:stop]
        made_up = min(max(0, stop - len(self.items) + self.synthetic_count), len(items))
        return PromptContext(items, self.user, events, self.candidates, made_up)

    def with_candidates(self, candidates: Sequence[str]) -> PromptContext:
        """The same with candidates."""
        return replace(self, candidates=candidates)

    def with_synthetic_items(self, items: Sequence[str]) -> PromptContext:
        """The same with made-up items behind."""
        return replace(self, items=[*self.items, *items], synthetic_count=self.synthetic_count + len(items))


class PromptEncoder:
    """Encodes prompts and answers under one tokenizer and one catalogue.

    Args:
        tokenizer: the extended tokenizer.
        items: item id → text fields (`title`, `brand`, …), values are strings.
        item_tokens: item id → its SID tokens, as token ids.
        history: most items of a history that are kept; the oldest are dropped.
        users: user id → text fields (`age`, …).
        events: fields that the interactions have.
        context: most tokens of a prompt and its answer; where they are more, the oldest items are dropped too.

    Attributes:
        shortened: prompts so far that lost items to `context`.
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
        self.numbers = {item: number for number, item in enumerate(self.items)}
        self.history, self.context, self.shortened = history, context, 0
        self._longest_sid = max(map(len, item_tokens.values()), default=0)
        users_know = frozenset().union(*(users or {}).values())
        self.fields = Fields(item_fields(items), users_know, events)
        self._frames: dict[str | None, _Frame] = {}
        self._programs: dict[tuple[str, TemplateScope], list[TemplatePart]] = {}
        self._trunks: dict[
            tuple[str, TemplateScope], tuple[list[TemplatePart], list[bool], list[TemplatePart]]
        ] = {}

    def prompt(self, template: Template, history: Sequence[str]) -> list[int]:
        """Token ids of the prompt for a history of item ids, oldest first; the answer starts right after."""
        kept = list(history[-self.history :])
        end = 1 if template.end else 0
        while True:
            ids = self._prompt(template, PromptContext(kept), TemplateScope(len(kept), user=True))
            if not self._too_long(len(ids) + self._longest_sid + end, len(kept)):
                self.shortened += len(kept) < min(len(history), self.history)
                return ids
            kept = kept[1:]

    def sample(self, template: Template, history: Sequence[str], target: str) -> Sample:
        """The training sample for one target: prompt, answer, and the end token if the template has one."""
        return self.encode_sample(template, PromptContext([*history, target]))

    def encode_sample(self, template: Template, case: PromptContext) -> Sample:
        """The training sample for a case: its items but the last are the history, the last is the target.

        Raises:
            MissingFieldError: the data lacks what the template says of the target or the user.
        """
        surplus = len(case.items) - 1 - self.history
        case = case.slice(surplus, len(case.items)) if surplus > 0 else case
        whole = len(case.items)
        while True:
            form = TemplateScope(len(case.items) - 1, target=True, user=True, candidates=len(case.candidates))
            prompt = self._prompt(template, case, form)
            answer = self._answer(template, case)
            if not self._too_long(len(prompt) + len(answer), len(case.items) - 1):
                self.shortened += len(case.items) < whole
                return Sample(prompt + answer, len(prompt))
            case = case.slice(1, len(case.items))

    def trees(
        self,
        template: Template,
        items: Sequence[str],
        draw: Callable[[str], Sequence[str]] | None = None,
        missing: Counter[str] | None = None,
    ) -> list[TokenTree]:
        """All targets of a user's items (oldest first): `window_trees` of each of their windows."""
        return [
            tree
            for start, stop in self.windows(len(items))
            for tree in self.window_trees(template, PromptContext(items[start:stop]), draw, missing)
        ]

    def windows(self, count: int) -> list[tuple[int, int]]:
        """Bounds of the growing windows that a history of `count` items is cut into, each with a target."""
        return [(start, min(start + self.history + 1, count)) for start in range(0, count - 1, self.history)]

    def window_trees(
        self,
        template: Template,
        window: PromptContext,
        draw: Callable[[str], Sequence[str]] | None = None,
        missing: Counter[str] | None = None,
    ) -> list[TokenTree]:
        """Every item of a window but the first as a target.

        A `tree: true` template makes one tree of them; any other, and one whose tree is longer than the context, is
        unrolled, one chain a target.

        Args:
            template: the wording.
            window: at most `history` + 1 items.
            draw: gives the candidates for a target, where the template shows any.
            missing: counts the targets that are left out, by the field that the data lacks.
        """
        missing = Counter() if missing is None else missing
        if template.tree:
            lacking: Counter[str] = Counter()
            trees = self._tree(template, window, lacking)
            if self.context is None or all(tree.longest < self.context for tree in trees):
                missing.update(lacking)
                return trees
        cases = (window.slice(0, cut + 1) for cut in range(1, len(window.items)))
        return [tree for case in cases for tree in self.chains(template, case, draw, missing)]

    def chains(
        self,
        template: Template,
        case: PromptContext,
        draw: Callable[[str], Sequence[str]] | None,
        missing: Counter[str],
    ) -> list[TokenTree]:
        """The sample for a case as a tree without branches; none where the data lacks what it says."""
        if draw is not None:
            case = case.with_candidates(draw(case.items[-1]))
        try:
            return [build_chain(self.encode_sample(template, case), history_length=len(case.items) - 1)]
        except MissingFieldError as error:
            missing[error.field] += 1
            return []

    def _tree(self, template: Template, window: PromptContext, missing: Counter[str]) -> list[TokenTree]:
        """One tree of all targets of a window; equals the unrolled samples (asserted by tests)."""
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
        builder = TreeBuilder()
        shared, learned = 0, False
        for cut in range(1, count + 1):
            try:
                answer = self._answer(template, window.slice(0, cut + 1))
            except MissingFieldError as error:
                missing[error.field] += 1
                continue
            prompt = tokens[shared : cuts[cut - 1]] + suffix
            builder.add(prompt + answer, scored=shared + len(prompt), shared=shared, history_length=cut)
            shared, learned = cuts[cut - 1], True
        return [builder.build()] if learned else []

    def _too_long(self, tokens: int, history: int) -> bool:
        """Whether a prompt and its answer have to lose an item.

        Raises:
            UserError: they are too long with a single item.
        """
        if self.context is None or tokens <= self.context:
            return False
        if history <= 1:
            raise UserError(
                f"a prompt with its answer takes {tokens} tokens with no more than one item of history, and the base "
                f"takes {self.context}; use a shorter template, or a base of a longer context"
            )
        return True

    def _prompt(self, template: Template, case: PromptContext, form: TemplateScope) -> list[int]:
        frame = self._frame(template)
        return frame.before + self._filler.fill(self._program(template.text, form), case) + frame.after

    def _answer(self, template: Template, case: PromptContext) -> list[int]:
        position = case.candidates.index(case.items[-1]) if case.candidates else None
        form = TemplateScope(len(case.items) - 1, True, True, len(case.candidates), position)
        answer = self._filler.fill(self._program(template.answer, form), case)
        return [*answer, self._frame(template).end] if template.end else answer

    def _program(self, source: str, form: TemplateScope) -> list[TemplatePart]:
        program = self._programs.get((source, form))
        if program is None:
            program = self._programs[source, form] = self._parts(render(source, form, self.fields))
        return program

    def _trunk(
        self, source: str, form: TemplateScope
    ) -> tuple[list[TemplatePart], list[bool], list[TemplatePart]]:
        """Trunk and tail of a tree's text, and which parts of the trunk say something of a history item."""
        found = self._trunks.get((source, form))
        if found is None:
            trunk, tail = split_trunk(render(source, form, self.fields))
            is_item = [not isinstance(s, str) and s.role == "history" for s in trunk]
            found = self._trunks[source, form] = self._parts(trunk), is_item, self._parts(tail)
        return found

    def _parts(self, segments: Sequence[Segment]) -> list[TemplatePart]:
        return [self._filler.part(segment) for segment in segments]

    def _frame(self, template: Template) -> _Frame:
        if template.system not in self._frames:
            self._frames[template.system] = chat_frame(self._tokenizer, template.system, self._text)
        return self._frames[template.system]


def item_fields(items: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Fields a template may name for these items: `sid` and the text columns."""
    return frozenset({"sid"}).union(*(fields.keys() for fields in items.values()))


def build_chain(sample: Sample, history_length: int = 0) -> TokenTree:
    """A sample as a tree without branches, its answer `history_length` so many items."""
    ids = np.array(sample.ids, np.int32)
    size = len(ids) - 1
    labels = np.full(size, IGNORE, np.int32)
    labels[sample.answer - 1 :] = ids[sample.answer :]
    depth, end = np.arange(size, dtype=np.int32), np.full(size, size, np.int32)
    return TokenTree(
        ids[:-1], depth, end, labels, np.where(labels == IGNORE, 0, history_length).astype(np.int32)
    )


def chat_frame(tokenizer: PreTrainedTokenizerFast, system: str | None, text: TextEncoder) -> _Frame:
    """The tokenizer's chat markup around a user message, as ids; without a chat template, its BOS.

    The system text is spliced in as data, like every other text.

    Raises:
        UserError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the base model's tokenizer has no end-of-sequence token")
    end = int(tokenizer.eos_token_id)
    if tokenizer.chat_template is None:
        bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        lead = text(system + "\n") if system else []
        return _Frame(bos + lead, [], end)
    marks = {"system": "\ue000system\ue001", "user": "\ue000user\ue001"}
    roles = ["system", "user"] if system else ["user"]
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": marks[role]} for role in roles],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=FIXED_DATE,
    )
    lead, _, rest = rendered.partition(marks["system"]) if system else ("", "", rendered)
    middle, found, after = rest.partition(marks["user"])
    if not found:
        raise UserError("the base model's chat template does not show the user's message")
    before = _markup(tokenizer, lead) + (text(system) if system else []) + _markup(tokenizer, middle)
    return _Frame(before, _markup(tokenizer, after), end)


def _markup(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
