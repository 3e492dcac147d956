"""What a run will cost, before it is paid: time, memory and disk, within a factor of about two.

Time of the language model = FLOPs ÷ (measured matrix-multiplication rate × the share of it that is reached).
Training takes 6 FLOPs a parameter and token (Kaplan et al. 2020, section 2.1), 4 where the weights are frozen
(LoRA, SID rows), a forward pass 2. Memory of activations: Korthikanti et al. 2022, equation 2.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from llmrec.artifacts import read_json
from llmrec.collaborative.stage import LOSSES, needed
from llmrec.config import ALL_LINEAR, Recipe, SasrecConfig
from llmrec.data.card import EVENT_FIELDS, Card, load_card
from llmrec.models.shape import model_shape
from llmrec.text.prompts import Fields, Segment, Template, render, slots, split_trunk
from llmrec.text.tasks import Source, Task
from llmrec.train.mix import training_mix

REACHED = 0.35  # of the measured rate, by training and decoding of small models
ENCODER_PARAMETERS = 10.6e6  # all-MiniLM-L6-v2, embeddings apart
ENCODED_TOKENS = 32  # of one item's text
CHARACTERS_PER_TOKEN = 4
FIELD_TOKENS = 12  # a title, a category path
SHORT_TOKENS = 3  # an attribute of a user
SHORT_FIELDS = {"rating": 1, "event": 2, "time": 6, "price": 3, "brand": 4, "summary": 8}
LONG_FIELDS = {"description": 150, "review": 120}
CHAT_TOKENS = 12
ROWS_PER_SECOND = 1e6  # of the data stage
LISTS_PER_SECOND = 1500  # evaluated, bootstrap included
SASREC_EPOCHS = {"bce": 60, "ce": 20}  # until validation stops them
START_SECONDS = {"data": 1, "collaborative": 3, "ids": 10, "sft": 20, "decode": 8, "eval": 3, "report": 4}
START_SECONDS |= {"zero_shot": 15, "tasks": 12}
ANSWER_TOKENS = 40  # generated for one question
ASKED_TOKENS = 300  # of one question and its reference
VALIDATIONS, STEPS_BETWEEN = 10, 25  # at most so many during a training, at least so many steps apart
LIBRARIES_GB = 1.2
TYPICAL_LEVELS = 3
TYPICAL_CODES = 256
BYTES_PER_TRAINED = 16  # weight, gradient and Adam's two moments, in float32
BYTES_OF_4_BITS = {
    True: 0.52,
    False: 0.57,
}  # a weight with its share of the scales; by sft.qlora.double_quant
SLOWER_4_BITS = 1.3  # than float32, measured on a CPU


@dataclass(frozen=True)
class Size:
    """Counts of a dataset after its filters."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Plan:
    """Cost of the stages that are pending.

    Attributes:
        seconds: time of each pending stage; None where the size of the data is not known yet.
        memory_gb: peak, of the process or of its GPU.
        disk_gb: written under the run folder, checkpoints included.
        basis: what the figures rest on, for the reader.
    """

    seconds: dict[str, float | None] = field(default_factory=dict)
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    basis: str = ""

    def summary(self) -> str:
        """One line: total time, memory, disk, and what they rest on."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        if not self.seconds:
            return "everything is done"
        if len(known) < len(self.seconds):
            return f"cost unknown ({self.basis})"
        need = f"{gigabytes(self.memory_gb)} of memory, {gigabytes(self.disk_gb)} of disk"
        return f"{duration(sum(known))}, {need} ({self.basis})"

    def shortages(self, run: Path) -> list[str]:
        """Where the plan asks for more disk or memory than there is."""
        import psutil

        place = next(path for path in (run, *run.absolute().parents) if path.exists())
        disk, memory = shutil.disk_usage(place).free / 1e9, psutil.virtual_memory().total / 1e9
        short = []
        if self.disk_gb > disk:
            short.append(
                f"needs about {gigabytes(self.disk_gb)} of disk; {gigabytes(disk)} are free at {place}"
            )
        if self.memory_gb > memory:
            short.append(f"needs about {gigabytes(self.memory_gb)} of memory; there are {gigabytes(memory)}")
        return short


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `8 s`, `about 12 min`, `about 3.5 h`; None is `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes) if minutes < 20 else 5 * round(minutes / 5)} min"
    return f"about {minutes / 60:.1f} h" if minutes < 600 else f"about {minutes / 60:.0f} h"


def gigabytes(value: float) -> str:
    """A size in decimal gigabytes as people say it: `1.4 GB`, `60 MB`."""
    return f"{value:.1f} GB" if value >= 0.95 else f"{max(10, 10 * round(value * 100))} MB"


def plan(recipe: Recipe, run: Path, stages: list[str]) -> Plan:
    """Estimate the cost of running some stages of a recipe.

    Raises:
        UserError: what is wrong with the recipe's card or prompts.
    """
    if not stages:
        return Plan()
    card = load_card(recipe.data.card)
    size = dataset_size(card, run)
    if size is None:
        return Plan(dict.fromkeys(stages), basis="the card states no `size`; known once stage data is done")
    work = _Work(recipe, card, size)
    parameters, tokens = work.shape.parameters / 1e6, work.training_tokens() / 1e6
    trained = work.trained_parameters() / 1e6
    basis = (
        f"{size.users:,} users, {size.items:,} items, {size.interactions:,} interactions; "
        f"{parameters:,.3g} M parameters, {trained:,.2g} M of them trained, {tokens:,.2g} M training tokens, "
        f"{matmul_rate() / 1e9:,.0f} GFLOP/s measured; downloads not counted"
    )
    seconds = {stage: START_SECONDS[stage] + work.seconds(stage) for stage in stages}
    return Plan(seconds, work.memory_gb(), work.disk_gb(), basis)


def dataset_size(card: Card, run: Path) -> Size | None:
    """Size of the data: from the finished data stage, else as the card states it, else None."""
    report = run / "data/report.json"
    if report.is_file():
        counts = read_json(report)["counts"]
        return Size(counts["users"], counts["items"], counts["interactions"])
    return Size(card.size.users, card.size.items, card.size.interactions) if card.size else None


def card_fields(card: Card) -> Fields:
    """What a template may ask of a card's data, if each column it names holds anything."""
    told = [table for table in (card, *card.sources) if table.interactions is not None]
    items = {name for t in told if t.items for name in (*t.items.columns, *t.items.flags)}
    users = {name for t in told if t.users for name in (*t.users.columns, *t.users.flags)}
    events = {name for t in told if t.interactions for name in t.interactions.columns}
    return Fields(
        frozenset({"sid", "title"} | items - {"item"}),
        frozenset(users - {"user"}),
        frozenset(events & set(EVENT_FIELDS)),
    )


