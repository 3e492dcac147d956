"""What a recipe computes on a dataset: its training samples and lists, in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmrec.config import DataSize, Recipe
from llmrec.data.card import Card, Source
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.ids.collisions import adds_level
from llmrec.models.shape import model_shape
from llmrec.text.mix import load_training_mix
from llmrec.text.prompts import Fields, Segment, Template, render, slots, split_trunk
from llmrec.text.tasks import Source as RowSource
from llmrec.text.tasks import Task, writes_words_first

CHARACTERS_PER_TOKEN = 4
FIELD_TOKENS = 12  # a title, a category path
SHORT_TOKENS = 3  # an attribute of a user
SHORT_FIELDS = {"rating": 1, "event": 2, "time": 6, "price": 3, "brand": 4, "summary": 8}
LONG_FIELDS = {"description": 150, "review": 120}
CHAT_HEAD, CHAT_TAIL = 25, 5
"""Tokens of a chat format before and after a message, a short system prompt included."""
VALIDATIONS, STEPS_BETWEEN = 10, 25  # most validations of a training, and least steps between two
TYPICAL_LEVELS = 3


def card_fields(card: Card) -> Fields:
    """Return the fields that templates can use with a card, if every column that it names holds data."""
    tables: list[Card | Source] = [card, *card.sources]
    items: set[str] = set()
    users: set[str] = set()
    events: set[str] = set()
    for table in tables:
        # A source that does not describe its interactions is described by the card.
        if table.interactions is None:
            continue
        events.update(table.interactions.columns)
        if table.items:
            items.update(table.items.columns, table.items.flags)
        if table.users:
            users.update(table.users.columns, table.users.flags)
    return Fields(
        frozenset({"sid", "title"} | items - {"item"}),
        frozenset(users - {"user"}),
        frozenset(events & set(EVENT_FIELDS)),
    )


class Workload:
    """Token counts of a recipe on a dataset.

    Args:
        recipe: the resolved recipe.
        card: the dataset's card.
        size: size of the dataset.
        aligned: finished alignment methods, in addition to those that the recipe lists.
        systems: collaborative models to train.

    Attributes:
        recipe: the recipe.
        size: size of the dataset.
        systems: collaborative models to train.
        models: number of language models that are decoded.
        splits: splits that are decoded.
        shape: shape of the base model.
        history: mean number of items in a prompt's history.
        levels: levels of codes that the tokenizer learns.
        sid_tokens: tokens of a semantic ID, one more than `levels` where the collision rule adds a level.
        fields: fields that templates can use.
        mix: the training mix.
        decode_template: the template of decoding's prompts.
    """

    def __init__(
        self,
        recipe: Recipe,
        card: Card,
        size: DataSize,
        aligned: Sequence[str] = (),
        systems: Sequence[str] = (),
    ) -> None:
        self.recipe, self.size = recipe, size
        self.systems = systems
        self.models = 1 + len({*recipe.align, *aligned})
        # The gate compares aligned models on validation.
        self.splits = {*recipe.decode.splits, *(["valid"] if self.models > 1 else [])}
        self.shape = model_shape(recipe.base)
        self.history = min(recipe.data.history, size.interactions / size.users)
        self.levels = getattr(recipe.ids.quantizer, "levels", TYPICAL_LEVELS)
        self.sid_tokens = self.levels + adds_level(recipe.ids)
        self.fields = card_fields(card)
        self.mix = load_training_mix(recipe.prompts, self.fields, tell=lambda line: None)
        self.decode_template = self.mix[0].templates[0]

    def training_counts(self) -> tuple[float, float]:
        """Tokens and labels of the whole SFT: of `max_steps`, or of its epochs if that is null."""
        trees, tokens, labels = self.epoch_counts(math.ceil(self.recipe.sft.epochs))
        epochs = self.passes(trees)
        return tokens * epochs, labels * epochs

    def passes(self, trees: float) -> float:
        """Epochs of SFT, or those that `max_steps` makes of `trees` an epoch."""
        sft = self.recipe.sft
        if sft.max_steps is None:
            return sft.epochs
        return sft.max_steps * sft.batch * sft.accumulate / trees

    def epoch_counts(self, count: int) -> tuple[float, float, float]:
        """Trees, tokens and labels of an epoch, averaged over the first `count` epochs."""
        trees = tokens = labels = 0.0
        for mixed in self.mix:
            weight = sum(mixed.config.weight_in(epoch) for epoch in range(count)) / count
            for template in mixed.templates:
                times = weight * self.rows(mixed.task.source) / len(mixed.templates)
                targets = self.targets() if mixed.task.source == "next_item" else 1
                trees += times * (1 if template.tree else targets)
                tokens += times * targets * self.tokens_per_target(mixed.task, template)
                labels += times * targets * self._answer_tokens(mixed.task, template)
            synthetic = weight / len(mixed.templates) * self.users * self.synthetic_items
            for template, is_next_item in zip(mixed.templates, mixed.is_next_item, strict=True):
                if is_next_item:
                    tokens += synthetic * self.tokens_per_target(mixed.task, template)
                    labels += synthetic * self._answer_tokens(mixed.task, template)
        return max(trees, 1.0), tokens, labels

    def code_share(self) -> float:
        """Share of the first epoch's labels that are codes of semantic IDs; the others are words and end tokens."""
        labels = codes = 0.0
        for mixed in self.mix:
            targets = self.targets() if mixed.task.source == "next_item" else 1
            times = mixed.config.weight_in(0) * self.rows(mixed.task.source) * targets / len(mixed.templates)
            for template in mixed.templates:
                answer = render(template.answer, mixed.task.answer_scope(1), self.fields)
                labels += times * self._answer_tokens(mixed.task, template)
                codes += times * self.sid_tokens * sum(slot.name == "sid" for slot in slots(answer))
        return min(1.0, codes / labels) if labels else 0.0

    def rows(self, source: RowSource) -> float:
        """Rows of a source: windows of users, items, or training interactions."""
        users = self.users
        items_per_user = max(1.0, self.size.interactions / self.size.users - 2)
        return {
            "next_item": users * max(1.0, (items_per_user - 1) / self.recipe.data.history),
            "item": self.size.items,
            "interaction": users * items_per_user,
        }[source]

    @property
    def users(self) -> int:
        """Number of users that SFT trains on."""
        return min(self.size.users, self.recipe.sft.users or self.size.users)

    @property
    def synthetic_items(self) -> int:
        """Number of items that the teacher draws after each user's last training item."""
        distillation = self.recipe.sft.distillation
        return 0 if distillation is None else distillation.synthetic_items

    def targets(self) -> float:
        """Mean number of targets of a window."""
        targets_per_user = max(1.0, self.size.interactions / self.size.users - 3)
        return min(targets_per_user, self.recipe.data.history)

    def validation_tokens(self) -> float:
        """Tokens of all evaluations during training."""
        sft = self.recipe.sft
        times = min(VALIDATIONS, -(-sft.max_steps // STEPS_BETWEEN)) if sft.max_steps else VALIDATIONS
        return times * min(self.size.users, sft.valid_users) * self.list_tokens(1)

    def list_tokens(self, width: int) -> float:
        """Tokens of one user's list: the prompt, and `width` beams; both behind each text that is written first."""
        task, template = self.mix[0].task, self.decode_template
        prompt, beams = sum(self.prompt_tokens(task, template)), width * self.sid_tokens
        if not writes_words_first(task, template, self.fields):
            return prompt + beams
        reasoning = self.recipe.decode.reasoning
        words = min(reasoning.tokens, self._answer_tokens(task, template) - self.sid_tokens)
        written = prompt + reasoning.texts * words
        return written + reasoning.texts * (prompt + words + beams)

    def tokens_per_target(self, task: Task, template: Template) -> float:
        """Mean tokens per target; the targets of a tree share the history."""
        trunk, tail = self.prompt_tokens(task, template)
        answer = self._answer_tokens(task, template) - template.end
        if template.tree and not tail:
            answer = 0  # the answer is the trunk's next item, so a branch has at most the end token
        history = trunk
        if task.source == "next_item":
            head = self._chat_head
            history = trunk / self.history if template.tree else head + (trunk - head) / 2
        return history + tail + answer + int(template.end)

    def _answer_tokens(self, task: Task, template: Template) -> float:
        """Tokens of an answer, its end token included: the labels of a target."""
        answer = render(template.answer, task.answer_scope(round(self.history) or 1), self.fields)
        return self._count(answer) + template.end

    def longest(self, task: Task, template: Template) -> tuple[float, float]:
        """Tokens and labels of one training row: a full tree, or one sample with a full history."""
        labels = self._answer_tokens(task, template)
        if template.tree:
            targets = self.recipe.data.history
            return targets * self.tokens_per_target(task, template), targets * labels
        return sum(self.prompt_tokens(task, template)) + labels, labels

    def prompt_tokens(self, task: Task, template: Template) -> tuple[float, float]:
        """Tokens of a full prompt's trunk (up to its last item) and of its tail, with the chat format's."""
        prompt = render(template.text, task.text_scope(template, round(self.history) or 1), self.fields)
        trunk, tail = split_trunk(prompt)
        chat_tail = CHAT_TAIL if self._chat_head else 0
        return self._chat_head + self._count(trunk), self._count(tail) + chat_tail

    @property
    def _chat_head(self) -> int:
        """Tokens of the chat format before a message; the tiny base has none."""
        base = self.recipe.base
        return CHAT_HEAD if base.chat and base.model != "tiny" else 0

    def _count(self, segments: list[Segment]) -> float:
        tokens = sum(len(s) for s in segments if isinstance(s, str)) / CHARACTERS_PER_TOKEN
        for slot in slots(segments):
            lengths = {"sid": self.sid_tokens} | SHORT_FIELDS | LONG_FIELDS
            tokens += SHORT_TOKENS if slot.role == "user" else lengths.get(slot.name, FIELD_TOKENS)
        return tokens

    def mean_length(self) -> float:
        """Mean tokens of a training tree."""
        trees, tokens, _ = self.epoch_counts(1)
        return tokens / trees
