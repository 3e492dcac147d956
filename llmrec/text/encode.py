"""The one encoder: histories and targets to token ids, for training, decoding and serving alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrec.errors import UserError
from llmrec.text.prompts import ItemField, Segment, Template, render, split_trunk
from llmrec.text.tokens import TextEncoder
from llmrec.tree import TokenTree, TreeBuilder

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


class PromptEncoder:
    """Encodes prompts and answers under one tokenizer and one catalogue.

    Args:
        tokenizer: the extended tokenizer.
        items: item id → text fields (`title`, `brand`, …), values are strings.
        item_tokens: item id → its SID tokens, as token ids.
        history: most items of a history that are kept; the oldest are dropped.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        items: Mapping[str, Mapping[str, str]],
        item_tokens: Mapping[str, Sequence[int]],
        history: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._text = TextEncoder(tokenizer)
        self._items = items
        self._sids = item_tokens
        self.history = history
        self.fields = item_fields(items)
        self._frames: dict[str | None, _Frame] = {}
        self._rendered: dict[tuple[str, int, bool], list[Segment]] = {}

    def prompt(self, template: Template, history: Sequence[str]) -> list[int]:
        """Token ids of the prompt for a history of item ids, oldest first; the answer starts right after."""
        kept = list(history[-self.history :])
        frame = self._frame(template)
        return frame.before + self._encode(self._render(template.text, len(kept), False), kept) + frame.after

    def sample(self, template: Template, history: Sequence[str], target: str) -> Sample:
        """The training sample for one target: prompt, answer, and the end token if the template has one."""
        kept = list(history[-self.history :])
        prompt = self.prompt(template, kept)
        return Sample(prompt + self._answer(template, kept, target), len(prompt))

    def trees(self, template: Template, items: Sequence[str]) -> list[TokenTree]:
        """All targets of a user's items (oldest first): every item after the first is one.

        A history longer than the window is cut into growing windows. A `tree: true` template makes one tree
        a window; any other is unrolled, one chain a target.
        """
        trees = []
        for start in range(0, len(items) - 1, self.history):
            window = items[start : start + self.history + 1]
            if template.tree:
                trees.append(self._tree(template, window))
            else:
                for cut in range(1, len(window)):
                    trees.append(chain(self.sample(template, window[:cut], window[cut])))
        return trees

    def _tree(self, template: Template, window: Sequence[str]) -> TokenTree:
        """One tree of all targets of a window; equals the unrolled samples (asserted by tests)."""
        frame = self._frame(template)
        trunk, tail = split_trunk(self._render(template.text, len(window) - 1, False))
        tokens = list(frame.before)
        cuts: dict[int, int] = {}
        for segment in trunk:
            tokens += self._encode([segment], window)
            if isinstance(segment, ItemField):
                cuts[segment.index] = len(tokens)
        suffix = self._encode(tail, window) + frame.after
        builder = TreeBuilder()
        shared = 0
        for cut in range(1, len(window)):
            prompt = tokens[shared : cuts[cut - 1]] + suffix
            answer = self._answer(template, window[:cut], window[cut])
            builder.add(prompt + answer, scored=shared + len(prompt), shared=shared)
            shared = cuts[cut - 1]
        return builder.build()

    def _answer(self, template: Template, history: Sequence[str], target: str) -> list[int]:
        segments = self._render(template.answer, len(history), True)
        end = [self._frame(template).end] if template.end else []
        return self._encode(segments, [*history, target]) + end

    def _render(self, source: str, length: int, target: bool) -> list[Segment]:
        key = (source, length, target)
        if key not in self._rendered:
            self._rendered[key] = render(source, length, target, self.fields)
        return self._rendered[key]

    def _encode(self, segments: Sequence[Segment], items: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            if isinstance(segment, str):
                ids += self._text(segment)
            elif segment.name == "sid":
                ids += self._sid(items[segment.index])
            else:
                ids += self._text(self._items[items[segment.index]].get(segment.name, ""))
        return ids

    def _sid(self, item: str) -> Sequence[int]:
        try:
            return self._sids[item]
        except KeyError:
            raise UserError(f"item {item!r} has no semantic ID in this run") from None

    def _frame(self, template: Template) -> _Frame:
        if template.system not in self._frames:
            self._frames[template.system] = chat_frame(self._tokenizer, template.system, self._text)
        return self._frames[template.system]


def item_fields(items: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Fields a template may name for these items: `sid` and the text columns."""
    return frozenset({"sid"}).union(*(fields.keys() for fields in items.values()))


def item_texts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Rows of `data/items.parquet` as item id → text fields: strings as they are, lists joined by commas."""
    texts = {}
    for row in rows:
        fields = {}
        for name, value in row.items():
            if isinstance(value, str) and name != "item_id":
                fields[name] = value
            elif isinstance(value, list):
                fields[name] = ", ".join(str(part) for part in value)
        texts[row["item_id"]] = fields
    return texts


def chain(sample: Sample) -> TokenTree:
    """A sample as a tree without branches."""
    builder = TreeBuilder()
    builder.add(sample.ids, scored=sample.answer)
    return builder.build()


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