class _Work:
    """Token counts of a recipe on a dataset, and what they cost."""

    def __init__(self, recipe: Recipe, card: Card, size: Size) -> None:
        self.recipe, self.size = recipe, size
        self.shape = model_shape(recipe.base)
        self.history = min(recipe.data.history, size.interactions / size.users)
        self.sid_tokens = getattr(recipe.ids.quantizer, "levels", TYPICAL_LEVELS) + 1
        self.fields = card_fields(card)
        self.mix = training_mix(recipe.prompts, self.fields, tell=lambda line: None)
        self.asks = self.mix[0].templates[0]

    def training_tokens(self) -> float:
        """Tokens that SFT computes in all: its epochs, or `max_steps` of them."""
        sft = self.recipe.sft
        trees, tokens = self._epochs(math.ceil(sft.epochs))
        epochs = sft.epochs
        if sft.max_steps is not None:
            epochs = min(epochs, sft.max_steps * sft.batch * sft.accumulate / trees)
        return tokens * epochs

    def _epochs(self, count: int) -> tuple[float, float]:
        """Trees and tokens of an epoch, the mean of the first `count`."""
        trees = tokens = 0.0
        for mixed in self.mix:
            weight = sum(mixed.config.weight_in(epoch) for epoch in range(count)) / count
            for template in mixed.templates:
                times = weight * self._rows(mixed.task.source) / len(mixed.templates)
                targets = self.targets() if mixed.task.source == "next_item" else 1
                trees += times * (1 if template.tree else targets)
                tokens += times * targets * self.tokens_per_target(mixed.task, template)
        return max(trees, 1.0), tokens

    def _rows(self, source: Source) -> float:
        """Rows of a source: windows of users, items, or training interactions."""
        users = min(self.size.users, self.recipe.sft.users or self.size.users)
        mine = max(1.0, self.size.interactions / self.size.users - 2)
        return {
            "next_item": users * max(1.0, (mine - 1) / self.recipe.data.history),
            "item": self.size.items,
            "interaction": users * mine,
        }[source]

    def targets(self) -> float:
        """Targets of a window."""
        mine = max(1.0, self.size.interactions / self.size.users - 3)
        return min(mine, self.recipe.data.history)

    def validation_tokens(self) -> float:
        """Tokens of all evaluations during training."""
        sft = self.recipe.sft
        times = min(VALIDATIONS, -(-sft.max_steps // STEPS_BETWEEN)) if sft.max_steps else VALIDATIONS
        prompt = sum(self.prompt_tokens(self.mix[0].task, self.asks)) + self.sid_tokens
        return times * min(self.size.users, sft.valid_users) * prompt

    def tokens_per_target(self, task: Task, template: Template) -> float:
        """Mean tokens of one target; a tree shares the history between targets."""
        trunk, tail = self.prompt_tokens(task, template)
        answer = self._count(render(template.answer, task.reply(round(self.history) or 1), self.fields))
        if template.tree and not tail:
            answer = 0  # the trunk's next item; at most the end token is a branch
        history = trunk
        if task.source == "next_item":
            history = trunk / self.history if template.tree else trunk / 2
        return history + tail + answer + int(template.end)

    def _longest(self, task: Task, template: Template) -> float:
        """Tokens of one training row: a full tree, or one sample with a full history."""
        if template.tree:
            return self.history * self.tokens_per_target(task, template)
        return sum(self.prompt_tokens(task, template)) + self.sid_tokens

    def prompt_tokens(self, task: Task, template: Template) -> tuple[float, float]:
        """Tokens of a full prompt's trunk (up to its last item) and of its tail."""
        prompt = render(template.text, task.question(template, round(self.history) or 1), self.fields)
        trunk, tail = split_trunk(prompt)
        chat = 0 if self.recipe.base.model == "tiny" else CHAT_TOKENS
        return self._count(trunk), self._count(tail) + chat

    def _count(self, segments: list[Segment]) -> float:
        tokens = sum(len(s) for s in segments if isinstance(s, str)) / CHARACTERS_PER_TOKEN
        for slot in slots(segments):
            known = {"sid": self.sid_tokens} | SHORT_FIELDS | LONG_FIELDS
            tokens += SHORT_TOKENS if slot.role == "user" else known.get(slot.name, FIELD_TOKENS)
        return tokens

    def seconds(self, stage: str) -> float:
        """Time of a stage beyond the start of its libraries."""
        recipe, size = self.recipe, self.size
        lists = min(size.users, recipe.decode.users or size.users) * len(recipe.decode.splits)
        if stage == "data":
            return size.interactions / ROWS_PER_SECOND
        if stage == "eval":
            return lists * (1 + len(recipe.eval.baselines)) / LISTS_PER_SECOND
        flops = 0.0
        if stage == "collaborative":
            flops = sum(self.sasrec_flops(name) for name in needed(recipe))
        elif stage == "ids" and recipe.ids.vectors is None:
            flops = size.items * ENCODED_TOKENS * 2 * ENCODER_PARAMETERS
        elif stage == "sft":
            per_token = {"full": 6, "qlora": 4 * SLOWER_4_BITS}.get(recipe.sft.mode, 4)
            flops = (
                self.training_tokens() * per_token + self.validation_tokens() * 2
            ) * self.shape.parameters
        elif stage == "decode":
            tokens = (
                sum(self.prompt_tokens(self.mix[0].task, self.asks)) + recipe.decode.length * self.sid_tokens
            )
            flops = lists * tokens * 2 * self.shape.parameters
        elif stage == "zero_shot":
            titles = (self.history + recipe.decode.length) * FIELD_TOKENS
            flops = lists * titles * 2 * self.shape.parameters
        elif stage == "tasks":
            asked = sum(min(size.users, entry.users or size.users) for entry in recipe.eval.tasks)
            flops = asked * (2 * ASKED_TOKENS + ANSWER_TOKENS) * 2 * self.shape.parameters
        return flops / (matmul_rate() * REACHED)

    def sasrec_flops(self, system: str) -> float:
        """Training of a SASRec: its blocks, and the items that each target is scored against."""
        config: SasrecConfig = getattr(self.recipe.collaborative, system)
        loss = LOSSES[system]
        scored = self.size.items if loss == "ce" else 2
        per_target = 6 * config.dim * (scored + 6 * config.dim * config.layers)
        targets = self.size.interactions - 3 * self.size.users
        return max(targets, 0) * per_target * min(config.epochs, SASREC_EPOCHS[loss])

    def trained_parameters(self) -> float:
        """Weights that `sft.mode` trains."""
        sft, shape = self.recipe.sft, self.shape
        rows = self._codes() * shape.hidden * (1 if shape.tied else 2)
        if sft.mode == "full":
            return shape.parameters + rows
        if sft.mode == "sid_rows":
            return rows
        pairs = sum(inputs + outputs for inputs, outputs in shape.linears)
        magnitudes = sum(outputs for _, outputs in shape.linears) if sft.lora.dora else 0
        share = 1.0 if ALL_LINEAR in sft.lora.targets else len(sft.lora.targets) / len(shape.linears)
        return rows + share * shape.layers * (sft.lora.rank * pairs + magnitudes)

    def _codes(self) -> int:
        """Codes of all levels; `auto` takes at most 256 a level."""
        codes = getattr(self.recipe.ids.quantizer, "codes", None)
        return (self.sid_tokens - 1) * (codes if isinstance(codes, int) else TYPICAL_CODES)

    def memory_gb(self) -> float:
        """Peak memory: libraries, weights, optimizer, activations of one batch, tables."""
        recipe, shape = self.recipe, self.shape
        width = 2 if recipe.base.dtype == "bfloat16" else 4
        plain = width * shape.parameters
        frozen = 0.0 if recipe.sft.mode == "full" else plain
        if recipe.sft.mode == "qlora":
            frozen -= shape.in_linears * (width - BYTES_OF_4_BITS[recipe.sft.qlora.double_quant])
        window = max(self._longest(mixed.task, t) for mixed in self.mix for t in mixed.templates)
        kept = 2 * shape.layers + 34 if recipe.sft.gradient_checkpointing else 34 * shape.layers
        activations = recipe.sft.batch * window * shape.hidden * kept * width / 2
        training = frozen + BYTES_PER_TRAINED * self.trained_parameters() + activations
        # The base is loaded whole before its layers are made small.
        return LIBRARIES_GB + (max(plain, training) + 200 * self.size.interactions) / 1e9

    def disk_gb(self) -> float:
        """Disk of a run: base, one trainer checkpoint (and, for QLoRA, the layers' own weights), lists, tables."""
        recipe, parameters = self.recipe, self.shape.parameters
        width = 2 if recipe.base.dtype == "bfloat16" else 4
        base = parameters * width
        checkpoint = 12 * self.trained_parameters()
        if recipe.sft.mode == "qlora":
            checkpoint += self.shape.in_linears * width
        lists = (
            self.size.users
            * len(recipe.decode.splits)
            * recipe.decode.length
            * (1 + len(recipe.eval.baselines))
        )
        return (base + checkpoint + 12 * lists + 20 * self.size.interactions) / 1e9


@cache
def matmul_rate() -> float:
    """FLOP/s of a matrix product, float32 on the CPU or bfloat16 on a GPU; takes a fraction of a second."""
    if shutil.which("nvidia-smi"):
        import torch

        if torch.cuda.is_available():
            on_gpu = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
            return _rate(lambda: (on_gpu @ on_gpu)[0, 0].item(), 4096)
    on_cpu = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
    return _rate(lambda: on_cpu @ on_cpu, 512)


def _rate(product: Callable[[], object], side: int) -> float:
    seconds = []
    for _ in range(40):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / min(seconds)
