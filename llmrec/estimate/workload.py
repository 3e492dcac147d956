"""Token and weight counts of a recipe on a dataset, and the cost of its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmrec.config import ALL_LINEAR, DataSize, LoraSettings, Recipe
from llmrec.config.precision import uses_bfloat16
from llmrec.data.card import EVENT_FIELDS, Card, Source
from llmrec.estimate.machine import Precision, matmul_rate
from llmrec.ids.collisions import MOVES
from llmrec.models.shape import model_shape
from llmrec.text.mix import load_training_mix
from llmrec.text.prompts import Fields, Segment, Template, render, slots, split_trunk
from llmrec.text.tasks import Source as RowSource
from llmrec.text.tasks import Task
from llmrec.token_tree import MAX_ATTENTION_PAIRS

WIDE = 512
REACHED = {
    ("float32", False): 0.35,
    ("float32", True): 0.45,
    ("bfloat16", False): 0.2,
    ("bfloat16", True): 0.45,
}
"""Share of the measured rate that a model reaches, by (precision, hidden size of at least `WIDE`): products of narrow
matrices are a smaller part of the time, all the more where they are fast."""
ENCODER_PARAMETERS = 10.6e6  # all-MiniLM-L6-v2 without its embeddings
ENCODED_TOKENS = 32  # of one item's text
CHARACTERS_PER_TOKEN = 4
FIELD_TOKENS = 12  # a title, a category path
SHORT_TOKENS = 3  # an attribute of a user
SHORT_FIELDS = {"rating": 1, "event": 2, "time": 6, "price": 3, "brand": 4, "summary": 8}
LONG_FIELDS = {"description": 150, "review": 120}
CHAT_HEAD, CHAT_TAIL = 25, 5
"""Tokens of a chat format before and after a message, a short system prompt included."""
ROWS_PER_SECOND = 1e6  # of the data stage
LISTS_PER_SECOND = 1500  # evaluated, bootstrap included
ANSWER_TOKENS = 40  # generated for one question
QUESTION_TOKENS = 300  # of one question and its reference
VALIDATIONS, STEPS_BETWEEN = 10, 25  # most validations of a training, and least steps between two
TYPICAL_LEVELS = 3
TYPICAL_CODES = 256
LISTS_BYTES = 1e9  # most bytes of a batch of lists on a CPU (llmrec.decode.batches)
BYTES_PER_TRAINED = 16  # weight, gradient and Adam's two moments, in float32
BYTES_OF_4_BITS = {True: 0.52, False: 0.57}
"""Bytes of a weight with its share of the scales, by `sft.qlora.double_quant`."""
TEACHER_SCORES_PER_SECOND = 3e7  # item probabilities that SASRec computes and the trie sums, on one core
SLOWER_4_BITS = 1.3  # than float32, measured on a CPU


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
    """Token counts of a recipe on a dataset, and the time, memory and disk that they cost.

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
        # Rules that move items go by their vectors; without any, a level is added.
        moves = recipe.ids.collision_rule in MOVES and recipe.ids.quantizer.reads_vectors
        self.sid_tokens = self.levels + (not moves)
        self.fields = card_fields(card)
        self.mix = load_training_mix(recipe.prompts, self.fields, tell=lambda line: None)
        self.decode_template = self.mix[0].templates[0]

    def training_counts(self) -> tuple[float, float]:
        """Tokens and labels of the whole SFT: of its epochs, or of `max_steps` if that ends earlier."""
        trees, tokens, labels = self._epochs(math.ceil(self.recipe.sft.epochs))
        epochs = self._passes(trees)
        return tokens * epochs, labels * epochs

    def _passes(self, trees: float) -> float:
        """Epochs of SFT, or what `max_steps` leaves of them; `trees` is the number of an epoch."""
        sft = self.recipe.sft
        if sft.max_steps is None:
            return sft.epochs
        return min(sft.epochs, sft.max_steps * sft.batch * sft.accumulate / trees)

    def _epochs(self, count: int) -> tuple[float, float, float]:
        """Trees, tokens and labels of an epoch, averaged over the first `count` epochs."""
        trees = tokens = labels = 0.0
        for mixed in self.mix:
            weight = sum(mixed.config.weight_in(epoch) for epoch in range(count)) / count
            for template in mixed.templates:
                times = weight * self._rows(mixed.task.source) / len(mixed.templates)
                targets = self.targets() if mixed.task.source == "next_item" else 1
                trees += times * (1 if template.tree else targets)
                tokens += times * targets * self.tokens_per_target(mixed.task, template)
                labels += times * targets * self._answer_tokens(mixed.task, template)
            synthetic = weight / len(mixed.templates) * self._users * self._synthetic_items
            for template, is_next_item in zip(mixed.templates, mixed.is_next_item, strict=True):
                if is_next_item:
                    tokens += synthetic * self.tokens_per_target(mixed.task, template)
                    labels += synthetic * self._answer_tokens(mixed.task, template)
        return max(trees, 1.0), tokens, labels

    def _rows(self, source: RowSource) -> float:
        """Rows of a source: windows of users, items, or training interactions."""
        users = self._users
        items_per_user = max(1.0, self.size.interactions / self.size.users - 2)
        return {
            "next_item": users * max(1.0, (items_per_user - 1) / self.recipe.data.history),
            "item": self.size.items,
            "interaction": users * items_per_user,
        }[source]

    @property
    def _users(self) -> int:
        """Number of users that SFT trains on."""
        return min(self.size.users, self.recipe.sft.users or self.size.users)

    @property
    def _synthetic_items(self) -> int:
        """Number of items that the teacher draws after each user's last training item."""
        distillation = self.recipe.sft.distillation
        return 0 if distillation is None else distillation.synthetic_items

    def teacher_seconds(self) -> float:
        """Seconds of the teacher.

        It scores the catalogue once for every target, whose probabilities are kept for later epochs. In each epoch it
        scores it for every synthetic item: once to draw it, before the training starts, and once to teach it.
        """
        if self.recipe.sft.distillation is None:
            return 0.0
        weight = sum(mixed.config.weight_in(0) for mixed in self.mix if any(mixed.is_next_item))
        epochs = self._passes(self._epochs(1)[0])
        targets = self._rows("next_item") * self.targets() * min(1.0, epochs)
        synthetic = self._users * self._synthetic_items * (math.ceil(self.recipe.sft.epochs) + epochs)
        return weight * (targets + synthetic) * self.size.items / TEACHER_SCORES_PER_SECOND

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
        """Tokens of one user's list: the prompt, and `width` beams."""
        return sum(self.prompt_tokens(self.mix[0].task, self.decode_template)) + width * self.sid_tokens

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

    def _longest(self, task: Task, template: Template) -> float:
        """Tokens of one training row: a full tree, or one sample with a full history."""
        if template.tree:
            return self.history * self.tokens_per_target(task, template)
        return sum(self.prompt_tokens(task, template)) + self.sid_tokens

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

    def seconds(self, stage: str) -> float:
        """Seconds of a stage, without the start of its libraries."""
        recipe, size = self.recipe, self.size
        users = min(size.users, recipe.decode.users or size.users)
        lists = users * len(recipe.decode.splits)
        if stage == "data":
            return size.interactions / ROWS_PER_SECOND
        if stage == "eval":
            return lists * (self.models + len(recipe.eval.baselines)) / LISTS_PER_SECOND
        flops = 0.0
        teacher = 0.0
        if stage == "collaborative":
            counts = (size.users, size.items, size.interactions)
            flops = sum(recipe.collaborative.of(name).training_flops(*counts) for name in self.systems)
        elif stage == "ids" and recipe.ids.vectors is None:
            flops = size.items * ENCODED_TOKENS * 2 * ENCODER_PARAMETERS
        elif stage == "sft":
            flops = self.training_flops() + self.validation_tokens() * 2 * self.shape.linear_parameters
            teacher = self.teacher_seconds()
        elif stage == "decode":
            lists = users * len(self.splits) * self.models
            flops = lists * self.list_tokens(recipe.decode.list_length) * 2 * self.shape.linear_parameters
        elif stage == "zero_shot":
            tokens = recipe.eval.zero_shot.tokens(self.history, recipe.decode.list_length, FIELD_TOKENS)
            flops = lists * tokens * 2 * self.shape.parameters
        elif stage == "tiger":
            flops = recipe.tiger.training_flops(size.interactions, self.sid_tokens)
        elif stage == "tasks":
            tokens = sum(
                min(size.users, entry.users or size.users)
                * (2 * QUESTION_TOKENS + ANSWER_TOKENS + entry.answers * FIELD_TOKENS)
                for entry in recipe.eval.tasks
            )
            flops = tokens * 2 * self.shape.parameters
        return flops / self.flop_rate(stage) + teacher

    def training_flops(self) -> float:
        """FLOPs of SFT's steps.

        A token costs 2 FLOPs per weight of the blocks in the forward pass, and 2 in the backward pass for the
        gradient of the input. If all weights are trained, their gradient costs 2 more, and so does a second pass with
        gradient checkpointing. Attention over L tokens costs as much as 2·L·hidden more weights in each block. The
        head is applied at labels only, and the gradient of its whole matrix is computed in every mode.
        """
        sft, shape = self.recipe.sft, self.shape
        tokens, labels = self.training_counts()
        passes = (6 if sft.mode == "full" else 4) + (2 if sft.gradient_checkpointing else 0)
        blocks = shape.linear_parameters + 2 * self._mean_length() * shape.hidden * shape.layers
        slower = SLOWER_4_BITS if sft.mode == "qlora" else 1.0
        return tokens * passes * blocks * slower + labels * 6 * shape.head_parameters

    def flop_rate(self, stage: str) -> float:
        """FLOP/s that this model reaches in a stage on the idle machine."""
        precision = self.precision(stage)
        return matmul_rate(precision) * REACHED[precision, self.shape.hidden >= WIDE]

    def precision(self, stage: str) -> Precision:
        """What a stage computes in here: the base's precision, `bf16` of a training, `dtype` of decoding."""
        training = {"sft": self.recipe.sft, "dpo": self.recipe.dpo, "grpo": self.recipe.grpo}.get(stage)
        if stage == "decode" and self.recipe.decode.dtype is not None:
            return self.recipe.decode.dtype
        trains_in_half = training is not None and uses_bfloat16(training.bf16)
        return "bfloat16" if trains_in_half or self.recipe.base.dtype == "bfloat16" else "float32"

    def _mean_length(self) -> float:
        """Mean tokens of a training tree."""
        trees, tokens, _ = self._epochs(1)
        return tokens / trees

    def trained_parameters(self) -> float:
        """Weights that `sft.mode` trains."""
        sft, shape, rows = self.recipe.sft, self.shape, self.row_parameters()
        if sft.mode == "full":
            return shape.parameters + rows
        if sft.mode == "sid_rows":
            return rows
        return rows + self.lora_parameters(sft.lora)

    def row_parameters(self) -> float:
        """Weights of the rows that semantic IDs add to the base, in the embedding and in an untied LM head."""
        return self.code_count() * self.shape.hidden * (1 if self.shape.tied else 2)

    def lora_parameters(self, lora: LoraSettings) -> float:
        """Weights of an adapter."""
        shape = self.shape
        pairs = sum(inputs + outputs for inputs, outputs in shape.linears)
        magnitudes = sum(outputs for _, outputs in shape.linears) if lora.dora else 0
        share = 1.0 if ALL_LINEAR in lora.targets else len(lora.targets) / len(shape.linears)
        return share * shape.layers * (lora.rank * pairs + magnitudes)

    def code_count(self) -> int:
        """Number of codes of all levels; `auto` uses at most 256 per level, and `own_code` one for each item."""
        codes = getattr(self.recipe.ids.quantizer, "codes", None)
        own = self.size.items if self.recipe.ids.collisions == "own_code" else 0
        return self.levels * (codes if isinstance(codes, int) else TYPICAL_CODES) + own

    @property
    def bytes_per_weight(self) -> int:
        """Bytes of a weight of the base."""
        return 2 if self.recipe.base.dtype == "bfloat16" else 4

    @property
    def stored_bytes(self) -> float:
        """Bytes of the base's weights as they are stored."""
        return self.bytes_per_weight * self.shape.parameters

    @property
    def frozen_bytes(self) -> float:
        """Bytes of the frozen base weights; 4 bits per weight in `qlora`."""
        if self.recipe.sft.mode != "qlora":
            return self.stored_bytes
        four_bits = BYTES_OF_4_BITS[self.recipe.sft.qlora.double_quant]
        return self.stored_bytes - self.shape.linear_parameters * (self.bytes_per_weight - four_bits)

    def activations(self, rows: float, tokens: float, checkpointing: bool) -> float:
        """Bytes of the activations of a training step.

        Args:
            rows: rows of the batch.
            tokens: tokens per row.
            checkpointing: whether activations are recomputed in the backward pass.
        """
        kept = 2 * self.shape.layers + 34 if checkpointing else 34 * self.shape.layers
        return rows * tokens * self.shape.hidden * kept * self.bytes_per_weight / 2

    def memory(self, stage: str) -> float:
        """Bytes of a stage's model: its weights and, in training, the optimizer and the activations of one batch."""
        if stage in ("decode", "zero_shot", "tasks"):
            return self.stored_bytes
        if stage != "sft":
            return 0.0
        sft = self.recipe.sft
        frozen = 0.0 if sft.mode == "full" else self.frozen_bytes
        window = max(self._longest(mixed.task, t) for mixed in self.mix for t in mixed.templates)
        rows = min(sft.batch, max(1.0, MAX_ATTENTION_PAIRS / window**2))
        activations = self.activations(rows, window, sft.gradient_checkpointing)
        # The base is loaded at full precision before it is quantized.
        training = frozen + BYTES_PER_TRAINED * self.trained_parameters() + activations
        return max(self.stored_bytes, training + self.list_bytes(sft.valid_lists))

    def list_bytes(self, users: int | None) -> float:
        """Bytes of decoding the lists of `users` on a CPU, where a batch grows up to `LISTS_BYTES`."""
        per_token = 18 * self.shape.hidden * self.bytes_per_weight
        return min(LISTS_BYTES, (users or 0) * self.list_tokens(0) * per_token)

    def disk_gb(self) -> float:
        """Disk of a run in GB: base, one trainer checkpoint (for QLoRA with the layers' weights), lists, tables."""
        recipe = self.recipe
        checkpoint = 12 * self.trained_parameters()
        if recipe.sft.mode == "qlora":
            checkpoint += self.shape.linear_parameters * self.bytes_per_weight
        systems = len(recipe.decode.splits) * len(recipe.eval.baselines) + len(self.splits) * self.models
        lists = self.size.users * systems * recipe.decode.list_length
        return (self.stored_bytes + checkpoint + 12 * lists + 20 * self.size.interactions) / 1e9
