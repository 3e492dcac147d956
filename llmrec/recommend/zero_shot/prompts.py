"""Prompts of the untuned base: a question about titles, in-context examples before it, its own text behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrec.config import Recipe
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.errors import UserError
from llmrec.text.chat import dialogue_frame
from llmrec.text.encode import PromptEncoder
from llmrec.text.prompts import Slot, Template, render, slots
from llmrec.text.tasks import load_task, select_templates
from llmrec.text.tokens import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REASONING = {
    "en": ("Let us think about what this user likes.", "\nSo the title of what comes next is:\n"),
    "zh": ("让我们想一想这位用户的喜好。", "\n因此，接下来的名称是：\n"),
}
"""By the template's language: what a text begins with, and what stands between the text and the title.

The two prompts of Kojima et al., Large language models are zero-shot reasoners, NeurIPS 2022: one extracts the
reasoning, the other the answer."""


class ZeroShotPrompts:
    """Writes the prompts of `eval.zero_shot`.

    Args:
        recipe: the resolved recipe.
        tokenizer: the base's tokenizer.
        items: item id → text fields.
        titles: item id → token ids of the item's title, as it is ranked, with the end token.
        context: most tokens of a prompt with a title; None: no limit.

    Attributes:
        template: what is asked.

    Raises:
        UserError: the template does more than name titles.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerFast,
        items: dict[str, dict[str, str]],
        titles: dict[str, list[int]],
        context: int | None,
    ) -> None:
        self._settings = recipe.eval.zero_shot
        self._tokenizer, self._context, self._titles = tokenizer, context, titles
        self._text = TextEncoder(tokenizer)
        self._encoder = PromptEncoder(tokenizer, items, titles, recipe.data.history)
        self.template = _template(recipe, self._encoder)
        self._longest_title = max(map(len, titles.values()))
        self._frames: dict[int, list[list[int]]] = {}

    def write(self, history: Sequence[str], examples: Sequence[Sequence[str]] = ()) -> tuple[list[int], int]:
        """Write the prompt of a user.

        The user's own history has the first claim on the base's context. The examples share what it leaves, in equal
        parts; an example that does not fit its part loses its oldest items, and is left out if one item is too many.

        Args:
            history: item ids, oldest first.
            examples: for each example its items, oldest first; the last is what its user took next.

        Returns:
            The prompt's token ids, which end where a title or the base's own text begins; how many examples it has.

        Raises:
            UserError: the prompt exceeds the base's context with a single item of history and no example.
        """
        question = self._fitting(history[-self._encoder.history :], self._room(0))
        if question is None:
            raise UserError(
                f"a prompt with one item of history and a title exceeds the base's context of {self._context} "
                "tokens; lower eval.zero_shot.reasoning, or use a shorter template"
            )
        turns = self._turns(examples, len(question))
        shown = len(turns) // 2
        ids = []
        for markup, message in zip(self._frame(shown), [*turns, question, []], strict=True):
            ids += [*markup, *message]
        return ids, shown

    def _turns(self, examples: Sequence[Sequence[str]], question: int) -> list[list[int]]:
        """Questions and answers of the examples that fit beside a question of so many tokens."""
        room = self._room(len(examples))
        share = None if room is None or not examples else (room - question) // len(examples)
        turns = []
        for items in examples:
            # Without its end token, which is part of the markup.
            answer = self._titles[items[-1]][:-1]
            history = items[:-1][-self._encoder.history :]
            asked = self._fitting(history, None if share is None else share - len(answer))
            if asked is not None:
                turns += [asked, answer]
        return turns

    def _fitting(self, history: Sequence[str], room: int | None) -> list[int] | None:
        """A message about as many last items as fit into so many tokens; None if not even one does."""
        for start in range(len(history)):
            ids = self._encoder.message(self.template, history[start:])
            if room is None or len(ids) <= room:
                return ids
        return None

    def _room(self, examples: int) -> int | None:
        """Tokens that messages and answers may take: without markup, the base's own text, and a title."""
        if self._context is None:
            return None
        opening, closing = map(len, self.around_reasoning)
        own_text = opening + self._settings.reasoning + closing if self._settings.reasoning else 0
        return self._context - sum(map(len, self._frame(examples))) - own_text - self._longest_title

    def _frame(self, examples: int) -> list[list[int]]:
        if examples not in self._frames:
            self._frames[examples] = dialogue_frame(
                self._tokenizer, self.template.system, self._text, examples
            )
        return self._frames[examples]

    @property
    def around_reasoning(self) -> tuple[list[int], list[int]]:
        """Token ids with which the base's own text begins, and of what stands between it and a title."""
        opening, closing = REASONING[self.template.language]
        return self._text(opening), self._text(closing)

    def as_text(self, generated: Sequence[int]) -> tuple[str, list[int]]:
        """Read what the base has generated as text, and encode the text as data.

        Special tokens are left out, and what only looks like one is encoded as ordinary characters: a text of the
        base cannot end its turn or begin another.

        Args:
            generated: token ids.

        Returns:
            The text, and its token ids, at most `eval.zero_shot.reasoning`.
        """
        written = str(
            self._tokenizer.decode(
                list(generated), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        # The last character may be cut.
        written = written.rstrip("\ufffd").rstrip()
        return written, self._text.encode_uncached(written)[: self._settings.reasoning]


def _template(recipe: Recipe, encoder: PromptEncoder) -> Template:
    """The template of `eval.zero_shot`, checked: titles of the history in, the target's title out.

    Raises:
        UserError: it does not exist, or does more.
    """
    asks = recipe.eval.zero_shot
    task = load_task(asks.task, encoder.fields)
    (template,) = select_templates(task, [asks.template], "all")
    named = slots(render(template.text, task.text_scope(template, 1), encoder.fields))
    answer = render(template.answer, task.answer_scope(1), encoder.fields)
    others = [slot for slot in named if slot.role != "history" or slot.name in ("sid", *EVENT_FIELDS)]
    if task.source != "next_item" or others or answer != [Slot("target", 1, "title")]:
        raise UserError(
            f"eval.zero_shot: template {template.id!r} of {asks.task!r} must name items of the history, without "
            "semantic IDs, and answer with the target's title alone"
        )
    return template
